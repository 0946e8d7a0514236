"""Answers as other servers give them: given up in the middle, thinking under another name, tool calls in pieces."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api.raw_server import RawServer, answer, chunk, events, response

from mistill.api.chat import ChatChunk, decode_chunk
from mistill.errors import BadRequest, MalformedAnswer, MistillError, ServerError
from mistill.llms import Completion, MistralLLM, Outcome, StreamChunk
from mistill.llms.completions import kept_completions
from mistill.llms.streaming import read_stream
from mistill.simulator import Fault, Simulator

MakeLLM = Callable[..., MistralLLM]
USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}


def choice(text: str | None, finish_reason: str = "stop", index: int = 0) -> dict[str, Any]:
    return {"index": index, "message": {"content": text}, "finish_reason": finish_reason}


def outcome_of(llm: MistralLLM, num_generations: int = 1, **arguments: Any) -> Outcome:
    (outcome,) = llm.outcomes(["q"], num_generations, **arguments)
    return outcome


# --- given up in the middle -------------------------------------------------------------------------------------------


FAILED = {"code": 502, "message": "worker limit reached"}


@pytest.mark.parametrize(
    "body",
    [
        answer(choices=[choice("", "error")]),
        answer(choices=[choice("half an ans", "error")]),
        answer(choices=[choice(None, "error")]),
        answer(choices=[choice("half an ans", "ERROR")]),
        answer(choices=[choice("half an ans", "abort")]),
        answer(choices=[choice("half an ans", "insufficient_system_resource")]),
        answer(error=FAILED),
        answer(error="worker limit reached"),
        answer(choices=[{"message": {"content": ""}, "finish_reason": None}], error=FAILED),
        answer(choices=[choice("half an ans") | {"error": FAILED}]),
        answer(choices=[choice("half", "error"), choice("a", index=1) | {"error": FAILED}]),
    ],
)
def test_an_answer_that_the_server_gave_up_is_a_failed_attempt(
    simulator: Simulator, make_llm: MakeLLM, body: dict[str, Any]
) -> None:
    simulator.script([Fault.status(200, body)])
    outcome = outcome_of(make_llm())
    assert outcome.completions[0] is not None
    assert (outcome.completions[0].text, outcome.attempts) == ("Echo: q", 2)


def test_one_that_is_given_up_every_time_fails_its_row_and_keeps_what_came(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    simulator.script([Fault.status(200, answer(choices=[choice("half an ans", "error")]))] * 3)
    outcome = outcome_of(make_llm(max_retries=2))
    error = outcome.error
    assert isinstance(error, MalformedAnswer)
    assert (error.retryable, error.maybe_billed, error.attempts) == (True, True, 3)
    assert isinstance(error.partial, Completion)
    assert (error.partial.text, error.partial.usage.output_tokens) == ("half an ans", 3)
    assert (outcome.completions, outcome.finish_reason) == ((None,), "error")


@pytest.mark.parametrize("error", [None, {}, "", False, {"code": None, "message": ""}])
def test_an_error_that_says_nothing_is_none(simulator: Simulator, make_llm: MakeLLM, error: Any) -> None:
    simulator.script([Fault.status(200, answer(choices=[choice("a") | {"error": error}], error=error))])
    outcome = outcome_of(make_llm())
    assert [one and one.text for one in outcome.completions] == ["a"]


@pytest.mark.parametrize(
    "body",
    [
        answer(choices=[choice("hal", "error")], error=FAILED),
        answer(choices=[choice("hal", "stop")], error=FAILED),
        answer(choices=[choice("hal", "error") | {"error": FAILED}]),
    ],
)
def test_the_servers_own_error_is_taken_where_it_sends_one(
    simulator: Simulator, make_llm: MakeLLM, body: dict[str, Any]
) -> None:
    simulator.script([Fault.status(200, body)])
    error = outcome_of(make_llm(max_retries=0)).error
    assert isinstance(error, ServerError)
    assert (error.status, error.message) == (502, "worker limit reached")
    assert error.partial is not None
    assert error.partial.text == "hal"


def test_the_key_in_the_words_of_an_answer_that_was_given_up_is_cut_out(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    key = "sk-0123456789abcdef"
    simulator.script([Fault.status(200, answer(error={"message": f"{key} is out of credit"}))])
    assert key not in str(outcome_of(make_llm(max_retries=0, api_key=key)).error)


@pytest.mark.parametrize(
    ("choices", "texts"),
    [
        ([choice(text, index=index) for index, text in enumerate("abcde")], ["a", "b", "c"]),
        ([choice(text, index=2 - index) for index, text in enumerate("cba")], ["a", "b", "c"]),
        ([choice("a"), choice("b"), choice("c")], ["a", "b", "c"]),
        ([choice("b", index=1), choice("a")], ["a", "b", "Echo: q"]),
    ],
)
def test_several_generations_are_as_many_as_were_asked_for_in_their_order(
    simulator: Simulator, make_llm: MakeLLM, choices: list[dict[str, Any]], texts: list[str]
) -> None:
    simulator.script([Fault.status(200, answer(choices=choices))])
    outcome = outcome_of(make_llm(), 3)
    assert [one and one.text for one in outcome.completions] == texts


def test_of_choices_that_nobody_asked_for_the_first_is_the_answer(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    simulator.script([Fault.status(200, answer(choices=[choice("b", index=1), choice("a")]))])
    assert [one and one.text for one in outcome_of(make_llm()).completions] == ["a"]


def test_of_several_generations_only_the_one_that_was_given_up_is_asked_again(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    choices = [choice("a"), choice("hal", "error", 1), choice("c", index=2)]
    simulator.script([Fault.status(200, answer(choices=choices))])
    llm = make_llm()
    outcome = outcome_of(llm, 3)
    assert [one and one.text for one in outcome.completions] == ["a", "c", "Echo: q"]
    assert [request.body.get("n") for request in simulator.requests] == [3, None]
    outcome_of(llm, 3)
    assert simulator.requests[-1].body["n"] == 3  # the server does know n


def test_no_kept_answer_is_read_as_good_that_was_given_up() -> None:
    body = answer(choices=[choice("hal", "error"), choice("b", index=1)])
    assert [one.text for one in kept_completions(json.dumps(body).encode())] == ["b"]


@pytest.mark.parametrize(
    "finish_reason", ["stop", "length", "model_length", "tool_calls", "content_filter", None]
)
def test_every_other_finish_reason_is_an_answer(
    simulator: Simulator, make_llm: MakeLLM, finish_reason: Any
) -> None:
    simulator.script([Fault.status(200, answer(choices=[choice("a", finish_reason)]))])
    assert outcome_of(make_llm()).error is None


async def streamed(*bodies: bytes, **settings: Any) -> list[StreamChunk]:
    async with RawServer(*bodies) as server:
        llm = MistralLLM(model="m", endpoint=server.url, **settings)
        return [piece async for piece in llm.astream("q")]


ROLE = chunk({"role": "assistant", "content": ""})
GOOD = events(ROLE, chunk({"content": "Hi"}), chunk({"content": ""}, "stop", usage=USAGE))


@pytest.mark.parametrize(
    "failed",
    [
        events(ROLE, chunk({"content": ""}, "error")),
        events(ROLE, {"choices": [], "error": {"code": 502, "message": "worker limit reached"}}),
        events(ROLE, end=""),
        events(ROLE, ROLE, "no chunk"),
        events(),
    ],
    ids=["finish reason", "error", "cut off", "malformed", "nothing"],
)
async def test_a_stream_that_failed_before_it_said_anything_is_asked_again(
    short_pauses: None, failed: bytes
) -> None:
    assert "".join(piece.text for piece in await streamed(failed, GOOD)) == "Hi"
    with pytest.raises(MistillError):
        await streamed(failed, max_retries=1)


@pytest.mark.parametrize(
    "said",
    [{"content": "Hal"}, {"reasoning": "hm"}, {"reasoning_content": "hm"}, {"tool_calls": [{"index": 0}]}],
)
async def test_one_that_had_said_something_is_not(short_pauses: None, said: dict[str, Any]) -> None:
    with pytest.raises(ServerError, match='finish reason "error"') as caught:
        await streamed(events(ROLE, chunk(said), chunk({}, "error")), GOOD)
    partial = caught.value.partial
    assert (partial.text or "") == said.get("content", "")
    assert partial.thinking == said.get("reasoning", said.get("reasoning_content"))
    assert partial.finish_reason == "error"


async def test_what_is_no_stream_keeps_its_own_kind(short_pauses: None) -> None:
    with pytest.raises(BadRequest, match="too long"):
        await streamed(response({"object": "error", "message": "too long", "code": "400"}), max_retries=0)


# --- thinking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "thinking"),
    [
        ({"content": "42", "reasoning": "six"}, "six"),
        ({"content": "42", "reasoning_content": "six"}, "six"),
        ({"content": "42", "reasoning": "six", "reasoning_content": "six"}, "six"),
        ({"content": "42", "reasoning": "six", "reasoning_content": ""}, "six"),
        ({"content": "42", "reasoning": None}, None),
        (
            {
                "content": [
                    {"type": "thinking", "thinking": [{"type": "text", "text": "six"}]},
                    {"type": "text", "text": "42"},
                ],
                "reasoning": "six",
            },
            "six",
        ),
    ],
)
async def test_thinking_comes_under_either_name(message: dict[str, Any], thinking: str | None) -> None:
    async with RawServer(response(answer(message))) as server:
        (completion,) = await MistralLLM(model="m", endpoint=server.url).acomplete("q")
    assert (completion.text, completion.thinking) == ("42", thinking)
    pieces = await streamed(events(chunk(message), chunk({}, "stop")))
    assert "".join(piece.thinking for piece in pieces) == (thinking or "")
    assert "".join(piece.text for piece in pieces) == "42"


def test_what_is_no_text_in_a_text_chunk_costs_no_answer(simulator: Simulator, make_llm: MakeLLM) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    content = [{"type": "text", "text": deep}, {"type": "text"}, {"type": "text", "text": "a"}]
    simulator.script([Fault.status(200, answer({"content": content}))])
    completion = outcome_of(make_llm()).completions[0]
    assert completion is not None
    assert completion.text == "a"


# --- tool calls in pieces ---------------------------------------------------------------------------------------------


def piece(arguments: Any = None, **fields: Any) -> dict[str, Any]:
    function = {} if arguments is None else {"arguments": arguments}
    if "name" in fields:
        function["name"] = fields.pop("name")
    return {"function": function, **fields}


async def calls_of(*pieces: dict[str, Any]) -> list[tuple[str | None, str, Any]]:
    async def chunks() -> AsyncGenerator[ChatChunk]:
        for each in pieces:
            yield decode_chunk(json.dumps(chunk({"tool_calls": [each]})).encode())
        yield decode_chunk(json.dumps(chunk({}, "tool_calls")).encode())

    found = [call async for each in read_stream(chunks()) for call in each.tool_calls]
    return [(call.id, call.name, call.function.arguments) for call in found]


NICE, PARIS = '{"town":"Nice"}', '{"town":"Paris"}'
START, END = '{"town":', '"Nice"}'
ID, OTHER = "a1b2c3d4e", "f6g7h8i9j"


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        # once, as it should be
        ([piece(NICE, index=0, id=ID, name="f")], [(ID, "f", NICE)]),
        (
            [piece("", index=0, id=ID, name="f"), piece(START, index=0), piece(END, index=0)],
            [(ID, "f", NICE)],
        ),
        ([piece(START, index=0, id=ID, name="f"), piece(END)], [(ID, "f", NICE)]),
        # name and id, or one of them, with every piece
        ([piece(START, index=0, id=ID, name="f"), piece(END, index=0, id=ID, name="f")], [(ID, "f", NICE)]),
        ([piece(START, index=0, id=ID, name="f"), piece(END, index=0, name="f")], [(ID, "f", NICE)]),
        ([piece(START, index=0, id=ID, name="f"), piece(END, index=0, id=ID)], [(ID, "f", NICE)]),
        ([piece(START, index=0, id=ID, name="f"), piece(END, index=0, id="", name="")], [(ID, "f", NICE)]),
        ([piece(START, id=ID, name="f"), piece(END, id=ID, name="f")], [(ID, "f", NICE)]),
        ([piece(START, name="f"), piece(END, name="f")], [(None, "f", NICE)]),
        # name or id with a later piece
        (
            [piece("", index=0, name=""), piece(START, index=0, name="f"), piece(END, index=0, id=ID)],
            [(ID, "f", NICE)],
        ),
        # the whole call once more
        ([piece(NICE, index=0, id=ID, name="f")] * 2, [(ID, "f", NICE)]),
        ([piece(NICE, index=0, id=ID, name="f"), piece(NICE, index=1, id=ID, name="f")], [(ID, "f", NICE)]),
        ([piece({"a": 1}, index=0, id=ID, name="f")] * 2, [(ID, "f", {"a": 1})]),
        (
            [
                piece(START, index=0, id=ID, name="f"),
                piece(END, index=0, id=ID, name="f"),
                piece(NICE, index=0, id=ID, name="f"),
            ],
            [(ID, "f", NICE)],
        ),
        # an empty piece behind it
        ([piece(NICE, index=0, id=ID, name="f"), piece("", index=0, id=ID, name="f")], [(ID, "f", NICE)]),
        ([piece(NICE, index=0, id=ID, name="f"), piece("\n", index=0)], [(ID, "f", NICE)]),
        # all that there is so far, with every piece
        ([piece(text, index=0, id=ID, name="f") for text in (START, START + '"Ni', NICE)], [(ID, "f", NICE)]),
        ([piece(text, index=0) for text in (START, NICE, NICE)], [(None, "", NICE)]),
        (
            [piece(START, index=0, name="f"), piece(START, index=0), piece("1}}", index=0)],
            [(None, "f", START + START + "1}}")],
        ),
        # an object without anything in the place of arguments that come
        ([piece("{}", index=0, id=ID, name="f"), piece(NICE, index=0)], [(ID, "f", NICE)]),
        ([piece("{ }", index=0, id=ID, name="f"), piece(NICE, index=0, id=ID, name="f")], [(ID, "f", NICE)]),
        ([piece({}, index=0, id=ID, name="f"), piece(NICE, index=0)], [(ID, "f", NICE)]),
        (
            [piece("{}", index=0, id=ID, name="f"), piece(START, index=0), piece(END, index=0)],
            [(ID, "f", NICE)],
        ),
        ([piece("{}", index=0, id=ID, name="f"), piece(NICE, index=0, name="f")], [(ID, "f", NICE)]),
        ([piece("{}", index=0, name="f"), piece(NICE, index=0, id=ID, name="f")], [(ID, "f", NICE)]),
        ([piece("{}", index=0, id=ID, name="f"), piece("", index=0)], [(ID, "f", "{}")]),
        # a name in pieces, or all of it so far
        ([piece(index=0, id=ID, name="get_"), piece(NICE, index=0, name="town")], [(ID, "get_town", NICE)]),
        (
            [piece(index=0, id=ID, name="get_"), piece(NICE, index=0, id=ID, name="get_town")],
            [(ID, "get_town", NICE)],
        ),
        # what makes no sense is one call whose arguments are broken, not a second one without a name
        ([piece(NICE, index=0, id=ID, name="f"), piece(PARIS, index=0)], [(ID, "f", NICE + PARIS)]),
        # calls beside each other
        (
            [piece(NICE, index=0, id=ID, name="f"), piece(PARIS, index=1, id=OTHER, name="f")],
            [(ID, "f", NICE), (OTHER, "f", PARIS)],
        ),
        (
            [
                *(piece("", index=0, id=ID, name="f"), piece("", index=1, id=OTHER, name="f")),
                *(piece(START, index=0), piece(START, index=1), piece(END, index=0), piece(END, index=1)),
            ],
            [(ID, "f", NICE), (OTHER, "f", NICE)],
        ),
        # under one index, and told apart by their ids alone
        (
            [piece(NICE, index=0, id=ID, name="f"), piece(NICE, index=0, id=OTHER, name="f")],
            [(ID, "f", NICE), (OTHER, "f", NICE)],
        ),
        # without index and id: each whole, so each is a call
        ([piece(NICE, name="f"), piece(NICE, name="f")], [(None, "f", NICE)] * 2),
        ([piece(NICE, name="f"), piece("{}", name="g")], [(None, "f", NICE), (None, "g", "{}")]),
        # an id that is every call's
        (
            [piece(NICE, index=0, id="0", name="f"), piece(PARIS, index=1, id="0", name="f")],
            [("0", "f", NICE), ("0", "f", PARIS)],
        ),
        (
            [piece("{}", index=0, id="0", name="f"), piece("{}", index=1, id="0", name="g")],
            [("0", "f", "{}"), ("0", "g", "{}")],
        ),
    ],
)
async def test_pieces_of_one_call_are_one_call(pieces: list[dict[str, Any]], calls: Any) -> None:
    assert await calls_of(*pieces) == calls


ARGUMENTS = st.dictionaries(st.text(max_size=4), st.text(max_size=4) | st.integers(), max_size=3)


@given(st.data(), st.lists(ARGUMENTS, min_size=1, max_size=3), st.booleans())
async def test_calls_come_whole_however_they_are_cut(
    data: st.DataObject, arguments: list[dict[str, Any]], names_again: bool
) -> None:
    texts = [json.dumps(one) for one in arguments]
    queues: list[list[dict[str, Any]]] = []
    for number, text in enumerate(texts):
        cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(1, len(text)), max_size=4))})
        marks = {"id": f"call{number}", "name": "f"}
        queues.append(
            [
                piece(text[start:end], index=number, **(marks if names_again or not start else {}))
                for start, end in pairwise(cuts)
            ]
        )
    order = data.draw(st.permutations([number for number, queue in enumerate(queues) for _ in queue]))
    found = await calls_of(*(queues[number].pop(0) for number in order))
    assert sorted(found, key=str) == [(f"call{number}", "f", text) for number, text in enumerate(texts)]


async def test_the_finish_reason_may_come_before_the_usage() -> None:
    usage = {"choices": [], "usage": USAGE, "id": None}
    call = piece(NICE, index=0, id=ID, name="f")
    for end in (usage, usage | {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}):
        pieces = await streamed(events(chunk({"tool_calls": [call]}), chunk({}, "tool_calls"), end))
        assert [one.name for each in pieces for one in each.tool_calls] == ["f"]
        assert next(each.finish_reason for each in pieces if each.finish_reason) == "tool_calls"
        assert [each.usage.output_tokens for each in pieces if each.usage] == [2]


@pytest.mark.parametrize("text", [None, 5, ["x"]])
def test_what_is_no_text_in_a_chunk_is_no_text(simulator: Simulator, make_llm: MakeLLM, text: Any) -> None:
    chunks = [{"type": "text", "text": "Paris"}, {"type": "text", "text": text}]
    for content, wanted in ((chunks, "Paris"), (chunks[1:], None)):
        message = {"role": "assistant", "content": content}
        body = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
        simulator.script([Fault.status(200, body)])
        [[completion]] = make_llm().complete(["Where?"])
        assert completion.text == wanted


@pytest.mark.parametrize("mode", ["json_schema", "md_json"])
def test_a_value_is_never_read_from_a_choice_that_was_given_up(
    simulator: Simulator, make_llm: MakeLLM, mode: str
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    simulator.script(
        [Fault.status(200, answer(choices=[choice('{"a": 7}', "error"), choice('{"a": 2}', index=1)]))]
    )
    llm = make_llm(structured_output={"schema": schema, "mode": mode})
    [completion] = outcome_of(llm).completions
    assert completion is not None
    assert completion.value == {"a": 2}
