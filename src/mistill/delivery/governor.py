"""The governor: it decides when the next attempt may leave.

One ``Governor`` stands for one quota: an (endpoint, key, model), shared by all objects, threads and event loops of the
process. One ``Lane`` stands for one object's ``max_concurrent_requests``. An attempt is admitted (``try_admit``, else
``await admit``), sent, and then settled or refunded exactly once.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Hashable

from mistill.api.errors import MistillError, Stopped
from mistill.api.limits import RateLimits

# One lock for all governors and lanes: a lane may serve several governors, and sections are a few microseconds.
# Re-entrant, since the garbage collector may close an abandoned `admit` coroutine in the middle of a section.
_LOCK = threading.RLock()


class Lane:
    """One object's own limit of requests in flight, over all its calls, threads and event loops.

    ``limit`` may be changed at any time; a lower one lets what is in flight finish.
    """

    __slots__ = ("__weakref__", "_limit", "in_flight", "waiting_at")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.in_flight = 0
        self.waiting_at: set[Governor] = set()  # where requests of this lane wait: usually one governor or none

    @property
    def limit(self) -> int:
        return self._limit

    @limit.setter
    def limit(self, limit: int) -> None:
        with _LOCK:
            self._limit = limit
            for governor in tuple(self.waiting_at):
                governor.pump()


class Permit:
    """The right to send one attempt. Give it back exactly once: ``settle`` or ``refund``."""

    __slots__ = ("is_probe", "lane", "row", "sent_at_s", "sequence", "settled", "tokens")

    def __init__(self, lane: Lane, tokens: int, row: Hashable, sequence: int, sent_at_s: float) -> None:
        self.lane = lane
        self.tokens = tokens
        self.row = row
        self.sequence = sequence
        self.sent_at_s = sent_at_s
        self.is_probe = False
        self.settled = False


class _Waiter:
    __slots__ = ("error", "future", "lane", "loop", "permit", "row", "sequence", "tokens")

    def __init__(self, lane: Lane, tokens: int, row: Hashable, sequence: int) -> None:
        self.lane = lane
        self.tokens = tokens
        self.row = row
        self.sequence = sequence
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self.loop.create_future()
        self.permit: Permit | None = None


class Governor:
    """Decides when attempts to one (endpoint, key, model) leave. Thread-safe; see the module's docstring."""

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.monotonic,
        requests_per_minute: float | None = None,
        tokens_per_minute: float | None = None,
        patience_s: float = 300.0,
    ) -> None:
        self._clock = clock
        self.patience_s = patience_s
        self._queues: dict[Lane, deque[_Waiter]] = {}
        self._sequence = 0
        self.in_flight = 0
        self.set_quota(requests_per_minute, tokens_per_minute)

    def set_quota(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """The user's own limits: they override what is learned from headers. None: learn."""
        with _LOCK:
            self._quota = (requests_per_minute, tokens_per_minute)

    def try_admit(self, lane: Lane, tokens: int, row: Hashable = None) -> Permit | None:
        """A permit if one is free now and nobody waits before; else None, and ``admit`` is the way."""
        with _LOCK:
            if self._queues and lane in self._queues:
                return None
            if lane.in_flight >= lane._limit:  # noqa: SLF001 - the property costs a call on the hot path
                return None
            return self._grant(lane, tokens, row)

    async def admit(
        self, lane: Lane, tokens: int, *, deadline_s: float | None = None, row: Hashable = None
    ) -> Permit:
        """A permit, first in first out. Safe to cancel.

        ``tokens``: the estimated cost, input and output. ``deadline_s``: seconds from now that this may wait at most.
        Raises ``Stopped`` past the deadline, ``RateLimited`` when the key may not use this model at all, and the last
        error of the server when an outage outlasts ``patience_s``.
        """
        with _LOCK:
            permit = self.try_admit(lane, tokens, row)
            if permit is not None:
                return permit
            self._sequence += 1
            waiter = _Waiter(lane, tokens, row, self._sequence)
            self._queues.setdefault(lane, deque()).append(waiter)
            lane.waiting_at.add(self)
            self.pump()
        try:
            async with asyncio.timeout(deadline_s):
                await waiter.future
        except BaseException as error:
            self._abandon(waiter)
            if isinstance(error, TimeoutError):
                raise Stopped(f"deadline: no quota or slot became free within {deadline_s:g} s") from None
            raise
        assert waiter.permit is not None
        return waiter.permit

    def settle(
        self,
        permit: Permit,
        *,
        limits: RateLimits | None = None,
        tokens: int | None = None,
        error: MistillError | None = None,
        row: Hashable = None,
    ) -> bool:
        """The attempt ended: a good answer, or ``error``. Exactly once per permit; all learning happens here.

        ``tokens``: the actual total. ``limits``: what the answer's headers told, of good and bad answers alike.
        """
        with _LOCK:
            self._release(permit)
            self.pump()
            return error is not None

    def refund(self, permit: Permit) -> None:
        """The attempt never left: everything is given back."""
        with _LOCK:
            self._release(permit)
            self.pump()

    def pump(self) -> None:
        """Admit whoever may leave now, oldest first."""
        with _LOCK:
            while (waiter := self._oldest_with_room()) is not None:
                self._pop(waiter)
                waiter.permit = self._grant(waiter.lane, waiter.tokens, waiter.row)
                self._wake(waiter)

    def _oldest_with_room(self) -> _Waiter | None:
        oldest: _Waiter | None = None
        for lane, queue in self._queues.items():
            if lane.in_flight < lane.limit and (oldest is None or queue[0].sequence < oldest.sequence):
                oldest = queue[0]
        return oldest

    def _grant(self, lane: Lane, tokens: int, row: Hashable) -> Permit:
        self._sequence += 1
        lane.in_flight += 1
        self.in_flight += 1
        return Permit(lane, tokens, row, self._sequence, self._clock())

    def _release(self, permit: Permit) -> None:
        if permit.settled:
            raise AssertionError("a permit is settled exactly once")
        permit.settled = True
        permit.lane.in_flight -= 1
        self.in_flight -= 1
        for governor in tuple(permit.lane.waiting_at):
            if governor is not self:
                governor.pump()

    def _pop(self, waiter: _Waiter) -> None:
        queue = self._queues[waiter.lane]
        queue.popleft()
        self._forget_if_empty(waiter.lane, queue)

    def _forget_if_empty(self, lane: Lane, queue: deque[_Waiter]) -> None:
        if not queue:
            del self._queues[lane]
            lane.waiting_at.discard(self)

    def _wake(self, waiter: _Waiter) -> None:
        try:
            waiter.loop.call_soon_threadsafe(_set_done, waiter.future)
        except RuntimeError:  # its loop is closed: nobody is there to take the permit
            permit, waiter.permit = waiter.permit, None
            if permit is not None:
                self._release(permit)

    def _abandon(self, waiter: _Waiter) -> None:
        with _LOCK:
            if waiter.permit is not None:
                self.refund(waiter.permit)
                return
            queue = self._queues.get(waiter.lane)
            if queue is not None and waiter in queue:
                queue.remove(waiter)
                self._forget_if_empty(waiter.lane, queue)
                self.pump()


def _set_done(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


_governors: weakref.WeakValueDictionary[tuple[str, bytes, str], Governor] = weakref.WeakValueDictionary()


def governor_for(endpoint: str, api_key: str, model: str) -> Governor:
    """The process-wide governor of this quota; forgotten when nobody holds it. Keeps the key only as a hash."""
    identity = (endpoint, hashlib.blake2b(api_key.encode(), digest_size=16).digest(), model)
    with _LOCK:
        governor = _governors.get(identity)
        if governor is None:
            governor = _governors[identity] = Governor()
        return governor
