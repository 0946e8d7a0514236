"""Conversations for fine-tuning: messages that end with the answer that is to be learned."""

from __future__ import annotations

from typing import Any

import msgspec

from mistill.api.chat import AssistantMessage, Message, SystemMessage, ToolCall, ToolMessage
from mistill.errors import InputError
from mistill.llms.messages import check_messages, encode_messages, mistrals_id


def encode_conversation(messages: Any) -> bytes:
    """A conversation as Mistral's fine-tuning takes it, as JSON; what is wrong with it is said.

    A system message first, if any; then the user and the assistant in turn, calls of tools answered; the assistant's
    word is the last. Source: https://docs.mistral.ai/capabilities/finetuning/text_finetuning

    Raises:
        InputError: it is none.
    """
    checked = check_messages(messages, in_order=False)
    if problem := _problem(checked):
        raise InputError(problem)
    # What stands before the last answer is what would have been sent, and has its rules.
    *before, last = checked
    asked = check_messages([msgspec.to_builtins(message) for message in before])
    encoded = encode_messages([*asked, _with_ids(last)])
    return _with_types(encoded) if any(_calls(message) for message in checked) else encoded


def _problem(messages: list[Message]) -> str | None:
    last = messages[-1]
    if not isinstance(last, AssistantMessage):
        return "the last message is not the assistant's, so there is nothing to learn"
    if not last.content and not last.tool_calls:
        return "the assistant's last message has neither text nor calls of tools"
    if len(messages) == 1 or isinstance(messages[-2], AssistantMessage | SystemMessage):
        return "the assistant's last message answers none of the user's"
    for number, message in enumerate(messages[:-1]):
        if isinstance(message, SystemMessage) and number:
            return f"message {number} is of the system, which speaks first or not at all"
        if not isinstance(message, AssistantMessage | ToolMessage) and _is_blank(message.content):
            return f"message {number} has no text"
    return None


def _is_blank(content: Any) -> bool:
    return not content or (isinstance(content, str) and not content.strip())


def _calls(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and bool(message.tool_calls)


def _with_types(encoded: bytes) -> bytes:
    """Every call says its type, as the examples of Mistral's have it; a request may leave it out."""
    messages: list[dict[str, Any]] = msgspec.json.decode(encoded)
    for message in messages:
        if calls := message.get("tool_calls"):
            message["tool_calls"] = [{"type": "function", **call} for call in calls]
    return msgspec.json.encode(messages)


def _with_ids(message: Message) -> Message:
    if not isinstance(message, AssistantMessage) or not message.tool_calls:
        return message
    calls: list[ToolCall] = []
    for number, call in enumerate(message.tool_calls):
        given = call.id if call.id not in ("", "null") else f"call {number}"
        calls.append(msgspec.structs.replace(call, id=mistrals_id(given)))
    return msgspec.structs.replace(message, tool_calls=calls)
