"""Signals that end programs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager

_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def stopped_by_signals() -> Generator[None]:
    """SIGTERM and SIGHUP, as containers, batch systems and closed terminals send them, stop the program as Ctrl-C does.

    From its beginning: before a run goes on, too, there may be a local model to end, and an exit code to give.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    before = {
        number: signal.signal(number, signal.default_int_handler)
        for number in _STOPPING
        if number == signal.SIGINT or signal.getsignal(number) == signal.SIG_DFL  # nohup ignores SIGHUP
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
