"""stdin, stdout and stderr as they are found: closed, full, or with nobody at the other end."""

from __future__ import annotations

import os
import sys
from typing import Any, cast


def open_closed_streams() -> None:
    """Puts /dev/null where one of the three is closed: else the next file or socket gets its number.

    (uv aborts the process where it finds a socket there.) ``sys.stdout`` stays None, by which one knows.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one


def settle_streams() -> None:
    """At the end: what could not be written must not fail again, with an exit code of its own, as Python ends."""
    for stream in cast("tuple[Any, ...]", (sys.stdout, sys.stderr)):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            drop(stream)


def drop(stream: Any) -> None:
    """What is written to it from now on, and what it still has, goes nowhere."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except (OSError, ValueError):  # it is no file of the operating system
        return
