"""Who of those that begin alike goes first, and how long the others wait."""

from __future__ import annotations

import asyncio

from tests.delivery.fake_clock import run_in_fake_time

from mistill.delivery.cache_key import CacheKey


async def left_at(key: CacheKey, number: int, answer_s: float) -> list[float]:
    """When each of so many requests leaves; the first is answered after ``answer_s``."""
    clock, times = asyncio.get_running_loop().time, list[float]()

    async def send() -> None:
        is_first = key.is_cold and await key.goes_first()
        times.append(clock())
        if is_first:
            await asyncio.sleep(answer_s)
            key.let_follow()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(number):
            tasks.create_task(send())
    return times


def test_others_follow_when_the_first_is_answered() -> None:
    assert run_in_fake_time(left_at(CacheKey("k", has_beginning=True), 4, 0.25)) == [0, 0.25, 0.25, 0.25]


def test_or_when_a_second_has_passed() -> None:
    assert run_in_fake_time(left_at(CacheKey("k", has_beginning=True), 3, 30.0)) == [0, 1, 1]


def test_nobody_waits_where_nothing_can_be_cached() -> None:
    assert run_in_fake_time(left_at(CacheKey("k", has_beginning=False), 3, 30.0)) == [0, 0, 0]
