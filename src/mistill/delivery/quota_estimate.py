"""Finding a request quota from refusals alone, for servers that report no quota in their headers."""

from __future__ import annotations

import math
from typing import Protocol

from mistill.delivery.tuning import Tuning


class SentPermit(Protocol):
    """What is to be known of a request: its place in the order of sending, and when it was sent."""

    @property
    def sequence(self) -> int: ...

    @property
    def sent_s(self) -> float: ...


class QuotaHypothesis:
    """A refusal that no header explains: is the quota used up, or was this one refused alone?

    A quota that is used up refuses what was sent later too, and refusals come quickly. How quickly, those that came
    tell: a server may be far away, and what happens in another process is known here only later. So those that were
    sent later are waited for, as long as refusals of them keep coming; only if enough of them are refused as well is
    there a quota to infer.

    Args:
        permit: of the refused request; ``newest``: the last sequence that was given out.
        later: how many had been sent after it by then.
        is_open: nobody waits for the decision, since refusals that stand alone are known here: it is by what is sent
            from now on, too, until there are enough.

    Attributes:
        decides_at_s: when it is decided; infinite while too few have been sent.
        pause_s: how long all are to wait, as the refusals said (``Retry-After``), if it is confirmed.
    """

    __slots__ = (
        "_accepted",
        "_first",
        "_later",
        "_latest_s",
        "_needed_later",
        "_needed_share",
        "_newest",
        "_quiet_s",
        "_refused",
        "_tuning",
        "decides_at_s",
        "is_open",
        "pause_s",
    )

    def __init__(
        self,
        permit: SentPermit,
        newest: int,
        later: int,
        now_s: float,
        tuning: Tuning,
        *,
        is_open: bool = False,
    ) -> None:
        self.is_open = is_open
        self.pause_s = 0.0
        self._first = permit.sequence
        self._newest = newest
        self._later = later
        self._needed_later = tuning.scatter_min_later if is_open else 0
        self._needed_share = tuning.scatter_refused_share if is_open else tuning.hypothesis_refused_share
        self._refused = self._accepted = 0
        self._tuning = tuning
        self._quiet_s = 0.0
        self._latest_s = self.decides_at_s = math.inf
        self._note_known(permit, now_s)
        if later >= self._needed_later:
            self._begin_to_wait(now_s)

    @property
    def newest(self) -> int:
        """The last of those that it is decided by."""
        return self._newest

    def sent(self, sequence: int, now_s: float) -> None:
        """One more left."""
        if self._later < self._needed_later:
            self._newest = sequence
            self._later += 1
            if self._later == self._needed_later:
                self._begin_to_wait(now_s)

    def concerns(self, sequence: int) -> bool:
        """Whether it is decided by the request of this sequence."""
        return sequence <= self._newest and (sequence > self._first or not self.is_open)

    def add_refusal(self, permit: SentPermit, now_s: float) -> None:
        """Another of those was refused."""
        self._refused += 1
        self._note_known(permit, now_s)
        if self.decides_at_s < math.inf:
            self.decides_at_s = now_s if self.is_confirmed else min(self._latest_s, now_s + self._quiet_s)

    def add_answer(self, sequence: int, now_s: float) -> None:
        """The request of this sequence was answered; where too many were to be a quota, it is decided now."""
        if self._first < sequence <= self._newest:
            self._accepted += 1
            if self._accepted > (1 - self._needed_share) * self._later and self._later >= self._needed_later:
                self.decides_at_s = now_s

    def _begin_to_wait(self, now_s: float) -> None:
        self._latest_s = now_s + self._tuning.max_hypothesis_wait_s
        self.decides_at_s = min(self._latest_s, now_s + self._quiet_s)

    def _note_known(self, permit: SentPermit, now_s: float) -> None:
        """A refusal is known now: others may take as long, and a little longer."""
        took_s = self._tuning.hypothesis_round_trips * (now_s - permit.sent_s)
        self._quiet_s = max(self._quiet_s, self._tuning.hypothesis_wait_s, took_s)

    @property
    def is_confirmed(self) -> bool:
        """Enough of the later ones were refused as well."""
        return self._refused >= self._needed_share * self._later


class Scatter:
    """Whether refusals are met here that stand alone: scattered among accepted requests, with no quota behind them.

    They are known once a hypothesis was wrong, or many were accepted between two of them. A server that limits by the
    second looks like that at first; but then most are refused, and it is soon known that it does not scatter.

    Attributes:
        is_known: they are.
    """

    __slots__ = ("_accepted", "_known_at", "_needed", "_share", "_tuning", "_was_wrong", "is_known")

    def __init__(self, tuning: Tuning) -> None:
        self.is_known = False
        self._tuning = tuning
        self._accepted = 0  # of those sent since the last refusal was known
        self._known_at = 0
        self._needed = tuning.scatter_accepted
        self._share = 0.0  # of the newest requests that were refused
        self._was_wrong = False

    def accepted(self, sequence: int) -> None:
        """The request of this sequence was answered."""
        self._share -= self._tuning.failure_smoothing * self._share
        if sequence > self._known_at:
            self._accepted += 1

    def refused(self, newest: int, *, is_odd: bool) -> None:
        """A request was refused. ``newest``: the last that was given out. ``is_odd``: nothing explains it."""
        tuning = self._tuning
        self._share += tuning.failure_smoothing * (1 - self._share)
        if self._share > tuning.scatter_max_share:
            if self.is_known:
                self._was_wrong = True
                self._needed *= tuning.scatter_doubt
            self.is_known = False
        elif is_odd and self._known_at and self._accepted >= self._needed:
            self.is_known = True
        self._accepted, self._known_at = 0, newest

    def decided(self, *, is_scatter: bool) -> None:
        """A hypothesis was decided."""
        self.is_known = is_scatter and not self._was_wrong


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

    def probing(self, now_s: float) -> tuple[float, float]:
        """In how many seconds the next probe may be sent, and how long after one that is refused the next."""
        in_s = self._interval_s if self.probe_at_s == math.inf else max(0.0, self.probe_at_s - now_s)
        return in_s, self._interval_s

    def go_on_probing(self, in_s: float, interval_s: float, now_s: float) -> None:
        """As the one whose estimate it was: what it has found out by probes need not be found out again."""
        self._interval_s = min(self._window_s, max(self._tuning.estimate_probe_after_success_s, interval_s))
        self.probe_at_s = now_s + in_s

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
