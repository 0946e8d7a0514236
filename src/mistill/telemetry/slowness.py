"""Who is told of a span is told on the event loop on which requests are sent: one that takes its time is said once."""

from __future__ import annotations

import logging
import time
from typing import Any

_log = logging.getLogger("mistill")

_SLOW_S = 0.005
"""For each span, on average: a row has two and more, so that no more than a hundred rows a second are possible then."""
_LOOKED_AT = 16


class _Ends:
    """How long it took so far to tell that spans have ended."""

    def __init__(self) -> None:
        self._seconds = 0.0
        self._spans = 0

    def note(self, seconds: float) -> None:
        self._seconds += seconds
        self._spans += 1
        if self._spans == _LOOKED_AT and self._seconds > _SLOW_S * _LOOKED_AT:
            _log.warning(
                "OpenTelemetry takes %.0f ms to be told of each span, in which nothing is sent and no answer is read: "
                "give your exporter to a BatchSpanProcessor, which exports beside the work",
                1000 * self._seconds / self._spans,
            )


_ends = _Ends()


def end_span(span: Any) -> None:
    """A span of a request or an attempt has ended: its processors are told before this returns."""
    began_s = time.perf_counter()
    try:
        span.end()
    finally:
        _ends.note(time.perf_counter() - began_s)
