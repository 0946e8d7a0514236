"""Refusals and outages: when to pause, when to probe, and whose fault it is."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from typing import Literal

from mistill.delivery.tuning import Tuning
from mistill.errors import MistillError

BreakerCause = Literal["cool_down", "outage"]

_MAX_SUSPECTS = 1 << 16
"""So many rows are remembered. One that was forgotten is only taken for any other."""


class CircuitBreaker:
    """Cool-downs after refusals (429), and the breaker for outages.

    Once tripped, it is open until the pause ends, so that nothing is sent; then half-open: one request is sent as a
    probe, and its end decides. Good, and it closes; bad, and the next pause is longer. An outage is a stretch in which
    `Tuning.outage_rows` different rows failed and none was answered, of a server that had answered before (a row that
    failed while others were answered is none of them); or one where no connection was ever made, which is waited for
    only briefly. An outage of few rows, all of which the server failed in its own words (500), may be of these rows
    after all, and nothing can tell while no other is left to send: so its probes count against their rows' retries.

    Attributes:
        is_reached: something has answered there, if only with an error.
        is_tripped: there is a cool-down or an outage: it is open, or half-open.
        is_outage: it is an outage. ``cause``: which of both it is, or was last.
        last_error: what the server answered last, for those who wait when patience ends.
    """

    def __init__(self, tuning: Tuning) -> None:
        self.cause: BreakerCause = "cool_down"
        self.last_error: MistillError | None = None
        self.is_outage = False
        self.is_tripped = False
        self._tuning = tuning
        self.is_reached = False
        self._has_answered = False
        self._unreached = 0
        self._unreached_from_s = 0.0
        self._failed_rows: set[Hashable] = set()
        self._may_be_own = False  # all of their failures
        # Rows that failed while others were answered: when they fail again, that says nothing of the server.
        self._suspects: set[Hashable] = set()
        self._patience_from_s = math.inf
        self._open_until_s = -math.inf
        self._last_sent_s = -math.inf
        self._is_half_open = False  # from the end of the pause on
        self._probe_sent_s: float | None = None
        self._cool_down_s = tuning.cool_down_s
        self._probe_interval_s = tuning.probe_interval_s
        # Sequences of requests: an answer to one that was sent before the breaker tripped says nothing about it.
        self._refused_sequence = 0
        self._failed_sequence = 0

    # --- before a request -------------------------------------------------------------------------------------

    def blocked_until_s(self, now_s: float) -> float:
        """0 if a request may leave; else when to look again; infinite: not before the probe has ended."""
        if now_s < self._open_until_s:
            return self._open_until_s
        if not self._is_half_open or self._probe_sent_s is None:
            return 0.0
        if self.is_outage:
            return math.inf
        accepted_s = self._probe_sent_s + self._tuning.probe_accepted_after_s
        if now_s < accepted_s:
            return accepted_s
        self._is_half_open = False
        return 0.0

    def forget_if_old(self, now_s: float) -> None:
        """A request comes while nobody waits. A cool-down or an outage of long ago does not use up its patience."""
        if self.is_tripped and now_s - self._last_sent_s > self._tuning.forget_after_s:
            self._patience_from_s = now_s

    def sent(self, now_s: float) -> bool:
        """A request is sent now; True if it is the probe."""
        if self.is_tripped:
            self.forget_if_old(now_s)
        self._last_sent_s = now_s
        if self._is_half_open:
            self._probe_sent_s = now_s
        return self._is_half_open

    def patience_ends_s(self) -> float:
        """When it will have been tripped for so long that waiting rows should fail; infinite if it is not."""
        if not self.is_reached:
            return self._patience_from_s + self._tuning.unreachable_patience_s
        return max(self._patience_from_s + self._tuning.patience_s, self._open_until_s)

    def paused_s(self, now_s: float) -> float:
        """For how long nothing is to be sent since the server refused it."""
        return 0.0 if self.is_outage else max(0.0, self._open_until_s - now_s)

    def give_up(self, now_s: float) -> None:
        """The waiting rows have been failed; those that come from now on have patience anew."""
        self._patience_from_s = now_s
        if not self.is_reached:
            self._unreached = 0
            self.is_outage = self.is_tripped = self._is_half_open = False
            self._open_until_s = -math.inf
            self._patience_from_s = math.inf

    # --- after a request --------------------------------------------------------------------------------------

    def probe_ended(self) -> None:
        """A probe was settled or refunded: another may be sent, unless its end brings the next pause."""
        self._probe_sent_s = None

    def expect_answers(self) -> None:
        """The server answered in an earlier start: it is worth waiting for."""
        self.is_reached = self._has_answered = True

    def answered(self, sequence: int, *, is_probe: bool) -> None:
        """The server gave a sane answer to the request of this sequence."""
        self._has_answered = True
        if not self.is_tripped:
            if self._failed_rows:
                self._suspect(self._failed_rows)
                self._failed_rows.clear()
            return
        if not is_probe and sequence <= (self._failed_sequence if self.is_outage else self._refused_sequence):
            return
        self.is_outage = self.is_tripped = False
        self._failed_rows.clear()
        self._patience_from_s = math.inf
        self._open_until_s = -math.inf
        self._is_half_open = False
        self._cool_down_s = self._tuning.cool_down_s
        self._probe_interval_s = self._tuning.probe_interval_s

    def pause(self, retry_after_s: float, newest: int, now_s: float) -> None:
        """The server asked to be left alone for so long. ``newest``: the last sequence that was given out."""
        self._trip(now_s)
        self._open_until_s = max(self._open_until_s, now_s + retry_after_s)
        self._is_half_open = True
        self._refused_sequence = newest

    def is_straggler(self, sequence: int) -> bool:
        """The request of this sequence had been sent before the last refusal was known."""
        return sequence <= self._refused_sequence

    def refused(
        self, sequence: int, newest: int, now_s: float, *, probe_after: bool, is_explained: bool = False
    ) -> bool:
        """A 429. True if it began a cool-down or made it longer, as stragglers do not.

        Args:
            sequence: of the refused request; ``newest``: the last one that was given out.
            probe_after: one request is to be sent as a probe before the rest.
            is_explained: the refusal says itself that the quota is used up, so what comes next is for the count of the
                quota to say, and no pause is long.
        """
        if self.is_straggler(sequence):
            return False
        self._trip(now_s)
        self._refused_sequence = newest
        longest_s = self._tuning.max_explained_cool_down_s if is_explained else self._tuning.max_cool_down_s
        pause_s = min(longest_s, self._cool_down_s)
        self._open_until_s = max(self._open_until_s, now_s + self._jittered(pause_s))
        self._cool_down_s = max(self._cool_down_s, min(longest_s, self._tuning.pause_growth * pause_s))
        if probe_after:
            self._is_half_open = True
            self._probe_sent_s = None
        return True

    def failed(
        self, row: Hashable, sequence: int, now_s: float, *, is_probe: bool, may_be_own: bool = False
    ) -> bool:
        """The server failed a request. True if it is an outage, and so not the row's fault.

        Args:
            may_be_own: the server said in its own words that it failed with this request.
        """
        tuning = self._tuning
        self._failed_sequence = max(self._failed_sequence, sequence)
        self._may_be_own = may_be_own and (self._may_be_own or not self._failed_rows)
        if self.is_outage:
            self._failed_rows.add(row)
            is_doubtful = self._may_be_own and len(self._failed_rows) <= tuning.doubtful_rows
            if is_probe:
                longer_s = tuning.pause_growth * self._probe_interval_s
                longest_s = tuning.doubtful_probe_interval_s if is_doubtful else tuning.max_probe_interval_s
                self._probe_interval_s = min(longest_s, longer_s)
                self._pause_before_probe(now_s)
            return not (is_probe and is_doubtful)
        if row in self._suspects:
            return False
        self._failed_rows.add(row)
        if not self.is_reached:
            self._unreached += 1
            if self._unreached == 1:
                self._unreached_from_s = now_s
            if self._unreached < tuning.unreachable_attempts:
                return False
        elif not self._has_answered or len(self._failed_rows) < tuning.outage_rows:
            return False
        self._trip(now_s)
        if not self.is_reached:
            self._patience_from_s = self._unreached_from_s
        self.is_outage = True
        self.cause = "outage"
        self._is_half_open = True
        self._probe_sent_s = None
        self._pause_before_probe(now_s)
        return True

    def _suspect(self, rows: set[Hashable]) -> None:
        if len(self._suspects) > _MAX_SUSPECTS:
            self._suspects.clear()
        self._suspects |= rows

    def _pause_before_probe(self, now_s: float) -> None:
        self._open_until_s = max(self._open_until_s, now_s + self._jittered(self._probe_interval_s))

    def _trip(self, now_s: float) -> None:
        if not self.is_tripped:
            self.is_tripped = True
            self._patience_from_s = now_s
            self.cause = "cool_down"

    def _jittered(self, pause_s: float) -> float:
        jitter = self._tuning.pause_jitter
        return pause_s * random.uniform(1 - jitter, 1 + jitter)  # noqa: S311  spreads load, protects nothing
