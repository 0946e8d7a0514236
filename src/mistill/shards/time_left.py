"""How long the rows of a run in shards will take yet."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from mistill.delivery.diagnostics import Snapshot, WaitCause
from mistill.progress.progress import Progress
from mistill.progress.view import View
from mistill.shards.workers import Seen

_SEEN_WITHIN_S: Final = 0.25
"""After a worker's first request has left."""
_QUOTAS: Final[tuple[WaitCause, ...]] = ("quota_requests", "quota_tokens")


class TimeLeft:
    """Told by what is seen of all workers together, by what each expects of its own rows, and by what the quotas that
    they share let through."""

    def __init__(self) -> None:
        self._since_s: float | None = None
        self._governor: Snapshot | None = None

    def see(self, seen: Seen) -> None:
        """Some shard has come so far."""
        view, governor = seen.view, seen.governor
        if self._since_s is None and (view.in_flight or view.ended):
            self._since_s = time.monotonic() - min(view.elapsed_s, _SEEN_WITHIN_S)
        if governor is not None and governor.has_room:
            self._governor = governor

    def of(
        self, rows: float, progress: Progress, views: Sequence[View], now: Snapshot, *, workers: int
    ) -> float | None:
        """Seconds that so many rows will take; ``None`` where no worker knows it of its own, and where a quota is
        waited for of which nobody knows how many rows it lets through.

        How long it took until the first request left does not count, as that of Python to start.

        Args:
            progress: of all shards since the start.
            views: of the shards that are under way. ``workers``: how many work on them.
            now: what is in flight of all of them, and what their time was spent on.
        """
        if views and all(view.ended and view.left_s is None for view in views):
            return None
        by_quota = self._by_quota_s(rows, progress, workers, now.in_flight)
        waits = [view for view in views if view.waiting_for in _QUOTAS]
        if waits and by_quota is None:
            return None
        # Who waits for a quota knows his part of it, and takes over those of others when they end.
        by_workers = max((view.left_s or 0.0 for view in views if view not in waits), default=0.0)
        by_all = 0.0 if waits else self._by_all_s(rows, progress, now)
        return max(by_quota or 0.0, by_workers, by_all)

    def _by_all_s(self, rows: float, progress: Progress, now: Snapshot) -> float:
        """As fast as they went while no quota was waited for."""
        if self._since_s is None:
            return 0.0
        began_s = self._since_s + progress.paused_s()
        worked_s = max(0.0, time.monotonic() - began_s) * _share_without_quota(now)
        # What is in flight is half done.
        return max(0.0, rows - now.in_flight / 2) * worked_s / max(1, _ended(progress) + now.in_flight / 2)

    def _by_quota_s(self, rows: float, progress: Progress, workers: int, in_flight: int) -> float | None:
        """As fast as the quotas let them: ``None`` while none is known."""
        if self._governor is None:
            return None
        ended = max(1, _ended(progress))
        requests = max(1, progress.requests) / ended
        tokens = (progress.usage.input_tokens + progress.usage.output_tokens) / ended
        unsent = max(0.0, rows - in_flight / requests)
        if not unsent:
            return 0.0
        quotas = self._governor.of_processes(workers)
        seconds_each = progress.busy_s / max(1, progress.completions)
        return quotas.quota_wait_s(unsent * requests, unsent * tokens) + seconds_each


def _share_without_quota(now: Snapshot) -> float:
    spent = {cause: seconds for cause, seconds in now.seconds.items() if cause != "paused"}
    waited_s = sum(spent.get(cause, 0.0) for cause in _QUOTAS)
    return 1.0 - waited_s / sum(spent.values()) if waited_s else 1.0


def _ended(progress: Progress) -> int:
    return progress.completions + progress.failures
