"""``--where``: a choice of rows, written by a person, as SQL that cannot be anything else.

    error=rate_limited
    finish_reason=length, output_tokens>=500
    state=failure and row<100

Each term is a field, a comparison and a value; a comma or ``and`` joins them. For "or", choose twice.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

from mistill.errors import InputError, did_you_mean

_TEXT = {
    "state": "state",
    "error": "error_kind",
    "finish_reason": "finish_reason",
}
_NUMBER = {
    "row": "position",
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cost": "cost",
    "maybe_billed": "maybe_billed",
}
FIELDS = (*_TEXT, *_NUMBER)
_MAX_INTEGER = 2**63  # SQLite has none from here on
_STATES = ("completion", "failure", "pending")
_TERM = re.compile(r"\s*([A-Za-z_]+)\s*(!=|<=|>=|=|<|>)\s*(.*?)\s*", re.DOTALL)
_JOINT = re.compile(r",|\s+and\s+", re.IGNORECASE)


class Selection(NamedTuple):
    """A condition over the view ``row_states``, with its values apart."""

    sql: str
    values: tuple[str | float, ...]
    wants_pending: bool = False
    """It asks for rows without an outcome, in so many words."""

    wants_damaged: bool = False
    """It asks for rows that are damaged in the ledger, in so many words."""

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Raises:
        InputError: a field, comparison or value that does not exist; names the nearest one that does.
        """
        conditions: list[str] = []
        values: list[Any] = []
        for term in _JOINT.split(text):
            condition, value = _parse_term(term)
            conditions.append(condition)
            values.append(value)
        return cls(
            " AND ".join(conditions),
            tuple(values),
            wants_pending="pending" in values,
            wants_damaged=any(str(value).startswith("damaged_") for value in values),
        )


EVERYTHING = Selection("1", ())


def _parse_term(term: str) -> tuple[str, str | float]:
    found = _TERM.fullmatch(term)
    if found is None:
        raise InputError(
            f"cannot read {term.strip()!r} as a condition",
            hint="write it like error=rate_limited, finish_reason=length or output_tokens>=500",
        )
    field, comparison, value = found.groups()
    if field in _NUMBER:
        return f"{_NUMBER[field]} {comparison} ?", _number(field, value)
    if field not in _TEXT:
        raise InputError(f"there is no field {field!r}", hint=did_you_mean(field, FIELDS))
    if comparison not in ("=", "!="):
        raise InputError(
            f"{field} is text: {comparison} cannot compare it", hint=f"write {field}=… or {field}!=…"
        )
    if field == "state" and value not in _STATES:
        raise InputError(f"there is no state {value!r}", hint=did_you_mean(value, _STATES))
    # IS NOT, because a row with no error also has an error that is not rate_limited.
    return f"{_TEXT[field]} {'IS' if comparison == '=' else 'IS NOT'} ?", value


def _number(field: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{field} is a number, {value!r} is not", hint=f"write it like {field}=17")
    return int(number) if number.is_integer() and abs(number) < _MAX_INTEGER else number
