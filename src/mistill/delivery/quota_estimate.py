"""Finding a request quota from refusals alone, for servers that tell no quota in their headers."""

from __future__ import annotations

import math

_FIRST_INTERVAL_S = 2.0
_AFTER_SUCCESS_S = 1.0
_INTERVAL_GROWTH = 3.0
_CUT_OF_RATE = 0.8


class QuotaEstimate:
    """An estimate of how many requests one window holds.

    A refusal says that the quota is what the server has accepted so far. A wrong estimate, or a raised quota, is
    found by probes: now and then one request leaves although the estimate is used up. An accepted one raises the
    estimate by a step that doubles (1, 2, 4, …), a refused one makes probes three times rarer, to one a window at
    the least. So an estimate that is right costs one refusal a window, and one that is wrong is left in seconds.
    """

    __slots__ = ("_interval_s", "_step", "_window_s", "is_rate", "limit", "probe_at_s")

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._interval_s = _FIRST_INTERVAL_S
        self._step = 1
        self.limit: int | None = None
        self.is_rate = False
        """A probe was accepted although the window was full: the server may limit by the second, so spread evenly."""
        self.probe_at_s = math.inf

    def refused(self, accepted: int, now_s: float, *, is_straggler: bool) -> None:
        """A request was refused while ``accepted`` others were in the window, those on their way included.

        ``is_straggler``: it had left before an earlier refusal was known.
        """
        self._step = 1
        if self.limit is None:
            if not accepted:
                return  # what was used up was used by others, or before us: it says nothing of the quota
            self.limit = accepted
            self.probe_at_s = now_s + self._interval_s
        elif not self.is_rate:
            self.limit = min(self.limit, accepted)
        elif not is_straggler:
            self.limit = max(min(self.limit, accepted), int(_CUT_OF_RATE * self.limit))
        self.limit = max(1, self.limit)

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
        self.is_rate = True
        self._step = min(2 * self._step, self.limit)
        self._interval_s = _AFTER_SUCCESS_S
        self.probe_at_s = now_s + _AFTER_SUCCESS_S

    def probe_lost(self, now_s: float) -> None:
        """The probe ended without telling anything."""
        self.probe_at_s = now_s + self._interval_s
