"""What a query asks for, with Mistral's refusal where it cannot be meant."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import msgspec

from mistill.simulator.refusals import RefusedRequest
from mistill.simulator.requests import invalid_field
from mistill.simulator.settings import Settings

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Query:
    """The parameters of one request. Those that are not asked for are let pass, as Mistral does.

    Raises:
        RefusedRequest: from each method: 422, it is not of that kind.
    """

    def __init__(self, given: Mapping[str, str], settings: Settings) -> None:
        self._given = given
        self._settings = settings

    def number(self, name: str, default: int, *, least: int = 0, most: int | None = None) -> int:
        text = self._given.get(name)
        if text is None:
            return default
        try:
            number = int(text) if text.isascii() else None
        except ValueError:
            number = None
        if number is None:
            raise self._refusal(name, "Input should be a valid integer")
        if number < least or (most is not None and number > most):
            raise self._refusal(name, f"Input should be from {least} to {most}")
        return number

    def flag(self, name: str, *, default: bool) -> bool:
        text = self._given.get(name)
        if text is None:
            return default
        if text.lower() not in _FLAGS:
            raise self._refusal(name, "Input should be a valid boolean")
        return _FLAGS[text.lower()]

    def moment(self, name: str) -> float | None:
        """A Unix time in seconds; a date and time without a zone is in UTC."""
        text = self._given.get(name)
        if text is None:
            return None
        try:
            moment = msgspec.convert(text, datetime.datetime)
        except msgspec.ValidationError:
            raise self._refusal(name, "Input should be a valid datetime") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()

    def word(self, name: str, default: str, *others: str) -> str:
        word = self._given.get(name, default)
        if word not in (default, *others):
            raise self._refusal(name, f"Input should be one of {default}, {', '.join(others)}")
        return word

    def _refusal(self, name: str, message: str) -> RefusedRequest:
        return invalid_field(name, message, self._settings, value=self._given[name], place="query")
