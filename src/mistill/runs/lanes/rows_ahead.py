"""Rows of a start, some of which are looked at before it is their turn."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple, Self

from mistill.kinds.kind import PendingRow
from mistill.prompts.beginnings import Met
from mistill.runs.lanes.changes import Changes

_MOST_ROWS = 1000
_MOST_BYTES = 16_000_000
_LONGEST_S = 3.0
"""In a whole start, for it to be known how many rows are to come: an input that stays open may never end."""
_PATIENCE_S = 0.5
_PATIENCE_REGAINED_S = 0.005
"""By each row that was read: so an input is not waited for that has fewer than some 200 rows a second."""


class _Ahead(NamedTuple):
    rows: list[PendingRow]
    met: Met | None
    size: int


class RowsAhead:
    """Rows in their order, but for those that are brought forward. They are read ahead, as far as memory goes.

    Args:
        rows: those that one request asks, each time. ``look``: what is to be known of the first of them.
        turn: is told when it is the turn of rows. ``size_of``: about how many bytes a row takes.
    """

    def __init__(
        self,
        rows: AsyncIterator[list[PendingRow]],
        look: Callable[[PendingRow], Met | None],
        turn: Callable[[PendingRow, Met | None], None],
        size_of: Callable[[PendingRow], int],
    ) -> None:
        self._rows = rows
        self._look = look
        self._turn = turn
        self._size_of = size_of
        self._ready: deque[_Ahead] = deque()
        self._rows_ready = self._bytes = 0
        self._most_rows = _MOST_ROWS
        self._longest_s, self._patience_s = _LONGEST_S, _PATIENCE_S
        self._reading: asyncio.Task[None] | None = None
        self._changed = Changes()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[PendingRow]:
        await self._changed.until(lambda: bool(self._ready) or self._has_ended)
        if not self._ready:
            await self._read_to_end()
            raise StopAsyncIteration
        ahead = self._ready.popleft()
        self._rows_ready -= len(ahead.rows)
        self._bytes -= ahead.size
        self._changed.note()
        self._turn(ahead.rows[0], ahead.met)
        return ahead.rows

    async def look_ahead(self) -> None:
        """Returns when as many rows were read as memory has room for, if they come quickly."""
        if self._patience_s <= 0 or self._is_full or self._has_ended:
            return
        began_s = time.monotonic()
        await self._until(lambda: self._is_full or self._has_ended, self._patience_s)
        self._patience_s -= time.monotonic() - began_s

    def bring_forward(self, is_wanted: Callable[[Met], bool]) -> None:
        """The first of those that were read for which that holds has its turn next."""
        for place, ahead in enumerate(self._ready):
            if ahead.met is not None and is_wanted(ahead.met):
                del self._ready[place]
                self._ready.appendleft(ahead)
                return

    async def are_no_more_than(self, most: int) -> bool | None:
        """Whether no more rows are to come than that; ``None``: it is not known, by as many as there are by now.

        Those that need more memory than there is are more.
        """
        self._most_rows = max(self._most_rows, most + 1)
        self._changed.note()
        began_s = time.monotonic()
        await self._until(
            lambda: self._rows_ready > most or self._is_full or self._has_ended, self._longest_s
        )
        self._longest_s -= time.monotonic() - began_s
        if self._has_ended:
            return self._rows_ready <= most
        return False if self._rows_ready > most or self._is_full else None

    async def _until(self, holds: Callable[[], bool], within_s: float) -> None:
        """Returns when it holds, or after so many seconds."""
        until_s = time.monotonic() + within_s
        while not holds() and (left_s := until_s - time.monotonic()) > 0:
            await self._changed.wait(left_s)

    @property
    def _is_full(self) -> bool:
        return len(self._ready) >= self._most_rows or self._bytes >= _MOST_BYTES

    @property
    def _has_ended(self) -> bool:
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._read())
            self._reading.add_done_callback(lambda _: self._changed.note())
        return self._reading.done()

    async def _read(self) -> None:
        async for group in self._rows:
            ahead = _Ahead(group, self._look(group[0]), sum(map(self._size_of, group)))
            self._ready.append(ahead)
            self._rows_ready += len(group)
            self._bytes += ahead.size
            self._patience_s = min(_PATIENCE_S, self._patience_s + _PATIENCE_REGAINED_S)
            self._changed.note()
            await self._changed.until(lambda: not self._is_full)

    async def _read_to_end(self) -> None:
        """Raises what has ended the reading early."""
        if self._reading is not None:
            await self._reading

    def close(self) -> None:
        """Reads no further."""
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
