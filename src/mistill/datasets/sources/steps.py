"""What is done to rows on their way in: a list in a column makes a row of each item, some rows are left out, each is
named by its id. One row is in memory at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import msgspec

from mistill.datasets.sources.row import Row
from mistill.errors import InputError

_log = logging.getLogger("mistill")

_MAX_NAMED = 3


class Step(Protocol):
    """One of them. ``changes_number``: there may be more rows after it, or fewer."""

    changes_number: ClassVar[bool]

    def columns(self, found: Sequence[str]) -> list[str]:
        """What the columns ``found`` are called after it."""
        ...

    def types(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """The types of columns after it, of those before it, as in `Input.types`."""
        ...

    def rows(self, rows: Iterator[Row], *, looking: bool = False) -> Iterator[Row]:
        """The rows after it, of those before it.

        Args:
            looking: only their columns are looked at, so nothing is said of them.
        """
        ...


class Exploded:
    """A row for each item of the list in a column, which is a list or the JSON text of one.

    A row keeps all other columns; the item stands in the place of the list. Rows whose list is empty, null or missing
    give none, which is said when all are read. What is no list gives a row with a `Row.problem`, and so does a row that
    has a column of the item's name; one that has a problem already is passed on as it is.

    Args:
        column: with the lists. ``name``: what it is called with an item in it.
    """

    changes_number: ClassVar = True

    def __init__(self, column: str, name: str | None = None) -> None:
        self._column = column
        self._name = name or column

    def columns(self, found: Sequence[str]) -> list[str]:
        return [self._name if column == self._column else column for column in found]

    def types(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        items = getattr(found.get(self._column), "value_type", None)
        types = {name: kind for name, kind in found.items() if name != self._column}
        return types if items is None else types | {self._name: items}

    def rows(self, rows: Iterator[Row], *, looking: bool = False) -> Iterator[Row]:
        index = read = empty = 0
        places: list[str] = []
        for read, row in enumerate(rows, 1):  # noqa: B007  how many there were
            fields, items = self._parts(row)
            if items is None:
                row.index = index
                index += 1
                yield row
                continue
            if not items:
                empty += 1
                if len(places) < _MAX_NAMED:
                    places.append(row.where)
            for number, item in enumerate(items):
                record = {
                    self._name if name == self._column else name: item if name == self._column else value
                    for name, value in fields.items()
                }
                yield msgspec.structs.replace(
                    row,
                    index=index,
                    raw=_encode(record),
                    _record=None,
                    within=f"{row.within}, {self._column}[{number}]",
                    binary=[name for name in row.binary if name != self._column],
                )
                index += 1
        if empty and not looking:
            self._say(empty, read, places, is_all=not index)

    def _parts(self, row: Row) -> tuple[dict[str, msgspec.Raw], list[msgspec.Raw] | None]:
        """The columns of a row, and its items; ``None`` where it has a problem, which it is told."""
        if row.problem is not None:
            return {}, None
        fields = _decode_fields(row.raw)
        items = _items(fields.get(self._column))
        if isinstance(items, str):
            row.problem = f"the column {self._column!r} {items}"
        elif self._name != self._column and self._name in fields:
            row.problem = f"it has a column {self._name!r} already"
            row.hint = f"give the items of {self._column!r} another name"
        return fields, None if isinstance(items, str) or row.problem is not None else items

    def _say(self, empty: int, read: int, places: list[str], *, is_all: bool) -> None:
        if is_all:
            raise InputError(f"no row has anything in {self._column!r}, of {read:,}")
        named = ", ".join(places) + (" …" if empty > len(places) else "")
        rows = f"{empty:,} of {read:,} rows"
        _log.warning("%s have nothing in %r, and give no row: %s", rows, self._column, named)


def _items(value: msgspec.Raw | None) -> list[msgspec.Raw] | str:
    """The items of a list; what is wrong, in words, where it is none."""
    if value is None:
        return []
    raw = bytes(value)
    if raw.startswith(b'"'):
        text = msgspec.json.decode(raw, type=str)
        if not text.strip():
            return []  # of a CSV file, where it stands for null
        try:
            found = _decode_list(msgspec.json.format(text, indent=-1))
        except (msgspec.MsgspecError, RecursionError):
            return "is text, but not the JSON of a list"
        return found or []
    try:
        return _decode_list(raw) or []
    except msgspec.ValidationError:
        return "is no list"


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_list = msgspec.json.Decoder(list[msgspec.Raw] | None).decode
_encode = msgspec.json.Encoder().encode


class Choice(Protocol):
    """Which rows of one pass over the input fulfil a condition."""

    def holds(self, record: dict[str, Any], /) -> bool:
        """Whether a row does, by its record."""
        ...

    def refuse_nothing(self, read: int, /) -> None:
        """Is called where no row did, with the number of rows; it raises."""
        ...


class Filtered:
    """The rows that fulfil a condition, numbered anew. Those with a `Row.problem` are kept, so that it is told.

    Args:
        choose: makes the condition of a pass. Each has its own, since several may go on at once: rows are counted by
            another thread than reads them.
    """

    changes_number: ClassVar = True

    def __init__(self, choose: Callable[[], Choice]) -> None:
        self._choose = choose

    def columns(self, found: Sequence[str]) -> list[str]:
        return list(found)

    def types(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        return found

    def rows(self, rows: Iterator[Row], *, looking: bool = False) -> Iterator[Row]:
        index = read = 0
        choice = self._choose()
        for read, row in enumerate(rows, 1):  # noqa: B007  how many there were
            if row.problem is not None or choice.holds(row.record):
                row.index = index
                index += 1
                yield row
        if read and not index and not looking:
            choice.refuse_nothing(read)


class Named:
    """Rows that say their id, from a column of theirs, wherever they are named."""

    changes_number: ClassVar = False

    def __init__(self, column: str) -> None:
        self._column = column

    def columns(self, found: Sequence[str]) -> list[str]:
        return list(found)

    def types(self, found: Mapping[str, Any]) -> Mapping[str, Any]:
        return found

    def rows(self, rows: Iterator[Row], *, looking: bool = False) -> Iterator[Row]:  # noqa: ARG002  nothing to say
        for row in rows:
            row.id_column = self._column
            yield row
