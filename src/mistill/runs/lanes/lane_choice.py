"""The cheapest lane: each row goes live, with the cache of prompts, or into a job, by what it costs there.

What it costs hangs on what is cached and on how long answers are, which nobody knows before some rows have been asked.
So the first rows of a run go live, as many as it takes to tell. They are part of the run: nothing is paid twice, and a
start that goes on has from the ledger what earlier ones have seen. From then on each row is decided by itself, by all
that was answered until then, live and in jobs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from mistill.api.prices import Price
from mistill.api.usage import Usage
from mistill.delivery.diagnostics import time_left_s
from mistill.delivery.dispatcher import Request
from mistill.estimates.beginnings import Beginning, Beginnings
from mistill.estimates.lane_prices import LanePrices, RowSize, usage_of
from mistill.estimates.lane_quotes import AnsweredRow, quote_lines, quotes_from
from mistill.estimates.lane_use import lane_use
from mistill.kinds.kind import Kind, PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import RowUsage
from mistill.llms.types import Outcome
from mistill.progress.formatting import count
from mistill.progress.progress import Progress
from mistill.runs.lanes.changes import Changes
from mistill.runs.lanes.rows_ahead import RowsAhead

_log = logging.getLogger("mistill")

_FIRST_ROWS = 5
"""Of the sample: the first of them finds nothing cached, and the others are enough where the lanes are far apart."""
_GROWTH = 0.5
"""By how much the sample grows where it has not told which lane is cheaper."""
_MOST_ROWS = 1000
"""Where so many have not, they cost about the same."""
_MOST_LOSS = 0.012
"""Of what all rows cost in jobs, for asking some of them live to find out."""
_USUAL_ROWS = 2000
"""Of a run of which nobody knows how many it has."""
_LIVE_SHARE = 0.8
"""Of the time until a deadline, for rows that are cheaper live: the rest is for what jobs leave over."""
_QUOTED_ROWS = 1000


class LaneChoice:
    """By which lane rows go.

    Args:
        price: of the model that answers, at the standard tier. ``batch_factor``: what it is multiplied with in jobs.
        known: what rows took in earlier starts.
        progress: of the start. ``rows``: of its input, where that is known; ``answered``: that need nothing more.
        size: requests under way at once.
        has_jobs: there are some already, so that there is a wait anyway.
        time_left_s: until the deadline.

    Attributes:
        never_live: nothing is cached for these rows, so that jobs are cheaper in any case.
    """

    def __init__(
        self,
        kind: Kind[Any],
        options: RunOptions,
        price: Callable[[], Price],
        batch_factor: float,
        *,
        known: Sequence[RowUsage],
        progress: Progress,
        rows: int | None,
        answered: int,
        size: int,
        has_jobs: bool,
        time_left_s: Callable[[], float],
    ) -> None:
        self.never_live = batch_factor < 1 and kind.cached_layout is None
        self._kind = kind
        self._price = price
        self._factor = batch_factor
        self._prices = LanePrices(price, batch_factor)
        self._progress = progress
        progress.told_lanes = self._told
        self._total = rows
        self._answered_before = answered
        self._at_once = size
        self._time_left_s = time_left_s
        self._cache_key_of = kind.cache_keys()
        self._beginnings = Beginnings()
        self._sizes: dict[int, RowSize] = {}
        self._answered: list[AnsweredRow] = []
        self._ahead: RowsAhead | None = None
        self._tail = 0 if has_jobs else options.batch_tail
        self._is_small: bool | None = None
        self._ended = Changes()
        for one in known:
            self._prices.add_known(one)
            self._keep(usage_of(one), one.cost, in_job=one.in_job, is_first=one.is_first)
        self._asked = self._come_back = self._prices.live.rows
        self._wanted = max(_FIRST_ROWS, self._asked)
        self._has_said = self._is_certain = False
        self._spent = 0.0
        self._in_jobs = self._live = self._planned = self._timed = self._met = 0
        self._latency_s = 0.0
        self._most_live = math.inf
        self._is_all_live = False

    # --- rows -------------------------------------------------------------------------------------------------------

    def ahead(self, rows: AsyncIterator[list[PendingRow]]) -> RowsAhead:
        """The rows of the start, which are looked at before it is their turn."""
        self._ahead = RowsAhead(rows)
        return self._ahead

    async def goes_live(self, rows: Sequence[PendingRow], requests: Sequence[Request]) -> bool:
        """Whether rows that are asked together go live; else they belong into a job.

        Returns once that is known: where they are to tell it themselves, or the rows before them have.
        """
        self._met += len(rows)
        beginning = self._beginning_of(rows[0], requests)
        size = self._size_of(rows[0], beginning)
        is_live = await self._is_cheaper_live(rows, size) or self._is_worth_warming(size, beginning)
        if is_live:
            if beginning is not None:
                self._beginnings.warm(beginning)
            self._asked += len(rows)
            self._live += len(rows)
            self._planned += len(rows)
            self._sizes[rows[0].state.row] = size
        else:
            self._in_jobs += len(rows)
        return is_live

    async def _is_cheaper_live(self, rows: Sequence[PendingRow], size: RowSize) -> bool:
        self._is_certain = False
        while not self.never_live and not self._has_said:
            if self._asked < self._wanted:
                self._progress.lane_sample += 1
                return True
            await self._until_they_are_back()
            if self._prices.live.rows:
                self._say()
        if self._is_small is None and self._ahead is not None:
            left = self._tail - len(rows)
            self._is_small = left >= 0 and await self._ahead.are_no_more_than(left)
        if self._is_small:
            return True
        if self.never_live or self._planned >= self._most_live:
            return False
        return await self._is_worth_it(size)

    async def _is_worth_it(self, size: RowSize) -> bool:
        """By price; as long as that is uncertain, live, if it does not cost much to learn from it."""
        prices = self._prices
        self._is_certain = prices.is_certain_for(size)
        if self._is_certain:
            if size.is_first and not self._live and prices.live.warm:
                # Of a start that goes on: what this one row finds of the cache is what it warms for all others.
                size = msgspec.structs.replace(size, shared_tokens=None, is_first=False)
            return prices.of(size).is_live_cheaper
        if (
            self._wanted <= self._asked < _MOST_ROWS
        ):  # else many would be under way before anything is learned
            await self._until_they_are_back()
        found = prices.of(size)
        loss = found.live - found.in_job
        if loss <= 0 or prices.is_certain_for(size):
            return loss <= 0
        if self._spent + loss > _MOST_LOSS * self._rows() * prices.mean_in_job:
            return False
        self._spent += loss
        self._progress.lane_sample += 1
        return True

    async def _until_they_are_back(self) -> None:
        """All that were asked live are answered; then some more may be asked before it is waited for them."""
        asked = self._asked
        await self._ended.until(lambda: self._come_back >= asked)
        self._wanted = asked + max(1, math.ceil(asked * _GROWTH))

    def _rows(self) -> int:
        """Of the start, or a guess."""
        total = self._total
        return _USUAL_ROWS if total is None else max(1, total - self._answered_before)

    @property
    def has_others(self) -> bool:
        """Some rows go into jobs, and the last one that was asked about is not to tell which ones."""
        return self._is_certain and (self._in_jobs > 0 or self._most_live < math.inf)

    def take_back(self, rows: Sequence[PendingRow]) -> None:
        """Rows that were to go live are not asked now."""
        if self._sizes.pop(rows[0].state.row, None) is not None:
            self._asked -= len(rows)
            self._live -= len(rows)

    def note_end_of_rows(self) -> None:
        """What is asked from now on was met before, and was to go live then."""
        self._most_live = math.inf

    def goes_all_live(self) -> None:
        """There are no jobs."""
        self._is_all_live = True

    def _beginning_of(self, pending: PendingRow, requests: Sequence[Request]) -> Beginning | None:
        if self.never_live or not requests:
            return None
        key = None if self._cache_key_of is None else self._cache_key_of(pending.prepared)
        return self._beginnings.see(b"" if key is None else key.field or b"", requests[0].body)

    def _size_of(self, pending: PendingRow, beginning: Beginning | None) -> RowSize:
        size = self._kind.size_of(pending.prepared)
        if beginning is None:
            return RowSize(size.input_tokens, size.most_output_tokens)
        shared = min(beginning.warm_tokens, size.input_tokens)
        return RowSize(size.input_tokens, size.most_output_tokens, shared, beginning.is_first)

    def _is_worth_warming(self, size: RowSize, beginning: Beginning | None) -> bool:
        """Whether what a row costs more live, since nobody has asked its like there, those to come will save.

        They will be as frequent as those that were.
        """
        if beginning is None or not self._prices.live.warm or self._planned >= self._most_live:
            return False
        known = min(beginning.known_tokens, round(size.input_tokens))
        if known <= (size.shared_tokens or 0):
            return False
        now = self._prices.of(size)
        then = self._prices.of(msgspec.structs.replace(size, shared_tokens=known, is_first=False))
        to_come = beginning.rows * max(0.0, self._rows() / self._met - 1)
        return to_come * (then.in_job - then.live) > now.live - now.in_job

    # --- what rows took ---------------------------------------------------------------------------------------------

    def note_live(self, rows: Sequence[PendingRow], outcomes: Sequence[Outcome]) -> None:
        """Rows that went live have their outcomes."""
        if rows[0].state.row in self._sizes:
            self._come_back += len(rows)
        for pending, outcome in zip(rows, outcomes, strict=True):
            size = self._sizes.pop(pending.state.row, None)
            if outcome.usage.input_tokens:
                self._see(size or self._known_size(pending), outcome.usage, outcome.cost, in_job=False)
            if outcome.completions and (first := outcome.completions[0]) is not None:
                self._timed += 1
                self._latency_s += first.latency_s
        self._ended.note()

    def note_in_jobs(self, rows: Sequence[PendingRow], outcomes: Sequence[Outcome]) -> None:
        """Rows have their outcomes by what the ledger had, from jobs as a rule."""
        for pending, outcome in zip(rows, outcomes, strict=True):
            if outcome.usage.input_tokens and any(one.attempt.job is not None for one in pending.known):
                self._see(self._known_size(pending), outcome.usage, outcome.cost, in_job=True)

    def _known_size(self, pending: PendingRow) -> RowSize:
        size = self._kind.size_of(pending.prepared)
        return RowSize(size.input_tokens, size.most_output_tokens)

    def _see(self, size: RowSize, usage: Usage, cost: float | None, *, in_job: bool) -> None:
        (self._prices.add_in_job if in_job else self._prices.add_live)(size, usage, cost)
        self._keep(usage, cost, in_job=in_job, is_first=size.is_first)

    def _keep(self, usage: Usage, cost: float | None, *, in_job: bool, is_first: bool) -> None:
        """For a quote."""
        if cost is not None and len(self._answered) < _QUOTED_ROWS:
            self._answered.append(AnsweredRow(usage, cost, in_job, is_first))

    # --- the decision -----------------------------------------------------------------------------------------------

    def _rows_left(self) -> int | None:
        """Rows to go, where that is known; 1 at the least."""
        total = self._total
        return None if total is None else max(1, total - self._answered_before - self._live)

    def _note_deadline(self) -> None:
        """No more rows go live than can in time: jobs may be done with the others by then."""
        rows, time_s = self._rows_left(), self._time_left_s()
        if rows is None or math.isinf(time_s):
            return
        live_s = self._live_s(rows)
        if live_s is not None and live_s > time_s * _LIVE_SHARE:
            self._most_live = self._planned + int(rows * time_s * _LIVE_SHARE / live_s)

    def _say(self) -> None:
        """The lanes side by side, for the rows that are left."""
        self._has_said = True
        self._note_deadline()
        total, live = self._total, self._prices.live
        rows = self._rows_left() or _QUOTED_ROWS
        of = f"each {count(rows, 'row')}" if total is None else f"the {count(rows, 'row')} left"
        measured = (
            f"{count(live.rows, 'row')} answered live, {live.cached_share or 0.0:.0%} of their input cached"
        )
        _log.warning("by %s: what %s cost, by lane", measured, of)
        live_s = self._live_s(rows)
        quotes = quotes_from(self._answered, rows, self._price(), batch_factor=self._factor, live_s=live_s)
        for line in quote_lines(quotes, "cheapest", at_least=False):
            _log.warning("%s", f"  {line}")

    def _live_s(self, rows: int) -> float | None:
        """How long so many rows take live; ``None``: none was answered live in this start."""
        if not self._timed:
            return None
        usages = [one.usage for one in self._answered]
        tokens = sum(usage.input_tokens + usage.output_tokens for usage in usages) / max(1, len(usages))
        return time_left_s(
            self._kind.dispatcher.governor.snapshot(),
            rows=rows,
            requests=rows,
            tokens=rows * tokens,
            seconds_each=self._latency_s / self._timed,
            at_once=self._at_once,
        )

    def _told(self) -> str:
        """How many rows of this start go which way, in words, and why."""
        if not self._has_said and not self.never_live:
            return f"{count(self._live, 'row')} live, to learn which lane is cheaper"
        if self._is_all_live:
            return "all rows live: the server makes no batch jobs"
        if self._is_small:
            return f"{count(self._live, 'row')} live: too few for jobs"
        return str(lane_use(self._live, self._in_jobs, self._prices))
