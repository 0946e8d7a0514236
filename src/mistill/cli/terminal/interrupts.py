"""Signals that end programs, while a run goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from mistill.cli.terminal.output import say
from mistill.progress.formatting import count, seconds

_STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def stopped_by_signals(in_flight: Callable[[], int], grace_s: float) -> Generator[None]:
    """Ctrl-C stops the run, and so do SIGTERM and SIGHUP, as containers, batch systems and closed terminals send them.

    The first of them is a KeyboardInterrupt in the main thread, and what it does is said; so is each further one.

    Args:
        in_flight: how many requests are. ``grace_s``: seconds that they are waited for.

    It is said from a thread: what is printed inside a signal handler may meet itself half printed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    pressed = threading.Event()
    ended = False

    def explain() -> None:
        pressed.wait()
        if not ended:
            flying = count(in_flight(), "request")
            say(
                f"stopping: waiting up to {seconds(grace_s)} for {flying} in flight; Ctrl-C again cuts them off"
            )

    def press(number: int, frame: FrameType | None) -> Any:
        pressed.set()
        return signal.default_int_handler(number, frame)

    thread = threading.Thread(target=explain, name="mistill-interrupts", daemon=True)
    thread.start()
    before = {
        number: signal.signal(number, press)
        for number in _STOPPING
        if number == signal.SIGINT or signal.getsignal(number) == signal.SIG_DFL  # nohup ignores SIGHUP
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        ended = True
        pressed.set()
        thread.join()
