"""The cheapest lane: each row goes live, with the cache of prompts, or into a job, by what it costs there.

What it costs hangs on what is cached and on how long answers are, which nobody knows before some rows have been asked.
So the first rows of a run go live, as many as it takes to tell. They are part of the run: nothing is paid twice, and a
start that goes on has from the ledger what earlier ones have seen. From then on each row is decided by itself, by all
that was answered until then, live and in jobs.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec

from mistill.api.prices import Price
from mistill.api.token_estimate import BYTES_PER_TOKEN
from mistill.api.usage import Usage
from mistill.errors import InputError
from mistill.estimates.lane_prices import LanePrices, RowSize, usage_of
from mistill.kinds.kind import Kind, PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import RowSet, RowUsage
from mistill.llms.types import Outcome
from mistill.progress.progress import Progress
from mistill.prompts.beginnings import Beginnings, Met
from mistill.runs.lanes.lane_account import LaneAccount
from mistill.runs.lanes.live_sample import LiveSample
from mistill.runs.lanes.rows_ahead import RowsAhead

_USUAL_ROWS = 2000
"""Of a run of which nobody knows how many it has."""
_ROW_BYTES = 1500
"""About what a row takes in memory beside its text."""
_LIVE_SHARE = 0.8
"""Of the time until a deadline, for rows that are cheaper live: the rest is for what jobs leave over."""


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
        self._prices = LanePrices(price, batch_factor)
        self._account = LaneAccount(kind, price, batch_factor, size)
        for one in known:
            self._prices.add_known(one, may_have_limit=kind.rows_have_limits)
            self._account.keep(usage_of(one), one.cost, in_job=one.in_job, is_first=one.is_first)
        self._sample = LiveSample(self._prices.live.rows)
        self._progress = progress
        progress.told_lanes = self._told
        self._rows = None if rows is None else max(1, rows - answered)
        self._time_left_s = time_left_s
        self._cache_key_of = kind.cache_keys()
        self._beginnings = Beginnings()
        self._met_rows, self._put_off = RowSet(), RowSet()
        self._last: tuple[int, Met | None] | None = None
        self._sizes: dict[int, RowSize] = {}  # of rows that are under way live
        self._ahead: RowsAhead | None = None
        self._tail = 0 if has_jobs else options.batch_tail
        self._is_small: bool | None = None
        self._is_certain = False
        self._planned = 0
        self._most_live = math.inf
        self._noted_at, self._has_met_all = 1, False
        self._why_all_live: str | None = None

    # --- rows -------------------------------------------------------------------------------------------------------

    def ahead(self, rows: AsyncIterator[list[PendingRow]]) -> RowsAhead:
        """The rows of the start, which are looked at before it is their turn."""
        self._ahead = RowsAhead(rows, self._look, self._note_turn, self._bytes_of)
        return self._ahead

    def _look(self, pending: PendingRow) -> Met | None:
        """How a row's prompt begins; it counts once."""
        if self.never_live or isinstance(pending.prepared, InputError):
            return None
        key = None if self._cache_key_of is None else self._cache_key_of(pending.prepared)
        met = self._kind.met(pending.prepared, key)
        row = pending.state.row
        if row not in self._met_rows:
            self._met_rows.update((row,))
            self._beginnings.meet(met)
        return met

    def _bytes_of(self, pending: PendingRow) -> int:
        prepared = pending.prepared
        tokens = 0 if isinstance(prepared, InputError) else self._kind.size_of(prepared).input_tokens
        return _ROW_BYTES + len(pending.row.raw) + tokens * BYTES_PER_TOKEN

    def _note_turn(self, pending: PendingRow, met: Met | None) -> None:
        if met is not None:
            self._beginnings.take(met)
            self._last = pending.state.row, met

    async def goes_live(self, rows: Sequence[PendingRow]) -> bool:
        """Whether rows that are asked together go live; else they belong into a job.

        Returns once that is known: where they are to tell it themselves, or the rows before them have.
        """
        row = rows[0].state.row
        met = self._met_of(rows[0])
        if self._ahead is not None and not self.never_live:
            await self._ahead.look_ahead()
        size = self._size_of(rows[0], met)
        is_live = await self._is_cheaper_live(rows, size) or self._is_worth_warming(size, met)
        if met is not None and is_live != (row in self._put_off):
            (self._beginnings.warm if is_live else self._beginnings.cool)(met)
        self._put_off.difference_update((row,))
        if not is_live:
            self._account.in_jobs += len(rows)
            return False
        self._sample.ask(len(rows))
        self._account.live += len(rows)
        self._planned += len(rows)
        self._sizes[row] = size
        return True

    def _met_of(self, pending: PendingRow) -> Met | None:
        row = pending.state.row
        if self._last is None or self._last[0] != row:
            is_new = row not in self._met_rows
            met = self._look(pending)
            if is_new and met is not None:
                self._beginnings.take(met)
            self._last = row, met
        return self._last[1]

    async def _is_cheaper_live(self, rows: Sequence[PendingRow], size: RowSize) -> bool:
        self._is_certain = False
        while not self.never_live and not self._account.has_quoted:
            if self._sample.is_short:
                self._ask_to_learn()
                return True
            await self._sample.until_settled()
            if self._prices.live.rows:
                self._note_deadline()
                is_small = await self._are_few(rows)
                self._account.quote(self._prices, self._rows_left(), few=is_small)
        if await self._are_few(rows):
            return True
        if self.never_live or self._planned >= self._most_live:
            return False
        return await self._tells_of_its_like(size) or await self._is_worth_it(size)

    async def _are_few(self, rows: Sequence[PendingRow]) -> bool:
        """With these, no more are to come than go live whatever they cost."""
        if self._is_small is None and self._ahead is not None:
            left = self._tail - len(rows)
            self._is_small = await self._ahead.are_no_more_than(left) if left >= 0 else False
        return bool(self._is_small)

    def _ask_to_learn(self) -> None:
        """A row is asked live to learn from it; where it warms its beginning, one that begins so is asked next."""
        self._progress.lane_sample += 1
        if self._last is None or (met := self._last[1]) is None or self._beginnings.is_warm(met):
            return
        if self._ahead is not None:
            first = met.blocks[:1]
            self._ahead.bring_forward(lambda other: other.key == met.key and other.blocks[:1] == first)

    async def _tells_of_its_like(self, size: RowSize) -> bool:
        """Whether nobody knows how such a row is answered, so that it is asked live to tell."""
        while not self._prices.is_like_others(size):
            if await self._sample.has_room_for_unlike():
                self._progress.lane_sample += 1
                return True
        return False

    async def _is_worth_it(self, size: RowSize) -> bool:
        """By price; as long as that is uncertain, live, if it does not cost much to learn from it."""
        prices = self._prices
        self._is_certain = prices.is_certain_for(size)
        if self._is_certain:
            if size.is_first and not self._account.live and prices.live.followers:
                # Of a start that goes on: what this one row finds of the cache is what it warms for all others.
                size = msgspec.structs.replace(size, shared_tokens=None, is_first=False)
            return prices.of(size).is_live_cheaper
        if self._sample.grows:  # else many would be under way before anything is learned
            await self._sample.until_settled()
        found = prices.of(size)
        loss = found.live - found.in_job
        if loss <= 0 or prices.is_certain_for(size):
            return loss <= 0
        if not self._sample.may_lose(loss, self._all_in_jobs):
            return False
        self._progress.lane_sample += 1
        return True

    def _is_worth_warming(self, size: RowSize, met: Met | None) -> bool:
        """Whether what a row costs more live, since nobody has asked its like there, those to come will save."""
        if met is None or self._planned >= self._most_live:
            return False
        beginnings, prices = self._beginnings, self._prices
        beginning = beginnings.of(met)
        more = (beginning.known_tokens or beginnings.likely_tokens(met)) - beginning.warm_tokens
        if more <= 0:
            return False
        shared = min((size.shared_tokens or 0) + more, round(size.input_tokens))
        to_come = beginning.to_come + beginnings.expected(beginning.others, self._rows_unmet())
        now = prices.of(size)
        then = prices.of(msgspec.structs.replace(size, shared_tokens=shared, is_first=False))
        loss = now.live - now.in_job
        if to_come * (then.in_job - then.live) <= loss:
            return False
        return bool(prices.live.followers) or self._sample.may_lose(loss, self._all_in_jobs)

    @property
    def _all_in_jobs(self) -> float:
        """US dollars of all rows in jobs, about."""
        return (self._rows or _USUAL_ROWS) * self._prices.mean_in_job

    def _rows_unmet(self) -> int:
        """About so many rows were not looked at yet."""
        return max(0, (self._rows or _USUAL_ROWS) - self._beginnings.met)

    @property
    def has_others(self) -> bool:
        """Some rows go into jobs, and the last one that was asked about is not to tell which ones."""
        return self._is_certain and (self._account.in_jobs > 0 or self._most_live < math.inf)

    def take_back(self, rows: Sequence[PendingRow]) -> None:
        """Rows that were to go live are not asked now, but later."""
        row = rows[0].state.row
        if self._sizes.pop(row, None) is None:
            return
        self._sample.take_back(len(rows))
        self._account.live -= len(rows)
        self._put_off.update((row,))

    def note_end_of_rows(self) -> None:
        """What is asked from now on was met before, and was to go live then."""
        self._has_met_all, self._most_live = True, math.inf

    def goes_all_live(self, why: str) -> None:
        """Whatever it costs: there are no jobs, or no time for them."""
        self._why_all_live = why

    def _size_of(self, pending: PendingRow, met: Met | None) -> RowSize:
        size = self._kind.size_of(pending.prepared)
        if met is None:
            return RowSize(size.input_tokens, size.most_output_tokens)
        beginning = self._beginnings.of(met, is_warm=pending.state.row in self._put_off)
        again = met.tokens_again(size.requests)
        shared = min(beginning.warm_tokens + again, size.input_tokens)
        return RowSize(
            size.input_tokens, size.most_output_tokens, shared, is_first=beginning.is_first and not again
        )

    # --- what rows took ---------------------------------------------------------------------------------------------

    def note_live(self, rows: Sequence[PendingRow], outcomes: Sequence[Outcome]) -> None:
        """Rows that went live have their outcomes."""
        for pending, outcome in zip(rows, outcomes, strict=True):
            size = self._sizes.get(pending.state.row)
            if outcome.usage.input_tokens and not _was_in_job(pending):
                self._see(size or self._known_size(pending), outcome.usage, outcome.cost, in_job=False)
            self._account.time(outcome)
        if self._sizes.pop(rows[0].state.row, None) is not None:
            self._sample.note_settled(len(rows))
            if self._account.has_quoted and self._sample.settled >= 2 * self._noted_at:
                self._note_deadline()

    def note_in_jobs(self, rows: Sequence[PendingRow], outcomes: Sequence[Outcome]) -> None:
        """Rows have their outcomes by what the ledger had, from jobs as a rule."""
        for pending, outcome in zip(rows, outcomes, strict=True):
            if outcome.usage.input_tokens and _was_in_job(pending):
                self._see(self._known_size(pending), outcome.usage, outcome.cost, in_job=True)

    def _known_size(self, pending: PendingRow) -> RowSize:
        size = self._kind.size_of(pending.prepared)
        return RowSize(size.input_tokens, size.most_output_tokens)

    def _see(self, size: RowSize, usage: Usage, cost: float | None, *, in_job: bool) -> None:
        (self._prices.add_in_job if in_job else self._prices.add_live)(size, usage, cost)
        self._account.keep(usage, cost, in_job=in_job, is_first=size.is_first)

    # --- the decision -----------------------------------------------------------------------------------------------

    def _rows_left(self) -> int | None:
        """Rows to go, where that is known; 1 at the least."""
        return None if self._rows is None else max(1, self._rows - self._account.live)

    def _note_deadline(self) -> None:
        """No more rows go live than can in time: jobs may be done with the others by then.

        Looked at again as more is known of how long they take.
        """
        self._noted_at = max(1, self._sample.settled)
        rows, time_s = self._rows_left(), self._time_left_s()
        if rows is None or math.isinf(time_s) or self._has_met_all:
            return
        live_s = self._account.live_s(rows)
        if live_s is not None:
            in_time = live_s <= time_s * _LIVE_SHARE
            self._most_live = (
                math.inf if in_time else self._planned + int(rows * time_s * _LIVE_SHARE / live_s)
            )

    def _told(self) -> str:
        """How many rows of this start go which way, in words, and why."""
        if self._why_all_live is not None:
            return f"all rows live: {self._why_all_live}"
        return self._account.told(self._prices, too_few=bool(self._is_small), is_learning=not self.never_live)


def _was_in_job(pending: PendingRow) -> bool:
    """Some of what it took was asked in jobs, at their price."""
    return any(one.attempt.job is not None for one in pending.known)
