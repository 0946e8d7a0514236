"""How many requests may be in flight at once: found by trying, since no header says it.

Mechanism: slow start, then additive increase only while saturated, one cut per cool-down (TCP's, as inspect_ai uses
it for model servers).
"""

from __future__ import annotations

import math

from mistill.delivery.tuning import Tuning


class AdaptiveLimit:
    """A limit of requests in flight that grows with good answers and is cut when the server is full.

    Attributes:
        limit: the requests that may be in flight now; a fraction of one has been gained towards the next.
    """

    __slots__ = (
        "_cut_sequence",
        "_failing_share",
        "_failure_smoothing",
        "_grow_from_s",
        "_limit_before_pause",
        "_saturated_share",
        "_slow_start_threshold",
        "_tuning",
        "limit",
    )

    def __init__(self, tuning: Tuning) -> None:
        self.limit = float(tuning.initial_limit)
        self._tuning = tuning
        self._saturated_share = tuning.saturated_share
        self._failure_smoothing = tuning.failure_smoothing
        self._slow_start_threshold = math.inf  # below it slow start, above it additive increase
        self._cut_sequence = 0
        self._failing_share = 0.0
        self._limit_before_pause = 0.0
        self._grow_from_s: float | None = None

    def blocked_until_s(self, in_flight: int, now_s: float) -> float:
        """0 if one more may leave; else when slow start will have grown by time alone."""
        if in_flight < self.limit:
            return 0.0
        if self.limit >= self._slow_start_threshold:
            return math.inf
        if self._grow_from_s is None:
            self._grow_from_s = now_s + self._tuning.growth_interval_s
        elif now_s >= self._grow_from_s:
            self.limit *= 1 + self._tuning.growth_unknown_quota
            self._grow_from_s = now_s + self._tuning.growth_interval_s
            return 0.0
        return self._grow_from_s

    def answered(self, in_flight: int, now_s: float, *, quota_is_known: bool) -> None:
        """A good answer came; ``in_flight`` counts it still."""
        self._failing_share -= self._failure_smoothing * self._failing_share
        if in_flight < self._saturated_share * self.limit:
            return
        tuning = self._tuning
        if self.limit >= self._slow_start_threshold:
            self.limit += max(tuning.growth_after_cut, 1 / self.limit)
        elif self._grow_from_s is None or now_s >= self._grow_from_s - tuning.growth_interval_s:
            is_known = quota_is_known or self.limit < self._limit_before_pause
            self.limit += tuning.growth_known_quota if is_known else tuning.growth_unknown_quota

    def failed(self, now_s: float) -> None:
        """The server failed a request: no growth for a while, if it fails many."""
        self._failing_share += self._failure_smoothing * (1 - self._failing_share)
        if self._failing_share > self._tuning.failing_share:
            self._grow_from_s = now_s + self._tuning.growth_pause_s

    def cut(self, sequence: int, newest: int, in_flight: int, now_s: float) -> None:
        """The server is full. Requests that were sent before the last cut do not cut again.

        Args:
            sequence: of the request that it refused; ``newest``: the last one that was given out.
            in_flight: counts it still.
        """
        if sequence <= self._cut_sequence:
            return
        self._cut_sequence = newest
        self._limit_before_pause = 0.0
        reached = min(self.limit, in_flight + 1)
        self.limit = self._slow_start_threshold = max(1.0, self._tuning.cut_factor * reached)
        self._grow_from_s = now_s + self._tuning.growth_pause_s

    def restart(self) -> None:
        """A pause begins: after it, slow start again, or all that waits would leave at once."""
        initial = float(self._tuning.initial_limit)
        self._limit_before_pause = max(self._limit_before_pause if self.limit <= initial else 0.0, self.limit)
        self.limit = min(self.limit, initial)
        self._grow_from_s = None
