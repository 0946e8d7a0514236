"""A forecast from a sample: what it says, and how often its interval is right."""

from __future__ import annotations

import random

import pytest

from mistill.delivery.diagnostics import Snapshot
from mistill.delivery.sliding_window import Room
from mistill.estimates.forecast import Forecast, forecast
from mistill.ledger import LedgerRow


def row(input_tokens: int, output_tokens: int, cost: float | None = None) -> LedgerRow:
    return LedgerRow(
        row=0, position=0, record=b"{}", state="completion", answers=(), finish_reason="stop", error=None,
        input_tokens=input_tokens, output_tokens=output_tokens, cost=cost, ended_at=0.0, settings=None,
        next_settings=None, maybe_billed=False, asked_again=False, copied=False, leader=0,
    )  # fmt: skip


def room(per_minute: float | None) -> Room | None:
    """A quota whose window is used up, all of it at once just now."""
    return None if per_minute is None else Room(per_minute, 60.0, 0.0, ((60.0, per_minute),))


def limits(*, requests: float | None = None, tokens: float | None = None) -> Snapshot:
    return Snapshot(
        waiting=0, in_flight=0, adaptive_limit=8, requests_per_minute=requests, requests_source=None,
        tokens_per_minute=tokens, tokens_source=None, answered=0, refused=0, seconds={},
        requests_room=room(requests), tokens_room=room(tokens),
    )  # fmt: skip


def of(rows: list[LedgerRow], left: int, quota: Snapshot | None = None) -> Forecast:
    found = forecast(rows, left, is_random=True, seconds_each=2.0, at_once=10, limits=quota or limits())
    assert found is not None
    return found


def test_equal_rows_leave_no_doubt() -> None:
    found = of([row(10, 20, 0.5)] * 4, 100)
    assert (found.sample, found.rows_left) == (4, 100)
    assert (found.input_tokens.low, found.input_tokens.expected, found.input_tokens.high) == (
        1000,
        1000,
        1000,
    )
    assert found.output_tokens.expected == 2000
    assert found.cost is not None
    assert found.cost.expected == pytest.approx(50.0)


def test_nothing_to_go_by() -> None:
    assert forecast([], 100, is_random=True, seconds_each=1.0, at_once=1, limits=limits()) is None


def test_one_row_says_little() -> None:
    found = of([row(10, 20)], 100)
    assert found.input_tokens.low == 0.0
    assert found.input_tokens.high > 2000
    assert found.cost is None


def test_time_is_that_of_whatever_binds() -> None:
    rows = [row(10, 20)] * 4
    assert of(rows, 600).seconds.expected == pytest.approx(600 * 2.0 / 10)  # ten at once, 2 s each
    assert of(rows, 600, limits(requests=60)).seconds.expected == pytest.approx(
        600 + 2
    )  # and the last answer
    assert of(rows, 600, limits(requests=60, tokens=600)).seconds.expected == pytest.approx(1800 + 2)
    assert of(rows, 1).seconds.expected == pytest.approx(2)  # one row is no tenth of an answer


def test_rows_that_one_request_asks_use_one_request_of_the_quota() -> None:
    quota = limits(requests=60)
    found = forecast(
        [row(10, 0)] * 4, 600, is_random=True, seconds_each=0.02, at_once=10, limits=quota, requests_each=0.01
    )
    assert found is not None
    assert found.seconds.expected <= 62


@pytest.mark.parametrize("left", [50, 1000])
def test_the_interval_holds_the_truth_about_nineteen_times_in_twenty(left: int) -> None:
    """Simulated: a population of skewed lengths, a sample of it, and what the rest really takes."""
    rng = random.Random(3)
    rounds, held = 400, 0
    for _ in range(rounds):
        lengths = [int(rng.lognormvariate(5, 0.5)) for _ in range(40 + left)]
        found = of([row(0, length) for length in lengths[:40]], left)
        held += found.output_tokens.low <= sum(lengths[40:]) <= found.output_tokens.high
    assert 0.90 <= held / rounds <= 0.98
