"""Rows of a start, some of which are read before it is their turn."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from typing import Self

from mistill.kinds.kind import PendingRow


class RowsAhead:
    """Rows in their order, some of which were read before it is their turn."""

    def __init__(self, rows: AsyncIterator[list[PendingRow]]) -> None:
        self._rows = rows
        self._read: deque[list[PendingRow]] = deque()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[PendingRow]:
        return self._read.popleft() if self._read else await anext(self._rows)

    async def are_no_more_than(self, most: int) -> bool:
        """Whether no more rows are to come than that; no further ones are read."""
        rows = sum(map(len, self._read))
        while rows <= most:
            group = await anext(self._rows, None)
            if group is None:
                return True
            self._read.append(group)
            rows += len(group)
        return False
