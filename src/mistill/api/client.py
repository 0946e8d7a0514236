"""Mistral's HTTP API, one attempt a call: no retries, no pacing, no policy. The only importer of pyreqwest.

An attempt either returns an answer or raises one error of ``mistill.errors``. A server that echoes the key back
finds it cut out of the error text.
"""

from __future__ import annotations

import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from datetime import timedelta
from typing import Any, Generic, NoReturn, Protocol, cast
from urllib.parse import urlsplit, urlunsplit

import msgspec
from msgspec import Struct
from typing_extensions import TypeVar

from mistill.api.chat import ChatChunk, ChatResponse, Usage, decode_chunk, decode_response
from mistill.api.embeddings import EmbeddingResponse, decode_embeddings
from mistill.api.limits import parse_limits
from mistill.api.stream import DONE, EventParser
from mistill.errors import (
    APIError,
    AttemptTimeout,
    BadRequest,
    CapacityExceeded,
    ConnectFailed,
    Disconnected,
    Forbidden,
    InputError,
    InvalidModel,
    MalformedAnswer,
    NotFound,
    RateLimited,
    RateLimits,
    ServerError,
    TransportError,
    Unauthorized,
)


@contextmanager
def _variable(name: str, value: str) -> Generator[None]:
    """The environment variable ``name`` is ``value`` meanwhile, unless it has one already."""
    if name in os.environ:
        yield
        return
    os.environ[name] = value
    try:
        yield
    finally:
        del os.environ[name]


# What the transport's allocator reads as it is loaded. In huge pages, a connection would take a third more memory.
with _variable("MIMALLOC_ALLOW_THP", "0"):
    from pyreqwest.client import Client, ClientBuilder
    from pyreqwest.exceptions import (
        BodyDecodeError,
        BuilderError,
        ConnectError,
        PyreqwestError,
        RequestTimeoutError,
    )
    from pyreqwest.http import Url
    from pyreqwest.response import Response
    from pyreqwest.runtime import runtime_worker_threads

T = TypeVar("T")

_LIMITS_EVERY_S = 0.01
"""Limits are read from one good answer in so much time: at thousands of answers a second, each tells what the last did,
and reading them all would cost more than the rest of the answer. Errors always tell theirs."""

CHAT_PATH = "/v1/chat/completions"
_QUOTA_CODES = {"1300"}
_CAPACITY_CODES = {"3505"}
_CAPACITY_TYPE = "service_tier_capacity_exceeded"
_MODEL_CODE = "1500"
_MODEL_TYPE = "invalid_model"


class Answered(Protocol):
    @property
    def usage(self) -> Usage | None: ...


# What a good answer holds: that of a chat unless it says otherwise.
R = TypeVar("R", bound=Answered, default=ChatResponse)


class Answer(Struct, Generic[R], frozen=True, gc=False):
    """A good HTTP answer. ``raw`` is its body as it came; ``limits`` is what its headers told, if they were read."""

    response: R
    raw: bytes
    limits: RateLimits | None
    correlation_id: str | None
    latency_s: float


class ModelCard(Struct, frozen=True):
    """What ``GET /v1/models`` tells of a model; servers differ in how much."""

    id: str
    description: str | None = None
    max_context_length: int | None = None
    aliases: list[str] | None = None
    capabilities: Any = None
    deprecation: str | None = None
    owned_by: str | None = None


class _ModelList(Struct, frozen=True):
    data: list[ModelCard]


_decode_models = msgspec.json.Decoder(_ModelList).decode


def normalise_endpoint(endpoint: str) -> str:
    """``https://host/v1/`` → ``https://host``. A trailing slash or ``/v1`` is understood.

    Raises:
        InputError: not an absolute http(s) URL, or one with a user, a query or a fragment.
    """
    try:
        parts = urlsplit(endpoint.strip())
        _ = parts.port  # parsed lazily: a bad port raises here
    except ValueError as error:
        raise InputError(f"endpoint {endpoint!r} is not a URL: {error}") from error
    hint = "give the base URL, for example https://api.mistral.ai"
    if parts.scheme not in ("http", "https") or not parts.hostname or any(c.isspace() for c in parts.netloc):
        raise InputError(f"endpoint {endpoint!r} is not an http(s) URL", hint=hint)
    if parts.query or parts.fragment or parts.username or parts.password:
        raise InputError("endpoint must have no user, query or fragment", hint=hint)
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return urlunsplit((parts.scheme, parts.netloc, path, "", ""))


class _Runtime:
    """Which of pyreqwest's two runtimes clients are built on: the single-threaded one, if that can be.

    A fork leaves the threads of a runtime that had started behind, and it cannot start again; the other one still can.
    Source: https://github.com/MarkusSintonen/pyreqwest/issues/51
    """

    started = False
    multithreaded = False

    @classmethod
    def after_fork(cls) -> None:
        if cls.started:
            cls.multithreaded = True
            runtime_worker_threads(1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_Runtime.after_fork)


