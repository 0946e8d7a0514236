"""Whoever is told may fail: that is said once, and costs no answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_log = logging.getLogger("mistill")
_told: set[type[Exception]] = set()


def harmless(tell: Callable[P, T]) -> Callable[P, T | None]:
    """The same call, which gives ``None`` where it raises: a span processor, an exporter or a meter is somebody's own.

    What ends a program passes.
    """

    @wraps(tell)
    def call(*arguments: P.args, **named: P.kwargs) -> T | None:
        try:
            return tell(*arguments, **named)
        except Exception as error:  # whatever somebody's own code raises
            if type(error) not in _told:
                _told.add(type(error))
                _log.warning(
                    "OpenTelemetry is not told all of it: %s: %s (said once)", type(error).__name__, error
                )
            return None

    return call
