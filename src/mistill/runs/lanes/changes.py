"""Waiting until something has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress


class Changes:
    """What several tasks wait for, each until what it asks for holds. Look and wait without an ``await`` between."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def note(self) -> None:
        """Something has changed: all who wait look again."""
        self._event.set()

    async def wait(self, within_s: float | None = None) -> None:
        """Returns when something has changed, or after so many seconds."""
        self._event.clear()  # whoever waits already is woken by the next change all the same
        # No `asyncio.wait_for`, which may lose a cancellation before Python 3.12.
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._event.wait()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Returns when it holds; it is asked after each change."""
        while not holds():
            await self.wait()
