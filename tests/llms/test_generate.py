"""Answers: in order, as many as asked, in the shapes that servers give them."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Mapping
from types import FrameType

import pytest
from pydantic import BaseModel, ValidationError

from mistill.api.client import HTTPAnswer, MistralClient
from mistill.api.operation import Operation, R
from mistill.api.watched_answer import WatchedAnswer
from mistill.errors import InputError
from mistill.llms import LLM, AsyncLLM, MistralLLM
from mistill.simulator import Fault, Simulator

MakeLLM = Callable[..., MistralLLM]
HELLO = [{"role": "user", "content": "Hello world!"}]


def test_the_seeds_example(simulator: Simulator) -> None:
    simulator.change(models=("open-mixtral-8x22b",))  # as it was when the example was written
    llm = MistralLLM(model="open-mixtral-8x22b", endpoint=simulator.url)
    llm.load()
    output = llm.generate(inputs=[[{"role": "user", "content": "Hello world!"}]])
    assert output == [["Echo: Hello world!"]]
    assert simulator.requests[0].body == {"model": "open-mixtral-8x22b", "messages": HELLO}


def test_the_seeds_structured_example(make_llm: MakeLLM) -> None:
    class User(BaseModel):
        name: str
        last_name: str
        id: int

    llm = make_llm(structured_output={"schema": User})
    prompt = "Create a user profile for the following marathon"
    output = llm.generate(inputs=[[{"role": "user", "content": prompt}]])
    assert set(json.loads(output[0][0] or "")) == {"name", "last_name", "id"}


def test_the_bases_are_as_the_seeds() -> None:
    assert issubclass(MistralLLM, AsyncLLM)
    assert issubclass(AsyncLLM, LLM)
    assert issubclass(LLM, BaseModel)
    with pytest.raises(ValidationError, match="extra"):
        MistralLLM(model="m", modell="m")  # type: ignore[call-arg]


def test_the_first_use_loads_by_itself(make_llm: MakeLLM) -> None:
    assert make_llm().generate(["Hello"]) == [["Echo: Hello"]]


def test_500_inputs_come_back_in_order(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(latency_s=0.01, latency_distribution="uniform", latency_spread=1.0)
    output = make_llm().generate([f"row {number}" for number in range(500)])
    assert output == [[f"Echo: row {number}"] for number in range(500)]


def test_no_inputs_give_no_outputs(make_llm: MakeLLM) -> None:
    assert make_llm().generate([]) == []


async def test_agenerate_gives_the_texts_of_one_input(make_llm: MakeLLM) -> None:
    assert await make_llm().agenerate(HELLO, max_new_tokens=2, temperature=0.0, top_p=1.0) == ["Echo: He"]


async def test_agenerate_checks_its_arguments(simulator: Simulator, make_llm: MakeLLM) -> None:
    with pytest.raises(InputError, match="temperature=3"):
        await make_llm().agenerate(HELLO, temperature=3)
    with pytest.raises(InputError, match="max_new_tokens"):
        await make_llm().agenerate(HELLO, max_new_tokens="ten")  # type: ignore[arg-type]
    assert simulator.requests == []


def test_outputs_carry_the_tokens(make_llm: MakeLLM) -> None:
    (output,) = make_llm().generate_outputs(["Hello"], num_generations=2)
    assert output == {
        "generations": ["Echo: Hello", "Echo 2: Hello"],
        "statistics": {"input_tokens": [6, 0], "output_tokens": [7, 0]},
    }


def test_a_call_goes_before_the_objects_own_arguments(simulator: Simulator, make_llm: MakeLLM) -> None:
    llm = make_llm(generation_kwargs={"temperature": 0.1, "stop": "."})
    llm.generate(["Hello"], temperature=0.9)
    body = simulator.requests[0].body
    assert (body["temperature"], body["stop"]) == (0.9, ".")


# --- inputs -----------------------------------------------------------------------------------------------------------


def test_an_input_may_be_a_string_messages_or_a_pair(simulator: Simulator, make_llm: MakeLLM) -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    texts = make_llm().generate(["a", HELLO, (HELLO, {"schema": schema}), ("b", None)])
    assert texts[:2] == [["Echo: a"], ["Echo: Hello world!"]]
    assert isinstance(json.loads(texts[2][0] or "")["n"], int)
    assert texts[3] == [["Echo: b"]][0]
    formats = [request.body.get("response_format") for request in simulator.requests]
    assert sum(form is not None for form in formats) == 1


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (17, "input 1 is int, not a list of messages or a string"),
        ([{"role": "user", "content": "x", "name": "Jo"}], "unknown field `name`"),
        ([{"role": "wizard", "content": "x"}], "wizard"),
        ([{"role": "user"}], "missing required field `content`"),
        ([{"role": "user", "content": [{"type": "text", "txt": "x"}]}], r"messages\[0\].content\[0\]"),
        ([], "Conversation must have at least one message"),
        ([{"role": "assistant", "content": "x"}], "Expected last role User or Tool"),
        (("x", {"schema": {}}, "y"), "tuple must be"),
        (("x", {"schem": {}}), "no key \"?'?schem"),
    ],
)
def test_every_input_is_checked_before_the_first_request(
    simulator: Simulator, make_llm: MakeLLM, bad: object, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        make_llm().generate(["good", bad])  # type: ignore[list-item]
    assert "input 1" in str(caught.value)
    assert caught.value.index == 1
    assert simulator.requests == []


@pytest.mark.parametrize("inputs", ["Hello", {"role": "user"}, 3])
def test_inputs_that_are_no_list_are_refused(make_llm: MakeLLM, inputs: object) -> None:
    with pytest.raises(InputError, match="write"):
        make_llm().generate(inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_generations": 0}, "num_generations"),
        ({"num_generations": True}, "num_generations"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"temprature": 0.5}, "did you mean 'temperature'"),
        ({"n": 2}, "num_generations sets how many"),
        ({"top_p": 0}, "top_p=0: expected `float` > 0"),
        ({"random_seed": -1}, "random_seed=-1"),
        ({"presence_penalty": 2.5}, "presence_penalty=2.5"),
        ({"repetition_penalty": float("inf")}, "repetition_penalty=inf: expected `float` <="),
        ({"repetition_penalty": float("nan")}, "repetition_penalty=nan: expected `float`"),
        ({"reasoning_effort": "huge"}, "reasoning_effort='huge'"),
        ({"extra_body": {"temperature": 1}}, "extra_body has 'temperature'"),
        ({"extra_body": ["x"]}, "extra_body"),
        ({"extra_body": {"x": object()}}, "extra_body is no JSON: .*type object"),
        ({"metadata": {"x": float("nan")}}, "metadata is no JSON"),
        ({"metadata": {1: 2}}, r"metadata=\{1: 2\}: expected `str`, got `int`"),
        ({"guardrails": [{"x": object()}]}, "guardrails is no JSON"),
        ({"response_format": {"type": "json_schema"}}, "go together"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_sent(
    simulator: Simulator, make_llm: MakeLLM, arguments: dict[str, object], words: str
) -> None:
    with pytest.raises(InputError, match=words):
        make_llm().generate(["Hello"], **arguments)  # type: ignore[arg-type]
    assert simulator.requests == []


# --- answers ----------------------------------------------------------------------------------------------------------


def test_no_content_is_none_and_a_warning(
    simulator: Simulator, make_llm: MakeLLM, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.script([Fault.named("null_content")])
    with caplog.at_level(logging.WARNING, "mistill"):
        assert make_llm().generate(["Hello"]) == [[None]]
    assert caplog.messages == ["mistral-small-latest gave no content; finish reason: stop"]


@pytest.mark.parametrize("method", ["generate", "outcomes"])
def test_answers_of_a_call_without_content_are_told_once_with_how_many(
    simulator: Simulator, make_llm: MakeLLM, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    simulator.script([Fault.named("null_content")] * 3)
    getattr(make_llm(), method)(["Hello"] * 4)
    assert caplog.messages == ["mistral-small-latest gave no content in 3 answers; finish reason: stop"]


async def test_an_answer_without_content_is_told_where_one_is_asked_for(
    simulator: Simulator, make_llm: MakeLLM, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.script([Fault.named("null_content")])
    assert await make_llm().agenerate("Hello") == [None]
    assert caplog.messages == ["mistral-small-latest gave no content; finish reason: stop"]


def test_chunked_content_is_its_text(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.named("chunked_content")])
    assert make_llm().generate(["Hello"]) == [["Echo: Hello"]]


def test_thinking_is_kept_apart(make_llm: MakeLLM) -> None:
    ((completion,),) = make_llm(model="magistral-medium-latest").complete(["Hello"])
    assert completion.text == "Echo: Hello"
    assert completion.thinking == "The user says: Hello"


def test_an_answer_without_usage_is_an_answer(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([Fault.named("missing_usage")])
    (output,) = make_llm().generate_outputs(["Hello"])
    assert output["generations"] == ["Echo: Hello"]
    assert output["statistics"] == {"input_tokens": [0], "output_tokens": [0]}


def test_a_completion_tells_all_that_is_known(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(cache_hits=1)
    asked, llm = "Hello" * 60, make_llm(generation_kwargs={"prompt_cache_key": "one for both"})
    llm.complete([asked])
    simulator.script([Fault.status(503), "Echo: Hello"])
    ((completion,),) = llm.complete([asked])
    assert completion.text == "Echo: Hello"
    assert completion.value is None
    assert completion.thinking is None
    assert completion.tool_calls == ()
    assert completion.finish_reason == "stop"
    usage = completion.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cached_tokens) == (79, 3, 64)
    assert completion.model == "mistral-small-latest"
    assert completion.id == json.loads(completion.raw)["id"]
    assert completion.correlation_id
    assert completion.latency_s > 0
    assert completion.attempts == 2


async def test_acomplete_raises_the_rows_own_error(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(poison="poison")
    with pytest.raises(Exception, match="refused for its content"):
        await make_llm().acomplete("poison")


# --- the way to the wire ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["generate", "agenerate"])
def test_at_most_five_frames_of_ours_are_on_the_stack_when_a_request_leaves(
    make_llm: MakeLLM, way: str
) -> None:
    llm = make_llm()
    client = llm._open().client
    seen: list[list[str]] = []

    class Transport(MistralClient):
        """Stands here for the client; its own method counts as one of the five."""

        async def exchange(
            self,
            operation: Operation[R],
            body: bytes,
            *,
            watched: WatchedAnswer | None = None,
            headers: Mapping[str, str] | None = None,
        ) -> HTTPAnswer[R]:
            frame: FrameType | None = sys._getframe()
            names: list[str] = []
            while frame is not None:
                is_ours = "mistill/" in frame.f_code.co_filename or frame.f_code.co_name == "exchange"
                if (
                    is_ours and frame.f_code.co_name != "_serve"
                ):  # which runs the loop, below everything on it
                    names.append(frame.f_code.co_qualname)
                frame = frame.f_back
            seen.append(names)
            return await client.exchange(operation, body, watched=watched, headers=headers)

    llm._open().dispatcher.client = Transport(client.endpoint, "a-key", 5)
    if way == "generate":
        llm.generate(["Hello"])
    else:
        asyncio.run(llm.agenerate("Hello"))
    (names,) = seen
    assert len(names) <= 5, names


# --- several generations ----------------------------------------------------------------------------------------------


def test_several_generations_take_one_request(simulator: Simulator, make_llm: MakeLLM) -> None:
    assert make_llm().generate(["Hello"], num_generations=3) == [
        ["Echo: Hello", "Echo 2: Hello", "Echo 3: Hello"]
    ]
    assert [request.body["n"] for request in simulator.requests] == [3]


def test_a_model_that_refuses_n_is_asked_one_by_one_and_remembered(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    llm = make_llm(model="mistral-large-2512")
    for _ in range(2):
        assert llm.generate(["Hello"], num_generations=2, random_seed=7) == [["Echo: Hello"] * 2]
    asked = [(request.body.get("n"), request.body["random_seed"]) for request in simulator.requests]
    assert asked[0] == (2, 7)
    assert sorted(asked[1:]) == [(None, 7), (None, 7), (None, 8), (None, 8)]


def test_the_request_that_a_model_refused_is_counted(simulator: Simulator, make_llm: MakeLLM) -> None:
    llm = make_llm(model="mistral-large-2512")
    first, second = (llm.outcomes(["Hello"], num_generations=3)[0] for _ in range(2))
    assert (first.attempts, second.attempts) == (4, 3)
    assert first.attempts + second.attempts == len(simulator.requests)


def test_a_row_that_is_refused_does_not_teach_that_n_is(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(poison="poison")
    llm = make_llm()
    llm.generate(["poison"], num_generations=2, on_error="none")
    simulator.change(poison=None)
    llm.generate(["Hello"], num_generations=2)
    assert simulator.requests[-1].body["n"] == 2
