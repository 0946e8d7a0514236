"""The driver's end of the way to one worker."""

from __future__ import annotations

import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final

from mistill.shards.workers import Begun, Ended, Event

_SILENT_S: Final = 20.0
"""A worker that says nothing for so long has been stopped, or hangs: it is ended, and another takes its shard."""


class Channel:
    """What is said to a worker, and what it says.

    Attributes:
        shard: that it works on; ``None``: it works on none.
        has_spoken: it has said something by now.
        is_lost: nothing more comes of it.
        hangs: it is lost since it has said nothing for long, and may be there still.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.shard: int | None = None
        self.has_spoken = self.is_lost = self.hangs = False
        self._heard_at_s = time.monotonic()

    def begin(self, begun: Begun) -> None:
        """It works on this shard from now on."""
        self.shard, self._heard_at_s = begun.number, time.monotonic()
        self.tell("begin", begun)

    def tell(self, what: str, *given: Any) -> None:
        """``stop``, ``abandon`` or ``order``."""
        with suppress(OSError):  # it has died, which is found out where it is read
            self.connection.send((what, *given))

    def read(self, *, is_ready: bool) -> list[Event]:
        """What has come of it by now.

        Args:
            is_ready: there is something to be read.
        """
        found: list[Event] = []
        try:
            while is_ready and self.connection.poll():
                event = self.connection.recv()
                self._heard_at_s, self.has_spoken = time.monotonic(), True
                if isinstance(event, Ended):
                    self.shard = None
                if event is not None:
                    found.append(event)
        except (EOFError, OSError):
            self.is_lost = True
        if not self.is_lost and self.shard is not None and time.monotonic() > self._heard_at_s + _SILENT_S:
            self.is_lost = self.hangs = True
        return found

    @property
    def silence(self) -> str:
        """How it was found to hang, in words."""
        return f"said nothing for {_SILENT_S:g} s"
