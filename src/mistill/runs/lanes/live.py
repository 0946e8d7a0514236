"""The live lane: a pool of workers, each sending the requests of one row after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from operator import attrgetter
from typing import Any, Protocol

from mistill.delivery.dispatcher import Send
from mistill.delivery.retry import as_failure, classify
from mistill.delivery.worker_pool import WorkerPool
from mistill.errors import InputError, LedgerError, MistillError
from mistill.estimates.attempt_recorder import AttemptRecorder, RunningStart
from mistill.kinds.kind import Kind, PendingRow
from mistill.llms.types import Outcome
from mistill.runs.lanes.replay import Replay

# Not comprehensions, which are calls of their own until Python 3.12: this is done for every row.
_row_number: Callable[[PendingRow], int] = attrgetter("state.row")
_prepared: Callable[[PendingRow], Any] = attrgetter("prepared")

RowsEnded = Callable[[Sequence[PendingRow], Sequence[Outcome]], Awaitable[None]]


class LiveStart(RunningStart, Protocol):
    """The start of a run that this lane works for."""

    def stop(self, reason: MistillError) -> None:
        """Ends the start: no row of it can be answered any more."""
        ...


class LiveLane:
    """Answers rows by requests of their own, at most ``size`` at once.

    Args:
        rows: taken as workers become free; those of one request together.
        ended: is given the rows of one request with their outcomes.
    """

    def __init__(
        self,
        start: LiveStart,
        kind: Kind[Any],
        rows: AsyncIterator[list[PendingRow]],
        ended: RowsEnded,
        *,
        size: int,
    ) -> None:
        self._start = start
        self._kind = kind
        self._ended = ended
        self._cache_key_of = kind.cache_keys()
        self._pool: WorkerPool[list[PendingRow]] = WorkerPool(rows, size=size)
        self._under_way: dict[asyncio.Task[Any], AttemptRecorder] = {}

    async def run(self) -> None:
        """Returns when all rows are done, or it was stopped and nothing is under way any more."""
        await self._pool.run(self._answer)

    def stop(self) -> None:
        """Sends nothing more; what is in flight is waited for."""
        self._pool.stop()
        for task in list(self._under_way):
            self._leave_if_idle(task)

    def abandon(self) -> None:
        """Waits for nothing: requests in flight are cut off, and marked as maybe billed."""
        for task in self._under_way:
            task.cancel()

    def pause(self) -> None:
        """Sends nothing more until `resume`, or `stop`."""
        self._pool.pause()

    def resume(self) -> None:
        """Goes on, if it was paused."""
        self._pool.resume()

    def resize(self, size: int) -> None:
        """From now on, so many rows are asked at once."""
        self._pool.resize(size)

    def hold_open(self) -> None:
        """From now on there is a budget: requests in flight are held against it."""
        for recorder in self._under_way.values():
            recorder.hold_open()

    def _leave_if_idle(self, task: asyncio.Task[Any]) -> None:
        """Ends a row that would only send another request, now that nothing may be sent."""
        recorder = self._under_way.get(task)
        if self._start.stopped is not None and recorder is not None and not recorder.open:
            task.cancel()

    async def _answer(self, rows: list[PendingRow]) -> None:
        task = asyncio.current_task()
        assert task is not None
        recorder = AttemptRecorder(
            self._start, list(map(_row_number, rows)), lambda: self._leave_if_idle(task)
        )
        self._under_way[task] = recorder
        first, kind = rows[0], self._kind
        outcomes: Sequence[Outcome]
        try:
            # A coroutine between this and the row's requests would be entered anew with every event of theirs.
            if isinstance(first.prepared, InputError):  # it stands alone
                outcomes = (Outcome(completions=(), error=first.prepared),)
            else:
                send: Send[Any] = partial(
                    kind.dispatcher.send,
                    observer=recorder,
                    pool=self._pool,
                    cache_key=None if self._cache_key_of is None else self._cache_key_of(first.prepared),
                )
                if first.known and len(rows) == 1:
                    send = Replay(kind, first.known, send)
                outcomes = await kind.answer(list(map(_prepared, rows)), send)
        except LedgerError:
            raise
        except Exception as caught:  # whatever a row or its answer makes us stumble over: it fails alone
            error = as_failure(caught)
            if classify(error).fatal:
                self._start.stop(error)
                return
            recorder.end_open(error)
            outcomes = [Outcome(completions=(), error=error) for _ in rows]
        finally:
            del self._under_way[task]
        await self._ended(rows, outcomes)
