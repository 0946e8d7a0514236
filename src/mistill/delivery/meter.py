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
"""An entry counts a hundredth of the window longer here than there: requests reach the server with changing delays,
and one that arrives too early costs more than one that leaves a little late."""


class Cell:
    """What entered the window in one short stretch of time."""

    __slots__ = ("amount", "ends_s", "leaves_s")

    def __init__(self, ends_s: float, leaves_s: float) -> None:
        self.ends_s = ends_s
        self.leaves_s = leaves_s
        self.amount = 0


Mark = tuple[int, int]
"""A meter's totals (entered, expired) when a request left: what came later may be unknown to its answer."""


class Meter:
    """One quota's use. Amounts are requests or tokens; ``limit`` is what one window may hold, None while unknown."""

    __slots__ = (
        "_cells",
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
        self._cells: deque[Cell] = deque()
        self._newest = Cell(-math.inf, -math.inf)

    def add(self, amount: int, now_s: float) -> Cell:
        """Counts ``amount`` from now on; returns the cell to `take_back` from."""
        cell = self._newest
        if now_s >= cell.ends_s:
            self._expire(now_s)  # here too, so that an unlimited meter forgets as well
            ends_s = now_s + self.window_s / _CELLS
            cell = self._newest = Cell(ends_s, ends_s + self.window_s * (1 + _MARGIN))
            self._cells.append(cell)
        cell.amount += amount
        self.used += amount
        self.entered += amount
        return cell

    def take_back(self, cell: Cell, amount: int) -> None:
        """The server did not count this. What has left the window already stays as it is."""
        amount = min(amount, cell.amount)
        cell.amount -= amount
        self.used -= amount

    def room(self, now_s: float) -> float:
        """What may still be used now; infinite while no limit is known."""
        if self.limit is None:
            return math.inf
        self._expire(now_s)
        return self.limit - self.used - self.reserved - self.others(now_s)

    def next_change_s(self, now_s: float) -> float:
        """The next moment at which time alone makes room; infinite if only an answer can."""
        moment = self._cells[0].leaves_s if self._cells else math.inf
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
        entered since and what is on its way.
        """
        own = self.used + self.reserved
        if self.limit is not None and 2 * max(own + self._others, server_used) < self.limit:
            return  # far from the limit by either count: nothing that matters now
        self._expire(now_s)
        own = self.used + self.reserved
        at_least = server_used - (self.expired - mark[1]) - own
        if at_least > self.others(now_s):
            self._others, self._others_at_s = at_least, now_s
        elif is_newest:
            at_most = server_used + (self.entered - mark[0]) + self.reserved
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

    def _expire(self, now_s: float) -> None:
        cells = self._cells
        while cells and cells[0].leaves_s <= now_s:
            gone = cells.popleft()
            self.used -= gone.amount
            self.expired += gone.amount
            gone.amount = 0
