"""The batch lane: rows go out as the lines of jobs, at half the price, and come back in the server's own time.

A row's own coroutine is run against the answers that the ledger has (see `Replay`). What it asks then is a line of the
next job; and once it asks nothing more, it has its outcome. So re-asks, repairs, generations and modes exist once.

What jobs leave over goes live: rows whose answer did not fit, at once; lines that failed and may be tried again, when
they are few. More of these go into another job.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any
from zlib import crc32

from msgspec import Struct
from msgspec.structs import replace

from mistill.delivery.dispatcher import Request
from mistill.delivery.tuning import Tuning, current_tuning
from mistill.errors import LedgerError, MistillError, NoRowAnswered, Stopped
from mistill.jobs.keeper import JobKeeper
from mistill.kinds.kind import Kind, PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import ASKABLE, WAITING, Job, JobRecord, Ledger, RowSet, Selection
from mistill.llms.types import Outcome
from mistill.progress.formatting import count
from mistill.runs.first_failures import ENOUGH_FAILED
from mistill.runs.lanes.batch_terms import has_no_jobs
from mistill.runs.lanes.changes import Changes
from mistill.runs.lanes.job_planner import JobPlanner
from mistill.runs.lanes.lane_choice import LaneChoice
from mistill.runs.lanes.leftovers import Leftovers
from mistill.runs.lanes.live import LiveLane, LiveStart, RowsEnded
from mistill.runs.lanes.replay import Collected, replay
from mistill.runs.lanes.rows_ahead import RowsAhead
from mistill.runs.lanes.submissions import Submissions
from mistill.runs.pending_rows import PendingRows
from mistill.wording import START_AGAIN, Phrase, Setting, words

_log = logging.getLogger("mistill")


class JobUse(Struct, frozen=True):
    """What a start does with batch jobs.

    Attributes:
        price_factor: what a price is multiplied with in jobs.
        plans: makes new ones; else rows go live. ``asks``: rows at all; else it goes on with the jobs that there are.
        cancels: first ends those that are under way. ``gives_up``: those too that the server does not know.
        settles: rows whose answers are in the ledger get their outcomes.
    """

    price_factor: float
    plans: bool = True
    asks: bool = True
    cancels: bool = False
    gives_up: bool = False
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
        choice: which rows go live all the same, since they cost less there; ``None``: none does.
    """

    def __init__(
        self,
        start: LiveStart,
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
        choice: LaneChoice | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        self._start = start
        self._kind = kind
        self._choice = choice
        self._rows = rows if choice is None else choice.ahead(rows)
        self._ended = ended
        self._keeper = keeper
        self._rows_of = rows_of
        self._options = options
        self._use = use
        self._tuning = tuning = tuning or current_tuning()
        self._may_go_live = use.asks and (options.batch_tail > 0 or not use.plans or choice is not None)
        self._has_answers = has_proof
        self._leftovers = Leftovers(size)
        self._live = LiveLane(start, kind, self._leftovers, self._end_live, size=size)
        self._submissions = Submissions(
            keeper,
            tuning,
            fits=self._fits,
            left=self._leave_over,
            failed=self._note_refused,
            changed=self._note_change,
        )
        self._planner = JobPlanner(
            start.ledger, keeper.book, kind, options, start.budget, use.price_factor,
            has_proof=has_proof, made=self._submit, room=self._more_room, tuning=tuning,
        )  # fmt: skip
        self._left_over = self._fruitless = 0
        self._postponed = RowSet()
        self._tail = RowSet()  # what earlier starts have left over, where that is no more than goes live
        self._has_read = False
        self._hurries = self._is_over = False
        self._looks, self._has_told_of_budget = True, False
        self._opened = asyncio.Event()
        self._changed = Changes()
        self._tasks: list[asyncio.Future[None]] = []
        # Jobs that were read, and whose rows are still to be led on; those of earlier starts once all rows were met.
        self._unsettled: list[Job] = []
        self._old: set[int] = set()
        self._read_now: set[int] = set()

    # --- as a lane --------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Returns when all rows are done; or it was stopped, or is not to wait, and jobs are under way.

        Raises:
            LedgerError: the ledger, or a file of a job, cannot be written or read.
            InputError: the first row cannot be rendered.
        """
        works = (self._carry_on(), self._look_after(), self._settle_jobs(), self._live.run())
        self._tasks = [asyncio.ensure_future(work) for work in works]
        try:
            await _all_of(self._tasks)
        finally:
            for task in self._tasks:
                task.cancel()
            self._planner.discard()
            self._leftovers.close()
            if isinstance(self._rows, RowsAhead):
                self._rows.close()
            if self._start.stopped is None:  # something has failed on our side
                self._submissions.abandon()
            await self._submissions.all_ended()
            self._show()

    def stop(self) -> None:
        """Makes no further job, and looks at none any more; what is being created is waited for."""
        self._live.stop()
        self._leftovers.close()
        for task in self._tasks[:3]:
            task.cancel()
        self._submissions.stop()

    def abandon(self) -> None:
        """Waits for nothing."""
        self._live.abandon()
        self._submissions.abandon()

    def pause(self) -> None:
        """Makes no job at the server and asks nothing live until `resume`, or `stop`. Those that are there are looked
        after."""
        self._live.pause()
        self._submissions.pause()

    def resume(self) -> None:
        """Goes on, if it was paused."""
        self._live.resume()
        self._submissions.resume()

    def resize(self, size: int) -> None:
        """From now on, so many rows are asked live at once."""
        self._live.resize(size)
        self._leftovers.resize(size)

    def hold_open(self) -> None:
        """Requests that go live. What jobs may take is held in any case."""
        self._live.hold_open()

    # --- from the first row to the last -----------------------------------------------------------------------------

    async def _carry_on(self) -> None:
        keeper = self._keeper
        await keeper.open()
        self._fits()  # what earlier starts have sent may cost more than it seemed then
        self._check_deadline()
        if self._use.cancels:
            self._left_over += await keeper.cancel(gives_up=self._use.gives_up)
        elif self._use.asks and not self._use.plans:
            self._left_over += await keeper.book.drop_unsent("its rows are asked live")
        # The rows of jobs that have ended meanwhile are met below, with all others.
        await keeper.poll(self._note_fruit)
        self._check_strange()
        self._old = {job.id for job in keeper.book.under_way}
        if not self._has_answers and (jobs := keeper.book.under_way):
            self._expect_canary(jobs[0])
        self._opened.set()
        if self._use.asks:
            for job in keeper.book.under_way:
                if job.state in ("planned", "uploaded", "creating"):
                    self._submit(job)
        if self._may_go_live and self._use.plans:
            self._tail = await self._find_tail()
        if self._use.settles:
            await self._work_through(self._rows, asks=self._use.asks, goes_live=not self._use.plans)
            await self._ask_postponed()
        await self._leftovers.all_ended()
        self._old.clear()
        await self._submissions.all_ended()
        if self._options.wait:
            await self._until_all_is_read()
            while self._left_over and self._use.asks and self._planner.reached is None:
                await self._once_more()
                await self._until_all_is_read()
        elif self._left_over and self._use.asks and self._planner.reached is None:
            await self._once_more()  # of jobs that turned out not to be there
        await self._end()

    async def _end(self) -> None:
        """No further look, once what the last one has brought is led on."""
        self._looks = False
        self._note_change()
        await asyncio.wait(self._tasks[1:2])
        await self._changed.until(lambda: not self._unsettled)
        await self._leftovers.all_ended()
        self._leftovers.close()
        self._is_over = True
        self._note_change()
        await asyncio.wait(self._tasks[2:3])
        await self._keeper.tidy()
        if self._start.stopped is None and (why := self._why_it_ends()) is not None:
            self._start.stop(why)

    async def _until_all_is_read(self) -> None:
        """Or, once the rest goes live, until there are rows for that: what is to be cancelled may take its time."""
        await self._changed.until(
            lambda: (
                not (self._submissions or self._keeper.book.under_way or self._unsettled)
                or bool(self._hurries and self._left_over and not self._submissions)
            )
        )
        if not self._hurries:
            await self._leftovers.all_ended()

    async def _find_tail(self) -> RowSet:
        """Rows that jobs of earlier starts have left over, if these are so few that they go live; else none."""
        ledger, most = self._start.ledger, self._options.batch_tail
        await ledger.flush()
        found = await ledger.rows_that(
            _unanswered(ledger.settings, is_retry=ledger.is_retry, failed=self._options.retry_failed),
            most + 1,
        )
        return RowSet(found if len(found) <= most else ())

    async def _once_more(self) -> None:
        """What jobs have left over: into another job, or live."""
        left, self._left_over = self._left_over, 0
        is_tail = self._may_go_live and (
            self._hurries or not self._use.plans or left <= self._options.batch_tail
        )
        ledger = self._start.ledger
        rows = left_over(ledger.settings, is_retry=ledger.is_retry)
        _log.info("%s left over by batch jobs: %s", count(left, "row"), "live" if is_tail else "into another")
        await self._work_through_ledger(rows, 0, asks=True, goes_live=is_tail)
        await self._submissions.all_ended()

    def _why_it_ends(self) -> Stopped | None:
        """Where rows are left: jobs are under way, or a limit of the budget is reached."""
        book, reached = self._keeper.book, self._planner.reached
        if not book.under_way or not self._use.asks:
            return reached
        if reached is not None:
            _log.warning(
                words("further rows wait for another start: ", reached.message, " (", reached.hint or "", ")")
            )
        sent = len(book.with_server)
        unsent = len(book.under_way) - sent
        told = [f"{count(sent, 'batch job')} {'is' if sent == 1 else 'are'} at the server"] if sent else []
        told += (
            [f"{count(unsent, 'batch job')} {'is' if unsent == 1 else 'are'} not sent yet"] if unsent else []
        )
        return Stopped(", and ".join(told), reason="waiting", hint=words(START_AGAIN, " to go on"))

    # --- rows -------------------------------------------------------------------------------------------------------

    async def _work_through(
        self,
        rows: PendingRows | RowsAhead,
        *,
        asks: bool,
        goes_live: bool = False,
        among: RowSet | None = None,
    ) -> None:
        """Each row as far as what is known of it leads.

        Args:
            asks: what it asks then goes into a job, or live; else it is left over, unless its answer did not fit.
            goes_live: all of them do. ``among``: none but these.
        """
        async for group in rows:
            if self._start.stopped is not None or (asks and self._planner.reached is not None):
                break
            if self._leftovers.has_taken(group) or (among is not None and group[0].state.row not in among):
                continue
            outcomes = await self._lead_on(group, asks=asks, goes_live=goes_live)
            if outcomes is not None:
                if self._choice is not None:
                    self._choice.note_in_jobs(group, outcomes)
                await self._ended(group, outcomes)
                self._start.progress.by_jobs += len(group)
        if asks:
            await self._planner.finish()

    async def _work_through_ledger(
        self,
        only: Selection,
        first: int,
        *,
        asks: bool,
        goes_live: bool = False,
        among: RowSet | None = None,
    ) -> None:
        """The same with rows as the ledger has them."""
        await self._start.ledger.flush()  # they are read as they are on disk
        rows = self._rows_of(only, first)
        try:
            await self._work_through(rows, asks=asks, goes_live=goes_live, among=among)
        finally:
            rows.close()
        if rows.error is not None:
            raise rows.error

    async def _lead_on(
        self, group: list[PendingRow], *, asks: bool, goes_live: bool
    ) -> Sequence[Outcome] | None:
        """The outcomes of rows, where these are known by now; else what they still ask is on its way."""
        if asks:
            group = self._as_of_now(group)
        try:
            found = await replay(self._kind, group)
        except LedgerError:
            raise
        except MistillError as error:
            self._start.stop(error)
            return None
        if not isinstance(found, Collected):
            return found
        is_tail = goes_live or all(one.state.row in self._tail for one in group)
        if self._may_go_live and (
            (asks and is_tail)
            or self._hurries
            or _is_reask(group, found)
            or (asks and self._choice is not None and await self._choice.goes_live(group))
        ):
            if not self._postpones(group):
                await self._leftovers.put(group)
        elif not asks:
            self._left_over += len(group)
        elif (error := await self._planner.add(group, found.requests)) is not None:
            if self._choice is None:
                return [Outcome(completions=(), error=error) for _ in group]
            await self._leftovers.put(group)
        return None

    def _postpones(self, group: list[PendingRow]) -> bool:
        """Whether rows wait for their turn in the ledger: what goes into jobs need not wait for what goes live."""
        choice, first = self._choice, group[0]
        if choice is None or self._has_read or not (self._leftovers.is_full and choice.has_others):
            return False
        if first.known or first.state.state != "pending":  # they would not be found there
            return False
        choice.take_back(group)
        self._postponed.update(pending.state.row for pending in group)
        return True

    async def _ask_postponed(self) -> None:
        """Rows that were to go live when there was no room; by now it may be known better by which lane they go."""
        self._has_read = True
        if self._choice is not None:
            self._choice.note_end_of_rows()
        if self._postponed and self._start.stopped is None and self._planner.reached is None:
            ledger = self._start.ledger
            rows = Selection(_MINE, (ledger.is_retry, ledger.settings))
            await self._work_through_ledger(rows, 0, asks=True, among=self._postponed)
        self._postponed = RowSet()

    def _as_of_now(self, group: list[PendingRow]) -> list[PendingRow]:
        """Rows without the failures of earlier starts: whoever starts again has mended them, perhaps."""
        if not any(one.error is not None for one in group[0].known):
            return group
        now = self._read_now
        return [
            replace(
                pending,
                known=[one for one in pending.known if one.error is None or one.attempt.job in now],
            )
            for pending in group
        ]

    async def _end_live(self, rows: Sequence[PendingRow], outcomes: Sequence[Outcome]) -> None:
        if not self._has_answers and any(outcome.error is None for outcome in outcomes):
            self._has_answers = self._planner.has_proof = True  # no job need be small, or go first
        if self._choice is not None:
            self._choice.note_live(rows, outcomes)
        try:
            await self._ended(rows, outcomes)
        finally:
            self._leftovers.ended()

    # --- jobs on their way ------------------------------------------------------------------------------------------

    def _submit(self, job: Job) -> None:
        if not self._planner.has_proof:
            self._expect_canary(job)
        self._submissions.add(job)
        self._show()

    def _expect_canary(self, job: Job) -> None:
        self._planner.has_proof = True
        self._submissions.canary = job.id

    def _fits(self) -> bool:
        """Another model may have answered since jobs were planned, at a higher price, or at one that nobody knows."""
        if (price := self._planner.worst_price()) is not None:
            self._keeper.book.reprice(price)
        return self._start.budget.holds_so_far

    def _note_refused(self, error: MistillError) -> bool:
        """The server takes no job: the start ends, or, where rows may go by either lane, all of them go live."""
        if self._choice is None or self._keeper.submitter.has_leave or not has_no_jobs(error):
            self._start.stop(error)
            return False
        if not self._hurries:
            _log.warning(words("all rows go live, since the server makes no batch jobs: ", error.headline))
        self._hurries = True
        self._choice.goes_all_live("the server makes no batch jobs")
        return True

    def _leave_over(self, job: Job) -> None:
        self._left_over += job.record.rows
        if job.state == "doubtful":
            self._note_lost()
        self._submissions.note_back(job, is_proof=self._has_answers)

    def _note_lost(self) -> None:
        """A job that nobody has seen may be on the bill, and so may be the next one with the same rows."""
        self._fruitless += 1
        if self._fruitless > (self._kind.dispatcher.max_retries if self._has_answers else 1):
            lost = count(self._fruitless, "batch job")
            self._start.stop(
                NoRowAnswered(
                    f"{lost} in a row may have been made, and are in no list: nobody said what became of them",
                    hint=words(
                        "look at status.mistral.ai; then ",
                        START_AGAIN,
                        ", or go on with ",
                        Setting("lane", "live"),
                    ),
                )
            )

    async def _more_room(self, request: Request) -> bool:
        """Returns when something has ended that may have been held of the budget; ``False``: nobody waits for that."""
        if not self._options.wait or not (self._submissions or self._keeper.book.under_way):
            return False
        if not self._has_told_of_budget:
            self._has_told_of_budget = True
            told = "further batch jobs wait: what is with the server, at its worst, may use up the budget"
            longer = (
                "; jobs are larger where it is known how long an answer may be: ",
                Setting("max_new_tokens"),
            )
            _log.warning(words(told, *(longer if request.max_output_tokens is None else ())))
        await self._changed.wait()
        return True

    def _note_change(self) -> None:
        self._changed.note()
        self._submissions.look_again()

    # --- jobs at the server -----------------------------------------------------------------------------------------

    async def _look_after(self) -> None:
        """Looks at the jobs, now and then."""
        tuning = self._tuning
        pause_s = tuning.first_poll_s
        await self._opened.wait()
        while self._looks_on:
            until_s = time.monotonic() + pause_s * random.uniform(0.9, 1.1)  # noqa: S311  spreads load, protects nothing
            known = self._running()
            while (left_s := min(until_s - time.monotonic(), self._time_for_jobs_s())) > 0:
                await self._changed.wait(left_s)
                if not self._looks_on:
                    return
                if self._running() - known:  # a new one may be done in seconds
                    known = self._running()
                    pause_s = tuning.first_poll_s
                    until_s = min(until_s, time.monotonic() + pause_s)
            try:
                if not self._hurries and self._time_for_jobs_s() <= 0:
                    await self._hurry()
                elif self._use.cancels or self._hurries:  # some may have been refused
                    await self._keeper.cancel(gives_up=self._use.gives_up)
                await self._keeper.poll(self._note_read)
                self._check_strange()
            except LedgerError:
                raise
            except MistillError as error:
                self._start.stop(error)
            self._show()
            self._note_change()
            pause_s = min(pause_s * tuning.poll_growth, tuning.max_poll_s)

    @property
    def _looks_on(self) -> bool:
        return self._looks and self._start.stopped is None

    def _running(self) -> set[int]:
        return {job.id for job in self._keeper.book.with_server}

    def _note_read(self, job: Job) -> None:
        self._note_fruit(job)
        self._unsettled.append(job)

    async def _settle_jobs(self) -> None:
        """Leads on the rows of jobs that were read, one job after the other: looks go on meanwhile."""
        while not self._is_over and self._start.stopped is None:
            job = next((job for job in self._unsettled if job.id not in self._old), None)
            if job is None:
                await self._changed.wait()
                continue
            await self._settle(job)
            self._check_first(job)
            self._unsettled.remove(job)
            self._submissions.note_back(job, is_proof=self._has_answers)
            self._note_change()

    async def _settle(self, job: Job) -> None:
        """All lines of a job are in the ledger: its rows are led on."""
        ledger = self._start.ledger
        if self._use.settles and job.record.settings == ledger.settings:
            first, last = await ledger.positions_of_job(job.id)
            await self._work_through_ledger(_of_job(ledger, job.id, last), first, asks=False)

    def _check_strange(self) -> None:
        """Jobs that are not known to this key: perhaps to another, and paid."""
        strange = self._keeper.strange
        if strange:
            told = f"{count(len(strange), 'batch job')} of this run {'is' if len(strange) == 1 else 'are'} not known"
            self._start.stop(
                Stopped(
                    f"{told} to the server, or not to this key",
                    reason="unknown_jobs",
                    hint=words(
                        "use the key of the workspace that made them; where they are gone for good, give them up: ",
                        Phrase("Run.cancel_jobs(out, give_up=True)", "`mistill cancel --give-up`"),
                    ),
                )
            )

    def _note_fruit(self, job: Job) -> None:
        """A job that brings nothing at all, again and again, is no way to answer rows; nor is one of a refused key."""
        self._read_now.add(job.id)
        if not self._use.asks:
            return
        if self._keeper.fatal is not None:
            self._start.stop(self._keeper.fatal)
        record = job.record
        if record.answered:
            self._fruitless, self._has_answers = 0, True
        if record.kept or record.is_cancelled or record.is_given_up:
            return
        self._fruitless += 1
        # Results that were answered, and are gone, say nothing against the rows; but nobody pays for them for ever.
        was_ended = record.succeeded or record.status in ("CANCELLED", "TIMEOUT_EXCEEDED")
        is_wrong = not self._has_answers and (not was_ended or self._fruitless > 1)
        if is_wrong or self._fruitless > self._kind.dispatcher.max_retries:
            said = "; ".join(record.errors) or f"its state is {record.status}, and it has no results"
            self._stop_by(record, said)

    def _check_first(self, job: Job) -> None:
        """Lines that may be tried again, and all failed: no further job is paid for before such rows are answered."""
        record = job.record
        if self._use.asks and not self._has_answers and record.kept >= ENOUGH_FAILED:
            self._stop_by(record, "; ".join(record.errors))

    def _stop_by(self, record: JobRecord, said: str) -> None:
        self._start.stop(
            NoRowAnswered(
                f"the batch job {record.job_id} failed as a whole: {said}",
                hint=words("mend that, and ", START_AGAIN),
            )
        )

    # --- a deadline -------------------------------------------------------------------------------------------------

    def _time_for_jobs_s(self) -> float:
        """Seconds until what is with the server must go live to be done in time; infinite without a deadline.

        Half of the time is theirs in any case: live, so many might never be done in time, and at twice the price.
        """
        deadline_s = self._start.budget.deadline
        if deadline_s is None or self._hurries or not self._may_go_live or not self._keeper.book.under_way:
            return math.inf
        requests = self._requests_at_server() + len(self._postponed)
        live_s = requests / self._live_requests_per_s() + self._tuning.deadline_margin_s
        return self._start.budget.time_left_s() - min(live_s, deadline_s / 2)

    def _check_deadline(self) -> None:
        """Where it leaves jobs no time at all, all goes live at once."""
        deadline_s = self._start.budget.deadline
        if deadline_s is None or not (self._may_go_live and self._use.plans):
            return
        if deadline_s < 2 * self._tuning.deadline_margin_s:
            _log.warning("the deadline leaves batch jobs no time: all rows go live, at the full price")
            self._go_all_live()

    def _go_all_live(self) -> None:
        self._hurries = True
        if self._choice is not None:
            self._choice.goes_all_live("the deadline is near")

    def _requests_at_server(self) -> int:
        return sum(job.record.lines - (job.record.completed or 0) for job in self._keeper.book.under_way)

    def _live_requests_per_s(self) -> float:
        quota = self._kind.dispatcher.governor.snapshot().requests_per_minute
        return self._tuning.live_requests_per_s if quota is None else quota / 60.0

    async def _hurry(self) -> None:
        """What is not back by now is cancelled, read as far as it came, and asked live."""
        self._go_all_live()
        _log.warning(
            "the deadline is near: %s cancelled, and what they leave over (up to %s) goes live, at the full price",
            count(len(self._keeper.book.under_way), "batch job"),
            count(self._requests_at_server(), "request"),
        )
        await self._planner.finish()
        await self._submissions.close()
        self._left_over += await self._keeper.cancel()
        self._note_change()

    def _show(self) -> None:
        self._start.progress.see_jobs(job.record for job in self._keeper.book.under_way)


def left_over(settings: int | None = None, *, is_retry: bool = False) -> Selection:
    """Rows that jobs have asked, and that have no outcome since.

    Args:
        settings: of a start, which is about the rows that are asked by these. ``is_retry``: it asks rows that were
            chosen, and no others; else it asks all but these.
    """
    return Selection(f"{_MINE} AND EXISTS ({_ASKED} AND job IS NOT NULL)", (is_retry, settings))


def _unanswered(settings: int | None, *, is_retry: bool, failed: bool) -> Selection:
    """Those of them that have no answer to be led on with. ``failed``: and those that failed, to be asked anew."""
    by_job = f"EXISTS ({_ASKED} AND job IS NOT NULL"
    waits = f"(state = 'pending' AND {by_job}) AND NOT EXISTS ({_ASKED} AND status = 'answered'))"
    again = f"(asked_again AND {by_job} AND sent_at > row_states.ended_at))"
    anew = f"(? AND state = 'failure' AND NOT asked_again AND {by_job}))"
    return Selection(
        f"EXISTS (SELECT 1 FROM jobs) AND {ASKABLE.sql} AND asked_again = ? AND next_settings IS ? "  # noqa: S608 - our own words
        f"AND ({waits} OR {again} OR {anew})",
        (is_retry, settings, failed),
    )


def _of_job(ledger: Ledger, job: int, last: int) -> Selection:
    """Those of one job, up to a place of the input."""
    mine = ledger.is_retry, ledger.settings
    return Selection(f"{_MINE} AND position <= ? AND EXISTS ({_ASKED} AND job = ?)", (*mine, last, job))


_MINE = f"({WAITING.sql}) AND asked_again = ? AND next_settings IS ?"
_ASKED = "SELECT 1 FROM attempts WHERE attempts.row = row_states.id"


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
