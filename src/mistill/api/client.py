"""The client of the HTTP API, one attempt a call: no retries, no pacing, no policy.

An attempt either returns an answer or raises one error of ``mistill.errors``, whatever the server sends. A server that
echoes the key back finds it cut out of the error.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Generic, NoReturn

import msgspec
from msgspec import Struct

from mistill.api.chat import CHAT, ChatChunk
from mistill.api.error_bodies import error_in_answer, error_of_status
from mistill.api.limits import parse_limits
from mistill.api.models import MODELS_PATH, ModelCard, decode_models
from mistill.api.operation import MAX_BYTES, Operation, R
from mistill.api.prices import Price
from mistill.api.redaction import Redactor
from mistill.api.stream import PROXY_HINT, ChunkReader
from mistill.api.transport import PyreqwestError, Response, Url, build_client, error_of_transport
from mistill.api.usage import Usage, usage_of
from mistill.errors import (
    APIError,
    MalformedAnswer,
    MistillError,
    RateLimited,
    RateLimits,
)

_GOOD = range(200, 300)  # whether an answer came with it, its body says
_CORRELATION_ID = "mistral-correlation-id"
_EXCERPT_BYTES = 200

_LIMITS_EVERY_S = 0.01
"""Limits are read from one good answer in so much time: at thousands of answers a second, each has what the last had,
and reading them all would cost more than the rest of the answer. Those of an error are always read."""


class HTTPAnswer(Struct, Generic[R], frozen=True, gc=False):
    """A good HTTP answer.

    Attributes:
        response: its body, decoded. ``raw``: the body as it came.
        limits: the quota and the wait in its headers, where they were read: see `_LIMITS_EVERY_S`.
        correlation_id: what Mistral's support asks for.
        latency_s: seconds from sending to the last byte.
        usage: tokens billed for it. ``cost``: US dollars, or ``None`` where the model has no known price.
        failure: it is none after all: the server failed in the middle of it, and says so in it.
    """

    response: R
    raw: bytes
    limits: RateLimits | None
    correlation_id: str | None
    latency_s: float
    usage: Usage
    cost: float | None
    failure: MistillError | None = None


class ChatStream:
    """The chunks of a streamed completion, as they come; ``limits`` and ``correlation_id`` from its headers.

    Raises:
        MistillError: on iterating: the server's error where it sends one, `Disconnected` where the stream ends before
            its answer.
    """

    def __init__(self, http: Response, redactor: Redactor) -> None:
        self.limits = _limits(http)
        self.correlation_id = _correlation_id(http)
        self._http = http
        self._redactor = redactor

    async def __aiter__(self) -> AsyncIterator[ChatChunk]:
        reader = ChunkReader(self.correlation_id, clean=self._redactor.clean)
        try:
            while not reader.is_done and (piece := await self._next_piece(reader)) is not None:
                for chunk in reader.feed(piece):
                    yield chunk
            for chunk in reader.finish():
                yield chunk
        except MistillError as error:
            self._redactor.redact_error(error)
            raise

    async def _next_piece(self, reader: ChunkReader) -> bytes | None:
        try:
            piece = await self._http.body_reader.read_chunk()
        except PyreqwestError:
            if reader.has_finished:  # all of the answer has come: how the connection ended is no matter
                return None
            raise
        return None if piece is None else piece.to_bytes()


class MistralClient:
    """One endpoint and one key. Safe to share by threads and event loops; connections are pooled for all of them.

    Args:
        endpoint: base URL without ``/v1``, see ``mistill.api.endpoint``.
        api_key: sent as a bearer token; never shown again.
        timeout_s: for one attempt, from connecting to the last byte of the body.
        price: of the model, where it is known: answers have their cost then.

    Raises:
        InputError: the key cannot be sent, or this machine has no CA certificates.
    """

    def __init__(self, endpoint: str, api_key: str, timeout_s: float, *, price: Price | None = None) -> None:
        self.endpoint = endpoint
        self._price = price
        self.timeout_s = timeout_s
        self._redactor = Redactor(api_key)
        self._urls: dict[str, Url] = {}
        self._limits_due_at = 0.0
        self._http = build_client(endpoint, api_key, timeout_s)

    def __repr__(self) -> str:
        return f"MistralClient({self.endpoint!r})"

    async def close(self) -> None:
        """Ends the pooled connections. Requests after it fail."""
        await self._http.close()

    async def exchange(self, operation: Operation[R], body: bytes) -> HTTPAnswer[R]:
        """One attempt at a request. ``body`` is the request as JSON.

        Raises:
            MistillError: whatever the server does, if it does not answer.
        """
        sent_at = time.perf_counter()
        url = self._urls.get(operation.path) or self._url(operation.path)
        try:
            async with self._http.post(url).body_bytes(body).build_streamed() as http:
                # As `_body` does: this is called for every request.
                read = await http.body_reader.read(operation.max_bytes + 1)
        except PyreqwestError as error:
            self._raise_transport(error)
        raw = b"" if read is None else read.to_bytes()
        if http.status not in _GOOD:
            self._raise_status(http, raw)
        if (echo := self._redactor.echo) is not None and echo in raw:
            raw = self._redactor.clean(raw)
        if len(raw) > operation.max_bytes:
            self._raise_too_large(http, raw, operation.max_bytes)
        try:
            response = operation.decode(raw)
            missing = operation.check(response) if operation.check is not None else None
        except Exception as error:
            # Whatever reading may stumble over: an answer that cannot be read has one kind of error.
            self._raise_malformed(http, raw, error)
        if missing:
            self._raise_malformed(http, raw, missing)
        try:
            correlation_id = http.get_header(_CORRELATION_ID)
        except ValueError:  # not ASCII
            correlation_id = None
        if echo is not None and correlation_id is not None and echo in correlation_id.encode():
            correlation_id = None
        answered_at = time.perf_counter()
        limits = None
        if answered_at >= self._limits_due_at:
            limits = _limits(http)
            self._limits_due_at = answered_at + _LIMITS_EVERY_S
        usage = usage_of(response)
        cost = None if self._price is None else self._price.cost(usage)
        said = None if operation.gave_up is None else operation.gave_up(response)
        failure = self._failure(http, said) if said else None
        latency_s = answered_at - sent_at
        return HTTPAnswer(response, raw, limits, correlation_id, latency_s, usage, cost, failure)

    @asynccontextmanager
    async def stream(self, body: bytes) -> AsyncGenerator[ChatStream]:
        """One attempt at a streamed completion (``body`` has ``"stream": true``).

        Entered when the answer's headers are there; leaving it before the stream's end closes the connection.

        Raises:
            MistillError: whatever the server does, if it does not answer.
        """
        # Otherwise the first piece would wait for 64 KiB of answer, which most streams never reach.
        request = self._http.post(self._url(CHAT.path)).body_bytes(body).streamed_read_buffer_limit(1)
        try:
            async with request.build_streamed() as http:
                if http.status not in _GOOD:
                    self._raise_status(http, await _body(http, MAX_BYTES))
                yield ChatStream(http, self._redactor)
        except PyreqwestError as error:
            self._raise_transport(error)

    async def models(self) -> list[ModelCard]:
        """What the endpoint serves: ``GET /v1/models``.

        Raises:
            MistillError: whatever the server does, if it does not answer.
        """
        try:
            async with self._http.get(self._url(MODELS_PATH)).build_streamed() as http:
                raw = await _body(http, MAX_BYTES)
        except PyreqwestError as error:
            self._raise_transport(error)
        if http.status not in _GOOD:
            self._raise_status(http, raw)
        if len(raw) > MAX_BYTES:
            self._raise_too_large(http, raw, MAX_BYTES)
        try:
            return decode_models(self._redactor.clean(raw))
        except Exception as error:
            self._raise_malformed(http, raw, error)

    def _url(self, path: str) -> Url:
        """Parsed once a path: parsing costs more than the rest of building a request."""
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = Url(self.endpoint + path)
        return url

    def _raise_too_large(self, http: Response, raw: bytes, max_bytes: int) -> NoReturn:
        self._raise_malformed(http, raw, f"the answer is larger than {max_bytes:,} bytes")

    def _raise_status(self, http: Response, raw: bytes) -> NoReturn:
        raise self._complete(error_of_status(http.status, raw, _correlation_id(http)), http)

    def _raise_malformed(self, http: Response, raw: bytes, problem: Exception | str) -> NoReturn:
        """A status of success, and no answer: the server's own error if it sends one, else the problem."""
        cause = problem if isinstance(problem, Exception) else None
        correlation_id = _correlation_id(http)
        if failure := error_in_answer(raw, correlation_id):
            raise self._complete(failure, http) from cause
        reason, hint = str(problem), None
        if cause is not None:
            excerpt = self._redactor.redact(raw[:_EXCERPT_BYTES].decode("utf-8", "replace"))
            reason = f"HTTP {http.status}, but the body is no answer: {cause}: {excerpt!r}"
            hint = PROXY_HINT
        malformed = MalformedAnswer(reason, correlation_id=correlation_id, hint=hint)
        self._redactor.redact_error(malformed)
        raise malformed from cause

    def _failure(self, http: Response, said: Any) -> MistillError:
        """The error of an answer that says of itself that it failed: in the server's words, or by its finish reason."""
        correlation_id = _correlation_id(http)
        if not isinstance(said, str) and (failure := error_in_answer(_error_body(said), correlation_id)):
            return self._complete(failure, http)
        reason = f"the server gave up in the middle of its answer: {said!r}"
        malformed = MalformedAnswer(reason, correlation_id=correlation_id)
        self._redactor.redact_error(malformed)
        return malformed

    def _complete(self, error: APIError, http: Response) -> APIError:
        """The error with what its headers say of limits, and without the key."""
        error.limits = _limits(http)
        error.retry_after_s = error.limits.retry_after_s if error.limits else None
        if isinstance(error, RateLimited) and error.limit_is_zero:
            error.hint = (
                "the limit of this key for this model is 0: it may not use it; choose another model or key"
            )
        self._redactor.redact_error(error)
        return error

    def _raise_transport(self, error: PyreqwestError) -> NoReturn:
        raise error_of_transport(error, self.endpoint, self.timeout_s) from error


def _error_body(said: Any) -> bytes:
    try:
        return msgspec.json.encode({"error": said})
    except (ValueError, RecursionError):  # nested too deeply to be written
        return b"{}"


async def _body(http: Response, max_bytes: int) -> bytes:
    """An answer's body, decompressed; of one that is larger, one byte more than it may have."""
    read = await http.body_reader.read(max_bytes + 1)
    return b"" if read is None else read.to_bytes()


def _header(http: Response, name: str) -> str | None:
    """A header of an answer; one that is not ASCII counts as absent."""
    try:
        return http.get_header(name)
    except ValueError:
        return None


def _correlation_id(http: Response) -> str | None:
    return _header(http, _CORRELATION_ID)


def _limits(http: Response) -> RateLimits | None:
    try:
        return parse_limits(http.get_header)
    except ValueError:
        return parse_limits(partial(_header, http))
