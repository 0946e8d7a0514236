"""Prompts and answers as the conventions have them: messages of parts, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import msgspec

from mistill.api.chat import Choice, Delta
from mistill.api.tool_call_pieces import ToolCallPieces
from mistill.telemetry.harmless import harmless


def input_messages(messages: Sequence[Any]) -> str:
    """The messages of a request → ``[{"role": …, "parts": […]}]``. Bytes of files are left out."""
    return _encoded(
        {"role": message.get("role", "user"), "parts": [*_parts(message)]} for message in messages
    )


def input_texts(texts: Sequence[str]) -> str:
    """The texts of a request for embeddings, each as a message."""
    return _encoded({"role": "user", "parts": [_text(text)]} for text in texts)


def output_messages(choices: Iterable[Choice]) -> str:
    """The choices of an answer, the same with their finish reasons."""
    return _encoded(
        {
            "role": choice.message.role or "assistant",
            "parts": [*_parts(msgspec.to_builtins(choice.message))],
            "finish_reason": choice.finish_reason or "",
        }
        for choice in choices
    )


class StreamedMessage:
    """A streamed answer, put together from its pieces as an answer is that comes whole."""

    def __init__(self) -> None:
        self._parts: list[tuple[dict[str, Any], list[str]]] = []
        self._calls = ToolCallPieces()

    @harmless
    def add(self, delta: Delta) -> None:
        """A piece of it, which goes on with the last part where it is of its kind."""
        said = {name: getattr(delta, name) for name in ("content", "reasoning_content", "reasoning")}
        for part in _parts(said):
            piece = part.get("content")
            if piece == "":
                continue
            if piece is None or not self._parts or self._parts[-1][0]["type"] != part["type"]:
                self._parts.append((part, []))
            if piece is not None:
                self._parts[-1][1].append(piece)
        for call in delta.tool_calls or ():
            self._calls.add(call)

    def messages(self, finish_reason: str | None) -> str:
        """As far as it has come; nothing is added any more."""
        parts = [part | {"content": "".join(pieces)} if pieces else part for part, pieces in self._parts]
        calls = {"tool_calls": msgspec.to_builtins(self._calls.take())}
        ended = {"parts": [*parts, *_parts(calls)], "finish_reason": finish_reason or ""}
        return _encoded([{"role": "assistant"} | ended])


def _encoded(messages: Iterable[dict[str, Any]]) -> str:
    return msgspec.json.encode(list(messages)).decode()


def _parts(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if thinking := message.get("reasoning_content") or message.get("reasoning"):
        yield {"type": "reasoning", "content": thinking}
    if message.get("role") == "tool":
        yield {
            "type": "tool_call_response",
            "id": message.get("tool_call_id"),
            "response": message.get("content"),
        }
        return
    content = message.get("content")
    if isinstance(content, str):
        yield _text(content)
    elif isinstance(content, list):
        yield from map(_chunk, cast("list[dict[str, Any]]", content))
    for call in message.get("tool_calls") or ():
        function: dict[str, Any] = call.get("function") or {}
        yield {
            "type": "tool_call",
            "id": call.get("id"),
            "name": function.get("name"),
            "arguments": function.get("arguments"),
        }


def _chunk(chunk: dict[str, Any]) -> dict[str, Any]:
    kind = chunk.get("type")
    if kind == "text":
        return _text(chunk.get("text"))
    if kind == "thinking":
        return {"type": "reasoning", "content": _joined(chunk.get("thinking"))}
    if kind in ("image_url", "document_url", "input_audio"):
        named = chunk.get(kind)
        uri = named.get("url") if isinstance(named, dict) else named  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  JSON
        modality = {"image_url": "image", "document_url": "document", "input_audio": "audio"}[kind]
        if isinstance(uri, str) and uri.startswith(("http:", "https:")):
            return {"type": "uri", "modality": modality, "uri": uri}
        return {"type": "blob", "modality": modality}  # whose bytes are of no use in a trace
    return {"type": str(kind)}


def _joined(thinking: Any) -> str:
    if isinstance(thinking, str):
        return thinking
    pieces = cast("list[dict[str, Any]]", thinking or [])
    return "".join(str(piece.get("text") or "") for piece in pieces)


def _text(text: Any) -> dict[str, Any]:
    return {"type": "text", "content": text or ""}
