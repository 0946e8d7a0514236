"""Bounded fan-out: a pool of workers that share one stream of rows."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_MAX_STAND_INS = 4

_CROWD = 16  # a pool of so many workers lingers
_HASTE_S = 0.001  # where rows end as close together as this
_LINGER_S = 0.0002
"""Where answers come by the thousand a second, the transport's thread would wake the event loop for each of them, and
fight it for the interpreter's lock. So the loop lies still for a moment now and then, a thousandth of what a model
takes to answer, and finds several at once: less CPU, more answers a second. `benchmarks.gathering` measures it."""


class SharedIterator(Generic[T]):
    """An iterable that several workers take from, each item once."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        for item in self._items:
            return item
        raise StopAsyncIteration


class WorkerPool(Generic[T]):
    """Workers that share one stream of rows: never more than ``size`` at work, however many rows there are.

    Where rows end by the thousand a second, a pool of many lingers: it lets answers gather (`_LINGER_S`).

    A worker that rests (a row cooling down between attempts) is stood in for by another, up to four times ``size``
    in all, so that a few cooling rows do not hold back the rest.

    Args:
        rows: taken one by one, as workers become free.
        work: does one row; what it raises ends the whole pool.
    """

    def __init__(
        self, rows: AsyncIterator[T], work: Callable[[T, WorkerPool[T]], Awaitable[None]], *, size: int
    ) -> None:
        self._rows = rows
        self._work = work
        self._size = size
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting = 0
        self._stopped = False
        self._ended: asyncio.Future[None]
        self._loop: asyncio.AbstractEventLoop
        self._row_ended_s = -math.inf
        self._may_linger = size >= _CROWD

    async def run(self) -> None:
        """Returns when every row is done; raises the first error of a worker, after all others have ended."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        for _ in range(self._size):
            self._hire()
        try:
            await self._ended
        finally:
            self._stopped = True
            leftovers = list(self._tasks)
            for task in leftovers:
                task.cancel()
            await asyncio.gather(*leftovers, return_exceptions=True)

    def stop(self) -> None:
        """No further row is begun; those at work are finished."""
        self._stopped = True

    @contextmanager
    def resting(self) -> Generator[None]:
        """Marks the calling worker as resting, so that another may take its place."""
        self._resting += 1
        if len(self._tasks) - self._resting < self._size and len(self._tasks) < _MAX_STAND_INS * self._size:
            self._hire()
        try:
            yield
        finally:
            self._resting -= 1

    def _hire(self) -> None:
        task = asyncio.get_running_loop().create_task(self._labour())
        self._tasks.add(task)
        task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._ended.done():
            return
        if error is not None:
            self._ended.set_exception(error)
        elif not self._tasks:
            self._ended.set_result(None)

    async def _labour(self) -> None:
        async for row in self._rows:
            await self._work(row, self)
            if self._may_linger:
                self._linger_in_haste()
            # Stand-ins leave once the rested are back.
            if self._stopped or len(self._tasks) - self._resting > self._size:
                return

    def _linger_in_haste(self) -> None:
        now_s = time.perf_counter()
        since_s = now_s - self._row_ended_s
        self._row_ended_s = now_s
        if since_s < _HASTE_S:
            self._may_linger = False
            self._loop.call_soon(self._linger)

    def _linger(self) -> None:
        time.sleep(_LINGER_S)
        self._may_linger = True
