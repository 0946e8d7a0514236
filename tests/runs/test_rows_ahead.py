"""Rows that are read before it is their turn, as far as memory goes and as quickly as they come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from mistill.kinds.kind import PendingRow
from mistill.runs.lanes import rows_ahead
from mistill.runs.lanes.rows_ahead import RowsAhead


async def rows(number: int, *, ends: bool = True) -> AsyncIterator[list[PendingRow]]:
    for row in range(number):
        yield [cast("PendingRow", row)]
    if not ends:
        await asyncio.Event().wait()


def ahead(of: AsyncIterator[list[PendingRow]], size: int = 100) -> RowsAhead:
    return RowsAhead(of, lambda _: None, lambda *_: None, lambda _: size)


@pytest.mark.parametrize(("number", "are_few"), [(199, True), (200, True), (201, False), (5000, False)])
async def test_it_is_known_whether_few_are_to_come(number: int, are_few: bool) -> None:
    found = ahead(rows(number))
    assert await found.are_no_more_than(200) is are_few
    assert [one async for one in found] == [[row] for row in range(number)]


async def test_rows_that_fill_the_memory_are_not_few() -> None:
    """Nobody takes any meanwhile, so no more can be read."""
    found = ahead(rows(100), size=1_000_000)
    await asyncio.wait_for(found.look_ahead(), 5)
    assert await asyncio.wait_for(found.are_no_more_than(200), 5) is False
    assert len([one async for one in found]) == 100


async def test_how_many_are_to_come_is_not_known_of_an_input_that_stays_open(monkeypatch: Any) -> None:
    monkeypatch.setattr(rows_ahead, "_LONGEST_S", 0.01)
    found = ahead(rows(20, ends=False))
    assert await found.are_no_more_than(200) is None
    monkeypatch.setattr(rows_ahead, "_LONGEST_S", 60.0)
    assert (
        await asyncio.wait_for(found.are_no_more_than(200), 5) is None
    )  # it is waited for once, not for each row
    assert [await anext(found) for _ in range(20)] == [[row] for row in range(20)]
    found.close()


async def test_what_ends_the_reading_is_raised_after_the_rows_before() -> None:
    async def broken() -> AsyncIterator[list[PendingRow]]:
        async for group in rows(3):
            yield group
        raise OSError("gone")

    found = ahead(broken())
    assert [await anext(found) for _ in range(3)] == [[0], [1], [2]]
    with pytest.raises(OSError, match="gone"):
        await anext(found)
