"""How long the rows of a run in shards will take yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from mistill.progress.view import View

_SEEN_WITHIN_S: Final = 0.25
"""After a worker's first request has left."""


class TimeLeft:
    """Told by what is seen of all workers together, and by what each expects of its own rows.

    Args:
        are_one_process: see `Workers`.
    """

    def __init__(self, *, are_one_process: bool) -> None:
        self._are_one_process = are_one_process
        self._since_s: float | None = None
        self._quota_row_s: float | None = None

    def see(self, view: View) -> None:
        """Some shard has come so far."""
        if self._since_s is None and (view.in_flight or view.ended):
            self._since_s = time.monotonic() - min(view.elapsed_s, _SEEN_WITHIN_S)
        if view.ended and view.quota_row_s is not None:
            self._quota_row_s = view.quota_row_s

    def of(
        self, rows: float, views: Sequence[View], in_flight: int, ended: int, paused_s: float
    ) -> float | None:
        """Seconds that so many rows will take; ``None`` where no worker knows it of its own, and where a quota is
        waited for of which nobody knows how many rows it lets through.

        How long it took until the first request left does not count, as that of Python to start.

        Args:
            views: of the shards that are under way. ``in_flight``: of all of them.
            ended: rows, since the start. ``paused_s``: for so long it was paused.
        """
        if views and all(view.ended and view.left_s is None for view in views):
            return None
        now_s = time.monotonic()
        worked_s = 0.0 if self._since_s is None else max(0.0, now_s - self._since_s - paused_s)
        # What is in flight is half done.
        by_all = max(0.0, rows - in_flight / 2) * worked_s / max(1, ended + in_flight / 2)
        by_workers = self._by_workers_s(rows, [view for view in views if view.left_s is not None])
        if any(view.waiting_for in ("quota_requests", "quota_tokens") for view in views):
            return by_workers  # how fast it went before says nothing
        return max(by_all, by_workers or 0.0)

    def _by_workers_s(self, rows: float, views: Sequence[View]) -> float | None:
        """As each expects of its own shard, who knows its part of a quota; and then the shards that wait, as fast as a
        quota lets them: ``None`` where none is known, and rows wait."""
        if not views:  # all of them have just begun
            return None if self._quota_row_s is None else rows * self._quota_row_s
        slowest = max(views, key=lambda view: view.left_s or 0.0)
        told = [slowest] if self._are_one_process else views
        waiting = max(0.0, rows - sum(view.left or 0 for view in told))
        if waiting and self._quota_row_s is None:
            return None
        return (slowest.left_s or 0.0) + waiting * (self._quota_row_s or 0.0)
