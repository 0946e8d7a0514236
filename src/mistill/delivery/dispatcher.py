"""The attempts of one request, until one is answered."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Generic, Protocol, TypeAlias

from msgspec import Struct

from mistill.api.batch_lines import ResultLine
from mistill.api.chat import ChatChunk
from mistill.api.client import HTTPAnswer, MistralClient
from mistill.api.operation import Operation, R
from mistill.api.prices import Price
from mistill.api.usage import Usage
from mistill.api.watched_answer import WatchedAnswer
from mistill.delivery.cache_key import KEY_FIELD, CacheKey
from mistill.delivery.governor import AnyGovernor, ConcurrencyLimit, Permit
from mistill.delivery.retry import as_failure, backoff_s, classify
from mistill.delivery.tuning import Tuning, current_tuning
from mistill.delivery.worker_pool import WorkerPool
from mistill.errors import APIError, BadRequest, MistillError, Stopped
from mistill.wording import Setting, words


class AnswerPart(Struct, frozen=True, gc=False):
    """What of an answer concerns one of several rows that one request asked.

    Attributes:
        body: what a ledger keeps of it.
        usage, cost: the row's share of what the answer took.
        value: what the body holds, where that has been read already.
    """

    body: bytes
    usage: Usage
    cost: float | None
    value: Any = None


Split: TypeAlias = Callable[[HTTPAnswer[Any]], "list[AnswerPart | MistillError]"]
"""An answer → a part for each row that the request asked, or why there is none for the row.

It raises where the answer is of no use to any of them: then the attempt has failed.
"""

Refuse: TypeAlias = Callable[[HTTPAnswer[Any]], None]
"""Raises the failure of an answer in whose middle the server gave up, with what came of it if need be."""


def raise_failure(answer: HTTPAnswer[Any]) -> None:
    """Raises the failure of an answer, as it is."""
    if answer.failure is not None:
        raise answer.failure


_MAX_HELD = 64
_UNKNOWN_FIELD = 422


class Request(Struct, frozen=True, gc=False):
    """What is sent.

    Attributes:
        body: the request as JSON.
        max_output_tokens: bounds the answer, where the caller set a bound.
        places: which of the rows that are answered together it asks.
        split: how an answer is shared out among several rows; ``None``: all of it is the one row's.
        weights: the share of each row in it; of one row alone, nothing.
        watching: what the body has besides, before its end, where the answer is streamed to be watched for loops
            (``,"stream":true}``); nothing where it comes in one piece. It is no part of what is asked.
    """

    body: bytes
    max_output_tokens: int | None = None
    places: Sequence[int] = (0,)
    split: Split | None = None
    weights: Sequence[int] = ()
    watching: bytes = b""


class Postponed(Exception):
    """An attempt that was about to leave does not: the pool is paused. It is none of the row's attempts."""


class RecordedAttempt(Protocol):
    """An attempt as its observer has written it down."""

    @property
    def id(self) -> int: ...


class Delivered(Struct, Generic[R], frozen=True, gc=False):
    """A good answer with all that belongs to its attempt, worked out once.

    Attributes:
        answer: what came, decoded and raw, with its usage and cost.
        attempts: how many HTTP attempts it took.
        recorded: the attempt as the observer wrote it down, once for each row asked; empty where nobody observes.
        parts: each row's own part or why it has none, where the request says how to split the answer.
    """

    answer: HTTPAnswer[R]
    attempts: int
    recorded: Sequence[RecordedAttempt] = ()
    parts: Sequence[AnswerPart | MistillError] = ()


class Send(Protocol[R]):
    """Sends the requests of a row: whoever observes its attempts, and the pool it works in, are bound already."""

    def __call__(self, request: Request, /) -> Coroutine[Any, Any, Delivered[R]]: ...


class Recall(ABC, Generic[R]):
    """A `Send` that has answers from before, and gives those in the place of new ones."""

    @abstractmethod
    def __call__(self, request: Request, /) -> Coroutine[Any, Any, Delivered[R]]: ...

    @abstractmethod
    def recalls(self, request: Request) -> bool:
        """Whether this very request was sent before, and is known to have been answered or refused."""


