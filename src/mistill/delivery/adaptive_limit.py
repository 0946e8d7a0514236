"""How many requests may be in flight at once: found by trying, since no header says it.

Mechanism: slow start, then additive increase only while saturated, one cut per cool-down (TCP's, as inspect_ai uses
it for model servers). Slow start rests where more in flight is not answered any faster, as BBR's does when its pipe is
full (https://datatracker.ietf.org/doc/html/draft-ietf-ccwg-bbr, 5.3.1.2).
"""

from __future__ import annotations

import math

from mistill.delivery.tuning import Tuning


class Yield:
    """Whether a limit that grows has more answered in a second, or only more waiting at the server.

    While it grows freely, one stretch of growth is compared with the one before. What is answered lags behind, so a
    stretch that brought nothing is no more than a suspicion: from then on the limit takes steps. Each stands until all
    that was in flight is answered, then is measured; a step that brings nothing is taken back, and tried again later.
    Only what comes while the limit is in use is measured.

    Attributes:
        answers: how many came since the stretch or the step began, or since that is measured.
        held: the limit of the step; 0: it may grow freely.
        is_unused: less is in flight than may be: how much is answered now says nothing of the limit.
    """

    __slots__ = (
        "_before",
        "_from_limit",
        "_from_s",
        "_is_measured",
        "_is_tried",
        "_rate",
        "_rest_s",
        "_rests_until_s",
        "_tuning",
        "answers",
        "held",
        "is_unused",
    )

    def __init__(self, tuning: Tuning) -> None:
        self._tuning = tuning
        self.begin()

    def begin(self) -> None:
        """What was seen before says nothing any more."""
        self.answers = 0
        self.held = self._from_limit = self._from_s = self._rate = 0.0
        self.is_unused = False
        self._before = 0.0  # the limit before the step, which shows what it brings once so many are answered
        self._is_measured = self._is_tried = False
        self._rest_s = self._tuning.growth_pause_s
        self._rests_until_s = 0.0

    def holds(self, limit: float, now_s: float) -> float:
        """An answer came while the limit is in use. At which it is to be held, 0: at none."""
        if self.is_unused:
            self.is_unused = False
            if self._is_measured or not self.held:
                self._measure(now_s)
        elif self.held:
            self._look_at_step(now_s)
        elif limit >= self._tuning.yield_from:
            if not self._from_limit:
                self._begin_stretch(limit, now_s)
            elif (
                self.answers >= self._tuning.yield_answers
                and limit >= self._tuning.yield_growth * self._from_limit
            ):
                self._look_at_stretch(limit, now_s)
        return self.held

    def _look_at_stretch(self, limit: float, now_s: float) -> None:
        rate = self._measured(now_s)
        if self._is_flat(rate, limit / self._from_limit):
            self._rest_at(self._from_limit, before=limit, now_s=now_s)
            return
        self._rate = rate
        self._begin_stretch(limit, now_s)

    def _begin_stretch(self, limit: float, now_s: float) -> None:
        self._from_limit = limit
        self._measure(now_s)

    def _look_at_step(self, now_s: float) -> None:
        if not self._is_measured:
            if self.answers >= self._before:
                self._is_measured = True
                self._measure(now_s)
            return
        if self.answers < self._tuning.yield_answers or now_s < self._rests_until_s:
            return
        rate, step = self._measured(now_s), self._tuning.yield_growth
        if self._is_tried and self._is_flat(rate, step):
            self._is_tried = False
            self._rest_at(self.held / step, before=self.held, now_s=now_s)
            return
        if self._is_tried:
            self._rest_s = self._tuning.growth_pause_s
        self._is_tried, self._rate = True, rate
        self._step_to(self.held * step, before=self.held)

    def _is_flat(self, rate: float, grown: float) -> bool:
        """Too little more is answered in a second, of a limit that has grown so many times."""
        return rate < self._rate * grown**self._tuning.yield_share

    def _rest_at(self, limit: float, *, before: float, now_s: float) -> None:
        self._rests_until_s = now_s + self._rest_s
        self._rest_s = min(2 * self._rest_s, self._tuning.max_yield_rest_s)
        self._step_to(limit, before=before)

    def _step_to(self, limit: float, *, before: float) -> None:
        self.held, self._before, self.answers, self._is_measured = limit, before, 0, False

    def _measure(self, now_s: float) -> None:
        self.answers, self._from_s = 0, now_s

    def _measured(self, now_s: float) -> float:
        return self.answers / max(now_s - self._from_s, 1e-9)


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
        "_has_paused",
        "_limit_before_pause",
        "_paused_until_s",
        "_saturated_share",
        "_slow_start_threshold",
        "_tuning",
        "_yield",
        "limit",
    )

    def __init__(self, tuning: Tuning, *, reached: int = 0) -> None:
        """``reached``: so many at once have been accepted before."""
        self.limit = float(max(tuning.initial_limit, reached))
        self._tuning = tuning
        self._saturated_share = tuning.saturated_share
        self._failure_smoothing = tuning.failure_smoothing
        self._slow_start_threshold = math.inf  # below it slow start, above it additive increase
        self._cut_sequence = 0
        self._failing_share = 0.0
        self._limit_before_pause = 0.0
        self._has_paused = False
        self._paused_until_s = -math.inf
        self._grow_from_s: float | None = None  # when slow start takes its next step by time alone
        self._yield = Yield(tuning)

    def blocked_until_s(self, in_flight: int, now_s: float, quota: float | None) -> float:
        """0 if one more may leave; else when slow start will have grown by time alone.

        Args:
            quota: the requests of a window that the user or the server has told. Until the first pause or cut it bounds
                what leaves, so there is nothing to be found out in small steps.
        """
        if quota is not None and not self._has_paused:
            self.limit = max(self.limit, quota)
        if in_flight < self.limit:
            return 0.0
        if self.limit >= self._slow_start_threshold or (quota is None and self._yield.held):
            return math.inf
        tuning = self._tuning
        if self._grow_from_s is None:
            self._grow_from_s = now_s + tuning.growth_after_s
        due_s = max(self._grow_from_s, self._paused_until_s)
        if now_s < due_s:
            return due_s
        self.limit += 1
        # Behind time, where a busy machine came late, it catches up; not all that it has missed at once.
        self._grow_from_s = max(due_s, now_s - tuning.growth_after_s) + self._step_s()
        return 0.0

    def _step_s(self) -> float:
        """How long the next step takes, by time alone."""
        tuning, beyond = self._tuning, self.limit - self._tuning.quick_start_limit
        if beyond < 0:
            return 1 / min(tuning.quick_growth_per_s * self.limit, tuning.max_quick_growth_per_s)
        return tuning.growth_pause_quick_s if beyond < 1 else 1 / (tuning.growth_per_s * self.limit)

    def answered(self, in_flight: int, now_s: float, *, quota_is_known: bool) -> None:
        """A good answer came; ``in_flight`` counts it still."""
        self._failing_share -= self._failure_smoothing * self._failing_share
        self._yield.answers += 1
        if in_flight < self._saturated_share * self.limit:
            self._yield.is_unused = True
            return
        tuning = self._tuning
        if self.limit >= self._slow_start_threshold:
            self.limit += max(tuning.growth_after_cut, 1 / self.limit)
        elif now_s >= self._paused_until_s:
            is_known = quota_is_known or self.limit < self._limit_before_pause
            held = 0.0 if is_known else self._yield.holds(self.limit, now_s)
            self.limit = held or self.limit + (
                tuning.growth_known_quota if is_known else tuning.growth_unknown_quota
            )

    def failed(self, now_s: float) -> None:
        """The server failed a request: no growth for a while, if it fails many."""
        self._failing_share += self._failure_smoothing * (1 - self._failing_share)
        if self._failing_share > self._tuning.failing_share:
            self._pause(now_s)

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
        self._pause(now_s)

    def restart(self) -> None:
        """A pause begins: after it, slow start again, or all that waits would leave at once."""
        initial = float(self._tuning.initial_limit)
        self._limit_before_pause = max(self._limit_before_pause if self.limit <= initial else 0.0, self.limit)
        self.limit = min(self.limit, initial)
        self._grow_from_s = None
        self._has_paused = True
        self._yield.begin()

    def _pause(self, now_s: float) -> None:
        self._has_paused = True
        self._paused_until_s = now_s + self._tuning.growth_pause_s
