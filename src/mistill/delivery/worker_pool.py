"""Bounded fan-out: a pool of workers that share one stream of rows."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Generic, Self, TypeVar

from mistill.delivery.pausable import Pausable
from mistill.delivery.tuning import Tuning, current_tuning

T = TypeVar("T")


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


class WorkerPool(Pausable, Generic[T]):
    """Workers that share one stream of rows: never more than ``size`` at work, however many rows there are.

    A worker that has found a row starts the next one, so there are no more than rows, whatever ``size`` is; and a pool
    is as wide as there is work for, in whatever order rows come, end and run short.

    Where rows end by the thousand a second, a pool of many lingers: it lets answers gather (`Tuning.linger_s`).

    A worker that rests (a row cooling down between attempts) is stood in for by another, up to a multiple of ``size``
    in all (`Tuning.max_workers_each`), so that a few cooling rows do not hold back the rest.

    While it is paused, no further row is begun, and `Dispatcher.send` sends nothing for those at work.

    Args:
        rows: taken one by one, as workers become free.
        size: rows at work at once.
        tuning: the constants of delivery; those in force unless given.
    """

    def __init__(self, rows: AsyncIterator[T], *, size: int, tuning: Tuning | None = None) -> None:
        self._rows = rows
        self._tuning = tuning = tuning or current_tuning()
        self._fit(size)
        self._haste_s = tuning.haste_s
        self._linger_s = tuning.linger_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._awake = 0  # workers that neither rest nor are leaving
        self._stopped = False
        self._work: Callable[[T], Awaitable[None]]
        self._ended: asyncio.Future[None]
        self._loop: asyncio.AbstractEventLoop
        self._row_ended_s = -math.inf

    def _fit(self, size: int) -> None:
        self._size = size
        self._max_workers = self._tuning.max_workers_each * size
        self._may_linger = size >= self._tuning.linger_from_workers

    async def run(self, work: Callable[[T], Awaitable[None]]) -> None:
        """Returns when ``work`` is done with every row.

        Raises the first error of a worker, after all others have ended.
        """
        self._work = work
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        self._start_worker()
        try:
            await self._ended
        finally:
            self._stopped = True
            leftovers = list(self._tasks)
            for task in leftovers:
                task.cancel()
            await asyncio.gather(*leftovers, return_exceptions=True)
            del (
                self._work
            )  # it knows the pool: in a cycle, both would keep the rows and the client until a collection

    def stop(self) -> None:
        """No further row is begun; those at work are finished."""
        self._stopped = True
        self.resume()

    def resize(self, size: int) -> None:
        """From now on, so many rows are at work at once. Of more, those that are there are finished."""
        self._fit(size)
        if self._tasks and self._awake < size:
            self._start_another()  # who finds a row starts the next

    @contextmanager
    def resting(self) -> Generator[None]:
        """Marks the calling worker as resting, so that another may take its place."""
        self._awake -= 1
        if self._awake < self._size:
            self._start_another()
        try:
            yield
        finally:
            self._awake += 1

    def _start_another(self) -> None:
        if len(self._tasks) < self._max_workers and not self._stopped:
            self._start_worker()

    def _start_worker(self) -> None:
        self._awake += 1
        task = asyncio.get_running_loop().create_task(self._run_worker(self._work))
        self._tasks.add(task)
        task.add_done_callback(self._worker_ended)

    def _worker_ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._ended.done():
            return
        if error is not None:
            self._ended.set_exception(error)
        elif not self._tasks:
            self._ended.set_result(None)

    async def _run_worker(self, work: Callable[[T], Awaitable[None]]) -> None:
        async for row in self._rows:
            while self.resumed is not None:
                await self.resumed.wait()
            if self._awake < self._size:
                self._start_another()
            await work(row)
            if self._may_linger:
                self._linger_in_haste()
            # Stand-ins leave once the rested are back. Counted here, not when the task has ended: else two that see the
            # same surplus at once would both leave.
            if self._stopped or self._awake > self._size:
                break
        self._awake -= 1

    def _linger_in_haste(self) -> None:
        now_s = time.perf_counter()
        since_s = now_s - self._row_ended_s
        self._row_ended_s = now_s
        if since_s < self._haste_s:
            self._may_linger = False
            self._loop.call_soon(self._linger)

    def _linger(self) -> None:
        time.sleep(self._linger_s)
        self._may_linger = True
