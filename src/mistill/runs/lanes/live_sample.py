"""The rows of a run that go live to tell which lane is cheaper."""

from __future__ import annotations

import math

from mistill.runs.lanes.changes import Changes

_FIRST_ROWS = 5
"""The first of them finds nothing cached, and the others are enough where the lanes are far apart."""
_GROWTH = 0.5
"""By how much the sample grows where it has not told which lane is cheaper."""
_MOST_ROWS = 1000
"""Where so many have not, they cost about the same."""
_MOST_LOSS = 0.012
"""Of what all rows cost in jobs, for asking some of them live to find out."""
_UNLIKE_ROWS = 5
"""That are unlike all that were answered may be under way at once."""


class LiveSample:
    """How many rows were asked live, how many of them are answered, and what it may cost to ask some more.

    Args:
        known: rows that earlier starts had answered live.

    Attributes:
        settled: rows that have their outcomes, those included.
    """

    def __init__(self, known: int) -> None:
        self._asked = self.settled = known
        self._wanted = max(_FIRST_ROWS, known)
        self._lost = 0.0
        self._unlike = 0
        self._ended = Changes()

    @property
    def is_short(self) -> bool:
        """Some more rows may be asked before those that were asked tell anything."""
        return self._asked < self._wanted

    @property
    def grows(self) -> bool:
        """It is worth waiting for those that were asked before more are."""
        return self._wanted <= self._asked < _MOST_ROWS

    def ask(self, rows: int) -> None:
        """So many go live."""
        self._asked += rows

    def take_back(self, rows: int) -> None:
        """So many that were to go live do not."""
        self._asked -= rows
        self._ended.note()

    def note_settled(self, rows: int) -> None:
        """So many have their outcomes."""
        self.settled += rows
        self._ended.note()

    async def until_settled(self) -> None:
        """All that were asked have their outcomes; then some more may be asked before it is waited for them."""
        asked = self._asked
        await self._ended.until(lambda: self.settled >= asked)
        self._wanted = asked + max(1, math.ceil(asked * _GROWTH))
        self._unlike = 0

    async def has_room_for_unlike(self) -> bool:
        """A row that is unlike all that were answered may be asked; else those before it were waited for."""
        if self._unlike < _UNLIKE_ROWS:
            self._unlike += 1
            return True
        await self.until_settled()
        return False

    def may_lose(self, dollars: float, of_all: float) -> bool:
        """Whether so much may be lost by asking a row live, to learn from it; then it counts as lost.

        Args:
            of_all: US dollars that all rows cost in jobs.
        """
        if self._lost + dollars > _MOST_LOSS * of_all:
            return False
        self._lost += dollars
        return True
