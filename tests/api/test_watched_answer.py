"""An answer that is streamed to be watched comes out as the same answer in one piece, or is cut off."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.api.raw_server import RawServer, answer, chunk, events, response
from tests.conftest import Simulate

from mistill.api.chat import CHAT, ChatResponse
from mistill.api.client import HTTPAnswer, MistralClient
from mistill.api.decoding import without_halves
from mistill.api.tariff import Tariff
from mistill.api.usage import Usage
from mistill.api.watched_answer import WatchedAnswer
from mistill.errors import Disconnected, MalformedAnswer, MistillError, RateLimited, ServerError
from mistill.simulator import Fault

MODEL = "mistral-small-latest"
SCHEMA = {
    "type": "object",
    "properties": {"words": {"type": "string", "minLength": 300}, "n": {"type": "integer"}},
    "required": ["words", "n"],
}
FORM = {"type": "json_schema", "json_schema": {"name": "A", "schema": SCHEMA}}
TOOL = {"type": "function", "function": {"name": "add", "parameters": SCHEMA}}


@asynccontextmanager
async def client_of(url: str) -> AsyncIterator[MistralClient]:
    client = MistralClient(url, "a-key", 10, tariff=Tariff(MODEL, url))
    try:
        yield client
    finally:
        await client.close()


async def asked(url: str, *, watched: bool, **fields: Any) -> HTTPAnswer[ChatResponse] | MistillError:
    body: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Ada"}], **fields}
    if watched:
        body["stream"] = True
    async with client_of(url) as client:
        try:
            return await client.exchange(
                CHAT, json.dumps(body).encode(), watched=WatchedAnswer() if watched else None
            )
        except MistillError as error:
            return error


def good(answered: HTTPAnswer[ChatResponse] | MistillError) -> HTTPAnswer[ChatResponse]:
    assert not isinstance(answered, MistillError), answered
    return answered


def told(answered: HTTPAnswer[ChatResponse]) -> Any:
    """All that an answer says, but for what no two answers have alike."""
    body = without_halves(json.loads(answered.raw))
    assert body.pop("id")
    assert isinstance(body.pop("created"), int)
    return body, answered.usage, answered.cost, type(answered.failure), answered.is_cut


@pytest.mark.parametrize(
    ("settings", "fields", "script"),
    [
        ({}, {"response_format": FORM}, None),
        ({}, {"response_format": {"type": "json_object"}}, None),
        ({"cached_share": 0.5}, {"response_format": FORM}, None),
        ({"cached_share": 0.5, "cached_place": "num_cached_tokens"}, {"response_format": FORM}, None),
        ({"cached_share": 0.5, "cached_place": "prompt_token_details"}, {"response_format": FORM}, None),
        ({"service_tier": "priority", "audio_seconds": 7}, {"response_format": FORM}, None),
        ({"answered_by": {MODEL: "mistral-medium-3-5"}}, {"response_format": FORM}, None),
        ({"faults": {"missing_usage": 1}}, {"response_format": FORM}, None),
        ({"faults": {"null_content": 1}}, {"response_format": FORM}, None),
        ({"faults": {"length": 1}}, {"response_format": FORM}, None),
        ({}, {"response_format": FORM, "max_tokens": 5}, None),
        ({"max_context_tokens": 40}, {"response_format": FORM}, None),
        ({}, {"response_format": FORM}, '{"words": "caffè 🤖 \\u00e9 \\ud83e\\udd16", "n": 1}' * 30),
        ({}, {"response_format": FORM}, "ab\ud83e"),
        ({}, {"response_format": FORM, "tools": [TOOL], "tool_choice": "any"}, None),
        ({"arguments_form": "object"}, {"tools": [TOOL], "tool_choice": "any"}, None),
        ({}, {"response_format": FORM, "prompt_mode": "reasoning"}, None),
    ],
)
async def test_it_is_told_as_one_that_comes_in_one_piece(
    simulate: Simulate, settings: dict[str, Any], fields: dict[str, Any], script: str | None
) -> None:
    simulator = simulate(**settings)
    if script is not None:
        simulator.script([script] * 2)
    whole = good(await asked(simulator.url, watched=False, **fields))
    assert told(good(await asked(simulator.url, watched=True, **fields))) == told(whole)


async def test_a_content_in_chunks_is_the_same_text(simulate: Simulate) -> None:
    simulator = simulate(faults={"chunked_content": 1})
    one, other = [
        good(await asked(simulator.url, watched=watched, response_format=FORM)) for watched in (False, True)
    ]
    texts = [
        "".join(
            part["text"] for part in each.response.choices[0].message.content or () if isinstance(part, dict)
        )
        for each in (one, other)
    ]
    assert texts[0] == texts[1] != ""
    assert one.usage == other.usage


@pytest.mark.parametrize("fault", [Fault.status(429), Fault.status(503), Fault.html(), Fault.disconnect()])
async def test_it_fails_as_one_that_comes_in_one_piece(simulate: Simulate, fault: Fault) -> None:
    simulator = simulate()
    simulator.script([fault] * 2)
    one, other = [await asked(simulator.url, watched=watched) for watched in (False, True)]
    assert isinstance(one, MistillError)
    assert isinstance(other, MistillError)
    assert type(one) is type(other)
    assert other.maybe_billed is one.maybe_billed


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (events(chunk({"content": "a"}), end=""), Disconnected),
        (events(chunk({"content": "a"})), Disconnected),
        (events(json.dumps({"error": {"message": "slow down", "code": 429}})), RateLimited),
        (events(chunk({"content": "a"}), "event: error", end=""), MalformedAnswer),
        (events("{"), MalformedAnswer),
        (events(), MalformedAnswer),
        (response(b""), MalformedAnswer),
        (response(b"null"), MalformedAnswer),
        (response(b"upstream is busy"), MalformedAnswer),
        (
            events(chunk({"content": "a"}), json.dumps({"object": "error", "message": "x", "code": 500})),
            ServerError,
        ),
    ],
)
async def test_a_stream_that_is_no_answer_is_a_failure(sent: bytes, error: type[MistillError]) -> None:
    async with RawServer(sent) as server:
        failure = await asked(server.url, watched=True)
    assert isinstance(failure, error)


async def test_a_server_that_gives_up_in_the_middle_may_bill_it() -> None:
    async with RawServer(events(chunk({"content": "a"}), chunk({"content": ""}, "error"))) as server:
        answered = good(await asked(server.url, watched=True))
    assert isinstance(answered.failure, MalformedAnswer)
    assert answered.failure.maybe_billed


async def test_a_server_that_does_not_stream_is_understood() -> None:
    async with RawServer(response(b"\xef\xbb\xbf" + json.dumps(answer()).encode())) as server:
        answered = good(await asked(server.url, watched=True))
    assert answered.response.choices[0].message.content == "ok"
    assert answered.usage == Usage(5, 3)


async def test_arguments_of_a_call_are_put_together() -> None:
    def piece(arguments: str, **more: Any) -> Any:
        return chunk({"tool_calls": [{"index": 0, "function": {"arguments": arguments, **more}}]})

    sent = events(piece('{"a"', name="add"), piece(": 1}"), chunk({}, "tool_calls"))
    async with RawServer(sent) as server:
        answered = good(await asked(server.url, watched=True))
    calls = answered.response.choices[0].message.tool_calls or ()
    assert [(call.name, call.arguments) for call in calls] == [("add", {"a": 1})]


@pytest.mark.parametrize("fault", ["loop_space", "loop_digits", "loop_text"])
async def test_a_loop_is_cut_off_and_only_billed_as_far_as_it_came(simulate: Simulate, fault: str) -> None:
    simulator = simulate(faults={fault: 1}, token_time_s=0.0001)
    answered = good(await asked(simulator.url, watched=True, response_format=FORM, max_tokens=30_000))
    simulator.wait_until(lambda: simulator.in_flight == 0)
    billed = simulator.stats()
    assert answered.is_cut
    assert answered.response.choices[0].finish_reason == "repetition"
    assert answered.usage.input_tokens == billed.input_tokens
    assert billed.output_tokens < 6_000
    assert answered.usage.output_tokens <= billed.output_tokens <= answered.usage.output_tokens + 3_000
    assert answered.cost is not None
    assert answered.cost == pytest.approx(billed.cost, rel=0.9)
