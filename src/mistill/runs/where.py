"""``--where`` over columns: those of rows that are read, and those of a run's rows and of their answers.

What a ledger knows of itself is chosen in SQL, by `Selection`; a column is compared here, a row at a time, as
`Condition` says.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import msgspec

from mistill.datasets.sources import Source
from mistill.errors import InputError
from mistill.ledger import EVERYTHING, FIELDS, LedgerReader, LedgerRow, Selection, Term, parse_terms
from mistill.ledger.conditions import NOTHING, Condition, Record, Scope, look_up
from mistill.records.columns import nearest_and_all
from mistill.runs.record_lines import answer_columns
from mistill.runs.record_shape import RecordShape
from mistill.wording import Setting, words

_MAX_COLUMNS = 1000


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
        for name in [name for name in self.missing if look_up(record, name) is not NOTHING]:
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
    others = _others_of(conditions)
    rows = f"{read:,} row{'' if read == 1 else 's'}"
    return f"no row of {what} matches {text!r}, of {rows}", others


def _others_of(conditions: Iterable[Condition]) -> str | None:
    """What columns have in place of values that no row was seen to have, in words."""
    return "; ".join(said for one in conditions if (said := one.others())) or None


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

    Called, it makes an `InputChoice` of one pass over the input.

    Raises:
        InputError: a term is wrong, or no row has a column of that name.
    """

    def __init__(self, text: str, source: Source) -> None:
        self._text = text
        self._source_name = source.name
        self._terms = parse_terms(text)
        conditions = [_scoped(term) for term in self._terms]
        for one in conditions:
            if one.scope == "answer":
                raise InputError(
                    f"answer.{one.term} is about an answer, and the rows have none yet",
                    hint="name a column of the rows",
                )
        require_columns(source, [one.name for one in conditions], "where")

    def __call__(self) -> InputChoice:
        return InputChoice(self._text, self._source_name, [_scoped(term) for term in self._terms])


class InputChoice:
    """The rows of one pass over an input that fulfil a condition, and what the others have instead."""

    def __init__(self, text: str, source_name: str, conditions: Sequence[Condition]) -> None:
        self._text = text
        self._source_name = source_name
        self._conditions = conditions

    def holds(self, record: Record) -> bool:
        return all(one.holds(record) for one in self._conditions)

    def refuse_nothing(self, read: int) -> None:
        """``InputError``, where none of so many rows was chosen."""
        message, hint = _nothing_matches(self._text, self._source_name, read, self._conditions)
        raise InputError(message, hint=hint)


# --- rows of a ledger --------------------------------------------------------------------------------------------


class RunFilter:
    """Which rows of a run: by what its ledger knows of them, by their columns, and by those of their answers.

    Args:
        text: ``None``: all of them.
        reader: of the ledger. ``shape``: what its records look like, which says how its answers' columns are called.
        look_at: in so many first rows a column is looked for, where somebody waits for it; ``None``: in all.

    Attributes:
        selection: as far as the ledger itself can choose.

    Raises:
        InputError: a term is wrong, neither rows nor answers have a column of that name, or both have one.
    """

    def __init__(
        self, text: str | None, reader: LedgerReader, shape: RecordShape, *, look_at: int | None = None
    ) -> None:
        self.text = text
        self._look_at = look_at
        self._shape = shape
        self._ledger = reader.path
        terms = [] if text is None else parse_terms(text)
        of_ledger = [term for term in terms if term.name in FIELDS]
        self.selection = Selection.of(of_ledger) if of_ledger else EVERYTHING
        self._of_ledger = of_ledger
        self._conditions = [_scoped(term) for term in terms if term.name not in FIELDS]
        self._read = 0
        self._settle(reader)

    @property
    def is_of_ledger(self) -> bool:
        """The ledger itself can tell which rows are chosen."""
        return not self._conditions

    def rows(self, reader: LedgerReader, first: int = 0, until: int | None = None) -> Iterator[LedgerRow]:
        """The rows that are chosen, in the order of the input, one in memory at a time; ``first`` and ``until`` as for
        `LedgerReader.rows`."""
        self._read = 0
        for row in self._shape.rows_of(reader, self.selection, first, until):
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
        if known := self._others_of_ledger():
            return f"no row of {what} matches {self.text!r} ({known})"
        if not self._conditions:
            return f"no row of {what} matches {self.text!r}"
        message, hint = _nothing_matches(self.text or "", str(what), self._read, self._conditions)
        return f"{message} ({hint})" if hint else message

    def others(self) -> str | None:
        """What the rows that were read have in place of values that none of their columns has, in words."""
        return _others_of(self._conditions)

    def _others_of_ledger(self) -> str:
        """What rows have in place of a cause or a finish reason that none has, in words."""
        said: list[str] = []
        with LedgerReader(self._ledger) as reader:
            for term in self._of_ledger:
                if term.comparison == "=" and term.name in ("error", "finish_reason"):
                    causes = (cause.kind for cause in reader.failures())
                    known = [*causes] if term.name == "error" else [*reader.finish_reasons()]
                    if known and term.value not in known:
                        said.append(f"{term.name} is {', '.join(known)}")
        return "; ".join(said)

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
        for row in reader.rows(until=self._look_at):
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
