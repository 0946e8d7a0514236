"""Windows of rows: bounded, in order, and told apart where an input ends, breaks off or is not wanted any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from itertools import count
from time import monotonic
from typing import Any

import pytest

from mistill.datasets.prefetch import WINDOW_ROWS, StreamedWindows, Windows, open_windows
from mistill.datasets.sources import Filtered, open_source


def rows(size: int) -> list[dict[str, int]]:
    return [{"number": number} for number in range(size)]


async def read_all(windows: Windows) -> list[int]:
    found: list[int] = []
    while not (windows.ended or windows.error):
        window = await windows.next()
        assert len(window) <= WINDOW_ROWS
        found += [row.record["number"] for row in window]
    return found


@pytest.mark.parametrize("size", [0, 1, WINDOW_ROWS - 1, WINDOW_ROWS, WINDOW_ROWS + 1, 5 * WINDOW_ROWS])
@pytest.mark.parametrize("streamed", [False, True])
async def test_every_row_comes_once_and_in_order(size: int, streamed: bool) -> None:
    source = open_source(iter(rows(size)) if streamed else rows(size))
    windows = open_windows(source)
    assert isinstance(windows, StreamedWindows) is streamed
    assert await read_all(windows) == list(range(size))
    assert windows.error is None


@pytest.mark.parametrize("streamed", [False, True])
async def test_rows_before_a_broken_one_are_given(streamed: bool) -> None:
    items = [*rows(3), 17, *rows(3)]
    windows = open_windows(open_source(iter(items) if streamed else items))
    assert await read_all(windows) == [0, 1, 2]
    assert "row 3" in str(windows.error)
    assert not windows.ended


@pytest.mark.parametrize("streamed", [False, True])
async def test_long_rows_make_short_windows(streamed: bool) -> None:
    items = [{"number": number, "long": "x" * 10_000_000} for number in range(5)]
    windows = open_windows(open_source(iter(items) if streamed else items))
    numbers: list[int] = []
    while not windows.ended:
        window = await windows.next()
        assert len(window) <= 2
        numbers += [row.record["number"] for row in window]
    assert numbers == [0, 1, 2, 3, 4]


class Sparse:
    """A choice of the first row alone, which says how many were looked at."""

    def __init__(self) -> None:
        self.read = 0
        self.has_read_many = threading.Event()

    def holds(self, record: dict[str, Any]) -> bool:
        self.read += 1
        if self.read == 1000:
            self.has_read_many.set()
        return record["number"] == 0

    def refuse_nothing(self, read: int) -> None:
        raise AssertionError(f"of {read} rows one is chosen")


class Endless:
    """Rows without end, which can be read any number of times."""

    def __iter__(self) -> Iterator[dict[str, int]]:
        return ({"number": number} for number in count())


async def test_a_row_is_given_while_a_filter_looks_for_the_next_and_nothing_is_read_when_none_is_wanted() -> (
    None
):
    source, choice = open_source(Endless()), Sparse()
    source.add(Filtered(lambda: choice))
    windows = open_windows(source)
    assert [row.record["number"] for row in await windows.next()] == [0]
    window = asyncio.create_task(windows.next())
    assert await asyncio.to_thread(choice.has_read_many.wait, 30)  # the loop goes on meanwhile
    assert not window.done()
    reader = next(thread for thread in threading.enumerate() if thread.name == f"reading {source.name}")
    windows.close()
    assert await window == []
    await asyncio.to_thread(reader.join, 30)
    assert not reader.is_alive()
    assert windows.error is None


def test_counting_beside_a_filter_ends_when_it_is_no_longer_wanted() -> None:
    source, choice = open_source(Endless()), Sparse()
    source.add(Filtered(lambda: choice))
    assert source.count(lambda: choice.read < 1000) is None


async def test_a_slow_input_gives_what_is_there() -> None:
    class Slow:
        def __iter__(self) -> Iterator[dict[str, int]]:
            for number in count():
                read_s.append(monotonic())
                while monotonic() < read_s[-1] + 0.01:
                    pass
                yield {"number": number}

    read_s: list[float] = []
    window = await open_windows(open_source(Slow())).next()
    assert 1 <= len(window) <= 20


async def test_a_stream_is_read_no_further_than_one_window_ahead() -> None:
    taken = 0

    def endless() -> Iterator[dict[str, int]]:
        nonlocal taken
        while True:
            taken += 1
            yield {"number": taken}

    windows = open_windows(open_source(endless()))
    for _ in range(5):
        before = taken
        given = len(await windows.next())
        assert taken <= before + given + WINDOW_ROWS + 1
    windows.close()


async def test_the_loop_goes_on_while_a_stream_has_nothing() -> None:
    go_on = threading.Event()

    def slow() -> Iterator[dict[str, int]]:
        assert go_on.wait(30)
        yield {"number": 0}

    windows = open_windows(open_source(slow()))
    window = asyncio.create_task(windows.next())
    for _ in range(5):
        await asyncio.sleep(0)
    assert not window.done()
    go_on.set()
    assert [row.record for row in await window] == [{"number": 0}]


async def test_closing_wakes_who_waits() -> None:
    never = threading.Event()

    def stuck() -> Iterator[dict[str, int]]:
        never.wait(30)
        yield {"number": 0}

    windows = open_windows(open_source(stuck()))
    window = asyncio.create_task(windows.next())
    await asyncio.sleep(0)
    windows.close()
    assert await window == []
    never.set()


async def test_a_wait_that_is_cancelled_loses_no_row() -> None:
    go_on = threading.Event()

    def slow() -> Iterator[dict[str, int]]:
        assert go_on.wait(30)
        yield from rows(3)

    windows = open_windows(open_source(slow()))
    window = asyncio.create_task(windows.next())
    await asyncio.sleep(0)
    window.cancel()
    with pytest.raises(asyncio.CancelledError):
        await window
    go_on.set()
    assert await read_all(windows) == [0, 1, 2]


def test_a_stream_outlives_the_loop_that_waited_for_it() -> None:
    go_on, gone = threading.Event(), threading.Event()

    def slow() -> Iterator[dict[str, int]]:
        assert go_on.wait(30)
        yield {"number": 0}
        gone.set()

    windows = open_windows(open_source(slow()))

    async def wait_in_vain() -> None:
        window = asyncio.create_task(windows.next())
        await asyncio.sleep(0)
        window.cancel()

    asyncio.run(wait_in_vain())
    go_on.set()
    assert gone.wait(30)  # the thread went on, though the loop it would have woken is closed
