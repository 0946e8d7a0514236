"""Refusals and outages: when to pause, when to probe, and whose fault it is."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable
from typing import Literal

from mistill.api.errors import MistillError

TroubleCause = Literal["cool_down", "outage"]

_ROWS_OF_AN_OUTAGE = 3
_COOL_DOWN_S = 0.5
_LONGEST_COOL_DOWN_S = 15.0
_PROBE_INTERVAL_S = 0.25
_LONGEST_PROBE_INTERVAL_S = 5.0
_PRESUMED_ACCEPTED_S = 1.0
"""In a cool-down, a probe that has not been refused for this long was accepted: refusals come at once."""


class Trouble:
    """Cool-downs after refusals (429) and the breaker for outages.

    While there is trouble, nothing leaves until the pause ends; then one request leaves as a probe, and its end
    decides: good, and all is well; bad, and the next pause is longer. An outage is a stretch in which three different
    rows failed and none was answered, of a server that had answered before.
    """

    def __init__(self) -> None:
        self.cause: TroubleCause = "cool_down"
        self.last_error: MistillError | None = None
        self.is_outage = False
        self._seen_good = False
        self._failed_rows: set[Hashable] = set()
        self._since_s = math.inf
        self._until_s = -math.inf
        self._is_probing = False
        self._probe_left_s: float | None = None
        self._refusals = 0
        self._interval_s = _PROBE_INTERVAL_S
        self._cut_at = 0

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

    def entered(self, now_s: float) -> bool:
        """A request leaves now; True if it is the probe."""
        if self._is_probing:
            self._probe_left_s = now_s
        return self._is_probing

    def gives_up_at_s(self, patience_s: float) -> float:
        """When the trouble will have lasted so long that waiting rows should fail."""
        return max(self._since_s + patience_s, self._until_s if self._since_s < math.inf else math.inf)

    def give_up(self, now_s: float) -> None:
        """The waiting rows have been failed; those that come from now on have patience anew."""
        self._since_s = now_s

    # --- after a request --------------------------------------------------------------------------------------

    def answered(self, sequence: int) -> bool:
        """The server gave a sane answer to the request of this sequence; True if this ended an outage."""
        self._seen_good = True
        if self._failed_rows and not self.is_outage:
            self._failed_rows.clear()
        if sequence <= self._cut_at or self._since_s == math.inf:
            return False  # it left before the trouble, and says nothing about it
        was_outage = self.is_outage
        self.is_outage = False
        self._failed_rows.clear()
        self._since_s = math.inf
        self._until_s = -math.inf
        self._is_probing = False
        self._refusals = 0
        self._interval_s = _PROBE_INTERVAL_S
        return was_outage

    def probe_lost(self) -> None:
        """The probe ended without telling anything: another may leave."""
        self._probe_left_s = None

    def wait_for(self, retry_after_s: float, now_s: float, newest: int) -> None:
        """The server asked to be left alone for so long."""
        self._begin(now_s)
        self._until_s = max(self._until_s, now_s + retry_after_s)
        self._is_probing = True
        self._cut_at = newest

    def refused(self, sequence: int, newest: int, now_s: float, *, is_probe: bool, probe_after: bool) -> bool:
        """A 429. True if it began a cool-down or made it longer: stragglers that left before it do not."""
        if is_probe:
            self._probe_left_s = None
        if sequence <= self._cut_at:
            return False
        self._begin(now_s)
        self._cut_at = newest
        pause_s = min(_LONGEST_COOL_DOWN_S, _COOL_DOWN_S * 2.0**self._refusals) * _jitter()
        self._refusals += 1
        self._until_s = max(self._until_s, now_s + pause_s)
        if probe_after:
            self._is_probing = True
            self._probe_left_s = None
        return True

    def failed(self, row: Hashable, newest: int, now_s: float, *, is_probe: bool) -> bool:
        """The server failed a request. True if it is an outage, and so not the row's fault."""
        if is_probe:
            self._probe_left_s = None
        if self.is_outage:
            if is_probe:
                self._interval_s = min(_LONGEST_PROBE_INTERVAL_S, 2 * self._interval_s)
                self._until_s = max(self._until_s, now_s + self._interval_s * _jitter())
            return True
        self._failed_rows.add(row)
        if not self._seen_good or len(self._failed_rows) < _ROWS_OF_AN_OUTAGE:
            return False
        self._begin(now_s)
        self.is_outage = True
        self.cause = "outage"
        self._is_probing = True
        self._probe_left_s = None
        self._cut_at = newest
        self._until_s = max(self._until_s, now_s + self._interval_s * _jitter())
        return True

    def _begin(self, now_s: float) -> None:
        if self._since_s == math.inf:
            self._since_s = now_s
            self.cause = "cool_down"


def _jitter() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311  spreads load, protects nothing
