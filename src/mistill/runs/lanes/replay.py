"""A row's own coroutine, run against what the ledger has of its requests: both lanes go on with rows by it.

What was answered is given again, so that re-asks, repairs and the joining of several generations come to what they came
to before, or would have; only what is not known is sent, or noted to be sent in a job.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn
from zlib import crc32

import msgspec

from mistill.delivery.dispatcher import Delivered, Recall, Request, Send
from mistill.delivery.retry import as_failure, classify
from mistill.errors import BadRequest, InputError, MalformedAnswer, MistillError
from mistill.kinds.kind import Kind, PendingRow
from mistill.ledger import KnownAttempt
from mistill.llms.types import Outcome


class Unanswered(BaseException):
    """A request has no answer yet. No `Exception`, so that the coroutine of a row lets it through."""


class Collected:
    """A `Send` for requests that go into a job: notes them, and sends nothing.

    Attributes:
        requests: those that the rows wait for, in the order in which they asked: of several generations, the next
            of each.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []

    def __call__(self, request: Request, /) -> NoReturn:
        """Raises `Unanswered`."""
        self.requests.append(request)
        raise Unanswered


class Replay(Recall[Any]):
    """A `Send` that gives what is known of a row's requests, each once, and leaves the others to another one.

    An attempt is known by the checksum of what it asked, an answer before a failure. Beside that:

    - Attempts of earlier versions have no checksum. They are taken in their order, after those that have one.
    - An attempt that asked several rows has this row's own part, whatever else it asked. Where all of it was refused,
      that says nothing of the row, which is asked alone.
    - Failures that another attempt can help are gone beyond, as often as `Dispatcher.max_retries` says; a request is in
      a job once, so of each job one is counted. Others are raised. What would have ended the whole start is not: it is
      for whoever started again to see whether it is over.

    Args:
        kind: of the run. ``known``: of one row, oldest first. ``otherwise``: sends what is not known.
    """

    def __init__(self, kind: Kind[Any], known: Sequence[KnownAttempt], otherwise: Send[Any]) -> None:
        self._kind = kind
        self._known = known
        self._left = list(known)
        self._otherwise = otherwise

    def recalls(self, request: Request) -> bool:
        asked = crc32(request.body)
        return any(one.attempt.asked == asked for one in self._known)

    async def __call__(self, request: Request, /) -> Delivered[Any]:
        mine = self._left_of(crc32(request.body))
        for one in mine:
            delivered = self._take_answer(one)
            if delivered is not None:
                failures = self._take_failures(mine, before=one)
                return (
                    msgspec.structs.replace(delivered, attempts=len(failures) + 1) if failures else delivered
                )
        failures = self._take_failures(mine)
        end = next((error for error in failures if not error.retryable), None)
        if end is None and len(failures) > self._kind.dispatcher.max_retries:
            end = failures[-1]
        if end is not None:
            end.attempts = len(failures)
            raise end
        return await self._otherwise(request)

    def _left_of(self, asked: int) -> list[KnownAttempt]:
        """What is left of such a request, oldest first."""
        left = self._left
        return [one for one in left if one.attempt.asked == asked or one.attempt.request is not None] or [
            one for one in left if one.attempt.asked is None
        ]

    def _take_answer(self, one: KnownAttempt) -> Delivered[Any] | None:
        if one.answer is None:
            return None
        self._left.remove(one)
        try:
            return self._kind.delivered(one.answer)
        except MalformedAnswer:  # another version could read it
            return None

    def _take_failures(
        self, mine: Sequence[KnownAttempt], before: KnownAttempt | None = None
    ) -> list[MistillError]:
        """The failures of one request; ``before``: those that came before its answer."""
        failures: list[MistillError] = []
        jobs = set[int | None]() if before is None else {before.attempt.job}
        for one in mine:
            if one is before:
                break
            if one.error is None or one.attempt.job in jobs:
                continue
            error = one.error.to_error()
            is_of_all_rows = one.attempt.request is not None and isinstance(error, BadRequest)
            if is_of_all_rows or classify(error).fatal:
                continue
            jobs.add(one.attempt.job)
            self._left.remove(one)
            failures.append(error)
        return failures


async def replay(kind: Kind[Any], rows: Sequence[PendingRow]) -> Sequence[Outcome] | Collected:
    """What is known of rows that one request asks, or of one row: their outcomes, or the requests that they wait for.

    Nothing is sent.

    Raises:
        MistillError: what ends the whole start.
    """
    first, collected = rows[0], Collected()
    if isinstance(first.prepared, InputError):
        return (Outcome(completions=(), error=first.prepared),)
    send = Replay(kind, first.known, collected) if first.known and len(rows) == 1 else collected
    try:
        return await kind.answer([pending.prepared for pending in rows], send)
    except Unanswered:
        return collected
    except Exception as caught:
        error = as_failure(caught)
        if classify(error).fatal:
            raise
        return [Outcome(completions=(), error=error) for _ in rows]
