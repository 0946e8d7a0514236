"""One struct has delivery's constants: each can be varied, and a public call switches waiting off."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.delivery.fake_clock import run_in_fake_time

from mistill.delivery.governor import ConcurrencyLimit, Governor, Permit
from mistill.delivery.governors import governor_for
from mistill.delivery.retry import backoff_s
from mistill.delivery.tuning import Tuning, current_tuning, use_tuning
from mistill.errors import CapacityExceeded, MistillError, RateLimited, ServerError
from mistill.testing import without_waiting

REFUSED = RateLimited("slow down", status=429, code="1300")
UNAVAILABLE = ServerError("unavailable", status=503)


# --- one value varied -----------------------------------------------------------------------------------------------


async def admitted(governor: Governor, limit: ConcurrencyLimit) -> Permit:
    return governor.try_admit(limit, 1) or await governor.admit(limit, 1)


async def _pause_after(governor: Governor, *errors: MistillError | None) -> float:
    """Seconds that the next request waits after attempts that ended so, each of a row of its own."""
    clock, limit = asyncio.get_running_loop().time, ConcurrencyLimit(64)
    for row, error in enumerate(errors):
        governor.settle(await admitted(governor, limit), error=error, row=row)
    since_s = clock()
    governor.refund(await admitted(governor, limit))
    return clock() - since_s


async def _cool_down(governor: Governor) -> float:
    return await _pause_after(governor, REFUSED)


async def _rows_of_an_outage(governor: Governor) -> float:
    limit = ConcurrencyLimit(64)
    governor.settle(await admitted(governor, limit))
    for row in range(64):
        if not governor.settle(await admitted(governor, limit), error=UNAVAILABLE, row=row):
            return row + 1
    return 64


async def _in_flight_at_first(governor: Governor) -> float:
    limit, permits = ConcurrencyLimit(64), 0
    while governor.try_admit(limit, 1) is not None:
        permits += 1
    return permits


async def _left_by_a_cut(governor: Governor) -> float:
    limit = ConcurrencyLimit(64)
    permits = [await admitted(governor, limit) for _ in range(8)]
    governor.settle(permits[0], error=CapacityExceeded("full", status=429, code="3505"))
    return governor.snapshot().adaptive_limit


async def _patience(governor: Governor) -> float:
    try:
        while True:
            await _pause_after(governor, REFUSED)
    except RateLimited:
        return asyncio.get_running_loop().time()


async def _at_once_of_a_quota(governor: Governor) -> float:
    governor.set_quota(6_000, None)
    limit, permits = ConcurrencyLimit(1_000), 0
    while (permit := governor.try_admit(limit, 1)) is not None:
        governor.settle(permit)
        permits += 1
    return permits


@pytest.mark.parametrize(
    ("name", "value", "measure", "low", "high"),
    [
        ("cool_down_s", 7.0, _cool_down, 5.6, 8.4),
        ("cool_down_s", 0.0, _cool_down, 0.0, 0.001),
        ("outage_rows", 2, _rows_of_an_outage, 2, 2),
        ("outage_rows", 9, _rows_of_an_outage, 9, 9),
        ("initial_limit", 3, _in_flight_at_first, 3, 3),
        ("cut_factor", 0.5, _left_by_a_cut, 4, 4),
        ("patience_s", 40.0, _patience, 40, 40 + 18),
        ("burst_requests", 20, _at_once_of_a_quota, 20, 21),
    ],
)
def test_a_test_can_vary_one_value(
    name: str,
    value: float,
    measure: Callable[[Governor], Coroutine[Any, Any, float]],
    low: float,
    high: float,
) -> None:
    async def main() -> None:
        changed: dict[str, Any] = {name: value}
        governor = Governor(clock=asyncio.get_running_loop().time, tuning=Tuning(**changed))
        assert low <= await measure(governor) <= high

    run_in_fake_time(main())


# --- what is in force -----------------------------------------------------------------------------------------------


def test_every_value_can_be_a_default_and_is_a_number() -> None:
    assert all(isinstance(value, int | float) for value in msgspec.structs.asdict(Tuning()).values())
    assert current_tuning() == Tuning()


def test_the_innermost_block_holds_and_is_left_again() -> None:
    outer, inner = Tuning(cool_down_s=1.0), Tuning(cool_down_s=2.0)
    with use_tuning(outer):
        with suppress(KeyError), use_tuning(inner):
            assert current_tuning() is inner
            raise KeyError
        assert current_tuning() is outer
    assert current_tuning() == Tuning()


@given(data=st.data(), blocks=st.integers(1, 6))
def test_blocks_of_several_threads_may_end_in_any_order(data: st.DataObject, blocks: int) -> None:
    tunings = [Tuning(cool_down_s=float(number)) for number in range(blocks)]
    stacks = [ExitStack() for _ in tunings]
    for stack, tuning in zip(stacks, tunings, strict=True):
        stack.enter_context(use_tuning(tuning))
    still_open = list(range(blocks))
    for number in data.draw(st.permutations(range(blocks))):
        assert current_tuning() is tunings[still_open[-1]]
        stacks[number].close()
        still_open.remove(number)
    assert current_tuning() == Tuning()


# --- waiting switched off -------------------------------------------------------------------------------------------


def test_without_waiting_pauses_are_a_hundredth_and_backoff_next_to_nothing() -> None:
    usual = Tuning()
    with without_waiting():
        short = current_tuning()
        assert all(backoff_s(failures) <= 0.01 for failures in range(1, 50))
        with without_waiting():  # a fixture and its test may both ask for it
            assert current_tuning() == short
    assert short.remember_for_s == 0
    changed = {
        name: getattr(usual, name) / value
        for name, value in msgspec.structs.asdict(short).items()
        if value != getattr(usual, name) and name not in ("remember_for_s", "is_shared")
    }
    assert changed.keys() == {
        "cool_down_s", "max_cool_down_s", "probe_interval_s", "max_probe_interval_s", "growth_pause_s",
        "estimate_probe_s", "estimate_probe_after_success_s", "patience_s", "backoff_base_s", "max_backoff_s",
        "unreachable_patience_s", "doubtful_probe_interval_s", "first_poll_s", "max_poll_s", "look_s",
        "canary_wait_s", "deadline_margin_s", "max_explained_cool_down_s",
    }  # fmt: skip
    assert min(changed.values()) >= 99


def test_without_waiting_a_cool_down_and_an_outage_are_over_at_once() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        with without_waiting():
            refused, failing = Governor(clock=clock), Governor(clock=clock)
        assert await _pause_after(refused, REFUSED) <= 0.006
        assert await _pause_after(failing, None, *[UNAVAILABLE] * 5) <= 0.003

    run_in_fake_time(main())


def test_without_waiting_a_server_that_fails_everything_is_given_up_soon() -> None:
    async def main() -> None:
        with without_waiting():
            governor = Governor(clock=asyncio.get_running_loop().time)
        assert 3 <= await _patience(governor) <= 3.2

    run_in_fake_time(main())


def test_a_governor_is_shared_only_by_those_with_the_same_tuning() -> None:
    identity = ("https://a", "secret", "m")
    before = governor_for(*identity)
    with without_waiting():
        within = governor_for(*identity)
        assert within is not before
        assert governor_for(*identity) is within
        assert governor_for(*identity, Tuning()) is before
    assert governor_for(*identity) is before


def test_it_holds_in_all_threads() -> None:
    found: list[Tuning] = []
    with without_waiting():
        thread = threading.Thread(target=lambda: found.append(current_tuning()))
        thread.start()
        thread.join()
    assert found == [Tuning().without_waiting()]
