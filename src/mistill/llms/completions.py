"""What is in an answer: its text, its thinking, its tokens."""

from __future__ import annotations

from typing import Any, cast

from mistill.api.chat import AnswerMessage
from mistill.api.client import Answered
from mistill.llms.types import Usage


def split_content(message: AnswerMessage) -> tuple[str | None, str | None]:
    """An answer's content → (text, thinking); either is ``None`` where there is none of it."""
    content = message.content
    if not isinstance(content, list):
        return content, message.reasoning_content
    text = [str(chunk.get("text", "")) for chunk in content if chunk.get("type") == "text"]
    thinking = [_thought(chunk.get("thinking")) for chunk in content if chunk.get("type") == "thinking"]
    return "".join(text) if text else None, "".join(thinking) or message.reasoning_content


def _thought(thinking: Any) -> str:
    if isinstance(thinking, str):
        return thinking
    chunks = cast("list[Any]", thinking if isinstance(thinking, list) else [])
    dicts = [cast("dict[str, Any]", chunk) for chunk in chunks if isinstance(chunk, dict)]
    return "".join(str(chunk.get("text", "")) for chunk in dicts)


def usage_of(response: Answered) -> Usage:
    """The tokens that a response tells of; none where it tells nothing."""
    told = response.usage
    if told is None:
        return Usage()
    details = told.prompt_tokens_details
    return Usage(
        told.prompt_tokens or 0,
        told.completion_tokens or 0,
        (details.cached_tokens or 0) if details else 0,
    )
