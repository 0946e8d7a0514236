"""Who is told of a span is told on the event loop on which requests are sent: one that takes its time is said once."""

from __future__ import annotations

import logging
import time
from typing import Any

_log = logging.getLogger("mistill")

_SLOW_S = 0.005
"""For each span, on average: a row has two and more, so that no more than a hundred rows a second are possible then."""
_LOOKED_AT = 16
_IN_A_ROW = 2
"""So many times as many spans are slow, one after the other: a process may be suspended once."""


class _Ends:
    """How long it takes to tell that spans have ended, of the latest so many: it may become slow at any time."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._spans = 0
        self._slow = 0
        self._is_said = False

    def note(self, seconds: float) -> None:
        self._seconds += seconds
        self._spans += 1
        if self._spans < _LOOKED_AT:
            return
        self._slow = self._slow + 1 if self._seconds > _SLOW_S * _LOOKED_AT else 0
        if self._slow == _IN_A_ROW and not self._is_said:
            self._is_said = True
            _log.warning(
                "OpenTelemetry takes %.0f ms to be told of each span, in which nothing is sent and no answer is read: "
                "give your exporter to a BatchSpanProcessor, which exports beside the work",
                1000 * self._seconds / self._spans,
            )
        self._seconds, self._spans = 0.0, 0


_ends = _Ends()


def end_span(span: Any) -> None:
    """A span of a request or an attempt has ended: its processors are told before this returns."""
    began_s = time.perf_counter()
    try:
        span.end()
    finally:
        _ends.note(time.perf_counter() - began_s)
