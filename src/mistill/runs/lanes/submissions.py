"""Batch jobs on their way to the server."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from mistill.delivery.retry import as_failure
from mistill.delivery.tuning import Tuning
from mistill.errors import MistillError
from mistill.jobs.keeper import JobKeeper
from mistill.ledger import Job
from mistill.runs.lanes.changes import Changes


class Submissions:
    """Carries jobs to the server, some at a time: a first, small one before all others, and no more than it takes.

    Args:
        fits: asked before a job is created: whether the budget still holds, by what is known of prices then.
        left: is given a job that will not be answered: its rows are left over.
        failed: is given what no further job can survive; says whether its rows are left over then.
        changed: called when something has ended.

    Attributes:
        canary: the number of the job that goes first, until it is back.
        is_closed: jobs are dropped in place of being sent.
    """

    def __init__(
        self,
        keeper: JobKeeper,
        tuning: Tuning,
        *,
        fits: Callable[[], bool],
        left: Callable[[Job], None],
        failed: Callable[[MistillError], bool],
        changed: Callable[[], None],
    ) -> None:
        self.canary: int | None = None
        self.is_closed = False
        self._keeper = keeper
        self._tuning = tuning
        self._fits, self._left = fits, left
        self._failed = failed
        self._changed = changed
        self._tasks: dict[asyncio.Task[None], Job] = {}
        self._at_once = asyncio.Semaphore(tuning.uploads_at_once)
        self._let_through: dict[int, int] = {}
        self._turn = Changes()

    def __bool__(self) -> bool:
        return bool(self._tasks)

    def add(self, job: Job) -> None:
        """It goes as soon as it is its turn."""
        task = asyncio.create_task(self._send(job))
        self._tasks[task] = job
        task.add_done_callback(self._sent)

    def note_back(self, job: Job, *, is_proof: bool = True) -> None:
        """Its rows have been led on, or it is lost. ``is_proof``: it lets others go; else one more goes first."""
        if job.id == self.canary:
            waiting = () if is_proof else (other.id for other in self._tasks.values())
            self.canary = min((other for other in waiting if other not in self._let_through), default=None)
            self._turn.note()

    def look_again(self) -> None:
        """Some job has ended: it may be the turn of others."""
        self._turn.note()

    def pause(self) -> None:
        """No further one begins to be made there until `resume`; what is on its way comes to its end."""
        self._keeper.submitter.pause()

    def resume(self) -> None:
        """They go on."""
        self._keeper.submitter.resume()
        self._turn.note()

    def stop(self) -> None:
        """Those that wait, or are uploaded, wait for another start; what is being created comes to its end."""
        for task, job in self._tasks.items():
            if job.id not in self._keeper.submitter.being_created:
                task.cancel()

    def abandon(self) -> None:
        """Nothing is waited for."""
        for task in self._tasks:
            task.cancel()

    async def close(self) -> None:
        """What the server has not got by now, it does not get; returns when all are left over, or there."""
        self.is_closed = True
        self.stop()
        await self.all_ended()

    async def all_ended(self) -> None:
        """Returns when none is on its way."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _sent(self, task: asyncio.Task[None]) -> None:
        job = self._tasks.pop(task)
        self._let_through.pop(job.id, None)
        self._changed()
        self._turn.note()

    async def _send(self, job: Job) -> None:
        try:
            await self._its_turn(job)
            async with self._at_once:
                if self.is_closed:
                    job = await self._keeper.book.drop(job, "it was not sent: the deadline was near")
                elif job.state != "creating" and not self._fits():
                    job = await self._keeper.book.drop(job, "it was not sent: it may cost more than is left")
                else:
                    await self._keeper.submitter.ask_leave(job)
                    job = await self._keeper.submitter.submit(job)
        except Exception as error:
            if not self._failed(as_failure(error)):
                return
            job = await self._keeper.book.drop(job, "the server makes no jobs")
        if job.state in ("doubtful", "dropped"):
            self._left(job)

    async def _its_turn(self, job: Job) -> None:
        until_s = time.monotonic() + self._tuning.canary_wait_s
        while not self.is_closed and self.canary not in (None, job.id) and time.monotonic() < until_s:
            await self._turn.wait(until_s - time.monotonic())
        await self._turn.until(
            lambda: self.is_closed or (self._keeper.submitter.resumed is None and self._has_room(job))
        )
        self._let_through[job.id] = job.record.lines

    def _has_room(self, job: Job) -> bool:
        at_server = {other.id: other.record.lines for other in self._keeper.book.with_server}
        pending = sum((at_server | self._let_through).values())
        return not pending or pending + job.record.lines <= self._tuning.max_pending_requests
