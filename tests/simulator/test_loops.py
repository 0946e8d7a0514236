"""Answers that repeat themselves until the token limit, and what a client pays who does not wait for their end."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from tests.conftest import Simulate
from tests.simulator.conftest import API_KEY, Ask

JSON = {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    ("fault", "end"),
    [("loop_space", "      "), ("loop_digits", "3333333"), ("loop_text", "and so on, and so on")],
)
def test_an_answer_goes_on_until_the_token_limit(simulate: Simulate, ask: Ask, fault: str, end: str) -> None:
    simulator = simulate(faults={fault: 1})
    whole = ask(simulator, "Ada", max_tokens=500, **JSON).json
    (choice,) = whole["choices"]
    assert choice["message"]["content"].startswith('{"echo":')
    assert end in choice["message"]["content"][-30:]
    assert choice["finish_reason"] == "length"
    assert whole["usage"]["completion_tokens"] == 500
    events = ask(simulator, "Ada", max_tokens=500, stream=True, **JSON).events
    assert (
        "".join(event["choices"][0]["delta"]["content"] for event in events) == choice["message"]["content"]
    )
    assert simulator.stats().output_tokens == 1_000


def test_without_a_limit_it_goes_on_until_the_context_is_full(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(faults={"loop_digits": 1}, max_context_tokens=300)
    whole = ask(simulator, "Ada", **JSON).json
    assert whole["choices"][0]["finish_reason"] == "model_length"
    assert whole["usage"]["total_tokens"] == 300


def test_a_text_that_is_no_json_does_not_loop(simulate: Simulate, ask: Ask) -> None:
    assert ask(simulate(faults={"loop_text": 1}), "Ada").content == "Echo: Ada"


def hang_up_after(url: str, pieces: int, **fields: Any) -> None:
    """Asks for a stream, reads so many of its lines, and closes the connection."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=10)
    messages = [{"role": "user", "content": "Ada"}]
    body = {"model": "mistral-small-latest", "messages": messages, "stream": True, **fields}
    connection.request(
        "POST", "/v1/chat/completions", json.dumps(body), {"Authorization": f"Bearer {API_KEY}"}
    )
    answer = connection.getresponse()
    for _ in range(pieces):
        answer.readline()
    answer.close()
    connection.close()


def test_who_hangs_up_pays_for_what_was_made_by_then(simulate: Simulate) -> None:
    simulator = simulate(faults={"loop_space": 1}, token_time_s=0.001, tokens_per_minute=10_000_000)
    hang_up_after(simulator.url, 100, max_tokens=100_000, **JSON)
    simulator.wait_until(lambda: simulator.in_flight == 0)
    stats = simulator.stats()
    assert stats.input_tokens == 5
    assert 40 <= stats.output_tokens < 10_000
    assert stats.counts_by_status == {"0": 1}


def test_who_reads_to_the_end_pays_for_all(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(tokens_per_minute=10_000_000)
    usage = ask(simulator, "Ada " * 50, stream=True).events[-1]["usage"]
    assert (simulator.stats().input_tokens, simulator.stats().output_tokens) == (
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )
    assert simulator.answered == 1


def test_tokens_of_a_stream_count_against_the_quota(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(tokens_per_minute=50)
    assert ask(simulator, "Ada " * 50, stream=True).status == 200
    assert ask(simulator, "Ada").status == 429
