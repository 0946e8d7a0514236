"""Inputs of an LLM, checked before anything is sent: no key is dropped, and the error says which input is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import msgspec
from msgspec import Struct

from mistill.api.chat import AssistantMessage, Message, SystemMessage, TextChunk, ToolMessage, UserMessage
from mistill.api.errors import InputError


class _Messages(Struct):
    # A struct caches what `list[Message]` means; converting to the bare type costs six times as much.
    messages: list[Message]


def check_messages(messages: Any, index: int | None = None) -> list[Message]:
    """Messages as the user wrote them → messages of the wire. A string is one user message.

    Raises:
        InputError: an unknown role, key or chunk, a value of the wrong type, or an order that Mistral refuses.
    """
    if isinstance(messages, str):
        return [UserMessage(messages)]
    if not isinstance(messages, list | tuple):
        raise InputError(
            f"{_input(index)} is {type(messages).__name__}, not a list of messages or a string", index=index
        )
    given = cast("Sequence[Any]", messages)
    try:
        checked = msgspec.convert({"messages": given}, _Messages).messages
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.messages")
        where = place.rstrip("`") or ""
        raise InputError(f"{_input(index)}: messages{where}: {reason}", index=index) from error
    if problem := order_problem(checked):
        raise InputError(f"{_input(index)}: {problem}", index=index)
    return checked


def check_text_only(messages: Sequence[Message], index: int | None = None) -> None:
    """``InputError`` if a message holds anything but text, for a server that reads nothing else."""
    for message in messages:
        if isinstance(message.content, list) and not all(
            isinstance(chunk, TextChunk) for chunk in message.content
        ):
            raise InputError(
                f"{_input(index)}: this server reads text only",
                hint="use a Mistral model for images, documents and audio",
                index=index,
            )


def order_problem(messages: Sequence[Message]) -> str | None:
    """What Mistral's API would answer with code 3230 (``invalid_request_message_order``), in its words."""
    if not messages:
        return "Conversation must have at least one message"
    last = messages[-1]
    if not isinstance(last, UserMessage | ToolMessage) and not (
        isinstance(last, AssistantMessage) and last.prefix
    ):
        return (
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got "
            f"{_role(last)}"
        )
    for earlier, later in pairwise(messages):
        if isinstance(later, ToolMessage) and not _may_precede_tool(earlier):
            return f"Unexpected role 'tool' after role '{_role(earlier)}'"
        if (
            isinstance(earlier, AssistantMessage)
            and earlier.tool_calls
            and not isinstance(later, ToolMessage)
        ):
            return f"Unexpected role '{_role(later)}' after tool calls: each call needs a tool message"
        if isinstance(earlier, AssistantMessage) and earlier.prefix:
            return "prefix is only for the last message"
    if isinstance(messages[0], ToolMessage):
        return "Unexpected role 'tool' at the start of the conversation"
    return next(
        (_empty_assistant(number) for number, message in enumerate(messages) if _is_empty(message)), None
    )


def _may_precede_tool(message: Message) -> bool:
    return isinstance(message, ToolMessage) or (
        isinstance(message, AssistantMessage) and bool(message.tool_calls)
    )


def _is_empty(message: Message) -> bool:
    return isinstance(message, AssistantMessage) and not message.content and not message.tool_calls


def _empty_assistant(number: int) -> str:
    return f"message {number}: Assistant message must have either content or tool_calls, but not none"


_ROLES = {SystemMessage: "system", UserMessage: "user", AssistantMessage: "assistant", ToolMessage: "tool"}


def _role(message: Message) -> str:
    return _ROLES[type(message)]


def _input(index: int | None) -> str:
    return "input" if index is None else f"input {index}"
