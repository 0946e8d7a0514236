"""Server-sent events: the first delta has the role, the last finish reason and usage, then ``[DONE]``."""

from __future__ import annotations

from typing import Any

import pytest
from tests.simulator.conftest import Ask

from mistill.simulator import Simulator

TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def _text(events: list[Any], index: int = 0) -> str:
    deltas = [event["choices"][0]["delta"] for event in events if event["choices"][0]["index"] == index]
    return "".join(delta.get("content") or "" for delta in deltas)


def test_a_stream_has_a_beginning_a_middle_and_an_end(simulator: Simulator, ask: Ask) -> None:
    got = ask(simulator, "a message of some length", stream=True)
    assert got.headers["content-type"].startswith("text/event-stream")
    assert got.text.endswith("\n\ndata: [DONE]\n\n")
    first, *middle, last = got.events
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert all(
        event["choices"][0]["finish_reason"] is None and "usage" not in event for event in [first, *middle]
    )
    assert last["choices"][0]["finish_reason"] == "stop"
    assert len({event["id"] for event in got.events}) == 1
    assert {event["object"] for event in got.events} == {"chat.completion.chunk"}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"max_tokens": 3},
        {"max_tokens": 0},
        {"stop": "sage"},
        {"response_format": {"type": "json_object"}},
    ],
)
def test_a_stream_says_what_the_whole_answer_says(
    simulator: Simulator, ask: Ask, fields: dict[str, Any]
) -> None:
    whole = ask(simulator, "a message", **fields).json
    events = ask(simulator, "a message", stream=True, **fields).events
    assert _text(events) == whole["choices"][0]["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert events[-1]["usage"] == whole["usage"]


def test_choices_are_interleaved_and_each_ends(simulator: Simulator, ask: Ask) -> None:
    events = ask(simulator, "ab", stream=True, n=3).events
    assert [_text(events, index) for index in range(3)] == ["Echo: ab", "Echo 2: ab", "Echo 3: ab"]
    ended = [event["choices"][0]["index"] for event in events if event["choices"][0]["finish_reason"]]
    assert sorted(ended) == [0, 1, 2]
    assert [("usage" in event) for event in events] == [False] * (len(events) - 1) + [True]


def test_thinking_streams_as_chunks_before_the_text(simulator: Simulator, ask: Ask) -> None:
    events = ask(simulator, "Hi", stream=True, prompt_mode="reasoning").events
    chunks = [chunk for event in events[1:] for chunk in event["choices"][0]["delta"]["content"]]
    kinds = [chunk["type"] for chunk in chunks]
    assert kinds == sorted(kinds, reverse=True)  # thinking, …, text, …
    thought = "".join(chunk["thinking"][0]["text"] for chunk in chunks if chunk["type"] == "thinking")
    assert thought == "The user says: Hi"
    assert "".join(chunk["text"] for chunk in chunks if chunk["type"] == "text") == "Echo: Hi"


def test_tool_calls_come_in_the_last_delta(simulator: Simulator, ask: Ask) -> None:
    last = ask(simulator, stream=True, tools=TOOLS, tool_choice="any").events[-1]
    assert last["choices"][0]["finish_reason"] == "tool_calls"
    assert last["choices"][0]["delta"]["tool_calls"][0]["function"]["name"] == "f"
    assert last["usage"]["completion_tokens"] > 0


def test_errors_of_a_stream_come_before_it(simulator: Simulator, ask: Ask) -> None:
    got = ask(simulator, stream=True, model="x")
    assert (got.status, got.json["code"]) == (400, "1500")
