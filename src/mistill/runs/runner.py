"""The run loop: rows not yet done → what is asked of them → answer → outcome into the ledger."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec

from mistill.api.prices import Price
from mistill.datasets.prefetch import open_windows
from mistill.datasets.sources import Row, Source, name_of
from mistill.delivery.diagnostics import WaitCause
from mistill.delivery.retry import as_failure
from mistill.delivery.tuning import current_tuning
from mistill.errors import InputError, MistillError, Stopped, unforeseen
from mistill.estimates.budget import Budget
from mistill.estimates.row_sample import RowSample, draw_rows, first_rows
from mistill.finish_reasons import CUT_BY, CUT_OFF, GIVE_ROOM, LIMIT_REACHED, more_room
from mistill.jobs.keeper import JobKeeper
from mistill.kinds.kind import Kind, PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import (
    Cause,
    Damage,
    ErrorRecord,
    KnownAttempt,
    Ledger,
    LedgerReader,
    RowUsage,
    Selection,
    named,
)
from mistill.llms.empty_answers import warn_of_empty
from mistill.llms.types import Completion, Outcome
from mistill.progress.formatting import count, seconds
from mistill.progress.progress import Progress
from mistill.runs.first_failures import FirstFailures
from mistill.runs.lanes import Lane
from mistill.runs.lanes.batch import BatchLane, JobUse
from mistill.runs.lanes.lane_choice import LaneChoice
from mistill.runs.lanes.live import LiveLane
from mistill.runs.ledger_rows import LedgerRows
from mistill.runs.model_watch import ModelWatch
from mistill.runs.pending_rows import Matcher, PendingRows
from mistill.runs.record_shape import RecordShape
from mistill.telemetry.providers import Wanted
from mistill.wording import Setting, words

OnOutcome = Callable[[Row, tuple[Completion | None, ...], MistillError | None], Awaitable[None]]


class Runner:
    """One start of a run, on one event loop.

    Args:
        size: requests under way at once.
        shape: of the output's records, which says what columns a row may not have.
        jobs: what is done with batch jobs.
        telemetry: who is told of these, besides.
        matcher: in place of the ledger's own, see `LedgerRows`.
        on_outcome: is given every outcome once it is on disk.

    Attributes:
        progress: how far it is.
        stopped: why it ended early, if it did.
        sample: which rows are asked, where not all are.
        input_rows: after a sample, how many rows the input has.
        unreplaced: why rows that were answered before keep that answer, by kind: the new one failed or was cut off.
        answered: rows that got an answer. ``empty_answers``: those of them with nothing in some generation.
        answered_by: which model answers, as it says; ``None`` before it has.
        broke_off: why the input ended too early, by its own fault or that of who made it, where that ended the start.
        failed_now: rows that have failed in what is for the user this start too, though an earlier process began it.
        first_of_all: see `PendingRows`.
        has_answers_elsewhere: asks, where this ledger has none, whether other ledgers of the run have answers.
    """

    def __init__(
        self,
        kind: Kind[Any],
        source: Source,
        ledger: Ledger,
        options: RunOptions,
        progress: Progress,
        budget: Budget,
        *,
        size: int,
        shape: RecordShape,
        jobs: JobUse,
        telemetry: Wanted | None = None,
        matcher: Matcher | None = None,
        on_outcome: OnOutcome | None = None,
    ) -> None:
        self.stopped: MistillError | None = None
        self.sample: RowSample | None = None
        self.input_rows: int | None = None
        self.unreplaced: dict[str, Cause] = {}
        self.broke_off: Exception | None = None
        self.answered = self.empty_answers = 0
        self.answered_by: str | None = None
        self.failed_now: frozenset[int] = frozenset()
        self.first_of_all: Callable[[], Row | None] = lambda: None
        self.has_answers_elsewhere: Callable[[], bool] = lambda: False
        self.ledger = ledger
        self.budget = budget
        self._kind = kind
        self._source = source
        self._options = options
        self.progress = progress
        self._size = size
        self._shape = shape
        self._jobs = jobs
        self._telemetry = telemetry
        self._matcher = matcher
        self._on_outcome = on_outcome
        self._rows: PendingRows | None = None
        self._lane: Lane | None = None
        self._timers: list[asyncio.TimerHandle] = []
        self._deadline: asyncio.TimerHandle | None = None
        self._is_paused = False
        self._first_failures = FirstFailures()
        self._is_answered_elsewhere = False
        self._watch: ModelWatch | None = None

    async def run(self) -> None:
        """Works through the input, as far as it can be read.

        Raises:
            InputError: the first row cannot be rendered; nothing was sent.
            LedgerError: the ledger cannot be written; what was committed is in it.
        """
        options = self._options
        matcher = self._matcher or await self.ledger.match_input(dedupe=options.dedupe)
        self.sample = await self._choose_rows()
        windows = open_windows(self._source)
        self._rows = rows = PendingRows(
            windows,
            self._kind,
            matcher,
            self.progress,
            options,
            shape=self._shape,
            known_attempts=self._known_attempts,
            sample=self.sample,
            failed_now=self.failed_now,
            first_of_all=self.first_of_all,
        )
        self._lane = await self._lane_for(rows)
        self._lane.resize(self._size)
        if self._is_paused:
            self._lane.pause()
        self.watch_deadline()
        try:
            if self.stopped is None:
                await self._lane.run()
            if rows.read_to_end:
                await matcher.finish()
                if not rows.rows_read and self._matcher is None:
                    self._source.say_empty()
            await self.ledger.flush()
            if options.sample is not None and self.stopped is None:
                self.input_rows = self._source.total or await rows.count_rest()
        finally:
            rows.close()
            for timer in self._timers:
                timer.cancel()
        if rows.error is not None:
            self._break_off(rows.error, rows.rows_read)

    async def _lane_for(self, rows: PendingRows) -> Lane:
        """What answers the rows: live, or by batch jobs."""
        kind, ledger, options = self._kind, self.ledger, self._options
        use = self._jobs
        has_jobs = use.plans or any(not job.is_over for job in await ledger.jobs())
        if use.asks and (options.sample is not None or not has_jobs):  # a sample waits for no job
            return LiveLane(self, kind, rows, self._end_rows, size=self._size)
        pins = options.pin and bool(ledger.models)
        choice = await self._choice_of_lanes() if use.plans and options.goes_by_price else None
        return BatchLane(
            self,
            kind,
            rows,
            self._end_rows,
            keeper=JobKeeper(
                ledger,
                kind.dispatcher,
                kind.split,
                self.budget,
                note_model=self.note_model,
                keeps_files=options.keep_batch_files,
                telemetry=self._telemetry,
                waits=options.wait,
            ),
            rows_of=self._rows_of,
            options=options,
            size=self._size,
            use=use,
            has_proof=not pins and self._matcher is None and await ledger.has_completions(),
            choice=choice,
            # A pinned model may have moved since: that shows in one row, before others are paid for.
            tuning=msgspec.structs.replace(current_tuning(), canary_requests=1) if pins else None,
        )

    async def _choice_of_lanes(self) -> LaneChoice:
        """What decides which rows go live, and which into jobs, by what the ledger has seen of either."""
        kind, ledger = self._kind, self.ledger
        await ledger.flush()

        def read() -> tuple[list[RowUsage], int, bool]:
            with LedgerReader(ledger.path) as reader:
                has_jobs = any(not job.is_over for job in reader.jobs())
                counts = reader.counts()
                done = counts.completions + (0 if self._options.retry_failed else counts.failures)
                return reader.row_usages(ledger.settings), done, has_jobs

        before = [*ledger.models]  # the one that answered last is at the end

        def price() -> Price:
            model = self.answered_by or (before[-1] if before else None)
            found = kind.server.tariff.price_of(model, None) or kind.server.price
            assert found is not None, "else it is refused"
            return found

        known, answered, has_jobs = await asyncio.to_thread(read)
        rows = self.progress.total
        if rows is None:
            rows = await asyncio.to_thread(self._source.count, lambda: self.stopped is None)
        return LaneChoice(
            kind,
            self._options,
            price,
            self._jobs.price_factor,
            known=known,
            progress=self.progress,
            rows=rows,
            answered=answered if self._matcher is None else 0,
            size=self._size,
            has_jobs=has_jobs,
            time_left_s=self.budget.time_left_s,
        )

    def _rows_of(self, selection: Selection, first: int) -> PendingRows:
        """Rows that the ledger has, made ready as those of the input are."""
        ledger = self.ledger
        rows = LedgerRows(ledger.path, selection, first)
        rows.follow(ledger)
        windows = open_windows(Source([rows], None))
        return PendingRows(
            windows,
            self._kind,
            rows,
            Progress(),
            self._options,
            shape=self._shape,
            known_attempts=self._known_attempts,
        )

    def _break_off(self, error: Exception, rows_before: int) -> None:
        self.input_rows = None
        if self.stopped is not None:
            return
        if isinstance(error, InputError) and error.index is None and rows_before:
            error.message = words(error.message, f", after {count(rows_before, 'row')}")
        self.broke_off = error
        self.stopped = error if isinstance(error, MistillError) else unforeseen(error)

    def can_mend(self, damages: Sequence[Damage]) -> bool:
        """Whether all that is damaged stands in the input, which can be read again."""
        is_at_hand = self._matcher is None and self._source.repeatable
        return is_at_hand and bool(damages) and all(damage.part == "record" for damage in damages)

    async def read_again(self) -> None:
        """Reads the input once more and asks nothing: records that were set aside are written anew."""
        matcher = await self.ledger.match_input(dedupe=self._options.dedupe)
        rows = PendingRows(
            open_windows(self._source),
            self._kind,
            matcher,
            Progress(),
            self._options,
            shape=self._shape,
            known_attempts=self.ledger.known_attempts,
        )
        async for _ in rows:
            pass
        if rows.read_to_end:
            await matcher.finish()
        await self.ledger.flush()

    async def _choose_rows(self) -> RowSample | None:
        size = self._options.sample
        if size is None:
            return None
        rows = await asyncio.to_thread(self._source.count, lambda: self.stopped is None)
        return first_rows(size) if rows is None else draw_rows(size, rows, self._options.sample_seed)

    def stop(self, reason: MistillError) -> None:
        """Sends nothing more; what is in flight is waited for, at most `RunOptions.grace`. On the run's own loop."""
        if self.stopped is not None:
            return
        self.stopped = reason
        if self._is_paused:
            self._is_paused = False
            self.progress.resume(self._seconds())
            self.budget.resume()
        self.progress.cut_off_at_s = time.monotonic() + self._options.grace
        if self._rows is None or self._lane is None:
            return
        self._rows.close()
        self._lane.stop()
        self._call_later(self._options.grace, self.abandon)

    # --- what may be changed on the way, on the run's own loop --------------------------------------------------------

    def pause(self) -> None:
        """Sends nothing more until `resume`, and makes no job; what is in flight comes home."""
        self._is_paused = True
        self.progress.pause(self._seconds())
        self.budget.pause()
        if self._lane is not None:
            self._lane.pause()

    def resume(self) -> None:
        """Goes on."""
        self._is_paused = False
        self.progress.resume(self._seconds())
        self.budget.resume()
        if self._lane is not None:
            self._lane.resume()

    def _seconds(self) -> Mapping[WaitCause, float]:
        """Of the governor, by cause."""
        return self._kind.dispatcher.governor.snapshot().seconds

    @property
    def size(self) -> int:
        """So many requests are under way at once by now."""
        return self._size

    def resize(self, size: int) -> None:
        """From now on, so many requests are under way at once."""
        self._size = size
        if self._lane is not None:
            self._lane.resize(size)

    def watch_deadline(self) -> None:
        """Stops at the deadline of the budget, as it is by now."""
        if self._deadline is not None:
            self._deadline.cancel()
        self._deadline = self._call_later(self.budget.time_left_s(), self._pass_deadline)

    async def limit(self, max_cost: float | None, max_tokens_total: int | None) -> None:
        """Other limits of the budget, by what the whole run has spent so far; one that is reached stops the start.

        Where nothing was limited before, that is read from the ledger, and nothing is sent meanwhile.

        Raises:
            InputError: no budget can have them; nothing was changed.
            LedgerError: the ledger cannot be read; nothing was changed.
        """
        budget = self.budget
        before = budget.max_cost, budget.max_tokens_total
        budget.set_limits(max_cost, max_tokens_total)
        if budget.is_limited and not budget.is_complete:
            if self._lane is not None:
                self._lane.hold_open()
                self._lane.pause()
            try:
                budget.take_up(await self.ledger.spending())
            except BaseException:
                budget.set_limits(*before)
                raise
            finally:
                if self._lane is not None and not self._is_paused:
                    self._lane.resume()
        model = self.answered_by or next(
            reversed(self.ledger.models), None
        )  # of earlier starts, the last one
        if model is not None and self._kind.server.tariff.price_of(model, None) is None:
            budget.note_unpriced(model)
        if (reached := budget.reached()) is not None:
            self.stop(reached)

    def abandon(self) -> None:
        """Waits for nothing: requests in flight are cut off, and marked as maybe billed."""
        if self._lane is not None:
            self._lane.abandon()

    def note_model(self, model: str | None) -> MistillError | None:
        """A model has answered. Gives why its answer is none for this start, which is stopped then."""
        watch = self._models()
        refused = watch.see(named(model))
        self.answered_by = watch.answers
        self._keep_pinned(watch)
        # A look leaves such answers in the ledger, as none of their rows.
        if refused is not None and self._jobs.asks:
            self.stop(refused)
        return refused

    def _models(self) -> ModelWatch:
        if self._watch is None:  # by now the ledger knows by which settings this start asks
            ledger, pins = self.ledger, self._options.pin
            self._watch = ModelWatch(self._kind.server, ledger.models, pins=pins, pinned=ledger.pinned)
            self._keep_pinned(self._watch)
        return self._watch

    def _keep_pinned(self, watch: ModelWatch) -> None:
        """The next pinned start takes no other model's answers, however many this one has refused."""
        pinned = watch.answers if self._options.pin else None
        if self._jobs.asks and pinned != self.ledger.pinned:
            self.ledger.pin(pinned)

    async def _known_attempts(self, rows: Sequence[int]) -> Mapping[int, Sequence[KnownAttempt]]:
        """What is known of rows, but for answers of another model than the pinned one."""
        known = await self.ledger.known_attempts(rows)
        if not self._options.pin:
            return known
        model_of, is_of_another = self._kind.model_of, self._models().is_of_another
        return {
            row: [one for one in each if one.answer is None or not is_of_another(model_of(one.answer.body))]
            for row, each in known.items()
        }

    def _call_later(self, in_s: float, function: Callable[[], None]) -> asyncio.TimerHandle | None:
        if in_s == math.inf:
            return None
        timer = asyncio.get_running_loop().call_later(in_s, function)
        self._timers.append(timer)
        return timer

    def _pass_deadline(self) -> None:
        self.stop(Stopped.at_deadline(seconds(self.budget.deadline or 0.0)))

    # --- rows that ended --------------------------------------------------------------------------------------------

    async def _end_rows(self, rows: Sequence[PendingRow], outcomes: Sequence[Outcome]) -> None:
        assert len(rows) == len(outcomes), "each row has an outcome"
        written = list(
            map(self._write, rows, outcomes)
        )  # a comprehension is a call of its own until Python 3.12
        if not self.progress.completions and self.stopped is None and self._jobs.asks:
            await self._stop_if_all_fail(outcomes)
        if self._on_outcome is None:
            # The next attempt waits for the disk anyway, so this worker need not do it twice a row.
            for outcome, on_disk in zip(outcomes, written, strict=True):
                on_disk.add_done_callback(partial(self._count, outcome))
            return
        for pending, outcome, on_disk in zip(rows, outcomes, written, strict=True):
            await on_disk
            self.progress.add(outcome)
            completions, error = outcome.completions, outcome.error
            try:
                completions = self._kind.with_values(outcome)
            except Exception as caught:  # the answer is in the ledger, whatever is wrong with its value
                error = as_failure(caught)
            await self._on_outcome(pending.row, completions, error)

    async def _stop_if_all_fail(self, outcomes: Sequence[Outcome]) -> None:
        for error in (outcome.error for outcome in outcomes):
            if error is None:
                return
            if self._first_failures.add(error) and not await self._was_ever_answered():
                self.stop(self._first_failures.told(error))
                return

    async def _was_ever_answered(self) -> bool:
        if await self.ledger.has_completions():
            return True
        if not self._is_answered_elsewhere:
            self._is_answered_elsewhere = await asyncio.to_thread(self.has_answers_elsewhere)
        return self._is_answered_elsewhere

    def _write(self, pending: PendingRow, outcome: Outcome) -> asyncio.Future[None]:
        state, error = pending.state, outcome.error
        if error is not None:
            if state.is_answered:
                self._note_unreplaced(pending, ErrorRecord.of(error))
            return self.ledger.fail(
                state.row,
                error,
                finish_reason=outcome.finish_reason,
                tokens=outcome.usage,
                cost=outcome.cost,
            )
        first = outcome.completions[0]
        # `Completion.is_empty`, without a call for every row.
        is_empty = first is not None and not first.text and not first.tool_calls
        if len(outcome.completions) > 1:
            is_empty = any(one is not None and one.is_empty for one in outcome.completions)
            first = _cut_off(outcome.completions) or first
        if state.whole_tokens is not None and first is not None and first.finish_reason in CUT_OFF:
            self._note_unreplaced(pending, _not_whole(first, state.whole_tokens))
        self.answered += 1
        if is_empty and self._kind.has_texts:
            self._note_empty(outcome)
        return self.ledger.complete(
            state.row,
            _attempts_of(outcome.completions),
            finish_reason=None if first is None else first.finish_reason,
            tokens=outcome.usage,
            cost=outcome.cost,
        )

    def _note_empty(self, outcome: Outcome) -> None:
        """The first one is told at once, while there is time to stop; how many there are, the report says."""
        self.empty_answers += 1
        if self.empty_answers == 1:
            empty = (one for one in outcome.completions if one is not None and one.is_empty)
            warn_of_empty(self._kind.server.model, {next(empty).finish_reason: 1})

    def _note_unreplaced(self, pending: PendingRow, error: ErrorRecord) -> None:
        first = self.unreplaced.get(error.kind)
        if first is None:
            column = self._options.id_column
            row_id = None if column is None else name_of(pending.row.raw, column)
            first = Cause(error.kind, 0, pending.state.position, error, row_id)
        self.unreplaced[error.kind] = msgspec.structs.replace(
            first, count=first.count + 1, alike=first.alike + (error.hint == first.error.hint)
        )

    def _count(self, outcome: Outcome, written: asyncio.Future[None]) -> None:
        if written.exception() is None:  # else the next attempt raises it
            self.progress.add(outcome)


def _cut_off(completions: Sequence[Completion | None]) -> Completion | None:
    """The first that was cut off, if one was: its row is to be asked again, so it says how the row ended."""
    return next((one for one in completions if one is not None and one.finish_reason in CUT_OFF), None)


def _not_whole(answer: Completion, whole_tokens: int) -> ErrorRecord:
    """Why an answer that was cut off does not replace a whole one, of so many tokens."""
    reason, tokens = answer.finish_reason or "", answer.usage.output_tokens
    hint = GIVE_ROOM[reason]
    if reason == LIMIT_REACHED:
        hint = words("to replace it: ", Setting("max_new_tokens", more_room(max(tokens, whole_tokens // 2))))
    cut = f"the new answer was cut off by {CUT_BY[reason]}, at {count(tokens, 'token')}, and the earlier one was not"
    return ErrorRecord.made("cut_off", cut, hint)


def _attempts_of(completions: Sequence[Completion | None]) -> list[int]:
    """The attempts whose answers the completions are, in order, each once: several may be of one answer."""
    found: dict[int, None] = {}
    for completion in completions:
        if completion is not None:
            assert completion.attempt_id is not None, "every answer of a run is in its ledger"
            found[completion.attempt_id] = None
    return list(found)
