"""Work that may be paused, and goes on."""

from __future__ import annotations

import asyncio


class Pausable:
    """Sends nothing while it is paused. On one event loop.

    Attributes:
        resumed: while it is paused, what is set when it goes on; else ``None``. Whoever is about to send waits for it,
            ``while one.resumed is not None: await one.resumed.wait()``, which is no call as long as it goes on.
    """

    resumed: asyncio.Event | None = None

    def pause(self) -> None:
        """Nothing is sent until `resume`; what is in flight comes home."""
        if self.resumed is None:
            self.resumed = asyncio.Event()

    def resume(self) -> None:
        """It goes on, if it was paused."""
        resumed, self.resumed = self.resumed, None
        if resumed is not None:
            resumed.set()