class ChatStream:
    """The chunks of a streamed completion, as they come; ``limits`` and ``correlation_id`` from its headers.

    Iterating raises `Disconnected` when the stream ends before ``[DONE]``.
    """

    def __init__(self, http: Response, decode: Callable[..., ChatChunk]) -> None:
        self.limits = parse_limits(http.get_header)
        self.correlation_id = _correlation_id(http)
        self._http = http
        self._decode = decode

    async def __aiter__(self) -> AsyncIterator[ChatChunk]:
        parser = EventParser()
        while (piece := await self._http.body_reader.read_chunk()) is not None:
            for event in parser.feed(piece.to_bytes()):
                if event == DONE:
                    return
                yield self._decode(decode_chunk, self._http, event)
        raise Disconnected("the stream ended before [DONE]")


class MistralClient:
    """One endpoint and one key. Safe to share by threads and event loops; connections are pooled for all of them.

    Args:
        endpoint: base URL without ``/v1``, see `normalise_endpoint`.
        api_key: sent as a bearer token; never shown again.
        timeout_s: for one attempt, from connecting to the last byte of the body.
    """

    def __init__(self, endpoint: str, api_key: str, timeout_s: float) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._secret = api_key
        self._chat_url = Url(endpoint + CHAT_PATH)
        self._limits_due_at = 0.0
        _Runtime.started = True
        try:
            self._http: Client = (
                ClientBuilder()
                .default_headers({"authorization": f"Bearer {api_key}", "content-type": "application/json"})
                .user_agent("mistill")
                .timeout(timedelta(seconds=timeout_s))
                .follow_redirects(False)
                .runtime_multithreaded(_Runtime.multithreaded)
                .build()
            )
        except (BuilderError, ValueError) as error:
            # The cause would show the header, so it is cut off on purpose.
            raise InputError("api_key has characters that no HTTP header can hold") from (
                None if api_key in str(error) else error
            )

    def __repr__(self) -> str:
        return f"MistralClient({self.endpoint!r})"

    async def close(self) -> None:
        await self._http.close()

    async def chat(self, body: bytes) -> Answer:
        """One attempt at a chat completion. ``body`` is the request as JSON."""
        sent_at = time.perf_counter()
        try:
            http = await self._http.post(self._chat_url).body_bytes(body).build().send()
            raw = (await http.bytes()).to_bytes()
        except PyreqwestError as error:
            self._raise_transport(error)
        if http.status != 200:
            self._raise_status(http, raw)
        response = self._decode(decode_response, http, raw)
        if not response.choices:
            raise MalformedAnswer("the answer has no choices", correlation_id=_correlation_id(http))
        answered_at = time.perf_counter()
        limits = None
        if answered_at >= self._limits_due_at:
            limits = parse_limits(http.get_header)
            self._limits_due_at = answered_at + _LIMITS_EVERY_S
        return Answer(response, raw, limits, _correlation_id(http), answered_at - sent_at)

    @asynccontextmanager
    async def stream(self, body: bytes) -> AsyncGenerator[ChatStream]:
        """One attempt at a streamed completion (``body`` has ``"stream": true``).

        Entered when the answer's headers are there; leaving it before the stream's end closes the connection.
        """
        # Otherwise the first piece would wait for 64 KiB of answer, which most streams never reach.
        request = self._http.post(self._chat_url).body_bytes(body).streamed_read_buffer_limit(1)
        try:
            async with request.build_streamed() as http:
                if http.status != 200:
                    self._raise_status(http, (await http.bytes()).to_bytes())
                yield ChatStream(http, self._decode)
        except PyreqwestError as error:
            self._raise_transport(error)

    async def models(self) -> list[ModelCard]:
        """What the endpoint serves: ``GET /v1/models``."""
        http, raw = await self._exchange("GET", "/v1/models", None)
        return self._decode(_decode_models, http, raw).data

    async def embeddings(self, body: bytes) -> Answer[EmbeddingResponse]:
        """One attempt at ``POST /v1/embeddings``. ``body`` is the request as JSON."""
        sent_at = time.perf_counter()
        http, raw = await self._exchange("POST", "/v1/embeddings", body)
        response = self._decode(decode_embeddings, http, raw)
        latency_s = time.perf_counter() - sent_at
        return Answer(response, raw, parse_limits(http.get_header), _correlation_id(http), latency_s)

    async def _exchange(self, method: str, path: str, body: bytes | None) -> tuple[Response, bytes]:
        request = self._http.request(method, self.endpoint + path)
        if body is not None:
            request = request.body_bytes(body)
        try:
            http = await request.build().send()
            raw = (await http.bytes()).to_bytes()
        except PyreqwestError as error:
            self._raise_transport(error)
        if http.status != 200:
            self._raise_status(http, raw)
        return http, raw

    def _decode(self, decode: Callable[[bytes], T], http: Response, raw: bytes) -> T:
        try:
            return decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            excerpt = self._scrub(raw[:200].decode("utf-8", "replace"))
            raise MalformedAnswer(
                f"HTTP {http.status}, but the body is no answer: {error}: {excerpt!r}",
                correlation_id=_correlation_id(http),
                hint="is the endpoint Mistral's API, or a proxy's error page?",
            ) from error

    def _raise_status(self, http: Response, raw: bytes) -> NoReturn:
        text = self._scrub(raw.decode("utf-8", "replace"))
        error = error_of_status(http.status, text, _correlation_id(http))
        error.limits = parse_limits(http.get_header)
        error.retry_after_s = error.limits.retry_after_s if error.limits else None
        if isinstance(error, RateLimited) and error.limit_is_zero:
            error.hint = (
                "the limit of this key for this model is 0: it may not use it; choose another model or key"
            )
        raise error

    def _raise_transport(self, error: PyreqwestError) -> NoReturn:
        raise _error_of_transport(error, self.endpoint, self.timeout_s) from error

    def _scrub(self, text: str) -> str:
        return text.replace(self._secret, "[api key]") if self._secret else text


