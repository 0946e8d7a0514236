"""Finding a request quota from refusals alone, for servers that tell no quota in their headers."""

from __future__ import annotations

import math

_FIRST_INTERVAL_S = 2.0
_AFTER_SUCCESS_S = 1.0
_INTERVAL_GROWTH = 3.0


class InferredLimit:
    """An estimate of how many requests one window holds.

    A refusal says that the quota is what the server has accepted so far. A wrong estimate, or a raised quota, is
    found by probes: now and then one request leaves although the estimate is used up. An accepted one raises the
    estimate by a step that doubles (1, 2, 4, …), a refused one makes probes three times rarer, to one a window at
    the least. So an estimate that is right costs one refusal a window, and one that is wrong is left in seconds.
    """

    __slots__ = ("_interval_s", "_step", "_window_s", "limit", "probe_at_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._interval_s = _FIRST_INTERVAL_S
        self._step = 1
        self.limit: int | None = None
        self.probe_at_s = math.inf

    def refused(self, accepted: int, now_s: float) -> None:
        """A request was refused while ``accepted`` others were in the window, those on their way included."""
        known = accepted if self.limit is None else min(self.limit, accepted)
        if self.limit is None:
            self.probe_at_s = now_s + self._interval_s
        self.limit = max(1, known)
        self._step = 1

    def probe_left(self) -> None:
        """A probe is on its way; no other until its end is known."""
        self.probe_at_s = math.inf

    def probe_refused(self, now_s: float) -> None:
        self._step = 1
        self._interval_s = min(self._window_s, self._interval_s * _INTERVAL_GROWTH)
        self.probe_at_s = now_s + self._interval_s

    def probe_accepted(self, now_s: float) -> None:
        assert self.limit is not None
        self.limit += self._step
        self._step = min(2 * self._step, self.limit)
        self._interval_s = _AFTER_SUCCESS_S
        self.probe_at_s = now_s + _AFTER_SUCCESS_S

    def probe_lost(self, now_s: float) -> None:
        """The probe ended without telling anything."""
        self.probe_at_s = now_s + self._interval_s
