"""One term of a condition, compared with what a column has.

A value is compared as what the column has there: a number with a number, ``true`` with a boolean, anything else as
text. ``null`` is nothing there: null, no such column, or an empty text, as CSV has it. What stands in quotes is always
text. A dot leads into an object, or into the JSON text of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, cast

import msgspec

from mistill.errors import InputError
from mistill.ledger.selection import Term

Record = Mapping[str, Any]
Scope = Literal["row", "answer"]

NOTHING: Final[Any] = object()
"""What a record has in place of what is not there."""

_MAX_SEEN = 20
_MAX_SEEN_CHARS = 40


def look_up(record: Record, name: str) -> Any:
    """A column, or with dots what is in it; `NOTHING` where there is no such thing."""
    if name in record:
        return record[name]
    steps = name.split(".")
    for length in range(len(steps) - 1, 0, -1):
        column = ".".join(steps[:length])
        if column in record:
            return _within(record[column], steps[length:])
    return NOTHING


def _within(value: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        if isinstance(value, str) and value.startswith(("{", "[")):  # a CSV file has objects as text
            try:
                value = msgspec.json.decode(value)
            except (msgspec.MsgspecError, RecursionError):
                return NOTHING
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(step, NOTHING)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[int(step)]
        else:
            return NOTHING
    return value


class Condition:
    """One term over a column. ``scope``: of what it is a column, where that is known."""

    def __init__(self, term: Term, scope: Scope | None = None) -> None:
        self.term = term
        self.scope: Scope | None = scope
        self.name = term.name
        self._seen: dict[str, None] = {}
        self._is_found = False
        self._is_null = not term.quoted and term.value == "null"
        self._flag = {"true": True, "false": False}.get(term.value.lower()) if not term.quoted else None
        self._number = None if term.quoted else _number(term.value)
        self._is_negated = term.comparison == "!="

    def holds(self, record: Record) -> bool:
        """Whether a record fulfils it.

        Raises:
            InputError: the column has numbers, and the value is none.
        """
        value = look_up(record, self.name)
        if self.term.comparison in ("=", "!="):
            is_equal = self._equals(value)
            self._is_found = self._is_found or is_equal
            if not is_equal and len(self._seen) < _MAX_SEEN and value is not NOTHING:
                self._seen[_short(value)] = None
            return is_equal is not self._is_negated
        return self._compares(value)

    def _equals(self, value: Any) -> bool:
        if self._is_null:
            return value is None or value is NOTHING or value == ""
        if isinstance(value, bool):
            return value is self._flag
        if isinstance(value, str):
            same = value == self.term.value
            return same or (self._flag is not None and value.lower() == self.term.value.lower())
        if isinstance(value, int | float):
            return self._number is not None and value == self._number
        if isinstance(value, list | dict):
            return not self.term.quoted and _decoded(self.term.value) == value
        return False

    def _compares(self, value: Any) -> bool:
        text, number = self.term.value, self._number
        if isinstance(value, str) and number is not None:
            value = _number(value)  # of a CSV file, where all is text
        if isinstance(value, str):
            return _COMPARE[self.term.comparison](value, text)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return False
        if number is None:
            raise InputError(
                f"{self.name} is a number, such as {value!r}, and {text!r} is none",
                hint=f"write it like {self.name}{self.term.comparison}4",
            )
        return _COMPARE[self.term.comparison](value, number)

    def others(self) -> str | None:
        """What the column has in place of the value that it was to have, in words; ``None``: some row has that."""
        if self.term.comparison != "=" or self._is_found or not self._seen:
            return None
        more = ", …" if len(self._seen) >= _MAX_SEEN else ""
        return f"{self.name} is {', '.join(self._seen)}{more}"


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "<": lambda one, other: one < other,
    "<=": lambda one, other: one <= other,
    ">": lambda one, other: one > other,
    ">=": lambda one, other: one >= other,
}


def _number(text: str) -> float | None:
    if not text.isascii():  # digits of other scripts, which are read wrong too easily
        return None
    try:
        return int(text)
    except ValueError:
        pass
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _decoded(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        return NOTHING


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if not text:
        return "empty"
    return text if len(text) <= _MAX_SEEN_CHARS else text[:_MAX_SEEN_CHARS] + "…"
