"""An answer that is streamed to be watched, and read as if it had not been."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import methodcaller
from typing import Any, cast

import msgspec

from mistill.api.chat import ChatChunk, Delta
from mistill.api.decoding import without_halves
from mistill.api.loop_guard import LoopGuard
from mistill.api.token_estimate import request_tokens, text_tokens
from mistill.api.tool_call_pieces import ToolCallPieces
from mistill.api.usage import Usage, UsageInfo
from mistill.finish_reasons import REPETITION

_Chunk = dict[str, Any]
_type_of = methodcaller("get", "type")


class WatchedAnswer:
    """The chunks of one stream → the body of a ``ChatCompletionResponse``, as the same answer has it in one piece.

    Of what the server says beside the choices, id, time, model and usage are kept.

    Attributes:
        pieces: how many chunks had something of the answer in them: as many tokens, as a rule.
    """

    def __init__(self) -> None:
        self.pieces = 0
        self._guard = LoopGuard()
        self._unwatched: list[str] = []
        self._content: list[str | list[_Chunk]] = []
        self._beside: dict[str, list[str]] = {}
        self._calls = ToolCallPieces()
        self._id: str | None = None
        self._created: int | None = None
        self._model: str | None = None
        self._usage: UsageInfo | None = None
        self._role: str | None = None
        self._finish_reason: str | None = None
        self._is_any = False

    def add(self, chunks: Iterable[ChatChunk]) -> None:
        """What a `ChunkReader` has read: of one choice."""
        for chunk in chunks:
            if chunk.usage is not None:
                self._usage = chunk.usage
            if self._model is None or self._id is None:
                self._id, self._created, self._model = chunk.id, chunk.created, chunk.model
            for choice in chunk.choices:
                self._is_any = True
                self._finish_reason = choice.finish_reason or self._finish_reason
                delta = choice.delta
                content = delta.content
                if (
                    content
                    and isinstance(content, str)
                    and not (delta.role or delta.tool_calls or delta.reasoning or delta.reasoning_content)
                ):  # as nearly all are
                    self.pieces += 1
                    self._content.append(content)
                    self._unwatched.append(content)
                else:
                    self._take(delta)

    @property
    def is_looping(self) -> bool:
        """What has come of its text ends in a loop, see ``mistill.api.loop_guard``."""
        text = "".join(self._unwatched)
        self._unwatched.clear()
        return self._guard.feed(text)

    def body(self, *, is_cut: bool) -> bytes:
        """All of it.

        Args:
            is_cut: by us, so that it has `REPETITION` for its finish reason.
        """
        calls = msgspec.to_builtins(self._calls.take())
        content = _joined(self._content)
        if content is None and calls:
            content = ""  # as Mistral has it beside calls
        message: _Chunk = {
            "role": self._role or "assistant",
            "tool_calls": calls or None,
            "content": content,
            **{name: "".join(texts) for name, texts in self._beside.items()},
        }
        reason = REPETITION if is_cut else self._finish_reason
        body: _Chunk = {
            "id": self._id,
            "object": "chat.completion",
            "created": self._created,
            "model": self._model,
            "choices": [{"index": 0, "finish_reason": reason, "message": message}] if self._is_any else [],
        }
        if self._usage is not None:
            body["usage"] = _without_nothings(msgspec.to_builtins(self._usage))
        try:
            return msgspec.json.encode(body)
        except UnicodeEncodeError:  # half a character in a field that no stream cuts
            return msgspec.json.encode(without_halves(body))

    def estimated_usage(self, request: bytes) -> Usage:
        """Of an answer that was cut before the server could say: what had come by then."""
        text = "".join(one for one in self._content if isinstance(one, str))
        return Usage(max(1, request_tokens(request)), max(self.pieces, text_tokens(text)))

    def _take(self, delta: Delta) -> None:
        """A piece that is not a text alone."""
        self.pieces += delta.says_anything
        self._role = self._role or delta.role
        if delta.content:
            self._content.append(delta.content)
        if isinstance(delta.content, list):
            self._unwatched += [chunk["text"] for chunk in delta.content if _is_text(chunk)]
        elif delta.content:
            self._unwatched.append(delta.content)
        for name in ("reasoning_content", "reasoning"):
            if text := getattr(delta, name):
                self._beside.setdefault(name, []).append(text)
        for call in delta.tool_calls or ():
            self._calls.add(call)


def _is_text(chunk: _Chunk) -> bool:
    return chunk.get("type") == "text" and isinstance(chunk.get("text"), str)


def _joined(pieces: list[str | list[_Chunk]]) -> str | list[_Chunk] | None:
    """A message's content: a text where all pieces are, else chunks."""
    if all(isinstance(piece, str) for piece in pieces):
        return "".join(cast("list[str]", pieces)) or None
    chunks: list[_Chunk] = []
    for piece in pieces:
        chunks += [{"type": "text", "text": piece}] if isinstance(piece, str) else piece
    return list(_with_joined_texts(chunks))


def _with_joined_texts(chunks: Iterable[_Chunk]) -> Iterator[_Chunk]:
    for kind, group in groupby(chunks, _type_of):
        alike = list(group)
        if kind == "text":
            yield {"type": "text", "text": "".join(chunk["text"] for chunk in alike if _is_text(chunk))}
        elif kind == "thinking":
            parts = [part for chunk in alike for part in _parts(chunk.get("thinking"))]
            yield alike[-1] | {"thinking": list(_with_joined_texts(parts))}
        else:
            yield from alike


def _parts(thinking: Any) -> list[_Chunk]:
    if isinstance(thinking, str):
        return [{"type": "text", "text": thinking}]
    parts = cast("list[Any]", thinking if isinstance(thinking, list) else [])
    return [cast("_Chunk", part) for part in parts if isinstance(part, dict)]


def _without_nothings(fields: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _without_nothings(cast("dict[str, Any]", value)) if isinstance(value, dict) else value
        for name, value in fields.items()
        if value is not None
    }
