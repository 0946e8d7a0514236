"""What the simulated model says: a pure function of the request and the seed.

A text is answered with ``Echo: `` and the last user message; choice k > 0 of ``n`` begins with ``Echo k+1: ``.
With ``response_format`` the answer is JSON: a sampled instance for json_schema, and for json_object too where the
system message has a JSON schema in its text; else ``{"echo": <that message>}``. Such a schema in a prompt that asks
for a code block gets its instance in one. ``<<answer: TEXT>>`` in the last user message makes TEXT, up to the last
``>>``, the answer, or the arguments of a tool call that was asked for.

One token is four characters, or what is left of them at the end. Each message of a prompt costs four tokens
more. An image takes tokens by its size, a document by its pages and sound by its length, as
``mistill.api.token_estimate`` has it; any other chunk 64.
"""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mistill.api.chat import (
    AssistantMessage,
    AudioChunk,
    DocumentURLChunk,
    ImageURLChunk,
    SystemMessage,
    UserMessage,
)
from mistill.api.token_estimate import chunk_tokens
from mistill.simulator import refusals
from mistill.simulator.requests import ChatRequest, content_text, last_user_text
from mistill.simulator.sampler import sample
from mistill.simulator.schema_merge import Unsatisfiable
from mistill.simulator.settings import Settings
from mistill.simulator.tool_calls import call_tools, chosen_tools

TOKEN_CHARS = 4
MESSAGE_TOKENS = 4
CHUNK_TOKENS = 64
_FILLER = " lorem ipsum dolor sit amet"
_SCHEMA_IN_PROMPT = re.compile(r"json.schema:\s*(\{.*)", re.DOTALL | re.IGNORECASE)
_decoder = json.JSONDecoder()
_DIRECTIVE = re.compile(r"<<answer: ?(.*)>>", re.DOTALL)


@dataclass(slots=True)
class DraftedAnswer:
    """One choice, before it is put on the wire.

    Attributes:
        thinking: what comes before the text, where the model reasons.
        completion_tokens: of text, thinking and tool calls together.
        no_content: the message has ``content: null``. ``chunked``: the text is sent as a list of chunks.
        is_json: the request asked for JSON, so that faults of JSON strike.
    """

    text: str
    finish_reason: str = "stop"
    thinking: str | None = None
    tool_calls: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    completion_tokens: int = 0
    no_content: bool = False
    chunked: bool = False
    is_json: bool = False


