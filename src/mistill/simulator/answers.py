"""Answers of the simulated model, for a request of its own and for a line of a batch job alike."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, replace

from mistill.simulator import catalogue, payloads, refusals
from mistill.simulator.bills import Bill
from mistill.simulator.draft_faults import reshape
from mistill.simulator.drafts import DraftedAnswer, compose, count_prompt_tokens
from mistill.simulator.faults import Answer, Fault
from mistill.simulator.payloads import Json
from mistill.simulator.refusals import RefusedRequest
from mistill.simulator.requests import ChatRequest, EmbeddingRequest
from mistill.simulator.settings import Settings

PAGE = "<!DOCTYPE html><html><head><title>Please wait</title></head><body>Checking your browser</body></html>"
"""What a proxy in between sends in the place of an answer."""


@dataclass(frozen=True, slots=True)
class ChatAnswer:
    """A chat completion, before it is put on the wire whole or as a stream."""

    answer_id: str
    drafts: list[DraftedAnswer]
    usage: Json | None
    bill: Bill

    def bill_of(self, events: int) -> Bill:
        """What is billed of it where the client went away after so many events of its stream: one names the role, and
        each that follows has a token in it."""
        tokens = max(0, events - len(self.drafts))
        return replace(self.bill, output_tokens=min(tokens, self.bill.output_tokens))

    def whole(self) -> Json:
        return payloads.whole_answer(self.answer_id, self.bill.model, self.drafts, self.usage)


def prompt_tokens_of(request: ChatRequest, settings: Settings) -> int:
    """The tokens of a prompt.

    Raises:
        RefusedRequest: they are more than the context has.
    """
    tokens = count_prompt_tokens(request)
    if tokens > settings.max_context_tokens:
        raise refusals.too_long(tokens, settings.max_context_tokens)
    return tokens


def answer_chat(
    request: ChatRequest,
    settings: Settings,
    prompt_tokens: int,
    scripted: Answer | None,
    fault: Fault | None,
    *,
    tier: str | None = None,
    cached_tokens: int = 0,
) -> ChatAnswer:
    """What the model says.

    Args:
        prompt_tokens: as `prompt_tokens_of` counted them.
        cached_tokens: those of them that cost less.
        scripted: is said in the place of it. ``fault``: bends it, if it is one of content.
        tier: at which it is served, where usage says so.

    Raises:
        RefusedRequest: the request asks for what no answer can be.
    """
    drafts = compose(request, settings, prompt_tokens, scripted.text if scripted else None)
    if fault:
        room = settings.max_context_tokens - prompt_tokens
        drafts = reshape(drafts, fault.name, max_tokens=request.max_tokens, room=room)
    completion_tokens = sum(draft.completion_tokens for draft in drafts)
    bill = Bill(
        settings.answered_by.get(request.model, request.model),
        prompt_tokens,
        completion_tokens,
        cached_tokens,
        settings.audio_seconds,
        tier,
        request.model,
    )
    usage = None
    if not (fault and fault.name == "missing_usage"):
        usage = payloads.usage_body(bill, settings.cached_place)
    return ChatAnswer(secrets.token_hex(16), drafts, usage, bill)


def answer_embeddings(request: EmbeddingRequest, settings: Settings) -> tuple[Json, Bill]:
    """The vectors of a request's texts.

    Raises:
        RefusedRequest: too many texts, or too many tokens.
    """
    answer = catalogue.embeddings(request, settings)
    return answer, Bill(answer["model"], answer["usage"]["total_tokens"], asked=request.model)


def tier_of(request: ChatRequest, settings: Settings) -> str | None:
    """At which tier a request of its own is served, where usage says so."""
    if settings.service_tier == "none":
        return None
    return "standard" if request.service_tier == "standard_only" else settings.service_tier


def refusal_of(fault: Fault) -> RefusedRequest:
    """What a fault that is a refusal says."""
    match fault.name:
        case "429":
            return refusals.rate_limited()
        case "capacity":
            return refusals.capacity_exceeded()
        case "503_text":
            return refusals.upstream_unreachable()
        case "500" | "503":
            return refusals.server_error(int(fault.name))
        case _:
            refusal = refusals.of_status(fault.http_status)
            payload = refusal.payload if fault.payload is None else fault.payload
            return RefusedRequest(fault.http_status, payload, fault.headers)
