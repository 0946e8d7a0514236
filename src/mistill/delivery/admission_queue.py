"""Who waits for admission: first in first out, over concurrency limits, threads and event loops."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import OrderedDict
from typing import Protocol

from mistill.delivery.quotas import QuotaUse
from mistill.errors import MistillError

# One lock for all governors and concurrency limits: a limit may hold at several governors, and sections take
# microseconds.
# Re-entrant, since the garbage collector may close an abandoned `admit` in the middle of a section.
LOCK = threading.RLock()
if hasattr(os, "register_at_fork"):
    # A forked child has one thread: what another held at that moment would stay locked in it for ever, half done.
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release)


class Admitter(Protocol):
    """What admits waiting requests when something became free: a governor."""

    def admit_waiting(self) -> None: ...


class ConcurrencyLimit:
    """One object's own limit of requests in flight, kept over all its calls, threads and event loops.

    ``limit`` may be changed at any time; under a lower one, what is in flight finishes.

    Attributes:
        slots: ``limit``, for readers that read it with every request.
        in_flight: requests that have a slot now.
        waiting_at: the governors at which requests wait under this limit: one or none, usually.
    """

    __slots__ = ("in_flight", "slots", "waiting_at")

    def __init__(self, limit: int) -> None:
        self.slots = limit
        self.in_flight = 0
        self.waiting_at: set[Admitter] = set()

    @property
    def limit(self) -> int:
        """Requests that may be in flight together."""
        return self.slots

    @limit.setter
    def limit(self, limit: int) -> None:
        with LOCK:
            self.slots = limit
            for governor in tuple(self.waiting_at):
                governor.admit_waiting()


class Permit(QuotaUse, eq=False, gc=False):
    """The right to send one attempt. It is given back exactly once: settled or refunded.

    Attributes:
        concurrency_limit: whose slot it takes.
        sequence: its place in the order of sending.
        is_probe: the circuit breaker sends it to find out whether the server accepts requests again.
        is_settled: it has been given back.
        stands_alone: it was refused for itself, as far as is known: its row has to wait, and nobody else.
    """

    concurrency_limit: ConcurrencyLimit
    sequence: int
    is_probe: bool = False
    is_settled: bool = False
    stands_alone: bool = False


class Waiter:
    """One request that waits, and where to wake it."""

    __slots__ = ("_future", "concurrency_limit", "error", "loop", "permit", "sequence", "tokens")

    def __init__(self, concurrency_limit: ConcurrencyLimit, tokens: int, sequence: int) -> None:
        self.concurrency_limit = concurrency_limit
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
    if not future.done():  # cancelled in between
        future.set_result(None)


class AdmissionQueue:
    """The waiting requests of one governor, in a queue for each concurrency limit.

    Every operation is O(1) in the number of requests, O(limits) at the most.

    Attributes:
        limits: those under which anybody waits: empty, and so false, when nobody does.
    """

    def __init__(self, governor: Admitter) -> None:
        self._governor = governor
        # Not plain dicts: their first key gets slow to find when many before it were deleted.
        self._queues: dict[ConcurrencyLimit, OrderedDict[Waiter, None]] = {}
        self.limits = self._queues.keys()

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def add(self, waiter: Waiter) -> None:
        """Behind all that wait."""
        queue = self._queues.get(waiter.concurrency_limit)
        if queue is None:
            queue = self._queues[waiter.concurrency_limit] = OrderedDict()
            waiter.concurrency_limit.waiting_at.add(self._governor)
        queue[waiter] = None

    def remove(self, waiter: Waiter) -> None:
        """It waits no longer; nothing happens if it did not wait."""
        queue = self._queues.get(waiter.concurrency_limit)
        if queue is None or waiter not in queue:
            return
        del queue[waiter]
        if not queue:
            del self._queues[waiter.concurrency_limit]
            waiter.concurrency_limit.waiting_at.discard(self._governor)

    def oldest_with_slot(self) -> Waiter | None:
        """The request that is next, of all whose concurrency limit has a free slot."""
        oldest: Waiter | None = None
        for limit, queue in self._queues.items():
            if limit.in_flight < limit.slots:
                head = next(iter(queue))
                if oldest is None or head.sequence < oldest.sequence:
                    oldest = head
        return oldest

    def take_all(self) -> list[Waiter]:
        """Empties the queue."""
        waiters = [waiter for queue in self._queues.values() for waiter in queue]
        for limit in self._queues:
            limit.waiting_at.discard(self._governor)
        self._queues.clear()
        return waiters
