"""Rows that batch jobs leave over, on their way to the live lane."""

from __future__ import annotations

from collections import deque
from typing import Self

from mistill.kinds.kind import PendingRow
from mistill.ledger import RowSet
from mistill.runs.lanes.changes import Changes


class Leftovers:
    """A stream of rows for workers, which ends when it is closed. No more than ``room`` groups of them wait in it.

    A row is taken once: whatever becomes of it live is its outcome, so who meets it again has nothing to do.
    """

    def __init__(self, room: int) -> None:
        self._waiting: deque[list[PendingRow]] = deque()
        self._room = room
        self._taken = RowSet()
        self._under_way = 0
        self._is_closed = False
        self._changed = Changes()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[PendingRow]:
        await self._changed.until(lambda: bool(self._waiting) or self._is_closed)
        if self._is_closed:
            raise StopAsyncIteration
        self._changed.note()
        return self._waiting.popleft()

    @property
    def is_full(self) -> bool:
        """Who puts something in has to wait."""
        return len(self._waiting) >= self._room

    def resize(self, room: int) -> None:
        """From now on, so many groups wait in it at the most."""
        self._room = room
        self._changed.note()

    def has_taken(self, rows: list[PendingRow]) -> bool:
        """Rows that are asked together have been here."""
        return rows[0].state.row in self._taken

    async def put(self, rows: list[PendingRow]) -> None:
        """Rows that are asked together; returns when there is room for them."""
        self._taken.update(pending.state.row for pending in rows)
        await self._changed.until(lambda: not self.is_full or self._is_closed)
        self._waiting.append(rows)
        self._under_way += 1
        self._changed.note()

    def ended(self) -> None:
        """Rows that were put in together have their outcomes."""
        self._under_way -= 1
        self._changed.note()

    async def all_ended(self) -> None:
        """Returns when all rows that were put in have their outcomes; or it is closed."""
        await self._changed.until(lambda: not self._under_way or self._is_closed)

    def close(self) -> None:
        """Nothing is given out any more."""
        self._is_closed = True
        self._changed.note()
