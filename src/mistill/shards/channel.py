"""The driver's end of the way to one worker."""

from __future__ import annotations

import time
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Final

from mistill.progress.formatting import seconds
from mistill.shards.joining import receive_within
from mistill.shards.workers import Begun, Ended, Event

_SILENT_S: Final = 20.0
"""A worker that says nothing for so long has been stopped, or hangs: it is ended, and another takes its shard."""
_FIRST_WORD_S: Final = 600.0
"""So long until it says anything: a new process imports the user's own modules before. That it ends is seen at once."""


class Channel:
    """What is said to a worker, and what it says.

    Attributes:
        shard: that it works on; ``None``: it works on none.
        has_spoken: it has said something by now.
        is_lost: nothing more comes of it.
        silence: it is lost since it has said nothing for long, in words, and may be there still; else empty.

    Raises:
        OSError: too many files are open.
    """

    def __init__(self, connection: Connection, *, has_spoken: bool = False) -> None:
        self.connection = connection
        self.shard: int | None = None
        self.has_spoken = has_spoken
        self.is_lost = self._is_to_end = False
        self.silence = ""
        self._heard_at_s = time.monotonic()
        # Of what has come in part, the rest is not waited for without end.
        receive_within(connection, _SILENT_S)

    def begin(self, begun: Begun) -> None:
        """It works on this shard from now on."""
        self.shard, self._heard_at_s = begun.number, time.monotonic()
        self.tell("begin", begun)

    def tell(self, what: str, *given: Any) -> None:
        """``stop``, ``abandon`` or ``order``."""
        self._is_to_end = self._is_to_end or what in ("stop", "abandon")
        with suppress(OSError):  # it has died, which is found out where it is read
            self.connection.send((what, *given))

    def read(self) -> list[Event]:
        """What has come of it by now."""
        found: list[Event] = []
        try:
            while self.connection.poll():
                event = self.connection.recv()
                self._heard_at_s, self.has_spoken = time.monotonic(), True
                if isinstance(event, Ended):
                    self.shard = None
                if event is not None:
                    found.append(event)
        except BlockingIOError:  # the rest of it has not come
            self._lose_silent(_SILENT_S)
        except (EOFError, OSError):
            self.is_lost = True
        patience_s = self._patience_s
        if not self.is_lost and self.shard is not None and time.monotonic() > self._heard_at_s + patience_s:
            self._lose_silent(patience_s)
        return found

    @property
    def _patience_s(self) -> float:
        if self.has_spoken:
            return _SILENT_S
        return 0.0 if self._is_to_end else _FIRST_WORD_S  # who has not begun has nothing to end

    def _lose_silent(self, after_s: float) -> None:
        self.is_lost, self.silence = True, f"said nothing for {seconds(after_s)}"
