"""What the simulated model says: a pure function of the request, the seed and nothing else.

The default answer to a text is ``Echo: `` and the last user message; choice k > 0 of ``n`` begins with ``Echo k+1: ``.
A last user message with ``<<answer: TEXT>>`` in it is answered with TEXT. One token is four characters, or what is left
of them at the end; each message of a prompt costs four tokens more, and each chunk that is no text 64.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from mistill.api.chat import AssistantMessage
from mistill.simulator.requests import ChatRequest, content_text, last_user_text
from mistill.simulator.settings import Settings

TOKEN_CHARS = 4
MESSAGE_TOKENS = 4
CHUNK_TOKENS = 64
_FILLER = " lorem ipsum dolor sit amet"
_DIRECTIVE = re.compile(r"<<answer: ?(.*?)>>(?!>)", re.DOTALL)


@dataclass(slots=True)
class Draft:
    """One choice, before it is put on the wire."""

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
            others = sum(1 for chunk in content if not hasattr(chunk, "text"))
            tokens += count_tokens(content_text(content)) + CHUNK_TOKENS * others
    return tokens


def compose(
    request: ChatRequest, settings: Settings, prompt_tokens: int, scripted: str | None
) -> list[Draft]:
    """The choices of the answer, ``n`` of them. ``scripted`` replaces the text of each."""
    asked = last_user_text(request)
    if scripted is None and (directive := _DIRECTIVE.search(asked)):
        scripted = directive[1]
    return [_draft(request, settings, asked, prompt_tokens, scripted, k) for k in range(request.n or 1)]


def _draft(
    request: ChatRequest, settings: Settings, asked: str, prompt_tokens: int, scripted: str | None, k: int
) -> Draft:
    text = scripted if scripted is not None else _echo(asked, settings.answer_tokens, k)
    draft = Draft(text)
    _stop_at(draft, request.stop)
    _limit(draft, request.max_tokens, "length")
    _limit(draft, settings.max_context_tokens - prompt_tokens, "model_length")
    draft.completion_tokens = count_tokens(draft.text)
    last = request.messages[-1]
    if isinstance(last, AssistantMessage) and last.prefix:
        draft.text = content_text(last.content) + draft.text
    return draft


def _echo(asked: str, answer_tokens: int, k: int) -> str:
    text = f"Echo: {asked}" if k == 0 else f"Echo {k + 1}: {asked}"
    missing = answer_tokens * TOKEN_CHARS - len(text)
    if missing > 0:
        text += (_FILLER * (missing // len(_FILLER) + 1))[:missing]
    return text


def _stop_at(draft: Draft, stop: str | list[str] | None) -> None:
    for sequence in [stop] if isinstance(stop, str) else stop or ():
        if sequence and (place := draft.text.find(sequence)) >= 0:
            draft.text = draft.text[:place]


def _limit(draft: Draft, max_tokens: int | None, finish_reason: str) -> None:
    """Cut to ``max_tokens``, thinking first: it is generated first."""
    if max_tokens is None or count_tokens((draft.thinking or "") + draft.text) <= max_tokens:
        return
    chars = max_tokens * TOKEN_CHARS
    draft.finish_reason = finish_reason
    if draft.thinking is not None:
        draft.thinking = draft.thinking[:chars]
        chars -= len(draft.thinking)
    draft.text = draft.text[:chars]
