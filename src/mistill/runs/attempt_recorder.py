"""The attempts of rows under way, written down: into the ledger, and against the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mistill.delivery.dispatcher import Delivered, Request
from mistill.errors import MistillError, Stopped
from mistill.ledger import Attempt, Ledger
from mistill.runs.budget import Budget, Reservation


class RunningStart(Protocol):
    """What a recorder needs of the start of a run: where to write, what may be spent, and whether it goes on."""

    ledger: Ledger
    budget: Budget
    stopped: MistillError | None

    def count_attempt(self) -> None:
        """A request leaves."""
        ...


class AttemptRecorder:
    """Observes the attempts of rows that are answered together, one row as a rule (see `AttemptObserver`).

    Args:
        rows: the ledger's numbers of the rows.
        ended_while_stopping: called when an attempt has ended in a start that is being stopped.
    """

    def __init__(
        self, start: RunningStart, rows: Sequence[int], ended_while_stopping: Callable[[], None]
    ) -> None:
        self.in_flight = 0
        self._start = start
        self._rows = rows
        self._ended_while_stopping = ended_while_stopping
        self._reservations: dict[int, Reservation] = {}  # by the first attempt's number

    async def sending(self, request: Request) -> Sequence[Attempt]:
        start = self._start
        if start.stopped is not None:
            raise start.stopped
        budget = start.budget
        reservation = None
        if budget.is_limited:
            reservation = await budget.reserve(len(request.body), request.max_output_tokens)
        try:
            attempts = await start.ledger.begin_attempts([self._rows[place] for place in request.places])
        except BaseException:
            if reservation is not None:
                budget.refund(reservation)
            raise
        if reservation is not None:
            self._reservations[attempts[0].id] = reservation
        self.in_flight += 1
        start.count_attempt()
        return attempts

    def answered(self, recorded: Sequence[Attempt], delivered: Delivered[Any]) -> None:
        self.in_flight -= 1
        start = self._start
        if self._reservations:
            start.budget.settle(self._reservations.pop(recorded[0].id), delivered.usage)
        ledger = start.ledger
        if not delivered.parts:
            ledger.answer(recorded[0], delivered.answer.raw, delivered.usage, delivered.cost)
            return
        for attempt, part in zip(recorded, delivered.parts, strict=True):
            if isinstance(part, MistillError):
                ledger.end_attempt(attempt, "failed", part)
            else:
                ledger.answer(attempt, part.body, part.usage, part.cost)

    def ended(self, recorded: Sequence[Attempt], error: MistillError) -> None:
        self.in_flight -= 1
        start = self._start
        # One that we cut off ourselves had left too.
        maybe_billed = isinstance(error, Stopped) or getattr(error, "maybe_billed", False)
        if self._reservations:
            reservation = self._reservations.pop(recorded[0].id)
            if maybe_billed:
                start.budget.settle(reservation, None)
            else:
                start.budget.refund(reservation)
        for attempt in recorded:
            start.ledger.end_attempt(attempt, "maybe_billed" if maybe_billed else "failed", error)
        if start.stopped is not None:
            # Soon, not now: a row that gives up on this very error has its outcome by then.
            asyncio.get_running_loop().call_soon(self._ended_while_stopping)
