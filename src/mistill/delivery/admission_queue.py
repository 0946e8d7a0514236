"""Who waits for admission: processes in turn, and in each first in first out, over concurrency limits, threads and
event loops."""

from __future__ import annotations

import asyncio
import os
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Hashable
from typing import Protocol

from mistill.delivery.quotas import QuotaUse
from mistill.errors import MistillError, copied

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

    def abandon(self, waiter: Waiter) -> None: ...


class ConcurrencyLimit:
    """One object's own limit of requests in flight, kept over all its calls, threads and event loops.

    ``limit`` may be changed at any time; under a lower one, what is in flight finishes.

    Args:
        owner: the process whose requests it limits, where that is not this one.

    Attributes:
        owner: as given; ``None``: this process.
        slots: ``limit``, for readers that read it with every request.
        in_flight: requests that have a slot now.
        waiting_at: the governors at which requests wait under this limit: one or none, usually.
    """

    __slots__ = ("in_flight", "owner", "slots", "waiting_at")

    def __init__(self, limit: int, owner: Hashable = None) -> None:
        self.owner = owner
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


class Waiter(ABC):
    """One request that waits. ``loop``: where it lives, and where timers on its behalf run.

    Attributes:
        sequence: its place among those that wait, given by the governor at which it waits.
        permit, error: what came of it; one of them is set before it is woken.
    """

    __slots__ = ("concurrency_limit", "error", "loop", "permit", "sequence", "tokens")

    def __init__(
        self, concurrency_limit: ConcurrencyLimit, tokens: int, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.concurrency_limit = concurrency_limit
        self.tokens = tokens
        self.loop = loop
        self.sequence = 0
        self.permit: Permit | None = None
        self.error: MistillError | None = None

    @abstractmethod
    def wake(self) -> bool:
        """From any thread. False if nobody is there any more."""


class WaitingTask(Waiter):
    """A request of this process, whose task waits."""

    __slots__ = ("_future",)

    def __init__(self, concurrency_limit: ConcurrencyLimit, tokens: int) -> None:
        super().__init__(concurrency_limit, tokens, asyncio.get_running_loop())
        self._future: asyncio.Future[None] = self.loop.create_future()

    async def wait(self, governor: Admitter) -> Permit:
        """Its permit, once it has one. ``governor``: at which it waits; a task that is cancelled is abandoned there.

        Raises:
            MistillError: why there is none.
        """
        try:
            await self._future
        except BaseException:
            governor.abandon(self)
            raise
        if self.error is not None:
            raise copied(self.error) from self.error
        assert self.permit is not None
        return self.permit

    def wake(self) -> bool:
        # A private name, but the documented get_running_loop() raises where there is none, at ten times the cost.
        if self.loop is asyncio._get_running_loop():  # noqa: SLF001
            self.wake_here()
            return True
        try:
            self.loop.call_soon_threadsafe(self.wake_here)
        except RuntimeError:  # its event loop is closed
            return False
        return True

    def wake_here(self) -> None:
        """On its own event loop."""
        if not self._future.done():  # cancelled in between
            self._future.set_result(None)


class AdmissionQueue:
    """The waiting requests of one governor, in a queue for each concurrency limit.

    Of the processes (``ConcurrencyLimit.owner``) that one is next that has been given the least, so that one with
    hundreds waiting does not starve one with four, and those that come a moment later have as much in the end; the
    requests of one are first in, first out. Every operation is O(1) in the number of requests, O(limits) at the most.

    Attributes:
        limits: those under which anybody waits: empty, and so false, when nobody does.
    """

    def __init__(self, governor: Admitter) -> None:
        self._governor = governor
        # Not plain dicts: their first key gets slow to find when many before it were deleted.
        self._queues: dict[ConcurrencyLimit, OrderedDict[Waiter, None]] = {}
        self.limits = self._queues.keys()
        self._given: dict[Hashable, float] = {}
        self._most_given = 0.0

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

    def next_with_slot(self) -> Waiter | None:
        """The request that is next, of all whose concurrency limit has a free slot."""
        found: Waiter | None = None
        found_given = 0.0
        given_to = self._given
        for limit, queue in self._queues.items():
            if limit.in_flight < limit.slots:
                head = next(iter(queue))
                given = given_to.get(limit.owner, 0.0)
                if (
                    found is None
                    or given < found_given
                    or (given == found_given and head.sequence < found.sequence)
                ):
                    found, found_given = head, given
        return found

    def note_given(self, owner: Hashable, credit: float) -> None:
        """A process was given a permit. ``credit``: so far it may be behind others and still catch up: what it did not
        ask for long ago is not owed to it."""
        given = 1 + max(self._given.get(owner, 0.0), self._most_given - credit)
        self._given[owner] = given
        if given > self._most_given:
            self._most_given = given

    def note_given_back(self, owner: Hashable) -> None:
        """It had no use for one."""
        if owner in self._given:
            self._given[owner] -= 1

    def forget(self, limit: ConcurrencyLimit) -> None:
        """Of a process that is gone: nobody waits under this limit any more."""
        self._given.pop(limit.owner, None)
        if self._queues.pop(limit, None) is not None:
            limit.waiting_at.discard(self._governor)

    def waiting_of(self, owner: Hashable) -> int:
        """How many of one process wait."""
        return sum(len(queue) for limit, queue in self._queues.items() if limit.owner == owner)

    def owners(self) -> int:
        """How many processes have requests that wait."""
        return len({limit.owner for limit in self._queues})

    def take_all(self) -> list[Waiter]:
        """Empties the queue; the oldest comes first."""
        waiters = [waiter for queue in self._queues.values() for waiter in queue]
        waiters.sort(key=lambda waiter: waiter.sequence)
        for limit in self._queues:
            limit.waiting_at.discard(self._governor)
        self._queues.clear()
        return waiters
