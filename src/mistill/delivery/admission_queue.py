"""Who waits for admission: first in first out, over limits_waited_at, threads and event loops."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import Protocol

from mistill.delivery.quotas import Entry
from mistill.errors import MistillError

# One lock for all governors and concurrency limits: a limit may hold at several governors, and sections take
# microseconds.
# Re-entrant, since the garbage collector may close an abandoned `admit` in the middle of a section.
LOCK = threading.RLock()


class Pumped(Protocol):
    """What admits waiting requests when something became free."""

    def pump(self) -> None: ...


class ConcurrencyLimit:
    """One object's own limit of requests in flight, kept over all its calls, threads and event loops.

    ``limit`` may be changed at any time; under a lower one, what is in flight finishes.
    """

    __slots__ = ("in_flight", "slots", "waiting_at")

    def __init__(self, limit: int) -> None:
        self.slots = limit
        self.in_flight = 0
        self.waiting_at: set[Pumped] = (
            set()
        )  # the governors where requests of this concurrency wait: one or none, usually

    @property
    def limit(self) -> int:
        """Requests that may be in flight together."""
        return self.slots

    @limit.setter
    def limit(self, limit: int) -> None:
        with LOCK:
            self.slots = limit
            for governor in tuple(self.waiting_at):
                governor.pump()


class Permit(Entry, eq=False, gc=False):
    """The right to send one attempt. It is given back exactly once: settled or refunded."""

    concurrency: ConcurrencyLimit
    sequence: int
    is_probe: bool = False
    is_settled: bool = False


class Waiter:
    """One request that waits, and where to wake it."""

    __slots__ = ("_future", "concurrency", "error", "loop", "permit", "sequence", "tokens")

    def __init__(self, concurrency: ConcurrencyLimit, tokens: int, sequence: int) -> None:
        self.concurrency = concurrency
        self.tokens = tokens
        self.sequence = sequence
        self.loop = asyncio.get_running_loop()
        self.permit: Permit | None = None
        self.error: MistillError | None = None
        self._future: asyncio.Future[None] = self.loop.create_future()

    async def wait(self) -> None:
        """Returns when ``permit`` or ``error`` is set."""
        await self._future

    def wake(self) -> bool:
        """From any thread. False if its event loop is closed, so that nobody is there any more."""
        # A private name, but the documented get_running_loop() raises where there is none, at ten times the cost.
        if self.loop is asyncio._get_running_loop():  # noqa: SLF001
            _set_done(self._future)
            return True
        try:
            self.loop.call_soon_threadsafe(_set_done, self._future)
        except RuntimeError:
            return False
        return True


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class AdmissionQueue:
    """The waiting requests of one governor. Every operation is O(1) in their number, O(limits) at the most."""

    def __init__(self, governor: Pumped) -> None:
        self._governor = governor
        # Not plain dicts: their first key gets slow to find when many before it were deleted.
        self._queues: dict[ConcurrencyLimit, OrderedDict[Waiter, None]] = {}
        self.limits_waited_at = self._queues.keys()
        """The limits_waited_at in which anybody waits."""

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def add(self, waiter: Waiter) -> None:
        queue = self._queues.get(waiter.concurrency)
        if queue is None:
            queue = self._queues[waiter.concurrency] = OrderedDict()
            waiter.concurrency.waiting_at.add(self._governor)
        queue[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        queue = self._queues.get(waiter.concurrency)
        if queue is None or waiter not in queue:
            return
        del queue[waiter]
        if not queue:
            del self._queues[waiter.concurrency]
            waiter.concurrency.waiting_at.discard(self._governor)

    def oldest_with_room(self) -> Waiter | None:
        """The request that is next, of all whose concurrency has a free slot."""
        oldest: Waiter | None = None
        for concurrency, queue in self._queues.items():
            if concurrency.in_flight < concurrency.slots:
                head = next(iter(queue))
                if oldest is None or head.sequence < oldest.sequence:
                    oldest = head
        return oldest

    def take_all(self) -> list[Waiter]:
        """Empties the room."""
        waiters = [waiter for queue in self._queues.values() for waiter in queue]
        for concurrency in self._queues:
            concurrency.waiting_at.discard(self._governor)
        self._queues.clear()
        return waiters
