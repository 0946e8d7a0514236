"""The span of a request and those of its attempts, and what is counted of them. Loads OpenTelemetry."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec
from opentelemetry import propagate
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.trace import (
    INVALID_SPAN,
    NoOpTracerProvider,
    Span,
    SpanKind,
    Status,
    StatusCode,
    set_span_in_context,
)

from mistill._version import __version__
from mistill.api.client import HTTPAnswer
from mistill.api.usage import Usage
from mistill.delivery.dispatcher import Delivered, RecordedAttempt, Request
from mistill.errors import APIError, MistillError, Stopped
from mistill.telemetry import content, names
from mistill.telemetry.harmless import harmless
from mistill.telemetry.providers import Wanted
from mistill.telemetry.slowness import end_span

_OPERATIONS = {"/v1/chat/completions": "chat", "/v1/embeddings": "embeddings"}
_LIBRARY = "mistill"


class Telemetry:
    """Tells of the requests to one model behind one endpoint.

    Args:
        wanted: who is told, and what. ``provider``: who answers, as the conventions call it.
        path: of the operation, behind the endpoint.
    """

    def __init__(
        self, wanted: Wanted, *, endpoint: str, model: str, path: str, provider: Callable[[], str]
    ) -> None:
        self.wanted = wanted
        self.model = model
        self.operation = _OPERATIONS.get(path, path)
        self.path = path
        self.url = endpoint + path
        self.tracer = (wanted.tracer_provider or NoOpTracerProvider()).get_tracer(_LIBRARY, __version__)
        self._provider = provider
        parts = urlsplit(endpoint)
        self._server = {
            names.SERVER_ADDRESS: parts.hostname or "",
            names.SERVER_PORT: parts.port or (443 if parts.scheme == "https" else 80),
        }
        meter = (wanted.meter_provider or NoOpMeterProvider()).get_meter(_LIBRARY, __version__)
        self._tokens = meter.create_histogram(
            names.TOKEN_USAGE,
            "{token}",
            "Number of input and output tokens used.",
            explicit_bucket_boundaries_advisory=names.TOKEN_BUCKETS,
        )
        self._durations = meter.create_histogram(
            names.OPERATION_DURATION,
            "s",
            "GenAI operation duration, from when its first attempt left.",
            explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS,
        )
        self._first_chunks = meter.create_histogram(
            names.FIRST_CHUNK_DURATION,
            "s",
            "Time to receive the first chunk.",
            explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS,
        )
        self._attempts = meter.create_histogram(
            names.ATTEMPT_DURATION,
            "s",
            "Duration of HTTP client requests.",
            explicit_bucket_boundaries_advisory=names.HTTP_BUCKETS,
        )
        self._queue = meter.create_histogram(
            names.QUEUE_DURATION,
            "s",
            "How long an attempt waited until it left: for the quota, a free slot, the budget, or after a failure.",
            explicit_bucket_boundaries_advisory=names.DURATION_BUCKETS,
        )
        self._retries = meter.create_counter(
            names.RETRIES, "{attempt}", "Attempts after the first, by why the one before had failed."
        )

    def request(self, request: Request, *, streams: bool = False) -> RequestSpans:
        """A request begins, in the current context."""
        return RequestSpans(self, request, streams=streams)

    # --- what is counted --------------------------------------------------------------------------------------------

    def attributes(self) -> dict[str, Any]:
        """What all that is told of has in common."""
        return {
            names.OPERATION_NAME: self.operation,
            names.PROVIDER_NAME: self._provider(),
            names.REQUEST_MODEL: self.model,
            **self._server,
        }

    @harmless
    def count_tokens(self, usage: Usage, model: str | None, *, lane: str) -> None:
        """An answer took so much."""
        common = self.attributes() | {names.LANE: lane}
        if model is not None:
            common[names.RESPONSE_MODEL] = model
        self._tokens.record(usage.input_tokens, common | {names.TOKEN_TYPE: "input"})
        if self.operation != "embeddings":
            self._tokens.record(usage.output_tokens, common | {names.TOKEN_TYPE: "output"})

    def count_request(self, seconds: float, model: str | None, error_type: str | None) -> None:
        """A request has ended."""
        found = self.attributes()
        if model is not None:
            found[names.RESPONSE_MODEL] = model
        if error_type is not None:
            found[names.ERROR_TYPE] = error_type
        self._durations.record(seconds, found)

    def count_first_chunk(self, seconds: float) -> None:
        """The first piece of a streamed answer has come."""
        self._first_chunks.record(seconds, self.attributes())

    def count_waiting(self, seconds: float, cause: str | None) -> None:
        """An attempt leaves, after so long. ``cause``: why the one before had failed."""
        self._queue.record(seconds, self.attributes())
        if cause is not None:
            self._retries.add(1, self.attributes() | {names.ERROR_TYPE: cause})

    def count_attempt(self, seconds: float, status: int | None, error_type: str | None) -> None:
        """An attempt has ended."""
        found: dict[str, Any] = {names.METHOD: "POST", names.URL_TEMPLATE: self.path, **self._server}
        if status is not None:
            found[names.STATUS_CODE] = status
        if error_type is not None:
            found[names.ERROR_TYPE] = error_type
        self._attempts.record(seconds, found)


class RequestSpans:
    """The span of one request, and the observer of its attempts, each with a span below it (see `AttemptObserver`).

    Attributes:
        headers: what goes along with the attempt that is about to leave, if anything does.
    """

    def __init__(self, telemetry: Telemetry, request: Request, *, streams: bool) -> None:
        self.headers: Mapping[str, str] | None = None
        self._telemetry = telemetry
        self._waits_since_s = time.perf_counter()
        self._left_at_s: float | None = None
        self._attempt_left_at_s = 0.0
        self._attempts = 0
        self._cause: str | None = None
        self._streams = streams
        self._attempt: Span | None = None
        self._span: Span = self._begin(request, streams=streams) or INVALID_SPAN

    @harmless
    def _begin(self, request: Request, *, streams: bool) -> Span:
        telemetry = self._telemetry
        span = telemetry.tracer.start_span(
            f"{telemetry.operation} {telemetry.model}",
            kind=SpanKind.CLIENT,
            attributes=telemetry.attributes() | {names.LANE: "live"},
        )
        if span.is_recording():
            span.set_attributes(_asked(request, content_too=telemetry.wanted.content))
            if streams:
                span.set_attribute(names.REQUEST_STREAM, value=True)
            if len(request.places) > 1:
                span.set_attribute(names.ROWS_ASKED, len(request.places))
        return span

    # --- its attempts -----------------------------------------------------------------------------------------------

    async def sending(self, request: Request) -> Sequence[RecordedAttempt]:  # noqa: ARG002  an observer's signature
        self._begin_attempt()
        return ()

    @harmless
    def _begin_attempt(self) -> None:
        telemetry, now_s = self._telemetry, time.perf_counter()
        waited_s = now_s - self._waits_since_s
        telemetry.count_waiting(waited_s, self._cause)
        self._left_at_s = self._left_at_s or now_s
        self._attempt_left_at_s = now_s
        context = set_span_in_context(self._span)
        attributes: dict[str, Any] = {
            names.METHOD: "POST",
            names.URL: telemetry.url,
            names.URL_TEMPLATE: telemetry.path,
            names.QUEUE_TIME: waited_s,
        }
        common = telemetry.attributes()
        attributes |= {name: common[name] for name in (names.SERVER_ADDRESS, names.SERVER_PORT)}
        if self._attempts:
            attributes[names.RESEND_COUNT] = self._attempts
        if self._cause is not None:
            attributes[names.RETRY_CAUSE] = self._cause
        self._attempts += 1
        self._attempt = span = telemetry.tracer.start_span(
            f"POST {telemetry.path}", context, SpanKind.CLIENT, attributes
        )
        if telemetry.wanted.propagates:
            headers: dict[str, str] = {}
            propagate.inject(headers, set_span_in_context(span, context))
            self.headers = headers

    def answered(
        self,
        recorded: Sequence[RecordedAttempt],  # noqa: ARG002  an observer's signature
        delivered: Delivered[Any],
    ) -> Delivered[Any]:
        self._end_attempt(None, delivered.answer.correlation_id)
        return delivered

    def ended(self, recorded: Sequence[RecordedAttempt], error: MistillError | None) -> None:  # noqa: ARG002  the same
        """``error``: ``None`` where all of a stream has come; that it was left before its end is no failure."""
        failure = None if self._streams and isinstance(error, Stopped) else error
        self._end_attempt(failure, getattr(error, "correlation_id", None))

    @harmless
    def _end_attempt(self, error: MistillError | None, correlation_id: str | None) -> None:
        span, self._attempt = self._attempt, None
        now_s = time.perf_counter()
        self._waits_since_s = now_s
        self._cause = error_type = None if error is None else error.kind
        status = error.status if isinstance(error, APIError) else (None if error else 200)
        self._telemetry.count_attempt(now_s - self._attempt_left_at_s, status, error_type)
        if span is None:
            return
        if status is not None:
            span.set_attribute(names.STATUS_CODE, status)
        if correlation_id is not None:
            span.set_attribute(names.CORRELATION_ID, correlation_id)
        if error is not None:
            fail(span, error)
        end_span(span)

    # --- its end ----------------------------------------------------------------------------------------------------

    @harmless
    def succeed(self, delivered: Delivered[Any]) -> None:
        """It was answered."""
        answer = delivered.answer
        model = answer.response.model
        self._telemetry.count_tokens(answer.usage, model, lane="live")
        if self._span.is_recording():
            self._span.set_attributes(_answered(answer, content_too=self._telemetry.wanted.content))
        self._end(model, None)

    @harmless
    def fail(self, error: BaseException) -> None:
        """It has no answer."""
        fail(self._span, error)
        self._end(None, error_type_of(error))

    @harmless
    def end_stream(self, came: Streamed) -> None:
        """All of its stream has come, or as much of it as somebody wanted."""
        if came.usage is not None:
            self._telemetry.count_tokens(came.usage, came.model, lane="live")
        self.note_streamed(came)
        self._end(came.model, None)

    @harmless
    def note_streamed(self, came: Streamed) -> None:
        """As far as its stream has come."""
        if self._span.is_recording():
            self._span.set_attributes(came.attributes(content_too=self._telemetry.wanted.content))

    @harmless
    def see_first_chunk(self) -> None:
        """It was answered so far."""
        seconds = time.perf_counter() - self._attempt_left_at_s
        self._telemetry.count_first_chunk(seconds)
        self._span.set_attribute(names.TIME_TO_FIRST_CHUNK, seconds)

    def _end(self, model: str | None, error_type: str | None) -> None:
        if self._left_at_s is not None:  # else it was never sent, and took nobody's time
            self._telemetry.count_request(time.perf_counter() - self._left_at_s, model, error_type)
        self._span.set_attribute(names.ATTEMPTS, self._attempts)
        end_span(self._span)


class Streamed(msgspec.Struct):
    """What has come of a stream.

    Attributes:
        message: gathered where content is wanted.
    """

    model: str | None = None
    id: str | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    message: content.StreamedMessage = msgspec.field(default_factory=content.StreamedMessage)

    def attributes(self, *, content_too: bool) -> dict[str, Any]:
        found = _described(
            self.id, self.model, [self.finish_reason] if self.finish_reason else [], self.usage
        )
        if content_too:
            found[names.OUTPUT_MESSAGES] = self.message.messages(self.finish_reason)
        return found


def error_type_of(error: BaseException) -> str:
    """What an error is called: its stable kind, if it is of ours."""
    return error.kind if isinstance(error, MistillError) else type(error).__name__


def fail(span: Span, error: BaseException) -> None:
    """It came to an error, of whose words nothing is said: they may be those of a prompt."""
    error_type = error_type_of(error)
    span.set_attribute(names.ERROR_TYPE, error_type)
    span.set_status(Status(StatusCode.ERROR, error_type))


def _asked(request: Request, *, content_too: bool) -> dict[str, Any]:
    """What a request asks for."""
    try:
        body: dict[str, Any] = msgspec.json.decode(request.body)
    except msgspec.DecodeError:
        return {}
    found = {
        name: body[field]
        for field, name in names.PARAMETERS.items()
        if isinstance(body.get(field), int | float | str | list) and not isinstance(body.get(field), bool)
    }
    if isinstance(stop := found.get(names.PARAMETERS["stop"]), str):
        found[names.PARAMETERS["stop"]] = [stop]
    if (body.get("n") or 1) > 1:
        found[names.REQUEST_CHOICES] = body["n"]
    form: dict[str, Any] = body.get("response_format") or {}
    if form.get("type") in ("json_object", "json_schema"):
        found[names.OUTPUT_TYPE] = "json"
    if (dimensions := body.get("output_dimension")) is not None:
        found[names.DIMENSIONS] = dimensions
    if (dtype := body.get("output_dtype")) is not None:
        found[names.REQUEST_ENCODING_FORMATS] = [dtype]
    if content_too and isinstance(body.get("messages"), list):
        found[names.INPUT_MESSAGES] = content.input_messages(body["messages"])
    elif content_too and isinstance(body.get("input"), list):
        found[names.INPUT_MESSAGES] = content.input_texts(body["input"])
    return found


def _answered(answer: HTTPAnswer[Any], *, content_too: bool) -> dict[str, Any]:
    response = answer.response
    choices = getattr(response, "choices", ())
    reasons = [choice.finish_reason or "" for choice in choices]
    found = _described(getattr(response, "id", None), response.model, reasons, answer.usage)
    if answer.cost is not None:
        found[names.COST] = answer.cost
    if content_too and choices:
        found[names.OUTPUT_MESSAGES] = content.output_messages(choices)
    return found


def _described(
    its_id: str | None, model: str | None, reasons: Sequence[str], usage: Usage | None
) -> dict[str, Any]:
    found: dict[str, Any] = {names.RESPONSE_ID: its_id, names.RESPONSE_MODEL: model}
    if reasons:
        found[names.RESPONSE_FINISH_REASONS] = list(reasons)
    if usage is not None:
        found |= {names.INPUT_TOKENS: usage.input_tokens, names.OUTPUT_TOKENS: usage.output_tokens}
        if usage.cached_tokens:
            found[names.CACHED_TOKENS] = usage.cached_tokens
    return {name: value for name, value in found.items() if value is not None}
