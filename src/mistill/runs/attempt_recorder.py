"""The attempts of rows under way, written down: into the ledger, and against the budget."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from mistill.api.client import Answer
from mistill.api.prices import Price
from mistill.delivery.dispatcher import Request
from mistill.errors import MistillError, Stopped
from mistill.ledger import Attempt, Ledger, Usage
from mistill.llms.completions import usage_of
from mistill.llms.embeddings import no_vector
from mistill.llms.types import Completion
from mistill.runs.budget import Budget, Reservation


class Start(Protocol):
    """What a journal needs of the start of a run: where to write, what may be spent, and whether it goes on."""

    ledger: Ledger
    budget: Budget
    price: Price | None
    stopped: MistillError | None

    def count_attempt(self) -> None:
        """A request leaves."""
        ...

    def leave_if_idle(self, task: asyncio.Task[Any]) -> None:
        """Ends rows that would only send another request, once nothing may be sent."""
        ...


class _Sent(Struct, frozen=True, gc=False):
    """One attempt, as the ledger has it: once for each row that it asks."""

    attempts: Sequence[Attempt]
    reservation: Reservation | None


class RowJournal:
    """Writes the attempts of rows that are asked together, one row as a rule, and keeps the answers that came.

    It is a `Journal` for one row, and a `BatchJournal` for several.
    """

    def __init__(self, start: Start, rows: Sequence[int], task: asyncio.Task[Any]) -> None:
        self.in_flight = 0
        self._start = start
        self._rows = rows
        self._task = task
        self._answers: dict[int, tuple[Attempt, bytes]] = {}  # by the identity of what came

    async def sending(self, request: Request, places: Sequence[int] = (0,)) -> _Sent:
        start = self._start
        if start.stopped is not None:
            raise start.stopped
        budget = start.budget
        reservation = None
        if budget.is_limited:
            reservation = await budget.reserve(len(request.body), request.max_output_tokens)
        try:
            attempts = await start.ledger.begin_attempts([self._rows[place] for place in places])
        except BaseException:
            if reservation is not None:
                budget.refund(reservation)
            raise
        self.in_flight += 1
        start.count_attempt()
        return _Sent(attempts, reservation)

    def answered(
        self, attempt: _Sent, answer: Answer[Any], completions: Sequence[Completion | None] | None = None
    ) -> None:
        self.in_flight -= 1
        start = self._start
        usage = usage_of(answer.response)
        if attempt.reservation is not None:
            start.budget.settle(attempt.reservation, usage)
        if completions is None:
            cost = start.price.cost(usage) if start.price else None
            self._keep(attempt.attempts[0], answer.raw, Usage(usage.input_tokens, usage.output_tokens, cost))
            return
        for one, completion in zip(attempt.attempts, completions, strict=True):
            if completion is None:
                start.ledger.end_attempt(one, "failed", no_vector(len(completions)))
            else:
                took = Usage(completion.usage.input_tokens, completion.usage.output_tokens, completion.cost)
                self._keep(one, completion.raw, took)

    def ended(self, attempt: _Sent, error: MistillError) -> None:
        self.in_flight -= 1
        start = self._start
        # One that we cut off ourselves had left too.
        maybe_billed = isinstance(error, Stopped) or getattr(error, "maybe_billed", False)
        if attempt.reservation is not None:
            if maybe_billed:
                start.budget.settle(attempt.reservation, None)
            else:
                start.budget.refund(attempt.reservation)
        for one in attempt.attempts:
            start.ledger.end_attempt(one, "maybe_billed" if maybe_billed else "failed", error)
        if start.stopped is not None:
            # Soon, not now: a row that gives up on this very error has its outcome by then.
            asyncio.get_running_loop().call_soon(start.leave_if_idle, self._task)

    def answered_before(self, attempt: Attempt, body: bytes) -> None:
        """An answer that an earlier start has kept."""
        self._answers[id(body)] = attempt, body

    def answers_of(self, completions: Sequence[Completion | None]) -> list[Attempt]:
        """The attempts whose answers the completions are, in order, each once."""
        found: list[Attempt] = []
        for completion in completions:
            kept = None if completion is None else self._answers.get(id(completion.raw))
            if kept is not None and kept[0] not in found:
                found.append(kept[0])
        return found

    def _keep(self, attempt: Attempt, body: bytes, took: Usage) -> None:
        self._answers[id(body)] = attempt, body
        self._start.ledger.answer(attempt, body, took)
