"""Rows of a run by pages: each begins at a key, the position of its first row, and is read within a moment.

Where few rows match, a page is not full when its time is over: it says how far it has come, and whoever wants more asks
on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from itertools import islice
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from mistill.kinds.kept_settings import read_manifest, read_options
from mistill.kinds.kind import Kind
from mistill.kinds.manifest import RunManifest
from mistill.ledger import EVERYTHING, EarlierOutcome, LedgerReader, LedgerRow
from mistill.ledger.error_record import decode_error
from mistill.runs.record_lines import answer_values, decoded_value
from mistill.runs.record_shape import RecordShape, shape_of
from mistill.runs.where import RunFilter
from mistill.viewer.texts import page_text, preview, preview_of_record, texts_in
from mistill.wording import in_python

T = TypeVar("T")

PAGE_ROWS = 100
MAX_PAGE_ROWS = 500
PAGE_S = 0.4
"""How long a page may take to be found."""

_THIN_WINDOW = 50_000
_WINDOW = 500
_LOOK_AT = 2000
"""In so many rows a column is looked for that a condition names."""


class Page(Struct, Generic[T], frozen=True):
    """Some of the rows.

    Attributes:
        next: the position from which the next page begins, or this one goes on; ``None``: there are no more.
        full: it has as many rows as were asked for, or all that are left: else it goes on from ``next``.
        last_position: of the last row of the run.
        others: what columns have in place of values of the condition that no row had which was looked at, in words.
    """

    rows: list[T]
    next: int | None
    full: bool
    last_position: int | None
    others: str | None = None


class RowLine(Struct, frozen=True, kw_only=True):
    """A row at a glance, as `LedgerRow`; its texts are one line each. ``mark``, ``note``: what was said of it."""

    row: int
    state: str
    input: str
    answer: str
    error: str | None
    error_kind: str | None
    finish_reason: str | None
    input_tokens: int
    output_tokens: int
    cost: float | None
    ended_at: float | None
    settings: int | None
    asked_again: bool
    copied: bool
    mark: str | None
    note: str | None


class RunRows:
    """The rows of a run as they are looked at.

    Raises:
        LedgerError: its settings cannot be read.
    """

    def __init__(self, reader: LedgerReader) -> None:
        self.reader = reader
        self.kind: type[Kind[Any]]
        self.manifest: RunManifest
        self.kind, self.manifest = read_manifest(reader)
        self.shape: RecordShape = shape_of(reader)
        self.id_column: str | None = read_options(reader).get("id_column")

    def page(self, where: str | None, search: str | None, first: int, limit: int) -> Page[RowLine]:
        """A page of those that fulfil a condition and have a text in them.

        Raises:
            InputError: the condition is wrong.
        """
        chosen = RunFilter(where, self.reader, self.shape, look_at=_LOOK_AT)
        wanted = (search or "").casefold()
        if chosen.is_of_ledger and not wanted:
            windows = self._thin_windows(chosen, first, limit)
        else:
            windows = self._windows(chosen, first, lambda row: not wanted or self.has_text(row, wanted))
        page = page_of(windows, first, limit, self.reader.last_position, self.line)
        others = None if page.rows else chosen.others()
        return page if others is None else replace(page, others=page_text(others).text)

    def _thin_windows(
        self, chosen: RunFilter, first: int, limit: int
    ) -> Iterator[tuple[Iterable[LedgerRow], int]]:
        """Windows of rows that the ledger chooses by itself; and where each ends."""
        last = self.reader.last_position
        while last is not None and first <= last:
            until = first + (limit + 1 if chosen.selection is EVERYTHING else _THIN_WINDOW)
            if chosen.selection is EVERYTHING:
                yield self.reader.rows(first=first, until=until), until
            else:
                found = self.reader.positions_that(chosen.selection, first, until, limit + 1)
                yield self._rows_at(found), until
            first = until

    def _rows_at(self, positions: Iterable[int]) -> Iterator[LedgerRow]:
        for position in positions:
            yield from self.reader.rows(first=position, until=position + 1)

    def _windows(
        self, chosen: RunFilter, first: int, holds: Callable[[LedgerRow], bool]
    ) -> Iterator[tuple[Iterable[LedgerRow], int]]:
        last = self.reader.last_position
        while last is not None and first <= last:
            until = first + _WINDOW
            yield filter(holds, chosen.rows(self.reader, first, until)), until
            first = until

    def has_text(self, row: LedgerRow, wanted: str) -> bool:
        """Whether a row, its answers or its error have a text in them, however it is written."""
        if _may_have(row.record, wanted):
            found = texts_in(msgspec.json.decode(row.record))
            if any(wanted in text.casefold() for text in found):
                return True
        if row.error is not None:
            error = decode_error(row.error)
            if any(wanted in text.casefold() for text in (error.kind, error.message, error.hint or "")):
                return True
        return any(
            _may_have(body, wanted) and wanted in self.kind.text_of(body).casefold() for body in row.answers
        )

    def answer_of(self, row: LedgerRow | EarlierOutcome) -> str:
        """The texts of its answers."""
        return "\n".join(self.kind.text_of(body) for body in row.answers)

    def values_of(self, row: LedgerRow, outcome: LedgerRow | EarlierOutcome) -> list[Any]:
        """What an outcome of a row says, a value for each of its answers: decoded where it is JSON, else a text."""
        then = replace(row, **{name: getattr(outcome, name) for name in EarlierOutcome.__struct_fields__})
        return list(map(decoded_value, answer_values(then, self.shape)))

    def line(self, row: LedgerRow) -> RowLine:
        """A row at a glance."""
        error = None if row.error is None else decode_error(row.error).worded(in_python)
        said = self.reader.mark_of(row.row, row.ended_at)
        return RowLine(
            row=row.position,
            state=row.state,
            input=preview_of_record(msgspec.json.decode(row.record)),
            answer=preview(self.answer_of(row)),
            error=None if error is None else preview(error.message),
            error_kind=None if error is None else preview(error.kind),
            finish_reason=None if row.finish_reason is None else page_text(row.finish_reason, 100).text,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            cost=row.cost,
            ended_at=row.ended_at,
            settings=row.settings,
            asked_again=row.asked_again,
            copied=row.copied,
            mark=None if said is None else said.mark,
            note=None if said is None or said.note is None else preview(said.note),
        )


def _may_have(data: bytes, wanted: str) -> bool:
    """Whether JSON is worth decoding: where all is ASCII and nothing is written in another way, what is not in it as it
    stands is not in it at all."""
    is_plain = wanted.isascii() and data.isascii() and b"\\" not in data
    return not is_plain or wanted.encode() in data.lower()


def page_of(
    windows: Iterator[tuple[Iterable[Any], int]],
    first: int,
    limit: int,
    last_position: int | None,
    line: Callable[[Any], T],
) -> Page[T]:
    """A page from a position on of what windows have, each of which ends before one; what they have, has a
    ``position``."""
    give_up_at = time.monotonic() + PAGE_S
    found: list[T] = []
    come_to = first
    for window, until in windows:
        come_to = until
        with closing(_iterated(window)) as rows:
            for row in islice(rows, limit + 1 - len(found)):
                if len(found) == limit:
                    return Page(found, row.position, True, last_position)
                found.append(line(row))
        if time.monotonic() >= give_up_at:
            break
    at_end = last_position is None or come_to > last_position
    return Page(found, None if at_end else come_to, at_end or len(found) == limit, last_position)


def _iterated(window: Iterable[T]) -> Generator[T]:
    yield from window
