"""Inputs of an LLM, checked before anything is sent: no key is dropped, and the error says which input is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, cast

import msgspec
from msgspec import Struct

from mistill.api.chat import (
    AssistantMessage,
    ImageURLChunk,
    Message,
    SystemMessage,
    TextChunk,
    ToolMessage,
    UserMessage,
)
from mistill.errors import InputError
from mistill.llms.content import check_image_url


class _Messages(Struct):
    # A struct caches what `list[Message]` means; converting to the bare type costs six times as much.
    messages: list[Message]


def check_messages(messages: Any, index: int | None = None, *, in_order: bool = True) -> list[Message]:
    """Messages as the user wrote them → messages of the wire. A string is one user message.

    `encode_messages` is the next step.

    Args:
        index: the input's place in its call, for the error.
        in_order: whether Mistral's rules hold, of order and of images.

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
    if problem := order_problem(checked) if in_order or not checked else None:
        raise InputError(f"{_input(index)}: {problem}", index=index)
    if in_order:
        _check_images(checked, index)
    return checked


def encode_messages(messages: Sequence[Message], index: int | None = None) -> bytes:
    """Checked messages → their JSON, as a request has it.

    Raises:
        InputError: text that UTF-8 cannot carry.
    """
    try:
        return _encode(messages)
    except UnicodeEncodeError as error:
        raise not_utf8(_input(index), index) from error


def not_utf8(name: str, index: int | None) -> InputError:
    """The error of a text that JSON cannot carry; ``name`` says which."""
    return InputError(
        f"{name} holds a lone surrogate (such as \\ud800), which UTF-8 cannot carry", index=index
    )


_encode = msgspec.json.Encoder().encode


def _check_images(messages: Sequence[Message], index: int | None) -> None:
    for number, message in enumerate(messages):
        if not isinstance(message.content, list):
            continue
        for chunk in message.content:
            if isinstance(chunk, ImageURLChunk):
                url = chunk.image_url
                try:
                    check_image_url(url if isinstance(url, str) else url.url)
                except InputError as error:
                    where = f"{_input(index)}: messages[{number}]"
                    raise InputError(f"{where}: {error.message}", hint=error.hint, index=index) from error


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
    """What Mistral's API would answer with code 3230 (``invalid_request_message_order``), in its words.

    The rules, as seen in its answers: https://github.com/mistralai/client-ts/issues/106 and many like it.
    """
    if not messages:
        return "Conversation must have at least one message"
    last = messages[-1]
    if isinstance(last, UserMessage) and {type(message) for message in messages} <= _IN_ANY_ORDER:
        return None
    if not isinstance(last, UserMessage | ToolMessage) and not (
        isinstance(last, AssistantMessage) and last.prefix
    ):
        return (
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got "
            f"{_role(last)}"
        )
    if isinstance(messages[0], ToolMessage):
        return "Unexpected role 'tool' as first message"
    calls = answers = 0  # of the last assistant message, and how many tool messages have followed it
    for earlier, later in pairwise(messages):
        if isinstance(earlier, AssistantMessage):
            if earlier.prefix:
                return "prefix True is for the last message only"
            calls, answers = len(earlier.tool_calls or ()), 0
        if isinstance(later, ToolMessage):
            if not calls:
                return f"Unexpected role 'tool' after role '{_role(earlier)}'"
            answers += 1
        elif answers != calls:
            return _UNANSWERED
        elif isinstance(earlier, ToolMessage) and not isinstance(later, AssistantMessage):
            return f"Unexpected role '{_role(later)}' after role 'tool'"
        else:
            calls = answers = 0
    return _UNANSWERED if answers != calls else _empty_among(messages)


_IN_ANY_ORDER = {SystemMessage, UserMessage}
_UNANSWERED = "Not the same number of function calls and responses"


def _empty_among(messages: Sequence[Message]) -> str | None:
    return next(
        (_empty_assistant(number) for number, message in enumerate(messages) if _is_empty(message)), None
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
