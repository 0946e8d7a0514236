"""Each mode of the instructor package over a ``send`` that answers from a script."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import msgspec
import pytest
from pydantic import BaseModel, Field

from mistill.api.chat import ChatParameters, Message
from mistill.errors import InvalidOutput, RateLimited
from mistill.llms.completions import kept_completions
from mistill.llms.types import Completion
from mistill.structured import Parsed, compile_structured_output

pytest.importorskip("instructor")

from mistill.structured.instructor import ask

MODES = ["tools", "json_schema", "md_json", "mistral_tools", "mistral_structured_outputs"]
PROMPT: list[dict[str, Any]] = [{"role": "user", "content": "Create a user"}]


class User(BaseModel):
    """Someone."""

    name: str = Field(alias="fullName", min_length=2)
    id: int = Field(ge=0, description="a number")
    friends: list[User] = []


GOOD = '{"fullName": "Ada", "id": 1}'
WRONG = '{"fullName": "Ada", "id": -1}'


class Script:
    """Answers one after the other, each in the form that the request asks for, and keeps the requests."""

    def __init__(self, *answers: str | Exception, finish_reason: str = "stop", as_tools: bool = True) -> None:
        self.answers = list(answers)
        self.finish_reason = finish_reason
        self.as_tools = as_tools
        self.requests: list[tuple[list[dict[str, Any]], dict[str, Any]]] = []

    async def send(self, messages: list[dict[str, Any]], parameters: dict[str, Any]) -> Completion:
        msgspec.convert(messages, list[Message])  # strict, as in front of the wire
        msgspec.convert(parameters, ChatParameters)
        self.requests.append(json.loads(json.dumps((messages, parameters))))
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        if "tools" in parameters and self.as_tools:
            function = {"name": parameters["tools"][0]["function"]["name"], "arguments": answer}
            message: dict[str, Any] = {
                "content": "",
                "tool_calls": [{"id": "abcdefghi", "function": function}],
            }
        else:
            message = {"content": answer}
        return response(message, self.finish_reason)


def response(message: dict[str, Any], finish_reason: str = "stop") -> Completion:
    body = {"choices": [{"message": message, "finish_reason": finish_reason}]}
    return kept_completions(json.dumps(body).encode())[0]


def compiled(mode: str, schema: Any = User, max_retries: int = 1) -> Any:
    return compile_structured_output({"schema": schema, "mode": mode, "max_retries": max_retries})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("schema", "text", "value", "answer"),
    [
        (User, GOOD, User(fullName="Ada", id=1), GOOD),
        (list[int], '{"value": [1, 2.0]}', [1, 2], "[1, 2.0]"),
        (Literal["a", "b"], '{"value": "b"}', "b", '"b"'),
        ({"type": "object", "required": ["a"]}, '{"a": 1.50}', {"a": 1.5}, '{"a": 1.50}'),
        ({"type": "array", "items": {"$ref": "#"}}, '{"value": [[]]}', [[]], "[[]]"),
    ],
)
async def test_every_mode_gives_the_value_and_its_text(
    mode: str, schema: Any, text: str, value: Any, answer: str
) -> None:
    script = Script(text)
    assert await ask(compiled(mode, schema), PROMPT, {"temperature": 0.5}, script.send) == Parsed(
        value, answer
    )
    [(_, parameters)] = script.requests
    assert parameters["temperature"] == 0.5


@pytest.mark.parametrize("mode", MODES)
async def test_every_constraint_goes_out(mode: str) -> None:
    script = Script(GOOD)
    asked = compiled(mode)
    await ask(asked, PROMPT, {}, script.send)
    [(messages, parameters)] = script.requests
    wire_schema = json.loads(json.dumps(asked.schema.wire_schema))
    match asked.mode:
        case "tools":
            [tool] = parameters["tools"]
            assert parameters["tool_choice"] == "any"
            assert tool["function"] == {"name": "User", "description": "Someone.", "parameters": wire_schema}
        case "json_schema":
            assert parameters["response_format"] == {
                "type": "json_schema",
                "json_schema": {"name": "User", "schema": wire_schema, "strict": True},
            }
        case _:
            assert parameters == {}
            content = messages[0]["content"]
            assert json.loads(content[content.index("{") : content.rindex("}") + 1]) == wire_schema


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_does_not_fit_is_asked_again_within_a_fixed_context(mode: str) -> None:
    script = Script(WRONG, WRONG, WRONG, GOOD)
    prompt = [{"role": "system", "content": "s"}, *PROMPT]
    parsed = await ask(compiled(mode, max_retries=3), prompt, {}, script.send)
    assert parsed.text == GOOD
    sizes = [len(messages) for messages, _ in script.requests]
    assert sizes == [2, 4, 4, 4]
    last, _ = script.requests[-1]
    assert "$.id: Input should be greater than or equal to 0" in last[-1]["content"]
    assert prompt == [{"role": "system", "content": "s"}, *PROMPT]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("max_retries", [0, 2])
async def test_max_retries_counts_the_asks_after_the_first(mode: str, max_retries: int) -> None:
    script = Script(*[WRONG] * 9)
    with pytest.raises(InvalidOutput) as caught:
        await ask(compiled(mode, max_retries=max_retries), PROMPT, {}, script.send)
    assert (caught.value.text, caught.value.path) == (WRONG, "$.id")
    assert len(script.requests) == max_retries + 1


@pytest.mark.parametrize("mode", MODES)
async def test_an_answer_that_was_cut_short_is_not_asked_again(mode: str) -> None:
    script = Script('{"fullName": "A', finish_reason="length")
    with pytest.raises(InvalidOutput, match="raise max_new_tokens") as caught:
        await ask(compiled(mode), PROMPT, {}, script.send)
    assert caught.value.text == '{"fullName": "A'
    assert len(script.requests) == 1


@pytest.mark.parametrize("mode", MODES)
async def test_a_failure_to_send_comes_back_as_it_is(mode: str) -> None:
    failure = RateLimited("slow down", status=429, retry_after_s=3)
    script = Script(failure)
    with pytest.raises(RateLimited) as caught:
        await ask(compiled(mode), PROMPT, {}, script.send)
    assert caught.value is failure
    assert len(script.requests) == 1


async def test_cancelling_cancels_the_request() -> None:
    started, cancelled = asyncio.Event(), asyncio.Event()

    async def send(messages: list[dict[str, Any]], parameters: dict[str, Any]) -> Completion:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        raise AssertionError

    task = asyncio.create_task(ask(compiled("tools"), PROMPT, {}, send))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert cancelled.is_set()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "odd",
    [
        {"type": "text", "text": None},
        {"type": "text"},
        {"text": "x"},
        {"type": "thinking", "thinking": None},
        {},
    ],
)
async def test_chunks_that_say_nothing_are_no_text(mode: str, odd: dict[str, Any]) -> None:
    async def send(messages: list[dict[str, Any]], parameters: dict[str, Any]) -> Completion:
        return response({"content": [odd, {"type": "text", "text": GOOD}, odd]})

    assert (await ask(compiled(mode, max_retries=0), PROMPT, {}, send)).text == GOOD


async def test_thinking_does_not_reach_the_parser() -> None:
    async def send(messages: list[dict[str, Any]], parameters: dict[str, Any]) -> Completion:
        chunks = [
            {"type": "thinking", "thinking": [{"type": "text", "text": WRONG}]},
            {"type": "text", "text": GOOD},
        ]
        return response({"content": chunks})

    assert (await ask(compiled("json_schema", max_retries=0), PROMPT, {}, send)).text == GOOD


async def test_a_model_that_talks_instead_of_calling_the_tool_is_asked_again_then_read() -> None:
    script = Script("Let me think.", f"```json\n{GOOD}\n```", as_tools=False)
    parsed = await ask(compiled("tools"), PROMPT, {}, script.send)
    assert parsed.text == GOOD, "paid for, and it fits"
    assert len(script.requests) == 2


@pytest.mark.parametrize("mode", MODES)
async def test_an_empty_answer_is_asked_again_without_showing_it(mode: str) -> None:
    script = Script("", GOOD, as_tools=False)
    assert (await ask(compiled(mode), PROMPT, {}, script.send)).text == GOOD
    again, _ = script.requests[1]
    assert "assistant" not in {message["role"] for message in again}, "the API refuses an empty one"
    assert len(again) > len(script.requests[0][0])


async def test_arguments_may_be_an_object() -> None:
    async def send(messages: list[dict[str, Any]], parameters: dict[str, Any]) -> Completion:
        calls = [{"id": None, "function": {"name": "User", "arguments": json.loads(GOOD)}}]
        return response({"tool_calls": calls})

    assert (await ask(compiled("tools"), PROMPT, {}, send)).value == User(fullName="Ada", id=1)


@pytest.mark.parametrize("mode", MODES)
async def test_the_prompt_goes_out_with_every_key(mode: str) -> None:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    prompt: list[dict[str, Any]] = [
        {
            "role": "user",
            "content": [{"type": "text", "text": "see"}, {"type": "document_url", "document_url": "u"}],
        },
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "42", "tool_call_id": "abcdefghi", "name": "f"},
        {"role": "user", "content": "and?"},
    ]
    script = Script(GOOD)
    await ask(compiled(mode), prompt, {}, script.send)
    [(messages, _)] = script.requests
    if compiled(mode).mode == "md_json":
        assert messages[1]["content"] == prompt[0]["content"]
        assert messages[2]["tool_calls"] == [call]
        assert (messages[3]["tool_call_id"], messages[3]["name"]) == ("abcdefghi", "f")
    else:
        assert messages == prompt


async def test_rows_with_their_own_schemas_do_not_meet() -> None:
    async def one(index: int) -> None:
        name = f"f{index % 7}"
        schema = {"type": "object", "properties": {name: {"const": index % 7}}, "required": [name]}
        mode = MODES[index % len(MODES)]
        parsed = await ask(compiled(mode, schema), PROMPT, {}, Script(json.dumps({name: index % 7})).send)
        assert parsed.value == {name: index % 7}

    await asyncio.gather(*(one(index) for index in range(60)))


# --- where the answer is ----------------------------------------------------------------------------------------------


class Loose(BaseModel):
    name: str | None = None
    friend: Loose | None = None


def calls(*arguments: str) -> dict[str, Any]:
    return {
        "tool_calls": [
            {"id": f"abcdefgh{n}", "function": {"name": "f", "arguments": a}} for n, a in enumerate(arguments)
        ]
    }


async def answered(
    mode: str, schema: Any, *messages: dict[str, Any], parameters: dict[str, Any] | None = None
) -> Any:
    """What `ask` makes of answers with these messages, and the requests that it sends."""
    left, requests = list(messages), list[Any]()

    async def send(asked: list[dict[str, Any]], fields: dict[str, Any]) -> Completion:
        msgspec.convert(asked, list[Message])
        requests.append((asked, fields))
        return response(left.pop(0))

    parsed = await ask(compiled(mode, schema, max_retries=len(messages) - 1), PROMPT, parameters or {}, send)
    return parsed, requests


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    "text",
    [
        '{name: "Ann", friend: {"name": "Bob"}}',
        '```json\n{\n  // a friend of {"name": "Bob"}\n  "name": 5\n}\n```',
        '[None, {"name": "Bob"}]',
        '{"name": "Ann", "friend": {"name": "Bob"}',
        '"he said {} "',
        'f(x={"name": "Bob"}, y=2',
        '# {"name": "Bob"}\nnothing',
        '{"name": "Bob"} and no wait, Ann',
        '<think>maybe {"name": "Bob"}</think>',
        '\'{"name": "Bob"}\'',
    ],
)
async def test_no_mode_takes_a_part_of_what_is_broken(mode: str, text: str) -> None:
    script = Script(text)
    with pytest.raises(InvalidOutput) as caught:
        await ask(compiled(mode, Loose, max_retries=0), PROMPT, {}, script.send)
    assert caught.value.text == text


@pytest.mark.parametrize(
    "text",
    [
        f"```json\n{GOOD}\n```",
        f"Here it is:\n```\n{GOOD}\n```\nAnything else?",
        f"~~~json\n{GOOD}\n~~~",
        f"```json\n{GOOD}",
        f"<think>Not {WRONG}.</think>\n```json\n{GOOD}\n```",
        f"<think>Not {WRONG}.</think>{GOOD}",
        GOOD,
    ],
)
async def test_md_json_reads_every_fence(text: str) -> None:
    script = Script(text)
    assert (await ask(compiled("md_json", max_retries=0), PROMPT, {}, script.send)).text == GOOD


async def test_md_json_takes_none_of_two_answers() -> None:
    text = f"```json\n{GOOD}\n```\nor\n```json\n{GOOD.replace('1', '2')}\n```"
    with pytest.raises(InvalidOutput, match="2 different JSON values"):
        await ask(compiled("md_json", max_retries=0), PROMPT, {}, Script(text).send)


@pytest.mark.parametrize("mode", ["json_schema", "md_json"])
async def test_a_call_of_a_tool_that_nobody_offered_is_read(mode: str) -> None:
    parsed, _ = await answered(mode, User, calls(GOOD))
    assert parsed.text == GOOD
    parsed, _ = await answered(mode, User, {"content": GOOD} | calls(WRONG))
    assert parsed.text == GOOD, "the text comes before the call"
    parsed, requests = await answered(mode, User, calls(WRONG), {"content": GOOD})
    assert parsed.text == GOOD
    assert requests[1][0][-2] == {"role": "assistant", "content": WRONG}, (
        "shown to it as what it should have been"
    )


@pytest.mark.parametrize("mode", ["json_schema", "md_json"])
async def test_a_call_of_a_tool_that_was_offered_is_no_answer(mode: str) -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with pytest.raises(InvalidOutput):
        await answered(mode, User, calls(GOOD), parameters={"tools": tools})


async def test_two_calls_that_differ_are_no_answer() -> None:
    other = GOOD.replace("Ada", "Bob")
    parsed, requests = await answered("tools", User, calls(GOOD, other), calls(GOOD, GOOD))
    assert parsed.text == GOOD
    assert "2 different tool calls" in requests[1][0][-1]["content"]
