"""Getting requests answered: the attempts of one request, and bounded fan-out over many."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, Generic, Protocol, Self, TypeVar

from msgspec import Struct

from mistill.api.chat import ChatChunk
from mistill.api.client import Answer, MistralClient, R
from mistill.api.errors import APIError, MistillError, Stopped
from mistill.delivery.governor import Governor, Lane, Permit
from mistill.delivery.retry import BACKOFF_BASE_S, backoff_s, classify

T = TypeVar("T")

_BYTES_PER_TOKEN = 4  # a rule of thumb for English text; the real usage settles it afterwards
_FIRST_GUESS_OUTPUT_TOKENS = 256.0
_OUTPUT_SMOOTHING = 0.05
_MOST_HANDS = 4

_CROWD = 16  # a crew of so many workers lingers
_HASTE_S = 0.001  # where rows end as close together as this
_LINGER_S = 0.0002
"""Where answers come by the thousand a second, the transport's thread would wake the event loop for each of them, and
fight it for the interpreter's lock. So the loop lies still for a moment now and then, a thousandth of what a model
takes to answer, and finds several at once: less CPU, more answers a second. `benchmarks.gathering` measures it."""


class Request(Struct, frozen=True, gc=False):
    """What is sent. ``max_output_tokens`` bounds the answer where the caller set a bound."""

    body: bytes
    max_output_tokens: int | None = None


class Delivered(Struct, Generic[R], frozen=True, gc=False):
    """A good answer, and the attempts that it took."""

    answer: Answer[R]
    attempts: int


class Journal(Protocol):
    """Where attempts are written down. ``sending`` returns the journal's own name for the attempt."""

    async def sending(self, request: Request) -> Any:
        """An attempt is about to leave; returns when that is safe on disk. What it raises keeps it from leaving."""
        ...

    def answered(self, attempt: Any, answer: Answer[Any]) -> None:
        """It was answered."""
        ...

    def ended(self, attempt: Any, error: MistillError) -> None:
        """It ended with no answer."""
        ...


class Dispatcher(Generic[R]):
    """The one owner of retries.

    Args:
        exchange: one attempt with a body: the client's method for the kind of request that is sent here.
        max_retries: tries after the first, for failures that are this row's own (`Governor.settle` tells).
        backoff_base_s: ceiling of the first pause; each further failure doubles it.
    """

    def __init__(
        self,
        client: MistralClient,
        governor: Governor,
        lane: Lane,
        *,
        exchange: Callable[[bytes], Awaitable[Answer[R]]],
        max_retries: int,
        backoff_base_s: float = BACKOFF_BASE_S,
    ) -> None:
        self.client = client
        self._exchange = exchange
        self.governor = governor
        self._lane = lane
        self._max_retries = max_retries
        self._backoff_base_s = backoff_base_s
        self._mean_output_tokens = _FIRST_GUESS_OUTPUT_TOKENS

    async def send(
        self, request: Request, journal: Journal | None = None, crew: Crew[T] | None = None
    ) -> Delivered[R]:
        """Attempts until one is answered.

        Raises:
            MistillError: of the last attempt, when no retry can help or none is left.
        """
        governor = self.governor
        tokens = self._estimate(request)
        row = id(request)
        attempts = charged = 0
        while True:
            permit = governor.try_admit(self._lane, tokens)
            if permit is None:
                permit = await governor.admit(self._lane, tokens)
            attempts += 1
            attempt: Any = None
            if journal is not None:
                try:
                    attempt = await journal.sending(request)
                except BaseException:
                    governor.refund(permit)
                    raise
            try:
                answer = await self._exchange(request.body)
            except MistillError as error:
                error.attempts = attempts
                charged += governor.settle(permit, error=error, row=row)
                if journal is not None:
                    journal.ended(attempt, error)
                decision = classify(error)
                if not decision.retry or charged > self._max_retries:
                    raise
                if decision.wait == "backoff":
                    await self._rest(error, attempts, crew)
            except BaseException:
                # Cancelled on the way: the quota has counted it, but it teaches the governor nothing.
                cancelled = Stopped("cancelled while in flight")
                governor.settle(permit, error=cancelled)
                if journal is not None:
                    journal.ended(attempt, cancelled)
                raise
            else:
                self._settle(permit, answer)
                if journal is not None:
                    journal.answered(attempt, answer)
                return Delivered(answer, attempts)

    async def stream(self, request: Request) -> AsyncGenerator[ChatChunk]:
        """The chunks of one streamed answer. Its slot is held until the last, or until this is closed.

        Attempts are repeated as in `send` until the first chunk has come; from then on a failure is raised at once,
        since a second answer would begin differently.

        Raises:
            MistillError: of the last attempt, when no retry can help or none is left, or the stream broke off.
        """
        governor = self.governor
        tokens = self._estimate(request)
        attempts = charged = 0
        while True:
            permit = await governor.admit(self._lane, tokens)
            attempts += 1
            has_begun = False
            total_tokens: int | None = None
            try:
                async with self.client.stream(request.body) as stream:
                    async for chunk in stream:
                        has_begun = True
                        if chunk.usage is not None:
                            total_tokens = chunk.usage.total_tokens or None
                        yield chunk
                    limits = stream.limits
            except MistillError as error:
                charged += governor.settle(permit, error=error, row=id(request))
                decision = classify(error)
                if has_begun or not decision.retry or charged > self._max_retries:
                    raise
                if decision.wait == "backoff":
                    await self._rest(error, attempts, None)
            except BaseException:
                governor.settle(permit, error=Stopped("the stream was closed before its end"))
                raise
            else:
                governor.settle(permit, limits=limits, tokens=total_tokens)
                return

    async def _rest(self, error: MistillError, failures: int, crew: Crew[T] | None) -> None:
        """Sleeps outside the slot, so that a cooling row does not block others."""
        retry_after_s = error.retry_after_s if isinstance(error, APIError) else None
        pause_s = backoff_s(failures, retry_after_s, self._backoff_base_s)
        if crew is None:
            await asyncio.sleep(pause_s)
            return
        with crew.resting():
            await asyncio.sleep(pause_s)

    def _settle(self, permit: Permit, answer: Answer[R]) -> None:
        usage = answer.response.usage
        if usage is None:
            self.governor.settle(permit, limits=answer.limits)
            return
        output = usage.completion_tokens or 0
        self._mean_output_tokens += _OUTPUT_SMOOTHING * (output - self._mean_output_tokens)
        self.governor.settle(permit, limits=answer.limits, tokens=usage.total_tokens or None)

    def _estimate(self, request: Request) -> int:
        output = self._mean_output_tokens
        if request.max_output_tokens is not None:
            output = min(output, request.max_output_tokens)
        return len(request.body) // _BYTES_PER_TOKEN + int(output)


