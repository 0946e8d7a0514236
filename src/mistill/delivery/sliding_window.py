"""How much of one quota (requests, or tokens) is used, by us and by others, in the window that slides.

The server counts what it accepted during the last 60 s. We keep the same count from our side, in cells of a 600th of
the window, so that memory does not grow with the rate. What others use of the same quota (other processes, other
machines) is only seen in the remaining that answers tell.
"""

from __future__ import annotations

import math
from collections import deque

_CELLS = 600
_MARGIN = 0.01
_MOST_MARGIN = 0.06
_MARGIN_DECAY = 1 / 1000
"""An entry counts a little longer here than there: a hundredth of the window, since requests reach the server with
changing delays, and one that arrives too early costs more than one that leaves a little late. Where the server is
seen to count what has just left the window here (a busy machine delays bursts), the margin grows to that, and shrinks
slowly."""


class Cell:
    """What entered the window in one short stretch of time."""

    __slots__ = ("amount", "ends_s", "is_gone")

    def __init__(self, ends_s: float) -> None:
        self.ends_s = ends_s
        self.amount = 0
        self.is_gone = False


NO_CELL = Cell(-math.inf)
Mark = tuple[int, int, int]
"""A meter when a request left: its totals (entered, expired), and what had entered but was not answered yet. What came
later, or was still on its way, may be unknown to the request's answer."""
NO_MARK: Mark = (0, 0, 0)


class SlidingWindow:
    """One quota's use. Amounts are requests or tokens; ``limit`` is what one window may hold, None while unknown."""

    __slots__ = (
        "_cells",
        "_doubtful",
        "_hold_s",
        "_newest",
        "_others",
        "_others_at_s",
        "entered",
        "expired",
        "limit",
        "reserved",
        "used",
        "window_s",
    )

    def __init__(self, window_s: float) -> None:
        self.window_s = window_s
        self.limit: float | None = None
        self.used = 0
        self.reserved = 0
        self.entered = 0
        self.expired = 0
        self._others = 0.0
        self._others_at_s = 0.0
        self._hold_s = window_s * (1 + _MARGIN)
        self._cells: deque[Cell] = deque()
        self._doubtful: deque[Cell] = deque()  # gone from the window, but the server may count them still
        self._newest = Cell(-math.inf)

    def add(self, amount: int, now_s: float) -> Cell:
        """Counts ``amount`` from now on; returns the cell to `take_back` from."""
        cell = self._newest
        if now_s >= cell.ends_s:
            self._expire(now_s)  # here too, so that an unlimited meter forgets as well
            cell = self._newest = Cell(now_s + self.window_s / _CELLS)
            self._cells.append(cell)
        cell.amount += amount
        self.used += amount
        self.entered += amount
        return cell

    def take_back(self, cell: Cell, amount: int) -> None:
        """The server did not count this."""
        amount = min(amount, cell.amount)
        cell.amount -= amount
        if not cell.is_gone:
            self.used -= amount

    def room(self, now_s: float) -> float:
        """What may still be used now; infinite while no limit is known."""
        if self.limit is None:
            return math.inf
        self._expire(now_s)
        return self.limit - self.used - self.reserved - self.others(now_s)

    def has_room(self, amount: float, now_s: float) -> bool:
        """Whether ``amount`` may still be used now."""
        if self.limit is None:
            return True
        # What has left the window since the last look only makes more room, so where there is enough, nobody looks.
        if self.limit - self.used - self.reserved - self._others >= amount:
            return True
        return self.room(now_s) >= amount

    def next_change_s(self, now_s: float) -> float:
        """The next moment at which time alone makes room; infinite if only an answer can."""
        moment = self._cells[0].ends_s + self._hold_s if self._cells else math.inf
        if self.others(now_s) > 0:
            moment = min(moment, now_s + max(self.window_s / self._others, self.window_s / _CELLS))
        return moment

    def others(self, now_s: float) -> float:
        """What others are thought to use: taken as spread evenly over the window, so that it leaves evenly."""
        if not self._others:
            return 0.0
        share_left = 1 - (now_s - self._others_at_s) / self.window_s
        if share_left <= 0:
            self._others = 0.0
            return 0.0
        return self._others * share_left

    def learn(self, server_used: float, mark: Mark, now_s: float, *, is_newest: bool) -> None:
        """Corrects the count by what an answer told; its request left at ``mark``.

        Answers come in any order, and say nothing of what left after their request. So ``server_used`` is only a
        lower and an upper bound of what the server counts by now: less what has expired since, and more by what has
        entered since or was still on its way.
        """
        own = self.used + self.reserved
        if self.limit is not None and 2 * max(own + self._others, server_used) < self.limit:
            return  # far from the limit by either count: nothing that matters now
        self._expire(now_s)
        own = self.used + self.reserved
        others = self.others(now_s)
        missing = server_used - (self.expired - mark[1]) - own - others
        if missing > 0:
            missing = self._restore(missing, now_s)
            if missing > 0:
                self._others, self._others_at_s = others + missing, now_s
        elif is_newest:
            at_most = server_used + (self.entered - mark[0]) + mark[2] + self.reserved
            self._forget(own + self.others(now_s) - at_most, now_s)

    def _forget(self, surplus: float, now_s: float) -> None:
        """The server counts less than we do: what others used goes first, then our oldest."""
        others = self.others(now_s)
        if surplus <= 0:
            return
        if others > 0:
            self._others, self._others_at_s = max(0.0, others - surplus), now_s
            surplus -= others
        while surplus >= 1 and self._cells:
            oldest = self._cells[0]
            dropped = min(oldest.amount, int(surplus))
            oldest.amount -= dropped
            self.used -= dropped
            surplus -= dropped
            if oldest.amount or oldest is self._newest:
                break
            self._cells.popleft()

    def _restore(self, missing: float, now_s: float) -> float:
        """The server counts more than we do: first of all what has just left the window here. Returns the rest."""
        while missing > 0 and self._doubtful:
            cell = self._doubtful.pop()
            cell.is_gone = False
            self._cells.appendleft(cell)
            self.used += cell.amount
            missing -= cell.amount
            self._hold_s = max(self._hold_s, now_s - cell.ends_s + self.window_s / _CELLS)
        return missing

    def _expire(self, now_s: float) -> None:
        cells, doubtful = self._cells, self._doubtful
        while cells and cells[0].ends_s + self._hold_s <= now_s:
            gone = cells.popleft()
            gone.is_gone = True
            self.used -= gone.amount
            self.expired += gone.amount
            doubtful.append(gone)
            self._hold_s -= (self._hold_s - self.window_s * (1 + _MARGIN)) * _MARGIN_DECAY
        while doubtful and doubtful[0].ends_s + self.window_s * (1 + _MOST_MARGIN) <= now_s:
            doubtful.popleft()
