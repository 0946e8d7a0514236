"""Requests of rows → the lines of jobs of a good size."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any
from zlib import crc32

from mistill.api.prices import Price
from mistill.delivery.dispatcher import Request
from mistill.delivery.tuning import Tuning
from mistill.errors import InputError, Stopped
from mistill.estimates.budget import Budget, Hold
from mistill.jobs.book import JobBook
from mistill.jobs.job_input import JobInput
from mistill.kinds.kind import Kind, PendingRow
from mistill.kinds.options import RunOptions
from mistill.ledger import Job, JobRecord, Ledger, PlannedAttempt
from mistill.wording import Setting, words


class JobPlanner:
    """Writes requests down as lines of one job after the other.

    The first job of a run is a small one, the canary: a wrong parameter fails every line, and shows in these. Each
    later one is twice as large as the one before, so that the first answers come early.

    Args:
        kind: of the run, whose requests these are. ``price_factor``: what its price is multiplied with in jobs.
        made: is told of each job, once it and its attempts are on disk.
        room: returns when what is with the server has become less; ``False`` where nobody waits for that. It is told of
            the request that has no room.

    Attributes:
        has_proof: such rows have been answered before, or a first job is on its way: the next one need not be small.
        reached: the limit of the budget that leaves no room for a further line, if one does.
    """

    def __init__(
        self,
        ledger: Ledger,
        book: JobBook,
        kind: Kind[Any],
        options: RunOptions,
        budget: Budget,
        price_factor: float,
        *,
        has_proof: bool,
        made: Callable[[Job], None],
        room: Callable[[Request], Awaitable[bool]],
        tuning: Tuning,
    ) -> None:
        self.has_proof = has_proof
        self.reached: Stopped | None = None
        self._ledger = ledger
        self._book = book
        self._kind = kind
        self._cache_key_of = kind.cache_keys()
        self._options = options
        self._budget = budget
        price = kind.server.price
        self._price = price and price.times(price_factor)
        self._price_factor = price_factor
        self._made = made
        self._room = room
        self._tuning = tuning
        self._size = tuning.first_job_requests
        self._draft: tuple[JobInput, Hold] | None = None

    async def add(self, rows: Sequence[PendingRow], requests: Sequence[Request]) -> InputError | None:
        """The requests of rows that are asked together; or why no job can take them.

        Where the budget leaves no room for them, ``reached`` is set.
        """
        for request in requests:
            attempts = self._attempts(rows, request)
            line = JobInput.line(attempts, self._with_key(request.body, rows))
            if len(line) > self._options.batch_bytes:
                return self._too_large(len(line), rows[request.places[0]])
            draft = await self._draft_for(line, request)
            if draft is None:
                return None
            draft.add(line, attempts)
        return None

    def _with_key(self, body: bytes, rows: Sequence[PendingRow]) -> bytes:
        """The request with the key under which its prompt is cached, as it has one live."""
        if self._cache_key_of is None or self._kind.dispatcher.takes_cache_key is False:
            return body
        key = self._cache_key_of(rows[0].prepared)
        return body if key is None else key.put_into(body)

    def worst_price(self) -> Price | None:
        """Of a line, as far as it is known by now which models answer."""
        worst = self._kind.server.tariff.worst(may_be_priority=False)
        return worst and worst.times(self._price_factor)

    async def finish(self) -> None:
        """The job that is being made has all its lines."""
        if self._draft is None:
            return
        (draft, hold), self._draft = self._draft, None
        if not draft.lines:
            self._budget.settle_hold(hold)
            draft.discard()
            return
        job = await self._book.plan(draft, self._record(draft, hold), hold)
        if self.has_proof:
            self._size = min(2 * self._size, self._options.batch_rows)
        self._made(job)

    def discard(self) -> None:
        """Nobody has been told of the job that is being made, and nobody will."""
        if self._draft is not None:
            draft, hold = self._draft
            self._draft = None
            self._budget.settle_hold(hold)
            draft.discard()

    def _attempts(self, rows: Sequence[PendingRow], request: Request) -> list[PlannedAttempt]:
        numbers = self._ledger.take_attempt_ids(len(request.places))
        together = numbers[0] if len(numbers) > 1 else None
        weights = request.weights or (len(request.body),)
        asked = crc32(request.body)
        return [
            PlannedAttempt(number, rows[place].state.row, asked, together, weight)
            for number, place, weight in zip(numbers, request.places, weights, strict=True)
        ]

    async def _draft_for(self, line: bytes, request: Request) -> JobInput | None:
        """One that takes the line, within the budget; ``None`` where that has been reached."""
        if self._draft is not None and self._is_full(self._draft[0], line):
            await self.finish()
        while self.reached is None:
            if self._draft is None:
                self._draft = JobInput(self._book.files), self._budget.hold()
            draft, hold = self._draft
            try:
                if self._budget.try_add(
                    hold, len(request.body), request.max_output_tokens, self.worst_price()
                ):
                    return draft
            except Stopped as reached:
                self.reached = reached
            await self.finish()
            if self.reached is None and not await self._room(request):
                self.reached = self._no_room(request)
        return None

    def _is_full(self, draft: JobInput, line: bytes) -> bool:
        return (
            draft.lines
            >= min(self._size if self.has_proof else self._tuning.canary_requests, self._options.batch_rows)
            or draft.size + len(line) > self._options.batch_bytes
        )

    def _record(self, draft: JobInput, hold: Hold) -> JobRecord:
        price = self._price
        return JobRecord(
            path=self._kind.batch_path or "",
            model=self._kind.server.model,
            host=self._kind.dispatcher.client.endpoint,
            lines=draft.lines,
            rows=len(draft.attempts),
            bytes=draft.size,
            checksum=draft.checksum,
            timeout_hours=max(1, math.ceil(self._options.batch_timeout / 3600)),
            price=None if price is None else (price.input, price.output, price.cached_input),
            most_input_tokens=hold.input_tokens,
            most_output_tokens=hold.output_tokens,
        )

    def _too_large(self, size: int, pending: PendingRow) -> InputError:
        return InputError(
            words(
                f"{pending.row.where}: its request of {size:,} bytes is more than a batch job may have: ",
                Setting("batch_bytes", self._options.batch_bytes),
            ),
            hint=words("answer it live: ", Setting("lane", "live")),
            index=pending.row.index,
        )

    def _no_room(self, request: Request) -> Stopped:
        hint = words("run again with a larger budget, or live: ", Setting("lane", "live"))
        if request.max_output_tokens is None:
            hint = words("say how long an answer may be, with ", Setting("max_new_tokens"), "; or ", hint)
        return Stopped(
            "budget: what is left of it does not hold one more request at its worst",
            reason="budget",
            hint=hint,
        )
