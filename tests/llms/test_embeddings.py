"""Embeddings: in order, in few requests, nothing that was answered lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mistill.errors import BadRequest, InputError, Stopped, Unauthorized
from mistill.llms import GenerationError, MistralEmbeddings
from mistill.simulator import Fault, Simulator
from mistill.simulator.catalogue import vector

MakeEmbeddings = Callable[..., MistralEmbeddings]


@pytest.fixture
def make_embeddings(simulator: Simulator, short_pauses: None) -> MakeEmbeddings:
    simulator.change(embedding_dimension=4)

    def make(**attributes: Any) -> MistralEmbeddings:
        given: dict[str, Any] = {"endpoint": simulator.url} | attributes
        return MistralEmbeddings(**given)

    return make


def test_vectors_come_in_order_and_in_one_request(
    simulator: Simulator, make_embeddings: MakeEmbeddings
) -> None:
    texts = [f"text {number}" for number in range(100)]
    vectors = make_embeddings().embed(texts)
    assert [len(vector) for vector in vectors] == [4] * 100
    assert vectors[17] == make_embeddings().embed(["text 17"])[0]
    assert simulator.requests[0].body == {"model": "mistral-embed", "input": texts}
    assert len(simulator.requests) == 2


async def test_the_async_form_gives_the_same(make_embeddings: MakeEmbeddings) -> None:
    embeddings = make_embeddings()
    assert await embeddings.aembed(["a", "b"]) == embeddings.embed(["a", "b"])


def test_batches_keep_to_the_tokens_of_one_request(
    simulator: Simulator, make_embeddings: MakeEmbeddings
) -> None:
    simulator.change(embedding_batch_tokens=1000)
    texts = [f"{number} " + "word " * (number % 50) for number in range(200)]
    embeddings = make_embeddings(max_batch_tokens=1000)
    assert embeddings.embed(texts) == [embeddings.embed([text])[0] for text in texts]
    assert simulator.counts_by_status[400] == 0


def test_a_batch_that_the_server_finds_too_large_is_halved(
    simulator: Simulator, make_embeddings: MakeEmbeddings
) -> None:
    simulator.change(embedding_batch_tokens=20)
    assert len(make_embeddings().embed(["four words of text"] * 9)) == 9
    assert simulator.counts_by_status[400] > 0


def test_usage_and_cost_are_told(make_embeddings: MakeEmbeddings) -> None:
    prices = {"models": {"mistral-embed": {"input": 0.1, "output": 0}}}
    embedded = make_embeddings(prices=prices).embed_outputs(["12345678"] * 10)
    assert embedded.usage.input_tokens == 20
    assert embedded.cost == pytest.approx(20 * 0.1 / 1e6)
    assert embedded.attempts == 1


def test_a_poisoned_text_fails_alone(simulator: Simulator, make_embeddings: MakeEmbeddings) -> None:
    simulator.change(poison="poison")
    texts = ["poison" if number == 13 else f"text {number}" for number in range(41)]
    with pytest.raises(GenerationError) as caught:
        make_embeddings().embed(texts)
    assert list(caught.value.failures) == [13]
    assert isinstance(caught.value.failures[13], BadRequest)
    assert [index for index, vector in enumerate(caught.value.outputs) if vector is None] == [13]
    vectors = make_embeddings().embed(texts, on_error="none")
    assert vectors == caught.value.outputs


def test_failures_are_retried(simulator: Simulator, make_embeddings: MakeEmbeddings) -> None:
    simulator.script([Fault.status(503), Fault.disconnect(), Fault.html(), Fault.status(429)])
    assert len(make_embeddings().embed(["a"])) == 1
    assert len(simulator.requests) == 5


def test_a_refused_key_stops_the_call(simulator: Simulator, make_embeddings: MakeEmbeddings) -> None:
    simulator.change(api_keys=frozenset({"another"}))
    embeddings = make_embeddings(max_batch_tokens=1, max_concurrent_requests=2)
    with pytest.raises(GenerationError) as caught:
        embeddings.embed([f"{number}" for number in range(50)], on_error="none")
    assert isinstance(caught.value.failures[0], Unauthorized)
    assert isinstance(caught.value.failures[49], Stopped)
    assert len(simulator.requests) <= 2


def test_what_was_answered_before_the_call_ended_is_kept(
    simulator: Simulator, make_embeddings: MakeEmbeddings
) -> None:
    # Refused, so sent again in halves: the first is answered, the second meets a revoked key.
    simulator.script([Fault.status(400), Fault.delay(0.001), Fault.status(401)])
    with pytest.raises(GenerationError) as caught:
        make_embeddings().embed(["a", "b"])
    assert caught.value.outputs == [vector("a", 4), None]
    assert isinstance(caught.value.failures[1], Unauthorized)
    assert list(caught.value.failures) == [1]


def test_a_wrong_model_stops_the_call(simulator: Simulator, make_embeddings: MakeEmbeddings) -> None:
    with pytest.raises(GenerationError, match="Invalid model"):
        make_embeddings(model="mistral-small-4").embed(["a"] * 64)
    assert len(simulator.requests) == 1


def test_the_limit_of_requests_at_once_is_kept(simulator: Simulator, make_embeddings: MakeEmbeddings) -> None:
    simulator.change(latency_s=0.02)
    make_embeddings(max_batch_tokens=1, max_concurrent_requests=3).embed(["a"] * 12)
    assert simulator.peak_in_flight == 3


def test_the_dimension_is_sent(simulator: Simulator, make_embeddings: MakeEmbeddings) -> None:
    (vector,) = make_embeddings(output_dimension=3).embed(["a"])
    assert len(vector) == 3


def test_no_texts_need_no_request(simulator: Simulator, make_embeddings: MakeEmbeddings) -> None:
    assert make_embeddings().embed([]) == []
    assert simulator.requests == []


@pytest.mark.parametrize(
    ("texts", "words"),
    [("text", r"write \[text\]"), (["a", ""], "text 1 is empty"), (["a", 3], "text 1 is int"), (3, "list")],
)
def test_wrong_texts_are_refused_before_anything_is_sent(
    simulator: Simulator, make_embeddings: MakeEmbeddings, texts: Any, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        make_embeddings().embed(texts)
    assert simulator.requests == []