def count_tokens(text: str) -> int:
    return -(-len(text) // TOKEN_CHARS)


def count_prompt_tokens(request: ChatRequest) -> int:
    tokens = 0
    for message in request.messages:
        tokens += MESSAGE_TOKENS
        content = message.content
        if isinstance(content, str):
            tokens += count_tokens(content)
        elif content:
            others = (chunk for chunk in content if not hasattr(chunk, "text"))
            tokens += count_tokens(content_text(content)) + sum(map(chunk_tokens_of, others))
    return tokens


def chunk_tokens_of(chunk: Any) -> int:
    """An image's by its size, a document's by its pages, those of sound by its length; else `CHUNK_TOKENS`."""
    if isinstance(chunk, ImageURLChunk | DocumentURLChunk | AudioChunk):
        return chunk_tokens(msgspec.to_builtins(chunk))
    return CHUNK_TOKENS


def compose(
    request: ChatRequest, settings: Settings, prompt_tokens: int, scripted: str | None
) -> list[DraftedAnswer]:
    """The choices of the answer, ``n`` of them.

    Args:
        prompt_tokens: of the request; the context has room for so many fewer.
        scripted: replaces the text of each.

    Raises:
        RefusedRequest: the request asks for what no answer can be.
    """
    asked = last_user_text(request)
    if scripted is None and (directive := _DIRECTIVE.search(asked)):
        scripted = directive[1]
    room = settings.max_context_tokens - prompt_tokens
    return [_draft(request, settings, asked, scripted, room, k) for k in range(request.n or 1)]


def _draft(
    request: ChatRequest, settings: Settings, asked: str, scripted: str | None, room: int, k: int
) -> DraftedAnswer:
    if request.tools or request.tool_choice:
        functions = chosen_tools(request, asked)
        if functions:
            rng = _rng(request, settings, asked, k)
            return _calling(call_tools(functions, rng, scripted, settings.arguments_form))
    text = scripted if scripted is not None else _text(request, settings, asked, k)
    draft = DraftedAnswer(text, is_json=_wants_json(request))
    if _reasons(request):
        draft.thinking = f"The user says: {asked}"
    _stop_at(draft, request.stop)
    limit(draft, request.max_tokens, "length")
    limit(draft, room, "model_length")
    draft.completion_tokens = count_tokens((draft.thinking or "") + draft.text)
    last = request.messages[-1]
    if isinstance(last, AssistantMessage) and last.prefix:
        draft.text = content_text(last.content) + draft.text
    return draft


def _calling(tool_calls: list[dict[str, Any]]) -> DraftedAnswer:
    tokens = count_tokens(msgspec.json.encode([call["function"] for call in tool_calls]).decode())
    return DraftedAnswer("", "tool_calls", tool_calls=tool_calls, completion_tokens=tokens)


def _wants_json(request: ChatRequest) -> bool:
    return request.response_format is not None and request.response_format.type != "text"


def _reasons(request: ChatRequest) -> bool:
    if request.reasoning_effort is not None:
        return request.reasoning_effort != "none"
    return request.prompt_mode == "reasoning" or "magistral" in request.model


def _text(request: ChatRequest, settings: Settings, asked: str, k: int) -> str:
    form = request.response_format
    schema = form.json_schema.schema if form and form.json_schema else _schema_in_prompt(request)
    is_text = form is None or form.type == "text"
    if schema is not None and (not is_text or _wants_code_block(request)):
        try:
            instance = sample(schema, _rng(request, settings, asked, k))
        except Unsatisfiable as error:
            message = f"Invalid schema in response_format: {error}"
            raise refusals.bad_request(message, param="response_format") from error
        text = msgspec.json.encode(instance).decode()
        return f"```json\n{text}\n```" if is_text else text
    if is_text:
        return _echo(asked, _length(request, settings, asked, k), k)
    return msgspec.json.encode({"echo": asked} if k == 0 else {"echo": asked, "choice": k + 1}).decode()


def _wants_code_block(request: ChatRequest) -> bool:
    """A user message asks for one: the last, or one before the model was asked again for an answer that fits."""
    users = (message for message in request.messages if isinstance(message, UserMessage))
    return any("```json" in content_text(message.content) for message in users)


def _schema_in_prompt(request: ChatRequest) -> dict[str, Any] | None:
    """The JSON schema in the text of the system message, where clients put it for JSON mode."""
    for message in request.messages:
        if isinstance(message, SystemMessage) and (
            found := _SCHEMA_IN_PROMPT.search(content_text(message.content))
        ):
            try:
                return _decoder.raw_decode(found[1])[0]  # it begins with a brace, so it is a dict
            except ValueError:
                return None
    return None


def _rng(request: ChatRequest, settings: Settings, asked: str, k: int) -> random.Random:
    return random.Random(f"{settings.seed} {request.random_seed} {k} {asked}")  # noqa: S311  repeatable, not secret


def _length(request: ChatRequest, settings: Settings, asked: str, k: int) -> int:
    """Tokens of a text answer, at the least."""
    if not settings.answer_spread:
        return settings.answer_tokens
    varies = math.exp(_rng(request, settings, asked, k).gauss(0.0, settings.answer_spread))
    return round(settings.answer_tokens * varies)


def _echo(asked: str, answer_tokens: int, k: int) -> str:
    text = f"Echo: {asked}" if k == 0 else f"Echo {k + 1}: {asked}"
    missing = answer_tokens * TOKEN_CHARS - len(text)
    if missing > 0:
        text += (_FILLER * (missing // len(_FILLER) + 1))[:missing]
    return text


def _stop_at(draft: DraftedAnswer, stop: str | list[str] | None) -> None:
    for sequence in [stop] if isinstance(stop, str) else stop or ():
        if sequence and (place := draft.text.find(sequence)) >= 0:
            draft.text = draft.text[:place]


def limit(draft: DraftedAnswer, max_tokens: int | None, finish_reason: str) -> None:
    """Cuts it to ``max_tokens``, thinking first: it is generated first."""
    if max_tokens is None or count_tokens((draft.thinking or "") + draft.text) <= max_tokens:
        return
    chars = max_tokens * TOKEN_CHARS
    draft.finish_reason = finish_reason
    if draft.thinking is not None:
        draft.thinking = draft.thinking[:chars]
        chars -= len(draft.thinking)
    draft.text = draft.text[:chars]
    draft.completion_tokens = count_tokens((draft.thinking or "") + draft.text)
