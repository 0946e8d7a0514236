"""Inputs of an LLM, checked before anything is sent: no key is dropped, and the error says which input is wrong.

A key whose value is null says nothing, and counts as absent: columnar files give every message the keys of all others.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from hashlib import blake2b
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
    ToolCall,
    ToolMessage,
    UserMessage,
)
from mistill.errors import InputError
from mistill.llms.content import check_image_url
from mistill.llms.plain_values import encodable, fields_of, items_of, plain, without_nulls
from mistill.struct_types import look_at


class _Messages(Struct):
    # A struct caches what `list[Message]` means; converting to the bare type costs six times as much.
    messages: list[Message]


def check_messages(messages: Any, index: int | None = None, *, in_order: bool = True) -> list[Message]:
    """Messages as the user wrote them → messages of the wire. A string is one user message.

    `encode_messages` is the next step.

    Args:
        messages: dicts, or the messages of an SDK (pydantic models, dataclasses).
        index: the input's place in its call, for the error.
        in_order: whether Mistral's rules hold, of order, of images and of the ids of tool calls.

    Raises:
        InputError: an unknown role, key or chunk, a value of the wrong type, or an order that Mistral refuses.
    """
    if isinstance(messages, str):
        return [UserMessage(messages)]
    if not isinstance(messages, list | tuple) and (items_of(messages) is None or fields_of(messages)):
        raise InputError(
            f"{_input(index)} is {type(messages).__name__}, not a list of messages or a string", index=index
        )
    try:
        checked = msgspec.convert({"messages": messages}, _Messages).messages
    except msgspec.ValidationError:
        checked = _read_patiently(messages, index)
    if problem := order_problem(checked) if in_order or not checked else None:
        raise InputError(f"{_input(index)}: {problem}", index=index)
    return _fit_for_mistral(checked, index) if in_order else checked


def _read_patiently(messages: Any, index: int | None) -> list[Message]:
    """Messages that are not as the wire has them: with nulls, or of other libraries."""
    try:
        plain_messages = [_plain_message(message) for message in items_of(messages) or ()]
        return msgspec.convert({"messages": plain_messages}, _Messages).messages
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.messages")
        where = place.rstrip("`") or ""
        raise InputError(f"{_input(index)}: messages{where}: {reason}", index=index) from error
    except RecursionError as error:
        raise InputError(f"{_input(index)}: the messages are nested too deeply", index=index) from error


def _plain_message(message: Any) -> Any:
    """One message, without what says nothing. Its ``content`` may be null in its own right."""
    fields = fields_of(message)
    if fields is not None:
        # A class has all its fields in every message, and the lists that it has nothing for are empty.
        fields = {name: value for name, value in fields.items() if not _is_empty_list(value)}
    elif isinstance(message, Mapping):
        fields = cast("Mapping[str, Any]", message)
    else:
        return plain(message)
    return {
        plain(name): without_nulls(plain(value), opaque=("arguments",))
        for name, value in fields.items()
        if value is not None or name == "content"
    }


def _is_empty_list(value: object) -> bool:
    return isinstance(value, list) and not value


def encode_messages(messages: Sequence[Message], index: int | None = None) -> bytes:
    """Checked messages → their JSON, as a request has it, with U+FFFD for each half of a character.

    Raises:
        InputError: the arguments of a tool call hold what is no JSON.
    """
    try:
        try:
            return _encode(messages)
        except UnicodeEncodeError:
            return _encode([plain(message) for message in messages])
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{_input(index)}: the arguments of a tool call are no JSON: {error}", index=index
        ) from error


_encode = msgspec.json.Encoder(enc_hook=encodable).encode


def _fit_for_mistral(messages: list[Message], index: int | None) -> list[Message]:
    """The messages with ids of tool calls that Mistral takes, their images checked."""
    has_calls = False
    for number, message in enumerate(messages):
        has_calls = has_calls or isinstance(message, ToolMessage)
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
    return _with_mistrals_ids(messages, index) if has_calls else messages


_MISTRALS_ID = re.compile("[a-zA-Z0-9]{9}")
_ID_CHARACTERS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_NO_ID = ("", "null")


def _with_mistrals_ids(messages: Sequence[Message], index: int | None) -> list[Message]:
    """Every tool call and its result under nine letters and digits, which is all that Mistral takes.

    Raises:
        InputError: a call or a result has no id, or a result is of no call before it.
    """
    called: set[str] = set()
    fitting: list[Message] = []
    for number, message in enumerate(messages):
        problem = None
        if isinstance(message, AssistantMessage):
            called = {call.id for call in message.tool_calls or ()}
            if not called.isdisjoint(_NO_ID):
                problem = "Tool call id has to be defined"
            fitting.append(_with_calls(message, message.tool_calls) if called else message)
        elif isinstance(message, ToolMessage):
            if message.tool_call_id is None or message.tool_call_id in _NO_ID:
                problem = "Tool call id has to be defined"
            elif message.tool_call_id not in called:
                problem = f"Unexpected tool call id {message.tool_call_id} in tool results"
            fitting.append(
                msgspec.structs.replace(message, tool_call_id=mistrals_id(message.tool_call_id or ""))
            )
        else:
            fitting.append(message)
        if problem is not None:
            raise InputError(
                f"{_input(index)}: messages[{number}]: {problem}",
                hint="a call has an id, and its result the same as tool_call_id",
                index=index,
            )
    return fitting


def _with_calls(message: AssistantMessage, calls: Sequence[ToolCall] | None) -> AssistantMessage:
    fitting = [msgspec.structs.replace(call, id=mistrals_id(call.id)) for call in calls or ()]
    return msgspec.structs.replace(message, tool_calls=fitting)


def mistrals_id(given: str) -> str:
    """An id of a tool call as Mistral has them: itself if it is one, else nine characters that are its alone."""
    if _MISTRALS_ID.fullmatch(given):
        return given
    number = int.from_bytes(blake2b(given.encode("utf-8", "surrogatepass"), digest_size=8).digest())
    characters: list[str] = []
    for _ in range(9):
        number, place = divmod(number, len(_ID_CHARACTERS))
        characters.append(_ID_CHARACTERS[place])
    return "".join(characters)


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


look_at(_Messages)
