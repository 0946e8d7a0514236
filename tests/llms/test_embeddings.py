"""Embeddings: in order, in few requests, nothing that was answered lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mistill.api.embeddings import Embedding
from mistill.errors import BadRequest, InputError, MalformedAnswer, Stopped, Unauthorized
from mistill.llms import GenerationError, MistralEmbeddings
from mistill.llms.embeddings import vectors_in_order
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
        make_embeddings(model="mistral-small-2603").embed(["a"] * 64)
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


# --- which vector is of which text ------------------------------------------------------------------------------------


def answer(*vectors: Any, indexes: Sequence[Any] | None = None) -> dict[str, Any]:
    """An answer with these vectors; without ``indexes`` they have none."""
    marks = [{}] * len(vectors) if indexes is None else [{"index": index} for index in indexes]
    data = [{"embedding": vector, **mark} for vector, mark in zip(vectors, marks, strict=True)]
    return {"data": data, "usage": {"prompt_tokens": 6}}


A, B, C = [1.0, 0.0], [0.0, 1.0], [0.5, 0.5]


@pytest.mark.parametrize("indexes", [[0, 1, 2], [2, 0, 1], [1, 2, 0], None, [None] * 3, ["2", "1", "0"]])
def test_indexes_say_the_order_or_else_the_order_does(
    simulator: Simulator, make_embeddings: MakeEmbeddings, indexes: Any
) -> None:
    places = [0, 1, 2] if indexes is None or indexes[0] is None else [int(index) for index in indexes]
    simulator.script([Fault.status(200, answer(*([A, B, C][place] for place in places), indexes=indexes))])
    assert make_embeddings().embed(["a", "b", "c"]) == [A, B, C]


@pytest.mark.parametrize(
    ("vectors", "indexes"),
    [
        ([A, B, C], [0, 0, 0]),
        ([A, B, C], [1, 2, 3]),
        ([A, B, C], [0, 1, 1]),
        ([A, B, C], [0, 1, 3]),
        ([A, B, C], [0, 1, -1]),
        ([A, B, C], [0, 1, None]),
        ([A, B, C], [None, 0, None]),
        ([A, B, C], [10, 20, 30]),
        ([A, B, C], ["b", "c", "a"]),
        ([A, B, C], [{"i": 2}, {"i": 1}, {"i": 0}]),
        ([A, B, C], [[2], [1], [0]]),
        ([A, B, C], [0.5, 1, 2]),
        ([A, B, C], [0, 1, "x"]),
        ([A, B, C], [True, False, 2]),
        ([A, B, C], ["", "", ""]),
        ([A, B, C], [2**70, 2**71, 2**72]),
        ([A, B], None),
        ([A, B], [0, 1]),
        ([A, B], [2, 0]),
        ([A], [0]),
        ([A, B], [1, 3]),
        ([A, B], [0, None]),
        ([A, B, C, A], None),
        ([A, B, C, A], [0, 1, 2, 3]),
        ([A, B, C, A], [0, 1, 2, 0]),
    ],
)
def test_where_neither_says_it_the_answer_is_none(
    simulator: Simulator, make_embeddings: MakeEmbeddings, vectors: Any, indexes: Any
) -> None:
    bad = answer(*vectors, indexes=indexes)
    simulator.script([Fault.status(200, bad)])
    assert make_embeddings().embed(["a", "b", "c"]) == [vector(text, 4) for text in "abc"]  # asked again
    assert len(simulator.requests) == 2
    simulator.script([Fault.status(200, bad)] * 2)
    with pytest.raises(GenerationError) as caught:
        make_embeddings(max_retries=1).embed(["a", "b", "c"])
    assert {type(error) for error in caught.value.failures.values()} == {MalformedAnswer}
    assert caught.value.outputs == [None] * 3


@pytest.mark.parametrize("error", [{"code": 503, "message": "overloaded"}, "overloaded"])
def test_an_error_beside_the_vectors_is_an_error(
    simulator: Simulator, make_embeddings: MakeEmbeddings, error: Any
) -> None:
    simulator.script([Fault.status(200, answer(A, B) | {"error": error})] * 2)
    with pytest.raises(GenerationError, match="overloaded"):
        make_embeddings(max_retries=0).embed(["a", "b"])
    assert make_embeddings().embed(["a", "b"]) == [vector(text, 4) for text in "ab"]
    simulator.script([Fault.status(200, answer(A, B) | {"error": None})])
    assert make_embeddings().embed(["a", "b"]) == [A, B]


@given(st.data())
def test_no_text_ever_gets_the_vector_of_another(data: st.DataObject) -> None:
    texts = data.draw(st.integers(1, 5))
    indexes = data.draw(st.lists(st.none() | st.integers(-2, 6), max_size=7))
    found = [Embedding(Raw(f"[{place}.5]".encode()), index) for place, index in enumerate(indexes)]
    try:
        vectors = vectors_in_order(found, texts)
    except MalformedAnswer:
        return
    assert len(vectors) == texts == len(found)
    for text, one in enumerate(vectors):
        place = int(float(msgspec.json.decode(one)[0]))
        assert indexes[place] == text or (indexes == [None] * texts and place == text)


@pytest.mark.parametrize("wrong", [[], [1.0], [1.0, 2.0, 3.0], None, "text", ["1", "2"], [1.0, None], {}])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_vector_that_is_none_fails_its_own_text_alone(
    simulator: Simulator, make_embeddings: MakeEmbeddings, wrong: Any, place: int
) -> None:
    vectors: list[Any] = [A, B, C]
    vectors[place] = wrong
    simulator.script([Fault.status(200, answer(*vectors, indexes=[0, 1, 2]))])
    with pytest.raises(GenerationError) as caught:
        make_embeddings().embed(["a", "b", "c"])
    assert list(caught.value.failures) == [place]
    assert caught.value.outputs == [*[A, B, C][:place], None, *[A, B, C][place + 1 :]]


@pytest.mark.parametrize(
    ("setting", "right", "wrong"),
    [
        ({"output_dimension": 3}, [1.0, 2.0, 3.0], A),
        ({"output_dimension": 3, "output_dtype": "int8"}, [1, 2, 3], [1, 2]),
        ({"output_dimension": 16, "output_dtype": "binary"}, [1, -2], [1]),
        ({"output_dimension": 9, "output_dtype": "ubinary"}, [1, 2], [1] * 9),
    ],
)
def test_a_vector_of_another_length_than_was_asked_for_is_refused(
    simulator: Simulator, make_embeddings: MakeEmbeddings, setting: dict[str, Any], right: Any, wrong: Any
) -> None:
    simulator.script([Fault.status(200, answer(right, wrong, wrong))])
    vectors: list[Any] = make_embeddings(**setting).embed(["a", "b", "c"], on_error="none")
    assert vectors == [right, None, None]


def test_an_answer_of_several_lengths_is_none(simulator: Simulator, make_embeddings: MakeEmbeddings) -> None:
    simulator.script([Fault.status(200, answer(A, [1.0, 2.0, 3.0]))] * 2)
    with pytest.raises(GenerationError, match="different lengths: 2, 3"):
        make_embeddings(max_retries=1).embed(["a", "b"])
    assert len(simulator.requests) == 2


@pytest.mark.parametrize(
    ("lengths", "wrong"),
    [([1], 1), ([4, 1], 0), ([4, 4, 1], 0), ([1, 1], 2), ([4, 4, 1, 1, 4, 1], 0), ([4, 1, 2, 3], 0)],
)
def test_one_wrong_answer_makes_no_right_one_wrong(
    simulator: Simulator, make_embeddings: MakeEmbeddings, lengths: list[int], wrong: int
) -> None:
    """A wrong one among the first cannot be told from a right one; those that come after it are not lost."""
    simulator.script([Fault.status(200, answer([0.5] * length)) for length in lengths])
    embeddings = make_embeddings(max_batch_tokens=1, max_concurrent_requests=1)
    vectors: list[Any] = embeddings.embed([f"text {place}" for place in range(20)], on_error="none")
    assert sum(vector is None or len(vector) != 4 for vector in vectors) == wrong


@pytest.mark.parametrize("body", [[], [None], ["text"], [[]], [{}]])
@pytest.mark.parametrize("texts", [1, 3])
def test_an_answer_with_no_vector_of_use_is_asked_for_again(
    simulator: Simulator, make_embeddings: MakeEmbeddings, body: list[Any], texts: int
) -> None:
    simulator.change(embedding_dimension=4)
    simulator.script([Fault.status(200, answer(*body * texts))])
    embedded = make_embeddings(max_retries=1).embed_outputs([f"text {place}" for place in range(texts)])
    assert [len(vector or ()) for vector in embedded.vectors] == [4] * texts
    assert embedded.attempts == 2
