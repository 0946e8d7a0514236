"""``--where`` over columns: those of rows that are read, and those of a run's rows and of their answers.

What a ledger knows of itself is chosen in SQL, by `Selection`; a column is compared here, a row at a time. A value is
compared as what the column has there: a number with a number, ``true`` with a boolean, anything else as text. ``null``
is nothing there: null, no such column, or an empty text, as CSV has it. What stands in quotes is always text. A dot
leads into an object, or into the JSON text of one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast

import msgspec

from mistill.datasets.sources import Source
from mistill.errors import InputError
from mistill.ledger import EVERYTHING, FIELDS, LedgerReader, LedgerRow, Selection, Term, parse_terms
from mistill.runs.record_lines import answer_columns
from mistill.runs.record_shape import RecordShape
from mistill.runs.records import nearest_and_all
from mistill.wording import Setting, words

Record = Mapping[str, Any]
Scope = Literal["row", "answer"]

_MAX_SEEN = 20
_MAX_SEEN_CHARS = 40
_MAX_COLUMNS = 1000
_NOTHING: Any = object()


def look_up(record: Record, name: str) -> Any:
    """A column, or with dots what is in it; `_NOTHING` where there is no such thing."""
    if name in record:
        return record[name]
    steps = name.split(".")
    for length in range(len(steps) - 1, 0, -1):
        column = ".".join(steps[:length])
        if column in record:
            return _within(record[column], steps[length:])
    return _NOTHING


def _within(value: Any, steps: Sequence[str]) -> Any:
    for step in steps:
        if isinstance(value, str) and value.startswith(("{", "[")):  # a CSV file has objects as text
            try:
                value = msgspec.json.decode(value)
            except (msgspec.MsgspecError, RecursionError):
                return _NOTHING
        if isinstance(value, dict):
            value = cast("dict[str, Any]", value).get(step, _NOTHING)
        elif isinstance(value, list) and step.isdecimal() and int(step) < len(cast("list[Any]", value)):
            value = cast("list[Any]", value)[int(step)]
        else:
            return _NOTHING
    return value


class Condition:
    """One term over a column. ``scope``: of what it is a column, where that is known."""

    def __init__(self, term: Term, scope: Scope | None = None) -> None:
        self.term = term
        self.scope: Scope | None = scope
        self.name = term.name
        self._seen: dict[str, None] = {}
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
            if not is_equal and len(self._seen) < _MAX_SEEN and value is not _NOTHING:
                self._seen[_short(value)] = None
            return is_equal is not self._is_negated
        return self._compares(value)

    def _equals(self, value: Any) -> bool:
        if self._is_null:
            return value is None or value is _NOTHING or value == ""
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
        """What the column has in place of the value that it was to have, in words."""
        if self.term.comparison != "=" or not self._seen:
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
        return _NOTHING


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    if not text:
        return "empty"
    return text if len(text) <= _MAX_SEEN_CHARS else text[:_MAX_SEEN_CHARS] + "…"


def _scoped(term: Term) -> Condition:
    """``row.NAME`` and ``answer.NAME`` say whose column is meant."""
    scope, dot, name = term.name.partition(".")
    if dot and scope in ("row", "answer"):
        return Condition(term._replace(name=name), scope)
    return Condition(term)


class SeenColumns:
    """Which columns records were seen to have, and which of some wanted ones are still missing."""

    def __init__(self, wanted: Iterable[str]) -> None:
        self.missing = dict.fromkeys(wanted)
        self.known: dict[str, None] = {}

    def see(self, record: Record) -> None:
        for name in [name for name in self.missing if look_up(record, name) is not _NOTHING]:
            del self.missing[name]
        if len(self.known) < _MAX_COLUMNS:
            self.known.update(dict.fromkeys(record))
            for name in self.missing:
                column = name.partition(".")[0]
                if isinstance(inner := record.get(column), dict):
                    self.known.update(
                        dict.fromkeys(f"{column}.{key}" for key in cast("dict[str, Any]", inner))
                    )


def _nothing_matches(
    text: str, what: str, read: int, conditions: Iterable[Condition]
) -> tuple[str, str | None]:
    """Message and hint where nothing is chosen."""
    others = "; ".join(said for one in conditions if (said := one.others()))
    rows = f"{read:,} row{'' if read == 1 else 's'}"
    return f"no row of {what} matches {text!r}, of {rows}", others or None


# --- rows that are read ------------------------------------------------------------------------------------------


def columns_of(source: Source, wanted: Iterable[str]) -> tuple[list[str], list[str]]:
    """Those of the ``wanted`` columns that no row of the input has, and those that rows were seen to have."""
    columns = SeenColumns(wanted)
    for record in source.records_until(lambda: not columns.missing):
        columns.see(record)
    return list(columns.missing), list(columns.known)


def require_columns(source: Source, names: Iterable[str], option: str) -> None:
    """Raises:
    InputError: no row has a column that an option of the run names.
    """
    missing, known = columns_of(source, names)
    if missing and known:  # else there is no row at all
        raise InputError(
            words(Setting(option), f": {source.name} has no column {missing[0]!r}"),
            hint=nearest_and_all(missing[0], known),
        )


class InputFilter:
    """The condition of a run on its input: rows that do not fulfil it are no rows of the run.

    Raises:
        InputError: a term is wrong, or no row has a column of that name.
    """

    def __init__(self, text: str, source: Source) -> None:
        self._text = text
        self._source = source
        self._conditions = [_scoped(term) for term in parse_terms(text)]
        for one in self._conditions:
            if one.scope == "answer":
                raise InputError(
                    f"answer.{one.term} is about an answer, and the rows have none yet",
                    hint="name a column of the rows",
                )
        require_columns(source, [one.name for one in self._conditions], "where")

    def holds(self, record: Record) -> bool:
        return all(one.holds(record) for one in self._conditions)

    def refuse_nothing(self, read: int) -> None:
        """``InputError``, where none of so many rows was chosen."""
        message, hint = _nothing_matches(self._text, self._source.name, read, self._conditions)
        raise InputError(message, hint=hint)


# --- rows of a ledger --------------------------------------------------------------------------------------------


class RunFilter:
    """Which rows of a run: by what its ledger knows of them, by their columns, and by those of their answers.

    Args:
        text: ``None``: all of them.
        reader: of the ledger. ``shape``: what its records look like, which says how its answers' columns are called.

    Attributes:
        selection: as far as the ledger itself can choose.

    Raises:
        InputError: a term is wrong, neither rows nor answers have a column of that name, or both have one.
    """

    def __init__(self, text: str | None, reader: LedgerReader, shape: RecordShape) -> None:
        self.text = text
        self._shape = shape
        terms = [] if text is None else parse_terms(text)
        of_ledger = [term for term in terms if term.name in FIELDS]
        self.selection = Selection.of(of_ledger) if of_ledger else EVERYTHING
        self._conditions = [_scoped(term) for term in terms if term.name not in FIELDS]
        self._read = 0
        self._settle(reader)

    def rows(self, reader: LedgerReader) -> Iterator[LedgerRow]:
        """The rows that are chosen, in the order of the input, one in memory at a time."""
        self._read = 0
        for row in reader.rows(self.selection, with_unfit="raw" in self._shape.extra):
            self._read += 1
            if not self._conditions or self._holds(row):
                yield row

    def ids(self, reader: LedgerReader) -> Selection:
        """The same choice as one that a ledger can make by itself."""
        if not self._conditions:
            return self.selection
        chosen = [row.row for row in self.rows(reader)]
        return self.selection._replace(
            sql="id IN (SELECT value FROM json_each(?))", values=(msgspec.json.encode(chosen).decode(),)
        )

    def nothing(self, what: object) -> str:
        """What to say where no row was chosen."""
        if not self._conditions:
            return f"no row of {what} matches {self.text!r}"
        message, hint = _nothing_matches(self.text or "", str(what), self._read, self._conditions)
        return f"{message} ({hint})" if hint else message

    def _holds(self, row: LedgerRow) -> bool:
        if row.damaged:
            return True  # nobody can say
        answer: Record | None = None
        record: Record = msgspec.json.decode(row.record)
        for one in self._conditions:
            if one.scope == "answer":
                answer = answer_columns(row, self._shape) if answer is None else answer
            if not one.holds(record if one.scope != "answer" else cast("Record", answer)):
                return False
        return True

    def _settle(self, reader: LedgerReader) -> None:
        """Finds out of what each condition is."""
        if not self._conditions:
            return
        rows = SeenColumns(one.name for one in self._conditions if one.scope != "answer")
        answers = SeenColumns(one.name for one in self._conditions if one.scope != "row")
        answers.see(dict.fromkeys(self._shape.answer_names()))
        for row in reader.rows():
            if not (_unsettled(self._conditions, rows, answers)):
                break
            if not row.damaged:
                rows.see(msgspec.json.decode(row.record))
                if answers.missing and row.state == "completion":
                    answers.see(answer_columns(row, self._shape))
        if not rows.known:
            return  # there is no row yet
        for one in self._conditions:
            one.scope = _scope_of(one, rows, answers)


def _unsettled(conditions: Iterable[Condition], rows: SeenColumns, answers: SeenColumns) -> bool:
    """Whether a name was found nowhere yet; until a row was seen, nothing was."""
    return not rows.known or any(
        (one.scope == "answer" or one.name in rows.missing)
        and (one.scope == "row" or one.name in answers.missing)
        for one in conditions
    )


def _scope_of(condition: Condition, rows: SeenColumns, answers: SeenColumns) -> Scope:
    name, scope = condition.name, condition.scope
    in_rows = scope != "answer" and name not in rows.missing
    in_answers = scope != "row" and name not in answers.missing
    if in_rows and in_answers:
        raise InputError(
            f"rows have a column {name!r}, and so have their answers",
            hint=f"write row.{name} or answer.{name}",
        )
    if in_rows or in_answers:
        return "row" if in_rows else "answer"
    known = [*(rows.known if scope != "answer" else ()), *(answers.known if scope != "row" else ())]
    ledgers = () if scope else FIELDS
    raise InputError(
        words(
            Setting("where"), f": there is no column {name!r}", "" if scope is None else f" of the {scope}s"
        ),
        hint=nearest_and_all(name, dict.fromkeys([*known, *ledgers])),
    )