class AttemptObserver(Protocol):
    """Sees every attempt of a row: before it leaves, and how it ended. Several are one by `ObserversTogether`.

    Attributes:
        headers: what goes along with the attempt that is about to leave; ``None``: nothing does.
    """

    @property
    def headers(self) -> Mapping[str, str] | None: ...

    async def sending(self, request: Request) -> Sequence[RecordedAttempt]:
        """An attempt is about to leave; returns when that is safe on disk. What it raises keeps it from leaving; after
        `Postponed` it is tried once more when the pool goes on."""
        ...

    def answered(self, recorded: Sequence[Any], delivered: Delivered[Any]) -> Delivered[Any]:
        """It was answered; returns the answer as it counts, which may have taken other than it says."""
        ...

    def ended(self, recorded: Sequence[Any], error: MistillError) -> None:
        """It ended with no answer."""
        ...


class StreamObserver(Protocol):
    """Sees the attempts of one streamed answer, as an `AttemptObserver` those of a row."""

    @property
    def headers(self) -> Mapping[str, str] | None: ...

    async def sending(self, request: Request) -> Sequence[RecordedAttempt]: ...

    def ended(self, recorded: Sequence[Any], error: MistillError | None) -> None:
        """``error``: ``None`` where all of the stream has come."""
        ...


