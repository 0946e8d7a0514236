"""What holds for every order of events: Hypothesis drives the governor in fake time."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.delivery.fake_clock import run_in_fake_time

from mistill.delivery.governor import ConcurrencyLimit, Governor
from mistill.delivery.tuning import Tuning
from mistill.errors import CapacityExceeded, ConnectFailed, MistillError, RateLimited, ServerError

ERRORS: tuple[MistillError | None, ...] = (
    None,
    None,
    None,
    RateLimited("slow down", status=429, code="1300"),
    CapacityExceeded("full", status=429, code="3505"),
    ServerError("unavailable", status=503),
    ConnectFailed("refused"),
)


def assert_at_rest(governor: Governor, *limits: ConcurrencyLimit) -> None:
    snapshot = governor.snapshot()
    assert (snapshot.in_flight, snapshot.waiting) == (0, 0)
    assert [limit.in_flight for limit in limits] == [0] * len(limits)
    assert governor._quotas.tokens.reserved == 0
    assert all(not limit.waiting_at for limit in limits)


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    requests=st.integers(1, 40),
    tokens=st.integers(1, 3_000),
    slots=st.integers(1, 20),
    rows=st.integers(1, 150),
)
def test_a_known_quota_is_never_exceeded_in_any_window(
    seed: int, requests: int, tokens: int, slots: int, rows: int
) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        clock = asyncio.get_running_loop().time
        governor = Governor(clock=clock, requests_per_minute=requests, tokens_per_minute=tokens)
        limit = ConcurrencyLimit(slots)
        sent: list[float] = []
        counted: list[tuple[float, int]] = []
        in_flight = 0

        async def send() -> None:
            nonlocal in_flight
            await asyncio.sleep(rng.random() * 100)
            size = rng.randint(1, 400)
            permit = governor.try_admit(limit, size) or await governor.admit(limit, size)
            now_s = clock()
            sent.append(now_s)
            assert limit.in_flight <= slots
            # By brute force, over the 60 s that end now:
            assert sum(now_s - 60 < each for each in sent) <= requests
            used = in_flight + sum(amount for at_s, amount in counted if now_s - 60 < at_s)
            assert used + size <= tokens or (used == 0 and size > tokens)
            in_flight += size
            await asyncio.sleep(rng.random() * 20)
            actual = rng.randint(1, size)
            in_flight -= size
            counted.append((clock(), actual))
            governor.settle(permit, tokens=actual)

        await asyncio.gather(*(send() for _ in range(rows)))
        assert len(sent) == rows
        assert_at_rest(governor, limit)

    run_in_fake_time(main())


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    slots=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    rows=st.integers(1, 120),
)
def test_whoever_waits_longest_is_next(seed: int, slots: list[int], rows: int) -> None:
    async def main() -> None:
        rng = random.Random(seed)
        clock = asyncio.get_running_loop().time
        governor = Governor(clock=clock, requests_per_minute=rng.choice([None, 10, 100]))
        limits = [ConcurrencyLimit(each) for each in slots]
        came: dict[ConcurrencyLimit, list[int]] = {limit: [] for limit in limits}
        admitted: dict[ConcurrencyLimit, list[int]] = {limit: [] for limit in limits}

        async def send(row: int) -> None:
            await asyncio.sleep(rng.random() * 10)
            limit = rng.choice(limits)
            came[limit].append(row)
            permit = governor.try_admit(limit, 1) or await governor.admit(limit, 1)
            admitted[limit].append(row)
            assert all(each.in_flight <= each.limit for each in limits)
            await asyncio.sleep(rng.random() * 5)
            governor.settle(permit)

        await asyncio.gather(*(send(row) for row in range(rows)))
        assert admitted == came
        assert_at_rest(governor, *limits)

    run_in_fake_time(main())


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 80), quota=st.sampled_from([None, 5, 100]))
def test_cancelled_at_any_point_nothing_leaks(seed: int, rows: int, quota: int | None) -> None:
    """Whatever ends the attempts, and whenever they are cancelled, all slots and tokens come back."""

    async def main() -> None:
        rng = random.Random(seed)
        clock = asyncio.get_running_loop().time
        governor = Governor(
            clock=clock,
            requests_per_minute=quota,
            tokens_per_minute=rng.choice([None, 500]),
            tuning=Tuning(patience_s=100),
        )
        limits = [ConcurrencyLimit(rng.randint(1, 4)) for _ in range(2)]

        async def send() -> None:
            limit = rng.choice(limits)
            deadline_s = rng.choice([None, rng.random() * 50])
            permit = governor.try_admit(limit, 20)
            if permit is None:
                async with asyncio.timeout(deadline_s):
                    permit = await governor.admit(limit, 20)
            try:
                await asyncio.sleep(rng.random() * 5)
            except asyncio.CancelledError:
                governor.refund(permit)
                raise
            governor.settle(permit, error=rng.choice(ERRORS))

        tasks = [asyncio.ensure_future(send()) for _ in range(rows)]
        for task in tasks:
            if rng.random() < 0.5:
                await asyncio.sleep(rng.random())
                task.cancel()
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        for each in ended:
            assert each is None or isinstance(each, MistillError | asyncio.CancelledError | TimeoutError)
        assert_at_rest(governor, *limits)
        await asyncio.sleep(200)  # and later, when all is forgotten, it still works
        permit = governor.try_admit(limits[0], 1) or await governor.admit(limits[0], 1)
        governor.settle(permit)

    run_in_fake_time(main())


@pytest.mark.parametrize("first", ["settle", "refund"])
@pytest.mark.parametrize("second", ["settle", "refund"])
def test_a_permit_is_given_back_once(first: str, second: str) -> None:
    governor, limit = Governor(), ConcurrencyLimit(1)
    permit: Any = governor.try_admit(limit, 1)
    getattr(governor, first)(permit)
    with pytest.raises(AssertionError):
        getattr(governor, second)(permit)
    assert limit.in_flight == 0
    assert governor._quotas.tokens.reserved == 0