def _correlation_id(http: Response) -> str | None:
    return http.get_header("mistral-correlation-id")


def _error_of_transport(error: PyreqwestError, endpoint: str, timeout_s: float) -> TransportError:
    """See "pyreqwest's errors, seen" in docs/errors.md: only a failed connect proves that nothing was sent."""
    details: dict[str, Any] = getattr(error, "details", None) or {}
    causes = "; ".join(
        cause["message"] for cause in cast("list[dict[str, str]]", details.get("causes") or [])
    )
    if isinstance(error, RequestTimeoutError):
        return AttemptTimeout(
            f"no answer within {timeout_s:g} s", hint="raise timeout, or lower max_new_tokens"
        )
    if isinstance(error, ConnectError) and "(Connect)" in causes:
        return ConnectFailed(
            f"cannot connect to {endpoint}: {causes}",
            maybe_billed=False,
            hint="is the endpoint right, and up?",
        )
    if isinstance(error, BodyDecodeError):
        return Disconnected(f"the answer was cut off: {causes or error.message}")
    return Disconnected(f"the connection ended before an answer: {causes or error.message}")


# --- error bodies ---------------------------------------------------------------------------------------------------


class _ErrorBody(Struct, frozen=True):
    message: Any = None
    detail: Any = None
    type: str | None = None
    code: str | int | None = None
    error: Any = None  # OpenAI-compatible servers nest it here


def error_of_status(status: int, text: str, correlation_id: str | None = None) -> APIError:
    """A non-200 answer → its error. ``text`` is the body, in any of the shapes that Mistral and proxies give."""
    body = _error_body(text)
    code = None if body.code is None else str(body.code)
    return _kind_of_status(status, code, body.type)(
        _message(body, text),
        status=status,
        code=code,
        error_type=body.type,
        correlation_id=correlation_id,
        hint=_hint(status, code, body.type),
    )


def _error_body(text: str) -> _ErrorBody:
    try:
        body = msgspec.json.decode(text, type=_ErrorBody)
    except msgspec.DecodeError:
        return _ErrorBody()
    nested: Any = body.error
    if isinstance(nested, dict):
        try:
            return msgspec.convert(cast("dict[str, Any]", nested), _ErrorBody)
        except msgspec.ValidationError:
            return body
    return body


def _message(body: _ErrorBody, text: str) -> str:
    told = body.message or body.detail or body.error
    if isinstance(told, dict):
        nested = cast("dict[str, Any]", told)
        told = nested.get("detail", nested)  # the same list, one level down
    if isinstance(told, list):
        return "; ".join(_validation_detail(item) for item in cast("list[Any]", told))
    if told:
        return told if isinstance(told, str) else msgspec.json.encode(told).decode()
    return text.strip() or "the server gave no reason"


def _validation_detail(item: Any) -> str:
    if not isinstance(item, dict):
        return str(item)
    detail = cast("dict[str, Any]", item)
    steps: list[Any] = detail.get("loc") or []
    place = ".".join(str(step) for step in steps)
    reason = str(detail.get("msg", detail))
    return f"{place}: {reason}" if place else reason


_KIND_OF_STATUS: dict[int, type[APIError]] = {
    401: Unauthorized,
    402: Unauthorized,  # no balance: like a refused key, no row can survive it
    403: Forbidden,
    404: NotFound,
    408: ServerError,
    425: ServerError,
    429: RateLimited,
}


def _kind_of_status(status: int, code: str | None, error_type: str | None) -> type[APIError]:
    if (
        status == 429
        and code not in _QUOTA_CODES
        and (code in _CAPACITY_CODES or error_type == _CAPACITY_TYPE)
    ):
        return CapacityExceeded
    if status == 400 and (code == _MODEL_CODE or error_type == _MODEL_TYPE):
        return InvalidModel
    return _KIND_OF_STATUS.get(status) or (ServerError if status >= 500 else BadRequest)


def _hint(status: int, code: str | None, error_type: str | None) -> str | None:
    if status == 401:
        return "check the key: set MISTRAL_API_KEY or pass api_key=…"
    if status == 402:
        return "the account has no balance or no plan"
    if status == 404:
        return "is the endpoint right? `mistill models` lists what it serves"
    if code == _MODEL_CODE or error_type == _MODEL_TYPE:
        return "`mistill models` lists the models of this endpoint"
    if 300 <= status < 400:
        return "the endpoint redirects: give its final URL"
    if status == 413:
        return "the request is too large for this server"
    return None
