"""The batch lane: rows go out as the lines of jobs, at half the price, and come back in the server's own time.

A row's own coroutine is run against the answers that the ledger has (see `Replay`). What it asks then is a line of the
next job; and once it asks nothing more, it has its outcome. So re-asks, repairs, generations and modes exist once.

What jobs leave over goes live: rows whose answer did not fit, at once; lines that failed and may be tried again, when
they are few. More of these go into another job.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol
from zlib import crc32

from msgspec import Struct

from mistill.delivery.tuning import Tuning, current_tuning
from mistill.errors import LedgerError, MistillError, NoRowAnswered, Stopped
from mistill.jobs.keeper import JobKeeper
from mistill.kinds.kind import Kind, PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import WAITING, Job, Selection
from mistill.llms.types import Outcome
from mistill.progress.formatting import count
from mistill.progress.progress import Progress
from mistill.runs.lanes.job_planner import JobPlanner
from mistill.runs.lanes.leftovers import Leftovers
from mistill.runs.lanes.live import LiveLane, LiveStart, RowsEnded
from mistill.runs.lanes.replay import Collected, replay
from mistill.runs.pending_rows import PendingRows
from mistill.wording import START_AGAIN, words

_log = logging.getLogger("mistill")


class BatchStart(LiveStart, Protocol):
    """The start of a run that this lane works for."""

    @property
    def progress(self) -> Progress: ...


class JobUse(Struct, frozen=True):
    """What a start does with batch jobs.

    Attributes:
        price_factor: what a price is multiplied with in jobs.
        plans: makes new ones; else rows go live. ``asks``: rows at all; else it goes on with the jobs that there are.
        cancels: first ends those that are under way. ``settles``: rows whose answers are in the ledger get their
            outcomes.
    """

    price_factor: float
    plans: bool = True
    asks: bool = True
    cancels: bool = False
    settles: bool = True


class BatchLane:
    """Answers rows by batch jobs.

    Args:
        rows: those that are due. ``ended``: is given rows with their outcomes.
        keeper: carries jobs on.
        rows_of: rows of the ledger that fulfil a condition, from a place of the input on, made ready as others are.
        size: requests under way at once of what goes live.
        use: what is done with jobs.
        has_proof: such rows have been answered before, so that no small job need go first.
    """

    def __init__(
        self,
        start: BatchStart,
        kind: Kind[Any],
        rows: PendingRows,
        ended: RowsEnded,
        *,
        keeper: JobKeeper,
        rows_of: Callable[[Selection, int], PendingRows],
        options: RunOptions,
        size: int,
        use: JobUse,
        has_proof: bool = False,
        tuning: Tuning | None = None,
    ) -> None:
        self._start = start
        self._kind = kind
        self._rows = rows
        self._ended = ended
        self._keeper = keeper
        self._rows_of = rows_of
        self._options = options
        self._use = use
        self._may_go_live = use.asks and (options.batch_tail > 0 or not use.plans)
        self._tuning = tuning = tuning or current_tuning()
        self._max_retries = kind.dispatcher.max_retries
        self._leftovers = Leftovers(size)
        self._live = LiveLane(start, kind, self._leftovers, self._end_live, size=size)
        price = kind.server.price
        self._planner = JobPlanner(
            start.ledger,
            keeper,
            kind,
            options,
            start.budget,
            price and price.times(use.price_factor),
            has_proof=has_proof,
            made=self._submit,
            room=self._more_room,
            tuning=tuning,
        )
        self._left_over = 0
        self._hurries = self._is_over = False
        self._fruitless = 0
        self._has_answers = has_proof
        self._old: set[int] = set()
        self._read_meanwhile: list[Job] = []
        self._opened = asyncio.Event()
        self._tasks: list[asyncio.Future[None]] = []
        self._submitting: dict[asyncio.Task[None], Job] = {}
        self._uploads = asyncio.Semaphore(tuning.uploads_at_once)
        self._changed = asyncio.Event()

    # --- as a lane --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns when all rows are done; or it was stopped, or is not to wait, and jobs are under way."""
        self._tasks = [
            asyncio.ensure_future(work) for work in (self._carry_on(), self._look_after(), self._live.run())
        ]
        try:
            await _all_of(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            self._planner.discard()
            self._leftovers.close()
            await self._leave_submissions()
            self._show()

    def stop(self) -> None:
        """Makes no further job, and looks at none any more; what is being created is waited for."""
        self._live.stop()
        self._leftovers.close()
        for task in self._tasks[:2]:
            task.cancel()
        for task, job in self._submitting.items():
            if self._keeper.state_of(job) != "creating":
                task.cancel()

    def abandon(self) -> None:
        """Waits for nothing."""
        self._live.abandon()
        for task in self._submitting:
            task.cancel()

    async def _leave_submissions(self) -> None:
        if self._start.stopped is None:  # something has failed on our side
            for task in self._submitting:
                task.cancel()
        await self._all_submitted()

    # --- from the first row to the last -----------------------------------------------------------------------------

    async def _carry_on(self) -> None:
        keeper = self._keeper
        await keeper.open()
        if self._use.cancels:
            self._left_over += await keeper.cancel()
        elif self._use.asks and not self._use.plans:
            self._left_over += await keeper.drop_unsent("its rows are asked live")
        # The rows of jobs that have ended meanwhile are met below, with all others.
        await keeper.poll(self._note_fruit)
        self._old = {job.id for job in keeper.under_way}
        self._opened.set()
        if self._use.asks:
            for job in keeper.under_way:
                if job.state in ("planned", "uploaded", "creating"):
                    self._submit(job)
        await self._work_through(self._rows, asks=self._use.asks, goes_live=not self._use.plans)
        await self._settle_old()
        await self._all_submitted()
        if self._options.wait:
            await self._until_all_is_read()
            while self._left_over and self._use.asks and self._planner.reached is None:
                await self._once_more()
                await self._until_all_is_read()
        await self._leftovers.all_ended()
        self._leftovers.close()
        self._is_over = True
        self._changed.set()
        await asyncio.wait(self._tasks[1:2])
        await keeper.tidy()
        if self._start.stopped is None and (why := self._why_it_ends()) is not None:
            self._start.stop(why)

    async def _settle_old(self) -> None:
        """Rows of jobs of earlier starts that ended while all rows were met: before them, or after them."""
        await self._leftovers.all_ended()
        self._old.clear()
        for job in self._read_meanwhile:
            await self._settle(job)

    async def _until_all_is_read(self) -> None:
        while self._submitting or self._keeper.under_way:
            await self._change()
        await self._leftovers.all_ended()

    async def _once_more(self) -> None:
        """What jobs have left over: into another job, or live."""
        left, self._left_over = self._left_over, 0
        is_tail = self._may_go_live and (
            self._hurries or not self._use.plans or left <= self._options.batch_tail
        )
        _log.info("%s left over by batch jobs: %s", count(left, "row"), "live" if is_tail else "into another")
        await self._start.ledger.flush()  # rows are read as they are on disk
        await self._work_through(self._rows_of(LEFT_OVER, 0), asks=True, goes_live=is_tail)
        await self._all_submitted()

    def _why_it_ends(self) -> Stopped | None:
        """Where rows are left: jobs are under way, or a limit of the budget is reached."""
        jobs = self._keeper.under_way
        if not jobs or not self._use.asks:
            return self._planner.reached
        told = f"{count(len(jobs), 'batch job')} {'is' if len(jobs) == 1 else 'are'} at the server"
        return Stopped(told, reason="waiting", hint=words(START_AGAIN, " to go on"))

    async def _change(self, within_s: float | None = None) -> None:
        """Returns when something has ended, or begun; or after so many seconds."""
        self._changed.clear()
        # No `asyncio.wait_for`, which may lose a cancellation before Python 3.12.
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._changed.wait()

    # --- rows -------------------------------------------------------------------------------------------------------

    async def _work_through(self, rows: PendingRows, *, asks: bool, goes_live: bool = False) -> None:
        """Each row as far as what is known of it leads.

        Args:
            asks: what it asks then goes into a job, or live; else it is left over, unless its answer did not fit.
            goes_live: all of them do.
        """
        if not self._use.settles:
            return
        async for group in rows:
            if self._start.stopped is not None or self._planner.reached is not None:
                break
            outcomes = await self._lead_on(group, asks=asks, goes_live=goes_live)
            if outcomes is not None:
                self._start.progress.by_jobs += len(group)
                await self._ended(group, outcomes)
        if asks:
            await self._planner.finish()

    async def _lead_on(
        self, group: list[PendingRow], *, asks: bool, goes_live: bool
    ) -> Sequence[Outcome] | None:
        """The outcomes of rows, where these are known by now; else what they still ask is on its way."""
        try:
            found = await replay(self._kind, group)
        except LedgerError:
            raise
        except MistillError as error:
            self._start.stop(error)
            return None
        if not isinstance(found, Collected):
            return found
        if self._may_go_live and ((asks and goes_live) or self._hurries or _is_reask(group, found)):
            await self._leftovers.put(group)
        elif not asks:
            self._left_over += len(group)
        elif (error := await self._planner.add(group, found.requests)) is not None:
            return [Outcome(completions=(), error=error) for _ in group]
        return None

    async def _end_live(self, rows: Sequence[PendingRow], outcomes: Sequence[Outcome]) -> None:
        try:
            await self._ended(rows, outcomes)
        finally:
            self._leftovers.ended()

    # --- jobs on their way ------------------------------------------------------------------------------------------

    def _submit(self, job: Job) -> None:
        task = asyncio.create_task(self._send(job))
        self._submitting[task] = job
        task.add_done_callback(self._sent)
        self._show()

    def _sent(self, task: asyncio.Task[None]) -> None:
        del self._submitting[task]
        self._changed.set()

    async def _send(self, job: Job) -> None:
        try:
            await self._its_turn(job)
            async with self._uploads:
                await self._keeper.ask_leave(job)
                job = await self._keeper.submit(job)
        except MistillError as error:
            self._start.stop(error)
        else:
            if job.state in ("doubtful", "dropped"):
                self._left_over += job.record.rows
            self._show()

    async def _its_turn(self, job: Job) -> None:
        """The canary goes first, if it is not lost; and no more goes than the server takes in all."""
        canary, tuning = self._planner.canary, self._tuning
        until_s = time.monotonic() + tuning.canary_wait_s
        while job.id != canary and any(other.id == canary for other in self._keeper.under_way):
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                break
            await self._change(left_s)
        while True:
            pending = sum(other.record.lines for other in self._keeper.with_server)
            if not pending or pending + job.record.lines <= tuning.max_pending_requests:
                return
            await self._change()

    async def _all_submitted(self) -> None:
        while self._submitting:
            await asyncio.wait(self._submitting)

    async def _more_room(self) -> bool:
        """Returns when something that is held of the budget has been given back; ``False``: nobody waits for that."""
        if not self._options.wait or not (self._submitting or self._keeper.under_way):
            return False
        await self._change()
        return True

    # --- jobs at the server -----------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Looks at the jobs, now and then."""
        tuning = self._tuning
        pause_s = tuning.first_poll_s
        await self._opened.wait()
        while not self._has_ended:
            until_s = time.monotonic() + pause_s * random.uniform(0.9, 1.1)  # noqa: S311  spreads load, protects nothing
            known = self._running()
            while (left_s := min(until_s - time.monotonic(), self._time_for_jobs_s())) > 0:
                await self._change(left_s)
                if self._has_ended:
                    return
                if self._running() - known:  # a new one may be done in seconds
                    known = self._running()
                    pause_s = tuning.first_poll_s
                    until_s = min(until_s, time.monotonic() + pause_s)
            try:
                if not self._hurries and self._time_for_jobs_s() <= 0:
                    await self._hurry()
                await self._keeper.poll(self._note_read)
            except LedgerError:
                raise
            except MistillError as error:
                self._start.stop(error)
            self._show()
            self._changed.set()  # now that what was read is under way no more
            pause_s = min(pause_s * tuning.poll_growth, tuning.max_poll_s)

    @property
    def _has_ended(self) -> bool:
        return self._is_over or self._start.stopped is not None

    def _running(self) -> set[int]:
        return {job.id for job in self._keeper.with_server}

    async def _note_read(self, job: Job) -> None:
        await self._note_fruit(job)
        if job.id in self._old:
            self._read_meanwhile.append(job)
        else:
            await self._settle(job)

    async def _settle(self, job: Job) -> None:
        """All lines of a job are in the ledger: its rows are led on."""
        if job.record.settings == self._start.ledger.settings:
            first, last = await self._start.ledger.positions_of_job(job.id)
            await self._work_through(self._rows_of(_of_job(job.id, last), first), asks=False)

    async def _note_fruit(self, job: Job) -> None:
        """A job that brings nothing at all, again and again, is no way to answer rows; nor is one of a refused key."""
        if not self._use.asks:
            return  # what has come is taken over in any case
        if self._keeper.fatal is not None:
            self._start.stop(self._keeper.fatal)
        record = job.record
        if record.kept or record.is_cancelled:
            self._fruitless, self._has_answers = 0, True
            return
        self._fruitless += 1
        if not self._has_answers or self._fruitless > self._max_retries:
            said = "; ".join(record.errors) or f"its state is {record.status}, and it has no results"
            self._start.stop(
                NoRowAnswered(
                    f"the batch job {record.job_id} failed as a whole: {said}",
                    hint=words("mend that, and ", START_AGAIN),
                )
            )

    # --- a deadline -------------------------------------------------------------------------------------------------

    def _time_for_jobs_s(self) -> float:
        """Seconds until what is with the server must go live to be done in time; infinite without a deadline."""
        left_s = self._start.budget.time_left_s()
        if left_s == float("inf") or self._hurries or not self._may_go_live or not self._keeper.under_way:
            return float("inf")
        rows = sum(job.record.rows - (job.record.completed or 0) for job in self._keeper.under_way)
        return left_s - rows / self._live_rows_per_s() - self._tuning.deadline_margin_s

    def _live_rows_per_s(self) -> float:
        quota = self._kind.dispatcher.governor.snapshot().requests_per_minute
        return self._tuning.live_rows_per_s if quota is None else quota / 60.0

    async def _hurry(self) -> None:
        """What is not back by now is cancelled, read as far as it came, and asked live."""
        self._hurries = True
        jobs = self._keeper.under_way
        rows = sum(job.record.rows - (job.record.completed or 0) for job in jobs)
        _log.warning(
            "the deadline is near: %s cancelled, and what they leave over (up to %s) goes live, at the full price",
            count(len(jobs), "batch job"),
            count(rows, "row"),
        )
        for task, job in [*self._submitting.items()]:
            if self._keeper.state_of(job) != "creating":
                task.cancel()
        await self._all_submitted()
        self._left_over += await self._keeper.cancel()
        self._changed.set()

    def _show(self) -> None:
        self._start.progress.see_jobs(job.record for job in self._keeper.under_way)


LEFT_OVER = Selection(
    f"({WAITING.sql}) AND EXISTS (SELECT 1 FROM attempts WHERE attempts.row = row_states.id AND job IS NOT NULL)",  # noqa: S608 - our own words
    (),
)
"""Rows that jobs have asked, and that have no outcome since."""


def _of_job(job: int, last: int) -> Selection:
    """Those of one job, up to a place of the input."""
    asked = "SELECT 1 FROM attempts WHERE attempts.row = row_states.id AND job = ?"
    return Selection(f"({WAITING.sql}) AND position <= ? AND EXISTS ({asked})", (last, job))


def _is_reask(group: Sequence[PendingRow], wanted: Collected) -> bool:
    """Rows ask on after an answer; not what was asked before, and failed."""
    known = group[0].known
    asked = {one.attempt.asked for one in known}
    return any(one.answer is not None for one in known) and not any(
        crc32(request.body) in asked for request in wanted.requests
    )


async def _all_of(tasks: Sequence[asyncio.Future[None]]) -> None:
    """Returns when all have ended, or were cancelled. Raises the first error, once the others have been cancelled."""
    done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    failed = [task for task in done if not task.cancelled() and task.exception() is not None]
    if failed:
        for task in others:
            task.cancel()
    if others:
        await asyncio.wait(others)
    for task in failed:
        task.result()