class Each(Generic[T]):
    """An iterable that several workers take from, each item once."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        for item in self._items:
            return item
        raise StopAsyncIteration


class Crew(Generic[T]):
    """Workers that share one stream of rows: never more than ``size`` at work, however many rows there are.

    Where rows end by the thousand a second, a crew of many lingers: it lets answers gather (`_LINGER_S`).

    A worker that rests (a row cooling down between attempts) is stood in for by another, up to four times ``size``
    in all, so that a few cooling rows do not hold back the rest.

    Args:
        rows: taken one by one, as workers become free.
        work: does one row; what it raises ends the whole crew.
    """

    def __init__(
        self, rows: AsyncIterator[T], work: Callable[[T, Crew[T]], Awaitable[None]], *, size: int
    ) -> None:
        self._rows = rows
        self._work = work
        self._size = size
        self._tasks: set[asyncio.Task[None]] = set()
        self._resting = 0
        self._stopped = False
        self._ended: asyncio.Future[None]
        self._loop: asyncio.AbstractEventLoop
        self._row_ended_s = -math.inf
        self._may_linger = size >= _CROWD

    async def run(self) -> None:
        """Returns when every row is done; raises the first error of a worker, after all others have ended."""
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()
        for _ in range(self._size):
            self._hire()
        try:
            await self._ended
        finally:
            self._stopped = True
            leftovers = list(self._tasks)
            for task in leftovers:
                task.cancel()
            await asyncio.gather(*leftovers, return_exceptions=True)

    def stop(self) -> None:
        """No further row is begun; those at work are finished."""
        self._stopped = True

    @contextmanager
    def resting(self) -> Generator[None]:
        """Marks the calling worker as resting, so that another may take its place."""
        self._resting += 1
        if len(self._tasks) - self._resting < self._size and len(self._tasks) < _MOST_HANDS * self._size:
            self._hire()
        try:
            yield
        finally:
            self._resting -= 1

    def _hire(self) -> None:
        task = asyncio.get_running_loop().create_task(self._labour())
        self._tasks.add(task)
        task.add_done_callback(self._leave)

    def _leave(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if self._ended.done():
            return
        if error is not None:
            self._ended.set_exception(error)
        elif not self._tasks:
            self._ended.set_result(None)

    async def _labour(self) -> None:
        async for row in self._rows:
            await self._work(row, self)
            if self._may_linger:
                self._linger_in_haste()
            # Stand-ins leave once the rested are back.
            if self._stopped or len(self._tasks) - self._resting > self._size:
                return

    def _linger_in_haste(self) -> None:
        now_s = time.perf_counter()
        since_s = now_s - self._row_ended_s
        self._row_ended_s = now_s
        if since_s < _HASTE_S:
            self._may_linger = False
            self._loop.call_soon(self._linger)

    def _linger(self) -> None:
        time.sleep(_LINGER_S)
        self._may_linger = True
