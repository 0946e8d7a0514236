"""A run's own rows as an input: what a retry goes over, so that the input file is not needed again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mistill.runs.ledger import LedgerReader, Selection
from mistill.runs.sources import Row

_PAGE_ROWS = 1000


class LedgerRows:
    """The rows of a ledger's current input, in order. Read a page at a time: a long read would keep its log growing."""

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger

    @property
    def name(self) -> str:
        return str(self._ledger)

    @property
    def repeatable(self) -> bool:
        return True

    def columns(self) -> tuple[str, ...] | None:
        return None

    def total(self) -> int | None:
        with LedgerReader(self._ledger) as reader:
            return reader.counts().rows

    def rows(self, first_index: int) -> Iterator[Row]:
        start = 0
        with LedgerReader(self._ledger) as reader:
            while True:
                page = Selection("position >= ? AND position < ?", (start, start + _PAGE_ROWS))
                found = list(reader.rows(page))
                for row in found:
                    yield Row(first_index + row.position, row.record, self, row.position)
                if not found:
                    return
                start += _PAGE_ROWS

    def where(self, place: int) -> str:
        return f"{self._ledger} row {place}"
