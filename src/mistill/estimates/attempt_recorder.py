"""The attempts of rows under way, written down: into the ledger, and against the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol
from zlib import crc32

import msgspec

from mistill.api.usage import Usage
from mistill.delivery.dispatcher import AnswerPart, Delivered, Request
from mistill.errors import MistillError, Stopped
from mistill.estimates.budget import Budget, Reservation, Spent
from mistill.ledger import Attempt, Ledger
from mistill.progress.progress import Progress


class RunningStart(Protocol):
    """What a recorder needs of the start of a run: where to write, what may be spent, and whether it goes on."""

    ledger: Ledger
    budget: Budget
    stopped: MistillError | None
    answered_by: str | None

    def note_model(self, model: str | None) -> MistillError | None:
        """Another model answers than ``answered_by``; gives why its answer is none for this start, where that is so."""
        ...

    @property
    def progress(self) -> Progress: ...


class AttemptRecorder:
    """Observes the attempts of rows that are answered together, one row as a rule (see `AttemptObserver`).

    Args:
        rows: the ledger's numbers of the rows.
        ended_while_stopping: called when an attempt has ended in a start that is being stopped.

    Attributes:
        open: the attempts under way, those of one request together.
    """

    headers: Mapping[str, str] | None = None

    def __init__(
        self, start: RunningStart, rows: Sequence[int], ended_while_stopping: Callable[[], None]
    ) -> None:
        self.open: dict[int, Sequence[Attempt]] = {}
        self._start = start
        self._rows = rows
        self._ended_while_stopping = ended_while_stopping
        # By the first attempt's number, as in `open`.
        self._requests: dict[int, Request] = {}
        self._reservations: dict[int, Reservation] = {}

    async def sending(self, request: Request) -> Sequence[Attempt]:
        start = self._start
        if start.stopped is not None:
            raise start.stopped
        budget = start.budget
        reservation = None
        if budget.is_limited:
            reservation = await budget.reserve(len(request.body), request.max_output_tokens)
        try:
            rows = list(map(self._rows.__getitem__, request.places))
            attempts = await start.ledger.begin_attempts(rows, crc32(request.body))
        except BaseException:
            if reservation is not None:
                budget.refund(reservation)
            raise
        if reservation is None and budget.is_limited:  # since it was written down
            reservation = budget.hold_open(len(request.body), request.max_output_tokens)
        if reservation is not None:
            self._reservations[attempts[0].id] = reservation
        self.open[attempts[0].id] = attempts
        self._requests[attempts[0].id] = request
        start.progress.attempts += 1  # no call: this is done for every request
        return attempts

    def hold_open(self) -> None:
        """From now on there is a budget: what is in flight already may take something of it."""
        budget = self._start.budget
        for number, request in self._requests.items():
            if number not in self._reservations:
                self._reservations[number] = budget.hold_open(len(request.body), request.max_output_tokens)

    def answered(self, recorded: Sequence[Attempt], delivered: Delivered[Any]) -> Delivered[Any]:
        number = recorded[0].id
        del self.open[number]
        start, answer = self._start, delivered.answer
        request, budget = self._requests.pop(number), start.budget
        usage, wire = answer.usage, answer.response.usage
        if not answer.is_cut and (
            wire is None
            or wire.prompt_tokens is None
            or (wire.completion_tokens is None and request.max_output_tokens != 0)
        ):
            budget.warn_of_estimates()
            usage = None
        model = answer.response.model
        moved = start.note_model(model) if model != start.answered_by else None
        if answer.cost is None and budget.max_cost is not None:
            budget.note_unpriced(model)
        if self._reservations:
            spent = budget.settle(self._reservations.pop(number), usage, answer.cost)
            if spent.usage is usage:
                spent = None
        else:
            spent = budget.estimated(usage, len(request.body), request.max_output_tokens)
        if spent is not None:
            delivered = _with(spent, delivered)
            answer = delivered.answer
        ledger = start.ledger
        if not delivered.parts:
            ledger.answer(recorded[0], answer.raw, answer.usage, answer.cost, model)
        else:
            for attempt, part in zip(recorded, delivered.parts, strict=True):
                if isinstance(part, MistillError):
                    ledger.end_attempt(attempt, "failed", part)
                else:
                    ledger.answer(attempt, part.body, part.usage, part.cost, model)
        if moved is not None:
            raise moved
        return delivered

    def ended(self, recorded: Sequence[Attempt], error: MistillError) -> None:
        del self.open[recorded[0].id], self._requests[recorded[0].id]
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
            del self.open[recorded[0].id], self._requests[recorded[0].id]
            if self._reservations:
                self._start.budget.settle(self._reservations.pop(recorded[0].id), None)
            for attempt in recorded:
                self._start.ledger.end_attempt(attempt, "maybe_billed", error)


def _with(spent: Spent, delivered: Delivered[Any]) -> Delivered[Any]:
    """An answer that took so much; of several rows, the first that has a part of it."""
    cost = None if delivered.answer.cost is None else spent.cost
    answer = msgspec.structs.replace(delivered.answer, usage=spent.usage, cost=cost)
    usage, parts = spent.usage, list[AnswerPart | MistillError]()
    for part in delivered.parts:
        if not isinstance(part, MistillError):
            part = msgspec.structs.replace(part, usage=usage, cost=cost)
            usage, cost = Usage(), None if cost is None else 0.0
        parts.append(part)
    return msgspec.structs.replace(delivered, answer=answer, parts=parts)
