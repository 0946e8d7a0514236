"""The attempts of rows under way, written down: into the ledger, and against the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from mistill.api.client import HTTPAnswer
from mistill.api.usage import Usage, UsageInfo
from mistill.delivery.dispatcher import Delivered, Request
from mistill.errors import MistillError, Stopped
from mistill.ledger import Attempt, Ledger
from mistill.runs.budget import Budget, Reservation, Spent


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

    Attributes:
        open: the attempts under way, those of one request together.
    """

    def __init__(
        self, start: RunningStart, rows: Sequence[int], ended_while_stopping: Callable[[], None]
    ) -> None:
        self.open: dict[int, Sequence[Attempt]] = {}
        self._start = start
        self._rows = rows
        self._ended_while_stopping = ended_while_stopping
        self._reservations: dict[int, Reservation] = {}  # by the first attempt's number, as in `open`

    async def sending(self, request: Request) -> Sequence[Attempt]:
        start = self._start
        if start.stopped is not None:
            raise start.stopped
        budget = start.budget
        reservation = None
        if budget.is_limited:
            reservation = await budget.reserve(len(request.body), request.max_output_tokens)
        try:
            attempts = await start.ledger.begin_attempts(list(map(self._rows.__getitem__, request.places)))
        except BaseException:
            if reservation is not None:
                budget.refund(reservation)
            raise
        if reservation is not None:
            self._reservations[attempts[0].id] = reservation
        self.open[attempts[0].id] = attempts
        start.count_attempt()
        return attempts

    def answered(self, recorded: Sequence[Attempt], delivered: Delivered[Any]) -> None:
        del self.open[recorded[0].id]
        start, answer = self._start, delivered.answer
        usage, cost = answer.usage, answer.cost
        spent = None
        if self._reservations and (spent := self._settle(recorded[0].id, answer)) is not None:
            usage, cost = spent.usage, spent.cost
        ledger = start.ledger
        if not delivered.parts:
            ledger.answer(recorded[0], answer.raw, usage, cost)
            return
        for attempt, part in zip(recorded, delivered.parts, strict=True):
            if isinstance(part, MistillError):
                ledger.end_attempt(attempt, "failed", part)
            elif spent is not None:  # what it was taken to have cost, all with the first text
                ledger.answer(attempt, part.body, usage, cost)
                usage, cost = Usage(), 0.0
            else:
                ledger.answer(attempt, part.body, part.usage, part.cost)

    def _settle(self, number: int, answer: HTTPAnswer[Any]) -> Spent | None:
        """Counts an answer against the budget: what it says that it took, or else what is returned."""
        budget, reservation = self._start.budget, self._reservations.pop(number)
        wire: UsageInfo | None = answer.response.usage
        unknown = (
            wire is None
            or wire.prompt_tokens is None
            or (wire.completion_tokens is None and reservation.output_tokens > 0)
        )
        if unknown:
            budget.warn_of_estimates()
        spent = budget.settle(reservation, None if unknown else answer.usage)
        return None if spent.usage is answer.usage else spent

    def ended(self, recorded: Sequence[Attempt], error: MistillError) -> None:
        del self.open[recorded[0].id]
        start = self._start
        # One that we cut off ourselves had left too.
        maybe_billed = isinstance(error, Stopped) or error.maybe_billed
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

    def end_open(self, error: MistillError) -> None:
        """Ends what is still open, after an error that nobody has foreseen: it had left, so it may be billed."""
        for recorded in list(self.open.values()):
            del self.open[recorded[0].id]
            if self._reservations:
                self._start.budget.settle(self._reservations.pop(recorded[0].id), None)
            for attempt in recorded:
                self._start.ledger.end_attempt(attempt, "maybe_billed", error)
