"""Shards in this process, one after another: for the few rows that are asked again."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Final

from mistill.shards.at_work import AtWork
from mistill.shards.workers import Begun, Ended, Event, Work
from mistill.steering.orders import Order

_LOOK_S: Final = 0.25


class Here:
    """See `Workers`.

    Args:
        work: what is done with a shard.
    """

    def __init__(self, work: Work) -> None:
        self._work = work
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._at_work: AtWork | None = None

    @property
    def free(self) -> int:
        return int(self._thread is None)

    def begin(self, begun: Begun) -> None:
        self._at_work = AtWork(begun, self._events.put)
        self._thread = threading.Thread(
            target=self._at_work.do, args=(self._work,), name="mistill-shard", daemon=True
        )
        self._thread.start()

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

    def stop(self, message: str) -> None:
        if self._at_work is not None:
            self._at_work.stop(message)

    def abandon(self) -> None:
        if self._at_work is not None:
            self._at_work.abandon()

    def order(self, shard: int, order: Order, by: str) -> None:  # noqa: ARG002  there is one
        if self._at_work is not None:
            self._at_work.order(order, by)

    def close(self) -> None:
        if self._thread is not None:
            self._thread.join()
        self._thread = None
