"""Shards in this process, some at a time: for rows that are asked again, of which each shard may have few."""

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
    """See `Workers`: so many threads of this process, each for one shard.

    Args:
        work: what is done with a shard. ``at_once``: how many are worked on at a time.
    """

    are_one_process = True

    def __init__(self, work: Work, at_once: int) -> None:
        self._work = work
        self._at_once = at_once
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._under_way: dict[int, tuple[AtWork, threading.Thread]] = {}

    @property
    def free(self) -> int:
        return self._at_once - len(self._under_way)

    def begin(self, begun: Begun) -> None:
        at_work = AtWork(begun, self._events.put)
        thread = threading.Thread(target=at_work.do, args=(self._work,), name="mistill-shard", daemon=True)
        self._under_way[begun.number] = at_work, thread
        thread.start()

    async def events(self) -> list[Event]:
        return await asyncio.to_thread(self._next)

    def _next(self) -> list[Event]:
        found: list[Event] = []
        with suppress(Empty):
            found.append(self._events.get(timeout=_LOOK_S))
            while True:
                found.append(self._events.get_nowait())
        for ended in found:
            if isinstance(ended, Ended):
                self._under_way.pop(ended.shard)[1].join()
        return found

    def stop(self, message: str) -> None:
        for at_work, _ in list(self._under_way.values()):
            at_work.stop(message)

    def abandon(self) -> None:
        for at_work, _ in list(self._under_way.values()):
            at_work.abandon()

    def order(self, shard: int, order: Order, by: str) -> None:
        if (under_way := self._under_way.get(shard)) is not None:
            under_way[0].order(order, by)

    def close(self) -> None:
        self.stop("its driver has ended")
        for _, thread in list(self._under_way.values()):
            thread.join()
