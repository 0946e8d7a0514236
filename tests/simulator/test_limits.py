"""Quotas over the wire: 429s, the headers in their forms, live changes, capacity."""

from __future__ import annotations

import threading

import pytest
from tests.conftest import Simulate
from tests.simulator.conftest import Ask

from mistill.simulator import Simulator


def test_more_than_the_quota_is_429_code_1300(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(requests_per_minute=2)
    got = [ask(simulator) for _ in range(3)]
    assert [each.status for each in got] == [200, 200, 429]
    assert got[2].json == {
        "object": "error",
        "message": "Rate limit exceeded",
        "type": "rate_limited",
        "param": None,
        "code": "1300",
    }
    assert [each.headers["x-ratelimit-remaining-req-minute"] for each in got] == ["1", "0", "0"]
    assert {each.headers["x-ratelimit-limit-req-minute"] for each in got} == {"2"}
    assert "retry-after" not in got[2].headers


def test_tokens_bind_once_they_are_used_up(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(tokens_per_minute=20)
    got = [
        ask(simulator, "x" * 10) for _ in range(3)
    ]  # 11 tokens each: the second overruns, the third is refused
    assert [each.status for each in got] == [200, 200, 429]
    assert [each.headers["x-ratelimit-remaining-tokens-minute"] for each in got] == ["9", "0", "0"]
    assert [each.headers["x-ratelimit-tokens-query-cost"] for each in got] == ["11", "11", "0"]


def test_each_key_and_model_has_a_quota_of_its_own(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(requests_per_minute=1)
    assert [ask(simulator).status, ask(simulator).status] == [200, 429]
    assert ask(simulator, key="another").status == 200
    assert ask(simulator, model="ministral-8b-latest").status == 200
    embedding = {"model": "mistral-embed", "input": "a"}
    statuses = [ask(simulator, path="/v1/embeddings", body=embedding).status for _ in range(2)]
    assert statuses == [200, 429]


def test_a_limit_of_zero_refuses_always_and_promises_nothing(simulate: Simulate, ask: Ask) -> None:
    got = ask(simulate(requests_per_minute=0, retry_after="seconds"))
    assert got.status == 429
    assert got.headers["x-ratelimit-limit-req-minute"] == "0"
    assert "retry-after" not in got.headers


@pytest.mark.parametrize(
    ("form", "header", "low", "high"),
    [("seconds", "retry-after", 1, 60), ("milliseconds", "retry-after-ms", 1_000, 60_000)],
)
def test_retry_after_says_when_there_is_room_again(
    simulate: Simulate, ask: Ask, form: str, header: str, low: int, high: int
) -> None:
    simulator = simulate(requests_per_minute=1, retry_after=form)
    assert header not in ask(simulator).headers
    assert low <= int(ask(simulator).headers[header]) <= high


def test_the_window_slides(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(requests_per_minute=600, quota_window_s=0.1)  # one request each tenth of a second
    statuses: list[int] = []

    def three_are_answered() -> bool:
        statuses.append(ask(simulator).status)
        return statuses.count(200) == 3

    simulator.wait_until(three_are_answered)
    assert 429 in statuses


def test_older_headers_count_tokens(simulate: Simulate, ask: Ask) -> None:
    headers = ask(simulate(tokens_per_minute=100, quota_headers="older"), "x" * 10).headers
    assert headers["ratelimitbysize-limit"] == "100"
    assert headers["ratelimitbysize-remaining"] == "89"
    assert headers["ratelimitbysize-query-cost"] == "11"
    assert headers["x-ratelimitbysize-remaining-minute"] == "89"
    assert headers["x-ratelimitbysize-limit-month"] == str(100 * 43_200)
    assert not [name for name in headers if name.startswith("x-ratelimit-")]


def test_headers_can_be_left_out(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(requests_per_minute=1, quota_headers="none")
    for got in (ask(simulator), ask(simulator)):
        assert not [name for name in got.headers if "ratelimit" in name]


def test_no_quota_no_headers(simulator: Simulator, ask: Ask) -> None:
    assert not [name for name in ask(simulator).headers if "ratelimit" in name]


def test_a_changed_quota_holds_at_once(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(requests_per_minute=1)
    assert [ask(simulator).status, ask(simulator).status] == [200, 429]
    simulator.change(requests_per_minute=3)
    assert [ask(simulator).status for _ in range(3)] == [200, 200, 429]
    simulator.change(requests_per_minute=None)
    assert ask(simulator).status == 200


def test_refusals_use_the_quota_up_where_that_is_asked_for(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(requests_per_minute=1, quota_counts_refusals=True)
    for _ in range(4):
        ask(simulator)
    simulator.change(requests_per_minute=4)
    assert ask(simulator).status == 429
    simulator.change(requests_per_minute=6)
    assert ask(simulator).status == 200


def test_what_is_refused_or_fails_uses_nothing_up(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(requests_per_minute=1, poison="arsenic", faults={"503": 1})
    assert ask(simulator, model="x").status == 503  # a fault of the server comes before it reads the request
    simulator.change(faults={})
    assert [ask(simulator, model="x").status, ask(simulator, "arsenic").status] == [400, 400]
    assert ask(simulator).headers["x-ratelimit-remaining-req-minute"] == "0"


def test_too_many_at_once_is_429_code_3505(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(max_in_flight=1, latency_s=60)
    busy = threading.Thread(target=_ask_in_vain, args=(ask, simulator))
    busy.start()
    simulator.wait_until(lambda: simulator.in_flight == 1)
    got = ask(simulator)
    assert (got.status, got.json["code"]) == (429, "3505")
    assert got.json["type"] == "service_tier_capacity_exceeded"
    simulator.close()
    busy.join(30)
    assert not busy.is_alive()


def _ask_in_vain(ask: Ask, simulator: Simulator) -> None:
    with pytest.raises(OSError):
        ask(simulator)
