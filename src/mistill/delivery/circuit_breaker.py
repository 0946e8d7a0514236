"""Refusals and outages: when to pause, when to probe, and whose fault it is."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from typing import Literal

from mistill.errors import MistillError

BreakerCause = Literal["cool_down", "outage"]

_ROWS_OF_AN_OUTAGE = 5
_COOL_DOWN_S = 0.5
_LONGEST_COOL_DOWN_S = 15.0
_PROBE_INTERVAL_S = 0.25
_LONGEST_PROBE_INTERVAL_S = 5.0
_FORGOTTEN_AFTER_S = 120.0
"""Trouble that nobody has met for so long is counted from anew when somebody comes."""
_PRESUMED_ACCEPTED_S = 1.0
"""In a cool-down, a probe that has not been refused for this long was accepted: refusals come at once."""


class QuotaHypothesis:
    """A refusal with many requests sent after it: is the quota used up, or was this one refused alone?

    A quota that is used up refuses what was sent later too, and refusals come at once. So the later ones are given a
    moment; only if at least half of them are refused as well is there a quota to infer.
    """

    __slots__ = ("_later", "_refused", "decides_at_s", "newest")

    WAIT_S = 0.15
    LEAST_LATER = 4

    def __init__(self, newest: int, later: int, now_s: float) -> None:
        self.newest = newest
        self.decides_at_s = now_s + self.WAIT_S
        self._later = later
        self._refused = 0

    def refused(self) -> None:
        """Another of those that had left by then was refused."""
        self._refused += 1

    @property
    def is_confirmed(self) -> bool:
        return 2 * self._refused >= self._later


class CircuitBreaker:
    """Cool-downs after refusals (429) and the breaker for outages.

    While there is trouble, nothing leaves until the pause ends; then one request leaves as a probe, and its end
    decides: good, and all is well; bad, and the next pause is longer. An outage is a stretch in which five different
    rows failed and none was answered, of a server that had answered before.
    """

    def __init__(self) -> None:
        self.cause: BreakerCause = "cool_down"
        self.last_error: MistillError | None = None
        self.is_outage = False
        self.is_on = False
        """There is a cool-down or an outage."""
        self._seen_good = False
        self._failed_rows: set[Hashable] = set()
        self._since_s = math.inf
        self._until_s = -math.inf
        self._last_left_s = -math.inf
        self._is_probing = False
        self._probe_left_s: float | None = None
        self._refusals = 0
        self._interval_s = _PROBE_INTERVAL_S
        # Sequences of requests: an answer to one that left before the trouble says nothing about it.
        self._refused_at = 0
        self._failed_at = 0

    # --- before a request -------------------------------------------------------------------------------------

    def blocked_until_s(self, now_s: float) -> float:
        """0 if a request may leave; else when to look again; infinite: not before the probe has ended."""
        if now_s < self._until_s:
            return self._until_s
        if not self._is_probing or self._probe_left_s is None:
            return 0.0
        if self.is_outage:
            return math.inf
        presumed_s = self._probe_left_s + _PRESUMED_ACCEPTED_S
        if now_s < presumed_s:
            return presumed_s
        self._is_probing = False
        return 0.0

    def somebody_comes(self, now_s: float) -> None:
        """A request comes while nobody waits. Trouble of long ago does not use up its patience."""
        if self.is_on and now_s - self._last_left_s > _FORGOTTEN_AFTER_S:
            self._since_s = now_s

    def entered(self, now_s: float) -> bool:
        """A request leaves now; True if it is the probe."""
        if self.is_on:
            self.somebody_comes(now_s)
        self._last_left_s = now_s
        if self._is_probing:
            self._probe_left_s = now_s
        return self._is_probing

    def gives_up_at_s(self, patience_s: float) -> float:
        """When the trouble will have lasted so long that waiting rows should fail; infinite if there is none."""
        return max(self._since_s + patience_s, self._until_s)

    def give_up(self, now_s: float) -> None:
        """The waiting rows have been failed; those that come from now on have patience anew."""
        self._since_s = now_s

    # --- after a request --------------------------------------------------------------------------------------

    def probe_ended(self) -> None:
        """A probe was settled or refunded: another may leave, unless its end brings the next pause."""
        self._probe_left_s = None

    def answered(self, sequence: int, *, is_probe: bool) -> None:
        """The server gave a sane answer to the request of this sequence."""
        self._seen_good = True
        if not self.is_on:
            if self._failed_rows:
                self._failed_rows.clear()
            return
        if not is_probe and sequence <= (self._failed_at if self.is_outage else self._refused_at):
            return
        self.is_outage = self.is_on = False
        self._failed_rows.clear()
        self._since_s = math.inf
        self._until_s = -math.inf
        self._is_probing = False
        self._refusals = 0
        self._interval_s = _PROBE_INTERVAL_S

    def wait_for(self, retry_after_s: float, newest: int, now_s: float) -> None:
        """The server asked to be left alone for so long. ``newest``: the last sequence that was given out."""
        self._begin(now_s)
        self._until_s = max(self._until_s, now_s + retry_after_s)
        self._is_probing = True
        self._refused_at = newest

    def is_straggler(self, sequence: int) -> bool:
        """The request of this sequence had left before the last refusal was known."""
        return sequence <= self._refused_at

    def refused(self, sequence: int, newest: int, now_s: float, *, probe_after: bool) -> bool:
        """A 429. True if it began a cool-down or made it longer, as those that had left before it do not."""
        if self.is_straggler(sequence):
            return False
        self._begin(now_s)
        self._refused_at = newest
        pause_s = min(_LONGEST_COOL_DOWN_S, _COOL_DOWN_S * 2.0**self._refusals) * _jitter()
        self._refusals += 1
        self._until_s = max(self._until_s, now_s + pause_s)
        if probe_after:
            self._is_probing = True
            self._probe_left_s = None
        return True

    def failed(self, row: Hashable, sequence: int, now_s: float, *, is_probe: bool) -> bool:
        """The server failed a request. True if it is an outage, and so not the row's fault."""
        self._failed_at = max(self._failed_at, sequence)
        if self.is_outage:
            if is_probe:
                self._interval_s = min(_LONGEST_PROBE_INTERVAL_S, 2 * self._interval_s)
                self._pause_for_probe(now_s)
            return True
        self._failed_rows.add(row)
        if not self._seen_good or len(self._failed_rows) < _ROWS_OF_AN_OUTAGE:
            return False
        self._begin(now_s)
        self.is_outage = True
        self.cause = "outage"
        self._is_probing = True
        self._probe_left_s = None
        self._pause_for_probe(now_s)
        return True

    def _pause_for_probe(self, now_s: float) -> None:
        self._until_s = max(self._until_s, now_s + self._interval_s * _jitter())

    def _begin(self, now_s: float) -> None:
        if not self.is_on:
            self.is_on = True
            self._since_s = now_s
            self.cause = "cool_down"


def _jitter() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311  spreads load, protects nothing
