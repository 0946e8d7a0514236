"""How many requests may be in flight at once: found by trying, since no header tells it.

Mechanism: slow start, then additive increase only while saturated, one cut per cool-down (TCP's, as inspect_ai uses
it for model servers).
"""

from __future__ import annotations

_FIRST_LIMIT = 8
_GROWTH_UNKNOWN = 0.25
"""Growth per answer in slow start while no quota is known: ×1.25 a round trip. What is in flight when an unknown quota
ends is refused, so the growth of one round trip is what the discovery costs."""
_GROWTH_KNOWN = 1.0  # ×2 a round trip
_GROWTH_LATER = 0.05
_SATURATED = 0.8
_PRESUMED_ACCEPTED_S = 0.2
"""A refusal comes at once, an answer after seconds. So after this long without one, what has left counts as accepted,
and slow start goes on without waiting for slow answers."""
_CUT = 0.8
_QUIET_AFTER_ERROR_S = 2.0
_FAILING = 1 / 2
"""Growth stops while more than half of the newest requests fail. Fewer are the noise of a long run: a server that
drops one in ten would else be asked for 8 at a time for ever."""
_NEWEST = 1 / 32  # weight of one request in that share


class AdaptiveLimit:
    """The adaptive limit of requests in flight."""

    __slots__ = ("_cut_at", "_failing", "_grow_from_s", "_held_before", "_threshold", "limit")

    def __init__(self) -> None:
        self.limit = float(_FIRST_LIMIT)
        self._threshold = float("inf")  # slow start ends here
        self._cut_at = 0
        self._failing = 0.0
        self._held_before = 0.0  # the limit that the last pause interrupted
        self._grow_from_s: float | None = None

    def blocked_until_s(self, in_flight: int, now_s: float) -> float:
        """0 if one more may leave; else when slow start will have grown by time alone."""
        if in_flight < self.limit:
            return 0.0
        if self.limit >= self._threshold:
            return float("inf")
        if self._grow_from_s is None:
            self._grow_from_s = now_s + _PRESUMED_ACCEPTED_S
        elif now_s >= self._grow_from_s:
            self.limit *= 1 + _GROWTH_UNKNOWN
            self._grow_from_s = now_s + _PRESUMED_ACCEPTED_S
            return 0.0
        return self._grow_from_s

    def answered(self, in_flight: int, now_s: float, *, quota_is_known: bool) -> None:
        """A good answer came; ``in_flight`` counts it still."""
        self._failing -= _NEWEST * self._failing
        if in_flight < _SATURATED * self.limit:
            return
        if self.limit >= self._threshold:
            self.limit += max(_GROWTH_LATER, 1 / self.limit)
        elif self._grow_from_s is None or now_s >= self._grow_from_s - _PRESUMED_ACCEPTED_S:
            is_known = quota_is_known or self.limit < self._held_before
            self.limit += _GROWTH_KNOWN if is_known else _GROWTH_UNKNOWN

    def failed(self, now_s: float) -> None:
        """The server failed a request: no growth for a while, if it fails many."""
        self._failing += _NEWEST * (1 - self._failing)
        if self._failing > _FAILING:
            self._grow_from_s = now_s + _QUIET_AFTER_ERROR_S

    def cut(self, sequence: int, newest: int, in_flight: int, now_s: float) -> None:
        """The server is full. Requests that left before the last cut do not cut again."""
        if sequence <= self._cut_at:
            return
        self._cut_at = newest
        self._held_before = 0.0
        self.limit = self._threshold = max(1.0, _CUT * min(self.limit, in_flight + 1))
        self._grow_from_s = now_s + _QUIET_AFTER_ERROR_S

    def restart(self) -> None:
        """A pause begins: after it, slow start again, or all that waits would leave at once."""
        self._held_before = max(self._held_before if self.limit <= _FIRST_LIMIT else 0.0, self.limit)
        self.limit = min(self.limit, float(_FIRST_LIMIT))
        self._grow_from_s = None
