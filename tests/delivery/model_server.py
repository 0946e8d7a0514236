"""A model of the server's side in fake time: sliding windows, headers, refusals, outages; and rows that go through."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from mistill.delivery.governor import ConcurrencyLimit, Governor
from mistill.errors import CapacityExceeded, MistillError, RateLimited, RateLimits, ServerError
from mistill.progress.progress import Progress


@dataclass
class ModelServer:
    """Counts what it accepted in the last ``window_s``; ``limit`` and the like may be changed while it runs."""

    clock: Callable[[], float]
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    reports_limits: bool = True
    capacity: int | None = None
    gets_through_per_s: float | None = None  # the rest queue up at its door, those that it will refuse too
    latency_s: float = 0.5
    refusal_s: float = 0.02
    tokens: int = 100
    window_s: float = 60.0
    outage_from_s: float = float("inf")
    outage_until_s: float = float("inf")
    stray_share: float = 0.0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    _next_s: float = 0.0
    _requests: deque[float] = field(default_factory=deque)
    _tokens: deque[float] = field(default_factory=deque)

    async def answer(self, rng: random.Random) -> RateLimits | None:
        await asyncio.sleep(rng.uniform(0.005, 0.03))  # the way there
        if self.gets_through_per_s is not None:
            self._next_s = max(self._next_s, self.clock()) + 1 / self.gets_through_per_s
            await asyncio.sleep(self._next_s - self.clock())
        now_s = self.clock()
        if self.outage_from_s <= now_s < self.outage_until_s:
            self.failed += 1
            await asyncio.sleep(self.refusal_s)
            raise ServerError("unavailable", status=503)
        if rng.random() < self.stray_share:
            self.refused += 1
            await asyncio.sleep(self.refusal_s)
            raise RateLimited("Rate limit exceeded", status=429, code="1300", limits=self._limits())
        if self._is_used_up():
            self.refused += 1
            limits = self._limits()
            await asyncio.sleep(self.refusal_s)
            raise RateLimited("Rate limit exceeded", status=429, code="1300", limits=limits)
        if self.capacity is not None and self.in_flight >= self.capacity:
            self.refused += 1
            await asyncio.sleep(self.refusal_s)
            raise CapacityExceeded("full", status=429, code="3505")
        self._requests.append(now_s)
        self.accepted += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        await asyncio.sleep(rng.uniform(0.5, 1.5) * self.latency_s)
        self.in_flight -= 1
        self._tokens.append(self.clock())
        limits = self._limits()
        await asyncio.sleep(rng.uniform(0.005, 0.03))  # the way back
        return limits

    def used(self) -> tuple[int, int]:
        for entries in (self._requests, self._tokens):
            while entries and entries[0] + self.window_s <= self.clock():
                entries.popleft()
        return len(self._requests), len(self._tokens) * self.tokens

    def _is_used_up(self) -> bool:
        requests, tokens = self.used()
        return (self.requests_per_minute is not None and requests >= self.requests_per_minute) or (
            self.tokens_per_minute is not None and tokens >= self.tokens_per_minute
        )

    def _limits(self) -> RateLimits | None:
        if not self.reports_limits:
            return None
        requests, tokens = self.used()
        return RateLimits(
            requests_limit=self.requests_per_minute,
            requests_remaining=None
            if self.requests_per_minute is None
            else max(0, self.requests_per_minute - requests),
            tokens_limit=self.tokens_per_minute,
            tokens_remaining=None
            if self.tokens_per_minute is None
            else max(0, self.tokens_per_minute - tokens),
        )


@dataclass
class Passage:
    """How rows got through: when the last was answered, what was lost, what was refused."""

    took_s: float
    lost: int
    refused: int
    failed: int
    charged: int
    finished_s: list[float]


async def send_rows(
    server: ModelServer,
    governor: Governor,
    rows: int,
    *,
    max_concurrent_requests: int = 64,
    max_retries: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
    guest: ConcurrencyLimit | None = None,
) -> Passage:
    """All rows through the governor as a dispatcher sends them, with as many at work as there are slots.

    ``progress``: counts those that were answered. ``guest``: what the governor has another process's requests under.
    """
    clock = server.clock
    start_s = clock()
    rng = random.Random(seed)
    limit = guest or ConcurrencyLimit(max_concurrent_requests)
    numbers = iter(range(rows))
    passage = Passage(0.0, 0, 0, 0, 0, [])

    async def work() -> None:
        for row in numbers:
            charged = 0
            for attempt in itertools.count():
                permit = governor.try_admit(limit, server.tokens) or await governor.admit(
                    limit, server.tokens
                )
                sent_s = clock()
                try:
                    limits = await server.answer(rng)
                except MistillError as error:
                    charged += governor.settle(permit, error=error, row=row)
                    if charged > max_retries:
                        passage.lost += 1
                        break
                    if permit.stands_alone or not isinstance(error, RateLimited):
                        await asyncio.sleep(min(30, 0.5 * 2**attempt) * rng.random())
                else:
                    governor.settle(permit, limits=limits, tokens=server.tokens)
                    passage.finished_s.append(clock() - start_s)
                    if progress is not None:
                        progress.completions += 1
                        progress.requests += attempt + 1
                        progress.busy_s += clock() - sent_s
                    break
            passage.charged += charged

    async with asyncio.TaskGroup() as group:
        for _ in range(max_concurrent_requests):
            group.create_task(work())
    passage.took_s = clock() - start_s
    passage.refused = server.refused
    passage.failed = server.failed
    assert limit.in_flight == 0
    assert guest is not None or governor.in_flight == 0
    return passage
