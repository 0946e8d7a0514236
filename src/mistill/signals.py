"""Whoever serves in the foreground ends by a signal, on every system."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def stopped_by_signals() -> Generator[asyncio.Event]:
    """Gives an event that SIGINT and SIGTERM set within the block. In the main thread, on the event loop that waits.

    The loops of Windows take no handlers of signals themselves.
    """
    stop, loop = asyncio.Event(), asyncio.get_running_loop()

    def handle(*_: object) -> None:
        loop.call_soon_threadsafe(stop.set)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            if handler is not None:  # else it is not Python's own
                signal.signal(number, handler)
