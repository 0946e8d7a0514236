"""The run loop: rows not yet done → what is asked of them → answer → outcome into the ledger."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from mistill.datasets.prefetch import open_windows
from mistill.datasets.sources import Source
from mistill.delivery.retry import classify
from mistill.delivery.worker_pool import WorkerPool
from mistill.errors import InputError, LedgerError, MistillError, Stopped
from mistill.ledger import Attempt, Ledger, Usage
from mistill.llms.types import Completion, Outcome
from mistill.llms.types import Usage as Tokens
from mistill.runs.attempt_recorder import RowJournal
from mistill.runs.budget import Budget
from mistill.runs.pending_rows import Feed, Matcher, OnUnknown
from mistill.runs.summary import Progress
from mistill.runs.work import Task, Work


class RowOutcome(Struct, frozen=True):
    """A row that ended. ``position`` is its place in the input, from 0; ``record`` is the row itself."""

    position: int
    record: dict[str, Any]
    completions: tuple[Completion | None, ...]
    error: MistillError | None


Tell = Callable[[RowOutcome], Awaitable[None]]


class Runner:
    """One start of a run, on one event loop.

    Args:
        size: requests under way at once, of one row each as a rule.
        grace_s: how long requests in flight are waited for once the run is stopped.
        sample: no more rows than this are asked.
        matcher: in place of the ledger's own, see `AskedAgain`.
        tell: is given every outcome once it is on disk.
    """

    def __init__(
        self,
        work: Work[Any],
        source: Source,
        ledger: Ledger,
        progress: Progress,
        budget: Budget,
        *,
        size: int,
        sample: int | None = None,
        reserved: frozenset[str],
        retry_failed: bool = True,
        on_unknown: OnUnknown = "retry",
        dedupe: bool = False,
        grace_s: float = 30.0,
        matcher: Matcher | None = None,
        tell: Tell | None = None,
    ) -> None:
        self.stopped: MistillError | None = None
        self.input_rows: int | None = None
        self.ledger = ledger
        self.budget = budget
        self.price = work.server.price
        self._work = work
        self._source = source
        self._progress = progress
        self._size = size
        self._sample = sample
        self._reserved = reserved
        self._retry_failed = retry_failed
        self._on_unknown: OnUnknown = on_unknown
        self._dedupe = dedupe
        self._grace_s = grace_s
        self._matcher = matcher
        self._tell = tell
        self._under_way: dict[asyncio.Task[Any], RowJournal] = {}
        self._feed: Feed | None = None
        self._crew: WorkerPool[list[Task]] | None = None
        self._timers: list[asyncio.TimerHandle] = []

    async def run(self) -> None:
        """Works through the input. ``stopped`` says why, if it ended early; ``input_rows``, after a sample, how many
        rows the input has.

        Raises:
            InputError: the first row cannot be rendered (nothing was sent), or the input breaks off.
            LedgerError: the ledger cannot be written; what was committed is in it.
        """
        matcher = self._matcher or await self.ledger.match_input(dedupe=self._dedupe)
        self._feed = feed = Feed(
            open_windows(self._source),
            self._work,
            matcher,
            self._progress,
            reserved=self._reserved,
            retry_failed=self._retry_failed,
            on_unknown=self._on_unknown,
            limit=self._sample,
        )
        self._crew = WorkerPool(feed, self._answer, size=self._size)
        self._call_later(self.budget.time_left_s(), self._pass_deadline)
        try:
            if self.stopped is None:
                await self._crew.run()
            if feed.read_to_end:
                await matcher.finish()
            await self.ledger.flush()
            if self._sample is not None and self.stopped is None:
                self.input_rows = self._source.total or await feed.count_rest()
        finally:
            feed.close()
            for timer in self._timers:
                timer.cancel()
        if feed.error is not None:
            raise feed.error

    def stop(self, reason: MistillError) -> None:
        """Sends nothing more; what is in flight is waited for, at most ``grace_s``. Call it on the run's own loop."""
        if self.stopped is not None:
            return
        self.stopped = reason
        if self._feed is None or self._crew is None:
            return
        self._feed.close()
        self._crew.stop()
        for task in list(self._under_way):
            self.leave_if_idle(task)
        self._call_later(self._grace_s, self.abandon)

    def abandon(self) -> None:
        """Waits for nothing: requests in flight are cut off, and marked as maybe billed."""
        for task in self._under_way:
            task.cancel()

    def leave_if_idle(self, task: asyncio.Task[Any]) -> None:
        """Ends a row that would only send another request, now that nothing may be sent."""
        journal = self._under_way.get(task)
        if self.stopped is not None and journal is not None and not journal.in_flight:
            task.cancel()

    def _call_later(self, seconds: float, function: Callable[[], None]) -> None:
        if seconds < math.inf:
            self._timers.append(asyncio.get_running_loop().call_later(seconds, function))

    def _pass_deadline(self) -> None:
        self.stop(Stopped("budget: the deadline has passed", hint="run again to go on with the rest"))

    def count_attempt(self) -> None:
        self._progress.attempts += 1

    # --- the rows of one request ------------------------------------------------------------------------------------

    async def _answer(self, tasks: list[Task], pool: WorkerPool[list[Task]]) -> None:
        me = asyncio.current_task()
        assert me is not None
        first = tasks[0]
        journal = RowJournal(self, [task.state.row for task in tasks], me)
        outcomes: Sequence[Outcome] | None = None
        self._under_way[me] = journal
        try:
            if isinstance(first.asked, InputError):  # it stands alone
                outcomes = (Outcome(completions=(), error=first.asked),)
            elif first.state.has_answers:  # and so does this
                outcomes = await self._paid_before(first, journal)
            if outcomes is None:
                outcomes = await self._work.answer([task.asked for task in tasks], journal, pool)
        except MistillError as error:
            if isinstance(error, LedgerError) or not classify(error).fatal:
                raise
            self.stop(error)
            return
        finally:
            del self._under_way[me]
        await self._end(tasks, outcomes, journal)

    async def _paid_before(self, task: Task, journal: RowJournal) -> Sequence[Outcome] | None:
        """The outcome that answers from before a crash already give, if they do."""
        wanted = self._work.num_generations
        paid = await self.ledger.paid_answers(task.state.row)
        completions = self._work.reader.read_fitting([answer.body for answer in paid])
        if len(completions) < wanted:
            return None
        for answer in paid:
            journal.answered_before(answer.attempt, answer.body)
        costs = [one.cost for one in paid if one.cost is not None]
        outcome = Outcome(
            completions=tuple(completions[:wanted]),
            usage=Tokens(sum(one.input_tokens for one in paid), sum(one.output_tokens for one in paid)),
            cost=sum(costs) if costs else None,
        )
        return (outcome,)

    async def _end(self, tasks: list[Task], outcomes: Sequence[Outcome], journal: RowJournal) -> None:
        ends = [
            (task, outcome, self._write(task, outcome, journal.answers_of(outcome.completions)))
            for task, outcome in zip(tasks, outcomes, strict=True)
        ]
        for task, outcome, written in ends:
            if self._tell is None:
                # The next attempt waits for the disk anyway, so this worker need not do it twice a row.
                written.add_done_callback(partial(self._count, outcome))
                continue
            await written
            self._progress.add(outcome)
            completions = self._work.told(outcome)
            await self._tell(RowOutcome(task.row.index, task.row.record, completions, outcome.error))

    def _write(self, task: Task, outcome: Outcome, answers: list[Attempt]) -> asyncio.Future[None]:
        row, parameters = task.state.row, task.state.parameters
        usage = Usage(outcome.usage.input_tokens, outcome.usage.output_tokens, outcome.cost)
        if outcome.error is not None:
            return self.ledger.fail(
                row, outcome.error, finish_reason=outcome.finish_reason, usage=usage, parameters=parameters
            )
        first = outcome.completions[0]
        reason = None if first is None else first.finish_reason
        return self.ledger.complete(row, answers, finish_reason=reason, usage=usage, parameters=parameters)

    def _count(self, outcome: Outcome, written: asyncio.Future[None]) -> None:
        if written.exception() is None:  # else the next attempt raises it
            self._progress.add(outcome)
