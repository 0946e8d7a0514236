"""The attempts of one request, until one is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

from msgspec import Struct

from mistill.api.chat import ChatChunk
from mistill.api.client import Answer, MistralClient, R
from mistill.delivery.governor import ConcurrencyLimit, Governor, Permit
from mistill.delivery.retry import BACKOFF_BASE_S, backoff_s, classify
from mistill.delivery.worker_pool import WorkerPool
from mistill.errors import APIError, MistillError, Stopped

T = TypeVar("T")

_BYTES_PER_TOKEN = 4  # a rule of thumb for English text; the real usage settles it afterwards
_FIRST_GUESS_OUTPUT_TOKENS = 256.0
_OUTPUT_SMOOTHING = 0.05


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
        concurrency: ConcurrencyLimit,
        *,
        exchange: Callable[[bytes], Awaitable[Answer[R]]],
        max_retries: int,
        backoff_base_s: float = BACKOFF_BASE_S,
    ) -> None:
        self.client = client
        self._exchange = exchange
        self.governor = governor
        self._concurrency = concurrency
        self._max_retries = max_retries
        self._backoff_base_s = backoff_base_s
        self._mean_output_tokens = _FIRST_GUESS_OUTPUT_TOKENS

    async def send(
        self, request: Request, journal: Journal | None = None, pool: WorkerPool[T] | None = None
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
            permit = governor.try_admit(self._concurrency, tokens)
            if permit is None:
                permit = await governor.admit(self._concurrency, tokens)
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
                    await self._rest(error, attempts, pool)
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
            permit = await governor.admit(self._concurrency, tokens)
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

    async def _rest(self, error: MistillError, failures: int, pool: WorkerPool[T] | None) -> None:
        """Sleeps outside the slot, so that a cooling row does not block others."""
        retry_after_s = error.retry_after_s if isinstance(error, APIError) else None
        pause_s = backoff_s(failures, retry_after_s, self._backoff_base_s)
        if pool is None:
            await asyncio.sleep(pause_s)
            return
        with pool.resting():
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
