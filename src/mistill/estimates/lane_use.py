"""How many rows went by which lane, and what that saved beside the other one."""

from __future__ import annotations

from msgspec import Struct

from mistill.estimates.lane_prices import LanePrices
from mistill.progress.formatting import count, share


class LaneUse(Struct, frozen=True, kw_only=True):
    """Of rows that went each by the cheaper lane.

    Attributes:
        live, in_jobs: rows answered by each.
        live_saves: by which share those that went live cost less than they would have in jobs; below 0: more, as of the
            rows that tell which is cheaper. ``jobs_save``: those in jobs than live. ``None``: no price is known, or no
            row went that way.
        cached_live, cached_in_jobs: which share of the input was cached there; ``None``: no row was answered there.
    """

    live: int
    in_jobs: int
    live_saves: float | None = None
    jobs_save: float | None = None
    cached_live: float | None = None
    cached_in_jobs: float | None = None

    def __str__(self) -> str:
        """In a line."""
        parts: list[str] = []
        if self.live:
            cache = " with the cache" if self.cached_live else ""
            parts.append(f"{count(self.live, 'row')} live{cache}{_saved(self.live_saves, 'in jobs')}")
        if self.in_jobs:
            parts.append(f"{count(self.in_jobs, 'row')} in jobs{_saved(self.jobs_save, 'live')}")
        return "; ".join(parts) or "no row yet"


def lane_use(live: int, in_jobs: int, prices: LanePrices) -> LaneUse:
    """Of so many rows, by what was measured of some."""
    return LaneUse(
        live=live,
        in_jobs=in_jobs,
        live_saves=prices.live.saves,
        jobs_save=prices.in_jobs.saves,
        cached_live=prices.live.cached_share,
        cached_in_jobs=prices.in_jobs.cached_share,
    )


def _saved(saves: float | None, other: str) -> str:
    if saves is None or saves < 0.005:
        return ""
    return f", about {share(saves, 1.0)} cheaper than {other}"