class Dispatcher(Generic[R]):
    """The one owner of retries.

    Args:
        client: what attempts go through.
        governor: decides when each may leave. ``concurrency``: one object's own limit of requests in flight.
        operation: what kind of request is sent here. ``refuse``: see `Refuse`.
        max_retries: tries after the first, for failures that are this row's own (`Governor.settle_failure` decides).
        tuning: the constants of delivery; those in force unless given.

    Attributes:
        client, max_retries: as given. ``governor``: it may be replaced; what waits at the one before asks the new one.
        takes_cache_key: whether the server has taken one, or answered without what it had refused with it; ``None``:
            nobody knows yet.
    """

    def __init__(
        self,
        client: MistralClient,
        governor: AnyGovernor,
        concurrency: ConcurrencyLimit,
        *,
        operation: Operation[R],
        refuse: Refuse = raise_failure,
        max_retries: int,
        tuning: Tuning | None = None,
    ) -> None:
        self.client = client
        self.governor = governor
        self.max_retries = max_retries
        self.takes_cache_key: bool | None = None
        self._operation = operation
        self._refuse = refuse
        self._concurrency = concurrency
        self._tuning = tuning = tuning or current_tuning()
        self._bytes_per_token = tuning.bytes_per_token
        self._output_smoothing = tuning.output_smoothing
        self._mean_output_tokens = tuning.first_guess_output_tokens

    async def send(
        self,
        request: Request,
        *,
        observer: AttemptObserver | None = None,
        pool: WorkerPool[Any] | None = None,
        cache_key: CacheKey | None = None,
    ) -> Delivered[R]:
        """Attempts until one is answered.

        Args:
            observer: sees the attempts. ``pool``: where the row is worked on. Bound once a row, or once a call, by
                `functools.partial`: what is left is a `Send`.
            cache_key: goes along where the server takes one. It is no part of what is asked.

        Raises:
            MistillError: of the last attempt, when no retry can help or none is left.
        """
        tokens = self._estimate(request)
        row: int | None = None
        attempts = charged = 0
        body = asked = request.body if not request.watching else request.body[:-1] + request.watching
        is_first = False
        if cache_key is not None:
            is_first = (
                cache_key.is_cold and self.takes_cache_key is not False and await cache_key.goes_first()
            )
            if self.takes_cache_key is not False:  # the first may have found out
                body = cache_key.put_into(body)
        while True:
            while pool is not None and pool.resumed is not None:
                await pool.resumed.wait()
            governor = self.governor
            permit = governor.try_admit(self._concurrency, tokens)
            if permit is None:
                permit = await governor.admit(self._concurrency, tokens)
                # It was paused meanwhile, or another one decides.
                if (pool is not None and pool.resumed is not None) or governor is not self.governor:
                    governor.refund(permit)
                    continue
            attempts += 1
            row = row or permit.sequence  # whose failures these are
            recorded: Sequence[RecordedAttempt] = ()
            if observer is not None:
                try:
                    recorded = await observer.sending(request)
                except Postponed:
                    governor.refund(permit)
                    attempts -= 1
                    continue
                except BaseException:
                    governor.refund(permit)
                    raise
            try:
                watched = WatchedAnswer() if request.watching else None
                headers = None if observer is None else observer.headers
                answer = await self.client.exchange(self._operation, body, watched=watched, headers=headers)
                if answer.failure is not None:
                    self._refuse(answer)
                parts = () if request.split is None else request.split(answer)
            except Exception as caught:
                error = as_failure(caught)
                try:
                    is_charged, error = await governor.settle_failure(permit, error, row)
                except BaseException:  # cancelled, while another process was asked
                    classify(error)
                    error.attempts = attempts
                    if observer is not None:
                        observer.ended(recorded, error)
                    raise
                charged += is_charged
                error.attempts = attempts
                may_retry = self._may_retry(error, charged, permit)
                if observer is not None:
                    observer.ended(recorded, error)
                if body is not asked and self._may_be_for_key(error):
                    body, charged = asked, 0
                    continue
                if not may_retry:
                    if is_first and cache_key is not None:
                        cache_key.let_follow()
                    if error is caught:
                        raise
                    raise error from caught
                await self._rest(governor, error, attempts, pool, permit)
            except BaseException:
                # Cancelled on the way: the quota has counted it, but it teaches the governor nothing.
                cancelled = Stopped("cancelled while in flight", reason="cancelled")
                governor.settle(permit, error=cancelled)
                if observer is not None:
                    observer.ended(recorded, cancelled)
                raise
            else:
                self._settle(governor, permit, answer)
                if cache_key is not None:
                    if is_first:
                        cache_key.let_follow()
                    if self.takes_cache_key is not False and cache_key.field is not None:
                        self.takes_cache_key = body is not asked
                for part in parts:
                    if isinstance(part, MistillError):
                        classify(part)  # so that it says whether another attempt could help
                delivered = Delivered(answer, attempts, recorded, parts)
                if observer is not None:
                    return observer.answered(recorded, delivered)
                return delivered

    @property
    def max_answer_bytes(self) -> int:
        """Of an answer's body."""
        return self._operation.max_bytes

    def read_line(self, line: ResultLine, price: Price | None) -> HTTPAnswer[R]:
        """The answer in a line of a job's results, as `send` would have had it from the server.

        Args:
            price: of the model in batch jobs, where it is known.

        Raises:
            MistillError: the line has no answer. It says whether another attempt could help, as all that leaves here.
        """
        try:
            answer = self.client.answer_of_line(self._operation, line, price=price)
            if answer.failure is not None:
                self._refuse(answer)
        except Exception as caught:
            error = as_failure(caught)
            classify(error)
            error.attempts = 1
            if (
                isinstance(error, BadRequest) and KEY_FIELD in error.message
            ):  # a line is not sent again without
                error.hint = words("leave it out, with ", Setting("prompt_cache", False))
            if error is caught:
                raise
            raise error from caught
        return answer

    async def stream(
        self, request: Request, *, observer: StreamObserver | None = None
    ) -> AsyncGenerator[ChatChunk]:
        """The chunks of one streamed answer. Its slot is held until the last, or until this is closed.

        Attempts are repeated as in `send` until the first chunk that says anything; from then on a failure is raised at
        once, since a second answer would begin differently.

        Raises:
            MistillError: of the last attempt, when no retry can help or none is left, or the stream broke off.
        """
        governor = self.governor
        tokens = self._estimate(request)
        row: int | None = None
        attempts = charged = 0
        while True:
            permit = await governor.admit(self._concurrency, tokens)
            attempts += 1
            row = row or permit.sequence
            recorded: Sequence[RecordedAttempt] = ()
            if observer is not None:
                try:
                    recorded = await observer.sending(request)
                except BaseException:
                    governor.refund(permit)
                    raise
            has_begun = False
            held: list[ChatChunk] = []
            total_tokens: int | None = None
            try:
                headers = None if observer is None else observer.headers
                async with self.client.stream(request.body, headers=headers) as stream:
                    async for chunk in stream:
                        if chunk.usage is not None:
                            total_tokens = chunk.usage.total_tokens or None
                        held.append(chunk)
                        says_anything = any(choice.delta.says_anything for choice in chunk.choices)
                        has_begun = has_begun or says_anything or len(held) > _MAX_HELD
                        while has_begun and held:
                            yield held.pop(0)
                    limits = stream.limits
                for chunk in held:
                    yield chunk
            except Exception as caught:
                error = as_failure(caught)
                is_charged, error = await governor.settle_failure(permit, error, row)
                charged += is_charged
                error.attempts = attempts
                if observer is not None:
                    observer.ended(recorded, error)
                if has_begun or not self._may_retry(error, charged, permit):
                    if error is caught:
                        raise
                    raise error from caught
                await self._rest(governor, error, attempts, None, permit)
            except BaseException:
                closed = Stopped("the stream was closed before its end", reason="cancelled")
                governor.settle(permit, error=closed)
                if observer is not None:
                    observer.ended(recorded, closed)
                raise
            else:
                governor.settle(permit, limits=limits, tokens=total_tokens)
                if observer is not None:
                    observer.ended(recorded, None)
                return

    def _may_be_for_key(self, error: MistillError) -> bool:
        """Whether it may be the key that the server refuses now. Only an answer without it proves that."""
        return isinstance(error, BadRequest) and (
            error.status == _UNKNOWN_FIELD or KEY_FIELD in error.message
        )

    def _may_retry(self, error: MistillError, charged: int, permit: Permit) -> bool:
        """``charged``: failures that were the row's own, this one included. ``permit``: of the attempt."""
        decision = classify(error)
        if not decision.retry or charged > self.max_retries:
            return False
        asked_s = error.retry_after_s if isinstance(error, APIError) else None
        return not _backs_off(error, permit) or (asked_s or 0.0) <= self._tuning.max_retry_after_s

    async def _rest(
        self,
        governor: AnyGovernor,
        error: MistillError,
        failures: int,
        pool: WorkerPool[Any] | None,
        permit: Permit,
    ) -> None:
        """Sleeps outside the slot, so that a cooling row does not block others; not where the governor decides."""
        if not _backs_off(error, permit):
            return
        retry_after_s = error.retry_after_s if isinstance(error, APIError) else None
        pause_s = backoff_s(failures, retry_after_s, tuning=self._tuning)
        governor.note_resting(1)
        try:
            with nullcontext() if pool is None else pool.resting():
                await asyncio.sleep(pause_s)
        finally:
            governor.note_resting(-1)

    def _settle(self, governor: AnyGovernor, permit: Permit, answer: HTTPAnswer[R]) -> None:
        wire = answer.response.usage
        if wire is None:
            governor.settle(permit, limits=answer.limits)
            return
        self._mean_output_tokens += self._output_smoothing * (
            answer.usage.output_tokens - self._mean_output_tokens
        )
        governor.settle(permit, limits=answer.limits, tokens=wire.total_tokens or None)

    def _estimate(self, request: Request) -> int:
        output = self._mean_output_tokens
        if request.max_output_tokens is not None:
            output = min(output, request.max_output_tokens)
        return len(request.body) // self._bytes_per_token + int(output)


def _backs_off(error: MistillError, permit: Permit) -> bool:
    """The row waits by itself before its next attempt: for a failure, or for a refusal that was of this row alone."""
    return permit.stands_alone or classify(error).wait == "backoff"
