"""Finding a request quota from refusals alone, for servers that report no quota in their headers."""

from __future__ import annotations

import math

from mistill.delivery.tuning import Tuning


class QuotaHypothesis:
    """A refusal with many requests sent after it: is the quota used up, or was this one refused alone?

    A quota that is used up refuses what was sent later too, and refusals come at once. So the later ones are given a
    moment; only if enough of them are refused as well is there a quota to infer.

    Attributes:
        newest: the last sequence that was given out when it was made. ``decides_at_s``: when the moment is over.
    """

    __slots__ = ("_later", "_needed_share", "_refused", "decides_at_s", "newest")

    def __init__(self, newest: int, later: int, now_s: float, tuning: Tuning) -> None:
        self.newest = newest
        self.decides_at_s = now_s + tuning.hypothesis_wait_s
        self._later = later
        self._needed_share = tuning.hypothesis_refused_share
        self._refused = 0

    def add_refusal(self) -> None:
        """Another of those that had been sent by then was refused."""
        self._refused += 1

    @property
    def is_confirmed(self) -> bool:
        """Enough of the later ones were refused as well."""
        return self._refused >= self._needed_share * self._later


class QuotaEstimate:
    """An estimate of how many requests one window holds.

    A refusal says that the quota is what the server has accepted so far. A wrong estimate, or a raised quota, is
    found by probes: now and then one request is sent although the estimate is used up. An accepted one raises the
    estimate by a step that doubles (1, 2, 4, …), a refused one makes probes three times rarer, to one a window at
    the least. So an estimate that is right costs one refusal a window, and one that is wrong is left in seconds.

    Attributes:
        limit: the estimate; None before the first refusal.
        is_rate: a probe was accepted although the window was full: the server may limit by the second, so requests are
            spread evenly.
        probe_at_s: from when on a request may be sent beyond it.
    """

    __slots__ = ("_interval_s", "_step", "_tuning", "_window_s", "is_rate", "limit", "probe_at_s")

    def __init__(self, window_s: float, tuning: Tuning) -> None:
        self.limit: int | None = None
        self.is_rate = False
        self.probe_at_s = math.inf
        self._window_s = window_s
        self._tuning = tuning
        self._interval_s = tuning.estimate_probe_s
        self._step = 1

    def take_up(self, limit: int, *, is_rate: bool, now_s: float) -> None:
        """An estimate of another process."""
        self.limit = max(1, limit)
        self.is_rate = is_rate
        self.probe_at_s = now_s + self._interval_s

    def refused(self, accepted: int, now_s: float, *, is_straggler: bool) -> None:
        """A request was refused while ``accepted`` others were in the window, those on their way included.

        ``is_straggler``: it had been sent before an earlier refusal was known.
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
            self.limit = max(min(self.limit, accepted), int(self._tuning.rate_cut_factor * self.limit))
        self.limit = max(1, self.limit)

    def probe_sent(self) -> None:
        """A probe is on its way; no other until its end is known."""
        self.probe_at_s = math.inf

    def probe_refused(self, now_s: float) -> None:
        """The estimate holds: the next probe is a longer while away."""
        self._step = 1
        self._interval_s = min(self._window_s, self._interval_s * self._tuning.estimate_probe_growth)
        self.probe_at_s = now_s + self._interval_s

    def probe_accepted(self, now_s: float) -> None:
        """The estimate is too low."""
        assert self.limit is not None
        self.limit += self._step
        self.is_rate = True
        self._step = min(2 * self._step, self.limit)
        self._interval_s = self._tuning.estimate_probe_after_success_s
        self.probe_at_s = now_s + self._interval_s

    def probe_lost(self, now_s: float) -> None:
        """The probe ended without saying anything of the quota."""
        self.probe_at_s = now_s + self._interval_s
