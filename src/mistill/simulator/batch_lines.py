"""What is asked of a batch job, and what becomes of one of its lines."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

import msgspec
from msgspec import Meta

from mistill.simulator import refusals, requests
from mistill.simulator.answers import (
    PAGE,
    answer_chat,
    answer_embeddings,
    prompt_tokens_of,
    refusal_of,
)
from mistill.simulator.bills import Bill
from mistill.simulator.faults import Answer, Fault
from mistill.simulator.payloads import Json, encode
from mistill.simulator.refusals import RefusedRequest
from mistill.simulator.settings import Settings

NextUp: TypeAlias = Callable[[Callable[[], dict[str, Any]]], tuple[Answer | None, Fault | None]]
"""Body → what was scripted for it, or the fault that it meets."""
Cached: TypeAlias = Callable[[requests.ChatRequest, int], int]
"""A request and its tokens → those of them that are cached."""

ENDPOINTS = frozenset({"/v1/chat/completions", "/v1/embeddings"})
"""Whose lines can be answered here."""
MAX_INLINE = 10_000
"""Requests that can be in the request for a job itself."""
_NO_WHOLE_ANSWER = frozenset({"disconnect", "truncate", "stall", "cut_stream"})


class LineRequest(msgspec.Struct, frozen=True, gc=False):
    """A line of an input file, or one of the ``requests`` of a job."""

    body: dict[str, Any]
    custom_id: str | None = None


Key = Annotated[str, Meta(min_length=1, max_length=32)]
Value = Annotated[str, Meta(min_length=1, max_length=512)]
Endpoint = Literal[
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/fim/completions",
    "/v1/moderations",
    "/v1/chat/moderations",
    "/v1/ocr",
    "/v1/classifications",
    "/v1/chat/classifications",
    "/v1/conversations",
    "/v1/audio/transcriptions",
]


class CreateJob(msgspec.Struct, forbid_unknown_fields=True, frozen=True, kw_only=True):
    """A ``CreateBatchJobRequest``."""

    endpoint: Endpoint
    input_files: list[str] | None = None
    requests: Annotated[list[LineRequest], Meta(max_length=MAX_INLINE)] | None = None
    model: str | None = None
    agent_id: str | None = None
    metadata: dict[Key, Value] | None = None
    timeout_hours: Annotated[int, Meta(ge=1, le=168)] = 24


@dataclass(frozen=True, slots=True)
class LineAnswer:
    """What became of a line.

    Attributes:
        status: ``None``: no answer came at all.
        body: JSON, or the text that came in its place.
        bill: what it costs; nothing where it failed.
    """

    status: int | None
    body: Json | str | None
    bill: Bill | None = None

    @property
    def is_good(self) -> bool:
        return self.status is not None and self.status < 400

    def line(self, custom_id: str | None, *, as_text: bool) -> Json:
        """The line of the result. ``as_text``: its body is a text with the JSON in it."""
        line: Json = {"id": f"batch-{secrets.token_hex(16)}", "custom_id": custom_id}
        if self.status is None:
            return line | {"response": None, "error": {"message": self.body, "type": "upstream_error"}}
        body = encode(self.body).decode() if as_text and isinstance(self.body, dict) else self.body
        return line | {"response": {"status_code": self.status, "body": body}, "error": None}


def answer_line(
    line: LineRequest,
    job: CreateJob,
    settings: Settings,
    scripted: Answer | None,
    fault: Fault | None,
    cached: Cached,
) -> LineAnswer:
    """What the endpoint of a job says to the body of a line, without a quota."""
    if fault is not None and fault.name in _NO_WHOLE_ANSWER:
        return LineAnswer(None, "upstream connect error or disconnect/reset before headers")
    if fault is not None and fault.name == "html":
        return LineAnswer(200, PAGE)
    body = line.body
    if job.model is not None and not settings.batch_body_needs_model:
        body = {"model": job.model} | body
    try:
        if fault is not None and fault.is_refusal:
            raise refusal_of(fault)
        answer, bill = _answered(encode(body), job.endpoint, settings, scripted, fault, cached)
    except RefusedRequest as refusal:
        return LineAnswer(refusal.status, refusal.payload)
    return LineAnswer(200, answer, bill)


def _answered(
    raw: bytes,
    endpoint: Endpoint,
    settings: Settings,
    scripted: Answer | None,
    fault: Fault | None,
    cached: Cached,
) -> tuple[Json, Bill]:
    if endpoint == "/v1/embeddings":
        return answer_embeddings(requests.decode_embedding(raw, settings), settings)
    request = requests.decode_chat(raw, settings)
    if request.stream:
        raise refusals.bad_request("Streaming is not supported in batch", param="stream")
    prompt_tokens = prompt_tokens_of(request, settings)
    answer = answer_chat(
        request, settings, prompt_tokens, scripted, fault, cached_tokens=cached(request, prompt_tokens)
    )
    return answer.whole(), answer.bill
