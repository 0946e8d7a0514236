"""Shards in this process, one after another: for the few rows that are asked again."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from mistill.errors import MistillError, unforeseen
from mistill.progress.view import View
from mistill.shards.workers import Begun, Control, Ended, Event, Seen, Work

_LOOK_S: Final = 0.25


class Here:
    """See `Workers`. It is its own `Link` too.

    Args:
        work: what is done with a shard.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._shard = -1
        self._control: Control | None = None
        self._end: str | None = None

    @property
    def free(self) -> int:
        return int(self._thread is None)

    def begin(self, begun: Begun) -> None:
        self._shard = begun.number
        self._thread = threading.Thread(target=self._do, args=(begun,), name="mistill-shard", daemon=True)
        self._thread.start()

    def _do(self, begun: Begun) -> None:
        try:
            ended = Ended(begun.number, stopped=self._work(begun, self))
        except MistillError as error:
            ended = Ended(begun.number, error=error)
        except Exception as error:  # of any type: the driver says what it was
            ended = Ended(begun.number, error=unforeseen(error))
        self._control = None
        self._events.put(ended)

    async def events(self) -> list[Event]:
        return await asyncio.to_thread(self._next)

    def _next(self) -> list[Event]:
        found: list[Event] = []
        with suppress(Empty):
            found.append(self._events.get(timeout=_LOOK_S))
            while True:
                found.append(self._events.get_nowait())
        if any(isinstance(one, Ended) for one in found):
            self.close()
        return found

    def see(self, view: View) -> None:
        self._events.put(Seen(self._shard, view))
        self._tell()

    def take(self, control: Control) -> None:
        self._control = control
        self._tell()

    def stop(self, message: str) -> None:
        self._end = message
        self._tell()

    def abandon(self) -> None:
        if (control := self._control) is not None:
            control.abandon()

    def _tell(self) -> None:
        if self._end is not None and (control := self._control) is not None:
            control.stop(self._end)

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread = None
