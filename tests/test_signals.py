"""A server in the foreground ends by a signal, on every system."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import pytest

from mistill.signals import stopped_by_signals


class LoopOfWindows(asyncio.SelectorEventLoop):
    """Which takes no handlers of signals."""

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        raise NotImplementedError


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting_and_is_somebody_elses_again_after_it(number: signal.Signals) -> None:
    async def wait() -> None:
        with stopped_by_signals() as stop:
            asyncio.get_running_loop().call_soon(signal.raise_signal, number)
            async with asyncio.timeout(30):
                await stop.wait()

    before = signal.getsignal(number)
    with asyncio.Runner(loop_factory=LoopOfWindows) as runner:
        runner.run(wait())
    assert signal.getsignal(number) == before
