"""What one governor has counted is what the next one goes on with; and a refusal that is explained pauses briefly."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from tests.delivery.fake_clock import run_in_fake_time
from tests.delivery.model_server import ModelServer, send_rows

from mistill.delivery.governor import ConcurrencyLimit, Governor, WindowCounts
from mistill.delivery.sliding_window import SlidingWindow
from mistill.delivery.tuning import Tuning
from mistill.errors import RateLimited, RateLimits

steps = st.lists(st.tuples(st.floats(0.0, 8.0), st.integers(1, 300)), max_size=60)


@given(steps=steps, later_s=st.floats(0.0, 70.0))
def test_a_window_that_is_handed_over_lets_nothing_through_too_early(
    steps: list[tuple[float, int]], later_s: float
) -> None:
    """At no moment is less in it than in the one that it was; and hardly more."""
    before, after, now_s = SlidingWindow(60.0, Tuning()), SlidingWindow(60.0, Tuning()), 0.0
    for passed_s, amount in steps:
        now_s += passed_s
        before.add(amount, now_s)
    after.take_up(before.cells(now_s), 0.0, now_s)
    assert after.all_used(now_s) == before.all_used(now_s)
    later_s += now_s
    used_shortly_before = before.all_used(later_s - 0.5)
    assert before.all_used(later_s) <= after.all_used(later_s) <= used_shortly_before


def test_what_is_written_of_a_full_window_is_small_and_is_the_same_when_it_is_read() -> None:
    async def main() -> WindowCounts:
        loop = asyncio.get_running_loop()
        governor = Governor(clock=loop.time, requests_per_minute=6_000)
        await send_rows(ModelServer(loop.time, requests_per_minute=6_000, tokens=20_000), governor, 9_000)
        return governor.counts()

    counts = run_in_fake_time(main())
    assert sum(amount for _, amount in counts.requests) >= 5_000
    data = msgspec.msgpack.encode(counts)
    assert len(data) <= 5_000
    again = msgspec.msgpack.decode(data, type=WindowCounts)
    assert again == counts
    assert again.is_sane


def test_the_next_governor_waits_for_what_the_last_one_sent() -> None:
    async def main() -> tuple[int, float]:
        loop = asyncio.get_running_loop()
        server = ModelServer(loop.time, requests_per_minute=60, latency_s=0.1)
        first = Governor(clock=loop.time)
        await send_rows(server, first, 60)
        second = Governor(clock=loop.time)
        second.take_over(first.counts(), None)
        passage = await send_rows(server, second, 60, seed=1)
        return passage.refused, passage.took_s

    refused, took_s = run_in_fake_time(main())
    assert refused == 0
    assert 50 < took_s < 70


def test_a_refusal_that_the_quota_explains_is_no_long_pause() -> None:
    """Others use the quota too, and whoever pauses for long leaves it to them; who never pauses is refused for ever."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        governor, limit, waits_s = Governor(clock=loop.time), ConcurrencyLimit(1), list[float]()
        explained = RateLimits(requests_limit=600, requests_remaining=0)
        for _ in range(12):
            since_s = loop.time()
            permit = governor.try_admit(limit, 1) or await governor.admit(limit, 1)
            waits_s.append(loop.time() - since_s)
            governor.settle(permit, error=RateLimited("no", status=429, limits=explained))
        return waits_s

    waits_s = run_in_fake_time(main())
    assert max(waits_s) <= 8
    assert waits_s[1] <= 1
    assert sum(waits_s) >= 25
