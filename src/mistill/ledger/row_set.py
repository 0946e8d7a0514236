"""A set of rows, by their numbers in the ledger: a bit for each, so that a million take 125 kB."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

_SHIFT = 16
_PAGE_BYTES = (1 << _SHIFT) // 8
_LOW = (1 << _SHIFT) - 1


class RowSet(Collection[int]):
    """Rows, ascending. One thread changes it, and others may ask whether a row is in it.

    Bits stand in pages, of which there are those that have one: a number that damage made huge takes no more.
    """

    def __init__(self, rows: Iterable[int] = ()) -> None:
        self._pages: dict[int, bytearray] = {}
        self._count = 0
        self.update(rows)

    def update(self, rows: Iterable[int]) -> None:
        pages = self._pages
        for row in rows:
            page = pages.get(row >> _SHIFT)
            if page is None:
                page = pages[row >> _SHIFT] = bytearray(_PAGE_BYTES)
            place, bit = (row & _LOW) >> 3, 1 << (row & 7)
            if not page[place] & bit:
                page[place] |= bit
                self._count += 1

    def difference_update(self, rows: Iterable[int]) -> None:
        for row in rows:
            page = self._pages.get(row >> _SHIFT)
            place, bit = (row & _LOW) >> 3, 1 << (row & 7)
            if page is not None and page[place] & bit:
                page[place] ^= bit
                self._count -= 1

    def __contains__(self, row: object) -> bool:
        if not isinstance(row, int):
            return False
        page = self._pages.get(row >> _SHIFT)
        return page is not None and bool(page[(row & _LOW) >> 3] & (1 << (row & 7)))

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[int]:
        for number, page in sorted(self._pages.items()):
            for place, byte in enumerate(page):
                if byte:
                    first = (number << _SHIFT) + (place << 3)
                    yield from (first + bit for bit in range(8) if byte >> bit & 1)

    def __repr__(self) -> str:
        return f"<RowSet of {self._count:,} rows>"
