"""``--where``: a choice of rows, written by a person, as SQL that cannot be anything else.

    error=rate_limited
    finish_reason=length, output_tokens>=500
    state=failure and row<100
    category="refund, partial", score>=4

Each term is a name, a comparison and a value; a comma or ``and`` joins them. For "or", choose twice. A name or a
value with a comma, ``and`` or a comparison in it stands in quotes. Names that a ledger knows are `FIELDS`; others are
columns, which whoever knows columns compares (see ``mistill.runs.where``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Any, NamedTuple, get_args

from mistill.characters import number_in
from mistill.errors import InputError, did_you_mean
from mistill.ledger.tables import IS_WITH_SERVER, Mark, of_mark

_TEXT = {
    "state": "state",
    "error": "error_kind",
    "finish_reason": "finish_reason",
    "mark": of_mark("mark"),
    "note": of_mark("note"),
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
_MARKS = get_args(Mark)
_QUOTED = r""" "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' """
_TERM = re.compile(
    rf"""\s* (?P<name> {_QUOTED} | [^\s=!<>,"'][^=!<>,"']*? ) \s*
         (?P<comparison> != | <= | >= | ==? | < | > ) \s*
         (?P<value> {_QUOTED} | [^,]*? ) \s*
         (?P<joint> , | \s+and\s+ | $ )""",
    re.DOTALL | re.IGNORECASE | re.VERBOSE,
)


class Term(NamedTuple):
    """One of the conditions. ``quoted``: the value stood in quotes, and is a text whatever it looks like."""

    name: str
    comparison: str
    value: str
    quoted: bool = False

    def __str__(self) -> str:
        return f"{self.name}{self.comparison}{self.value}"


def parse_terms(text: str) -> list[Term]:
    """Raises:
    InputError: it is not of that form.
    """
    terms: list[Term] = []
    start = 0
    while True:
        found = _TERM.match(text, start)
        if found is None:
            rest = re.split(r",|\s+and\s+", text[start:], maxsplit=1, flags=re.IGNORECASE)[0].strip()
            raise InputError(
                f"cannot read {rest!r} as a condition",
                hint="write it like error=rate_limited, finish_reason=length or output_tokens>=500; "
                "a value with a comma or 'and' in it stands in quotes",
            )
        comparison = "=" if found["comparison"] == "==" else found["comparison"]
        value = _without_quotes(found["value"])
        terms.append(Term(_without_quotes(found["name"]), comparison, value, value != found["value"]))
        if not found["joint"]:
            return terms
        start = found.end()


def _without_quotes(text: str) -> str:
    quoted = re.fullmatch(_QUOTED, text, re.DOTALL | re.VERBOSE)
    return text if quoted is None else re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


class Selection(NamedTuple):
    """A condition over the view ``row_states``, with its values apart."""

    sql: str
    values: tuple[str | float | None, ...]
    wants_pending: bool = False
    """It asks for rows without an outcome, in so many words."""

    wants_damaged: bool = False
    """It asks for rows that are damaged in the ledger, in so many words."""

    places: tuple[int, ...] = ()
    """Which of the values are places in the input."""

    def after(self, rows: int) -> Selection:
        """The same choice where so many rows of the input stand elsewhere, before the first."""
        if not (rows and self.places):
            return self
        values: list[Any] = [*self.values]
        for place in self.places:
            values[place] -= rows
        return self._replace(values=tuple(values))

    @classmethod
    def parse(cls, text: str) -> Selection:
        """Raises:
        InputError: a field, comparison or value that does not exist; names the nearest one that does.
        """
        return cls.of(parse_terms(text))

    @classmethod
    def of(cls, terms: Iterable[Term]) -> Selection:
        """As `parse`, of terms that are read already."""
        conditions: list[str] = []
        values: list[Any] = []
        named: set[tuple[str, Any]] = set()
        places: list[int] = []
        for term in terms:
            condition, value = _condition(term)
            if term.name == "row":
                places.append(len(values))
            conditions.append(condition)
            values.append(value)
            if term.comparison == "=":
                named.add((term.name, value))
        return cls(
            " AND ".join(conditions) or "1",
            tuple(values),
            wants_pending=("state", "pending") in named,
            wants_damaged=any(
                field == "error" and str(value).startswith("damaged_") for field, value in named
            ),
            places=tuple(places),
        )


EVERYTHING = Selection("1", ())

_ATTEMPT = (
    "EXISTS (SELECT 1 FROM jobs) AND EXISTS (SELECT 1 FROM attempts WHERE attempts.row = row_states.id AND"
)
"""Their row has an index only where there was a job."""

ASKABLE = Selection(f"(same_as IS NULL AND NOT ({_ATTEMPT} {IS_WITH_SERVER})))", ())
"""Rows that are asked themselves, and that no job asks which has not ended."""

WAITING = Selection(
    f"""{ASKABLE.sql}
        AND (state = 'pending' OR asked_again OR (
            state = 'failure' AND {_ATTEMPT} job IS NOT NULL AND sent_at > row_states.ended_at)))""",
    (),
)
"""Those of them that have no outcome since they last were."""


def _condition(term: Term) -> tuple[str, str | float | None]:
    field, comparison, value, is_quoted = term
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
    if field == "mark" and value not in (*_MARKS, "null"):
        raise InputError(
            f"there is no mark {value!r}",
            hint=f"there are {' and '.join(_MARKS)}; a column of the rows is meant by row.mark",
        )
    # IS NOT, because a row with no error also has an error that is not rate_limited.
    is_or_not = "IS" if comparison == "=" else "IS NOT"
    return f"{_TEXT[field]} {is_or_not} ?", None if value == "null" and not is_quoted else value


def _number(field: str, value: str) -> float:
    try:
        number = number_in(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{field} is a number, {value!r} is not", hint=f"write it like {field}=17")
    return int(number) if number.is_integer() and abs(number) < _MAX_INTEGER else number
