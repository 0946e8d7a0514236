"""Several observers of the same attempts, as one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mistill.delivery.dispatcher import AttemptObserver, Delivered, RecordedAttempt, Request
from mistill.delivery.retry import as_failure
from mistill.errors import MistillError, Stopped


class _Noted(tuple[RecordedAttempt, ...]):
    """An attempt as both have written it down; by itself, as the first has."""

    first: Sequence[RecordedAttempt]
    second: Sequence[RecordedAttempt]


class ObserversTogether:
    """Two observers, either of which may be such a pair: see `AttemptObserver`.

    Args:
        first: keeps a journal: what it writes down is what others know an attempt by, and what it raises keeps an
            attempt from leaving before the second has heard of it.
        second: sees each answer as it counts for the first.
    """

    def __init__(self, first: AttemptObserver, second: AttemptObserver) -> None:
        self._first = first
        self._second = second

    @property
    def headers(self) -> Mapping[str, str] | None:
        """Those of both."""
        first, second = self._first.headers, self._second.headers
        return {**first, **second} if first and second else first or second

    async def sending(self, request: Request) -> Sequence[RecordedAttempt]:
        first = await self._first.sending(request)
        try:
            second = await self._second.sending(request)
        except BaseException:
            self._first.ended(first, Stopped("it was not sent", reason="cancelled"))
            raise
        noted = _Noted(first)
        noted.first, noted.second = first, second
        return noted

    def answered(self, recorded: Sequence[Any], delivered: Delivered[Any]) -> Delivered[Any]:
        assert isinstance(recorded, _Noted), "as `sending` gave it"
        try:
            delivered = self._first.answered(recorded.first, delivered)
        except BaseException as error:
            self._second.ended(recorded.second, as_failure(error) if isinstance(error, Exception) else _LEFT)
            raise
        return self._second.answered(recorded.second, delivered)

    def ended(self, recorded: Sequence[Any], error: MistillError) -> None:
        assert isinstance(recorded, _Noted), "as `sending` gave it"
        try:
            self._first.ended(recorded.first, error)
        finally:
            self._second.ended(recorded.second, error)


_LEFT = Stopped("cancelled while in flight", reason="cancelled")
