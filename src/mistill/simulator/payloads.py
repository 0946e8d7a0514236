"""Drafts as Mistral's JSON: whole answers and the chunks of a stream."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

from mistill.simulator.bills import Bill
from mistill.simulator.drafts import TOKEN_CHARS, DraftedAnswer
from mistill.simulator.settings import CachedPlace


def encode(body: Any) -> bytes:
    """As JSON. Half of a character, which a script may have, is an escape, as with servers in Python."""
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:
        return json.dumps(body).encode()


Json = dict[str, Any]

DONE = b"data: [DONE]\n\n"


def usage_body(bill: Bill, cached_place: CachedPlace) -> Json:
    prompt_tokens, completion_tokens = bill.input_tokens, bill.output_tokens
    usage: Json = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if bill.cached_tokens and cached_place == "num_cached_tokens":
        usage[cached_place] = bill.cached_tokens
    elif bill.cached_tokens:
        usage[cached_place] = {"cached_tokens": bill.cached_tokens}
    if bill.audio_seconds:
        usage["prompt_audio_seconds"] = bill.audio_seconds
    if bill.service_tier is not None:
        usage["service_tier"] = bill.service_tier
    return usage


def whole_answer(answer_id: str, model: str, drafts: list[DraftedAnswer], usage: Json | None) -> Json:
    """A ``ChatCompletionResponse``."""
    answer: Json = {
        "id": answer_id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [
            {
                "index": index,
                "finish_reason": draft.finish_reason,
                "message": {
                    "role": "assistant",
                    "tool_calls": draft.tool_calls or None,
                    "content": content_of(draft),
                },
            }
            for index, draft in enumerate(drafts)
        ],
    }
    if usage is not None:
        answer["usage"] = usage
    return answer


def content_of(draft: DraftedAnswer) -> str | list[Json] | None:
    if draft.no_content:
        return None
    if draft.thinking is not None:
        return [thinking_chunk(draft.thinking), text_chunk(draft.text)]
    if draft.chunked:
        half = len(draft.text) // 2
        return [text_chunk(draft.text[:half]), text_chunk(draft.text[half:])]
    return draft.text


def text_chunk(text: str) -> Json:
    return {"type": "text", "text": text}


def thinking_chunk(text: str) -> Json:
    return {"type": "thinking", "thinking": [text_chunk(text)]}


def stream_events(
    answer_id: str, model: str, drafts: list[DraftedAnswer], usage: Json | None
) -> Iterator[Json]:
    """The ``CompletionChunk`` objects of a stream: the role first; finish reason and usage last.

    The choices come interleaved, as from a server that generates them side by side.
    """
    head: Json = {
        "id": answer_id,
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": model,
    }

    def event(index: int, delta: Json, finish_reason: str | None = None) -> Json:
        return head | {"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}

    if not drafts:
        yield head | {"choices": []} | ({"usage": usage} if usage else {})
    for index in range(len(drafts)):
        yield event(index, {"role": "assistant", "content": ""})
    pending = {index: deque(_deltas(draft)) for index, draft in enumerate(drafts)}
    while pending:
        for index, deltas in list(pending.items()):
            if len(deltas) > 1:
                yield event(index, deltas.popleft())
                continue
            del pending[index]
            last = event(index, deltas[0] if deltas else {"content": ""}, drafts[index].finish_reason)
            if not pending and usage is not None:
                last["usage"] = usage
            yield last


def _deltas(draft: DraftedAnswer) -> Iterator[Json]:
    """A delta for each token; a tool call comes in one piece, as Mistral sends it."""
    if draft.no_content:
        return
    if draft.thinking is not None:
        for piece in _pieces(draft.thinking):
            yield {"content": [thinking_chunk(piece)]}
    wrap = draft.thinking is not None or draft.chunked
    for piece in _pieces(draft.text):
        yield {"content": [text_chunk(piece)] if wrap else piece}
    if draft.tool_calls:
        yield {"content": "", "tool_calls": draft.tool_calls}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), TOKEN_CHARS):
        yield text[start : start + TOKEN_CHARS]


def sse(event: Json) -> bytes:
    return b"data: " + encode(event) + b"\n\n"
