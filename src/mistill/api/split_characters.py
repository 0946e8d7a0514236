"""Characters that a stream cut in two: half of a surrogate pair ends one piece of a text, the other begins the next."""

from __future__ import annotations

from typing import Any, Final, TypeAlias, cast

import msgspec

from mistill.api.chat import Delta, DeltaFunction, DeltaToolCall
from mistill.api.decoding import without_halves
from mistill.characters import REPLACEMENT, whole_characters

_BESIDE: Final = ("reasoning", "reasoning_content")
_Chunk: TypeAlias = dict[str, Any]
_Key: TypeAlias = str | tuple[str | int | None]
"""Which text of an answer it is a half of: ``text``, ``thinking``, one of `_BESIDE`, or a call's, by index or id."""


class SplitCharacters:
    """Puts halves together that came in two pieces of one text; a half that stays alone is U+FFFD.

    Texts are the content, as it is or in chunks, the thinking wherever it stands, and the arguments of each call.
    """

    def __init__(self) -> None:
        self._held: dict[_Key, str] = {}
        self._call: _Key = (None,)

    def joined(self, delta: Delta, *, is_last: bool) -> Delta:
        """A piece of an answer with whole characters in it; half of one at an end waits for the next piece, unless this
        is the last."""
        content = delta.content
        if (
            isinstance(content, str)
            and content.isascii()
            and not (self._held or delta.tool_calls or delta.reasoning or delta.reasoning_content)
        ):  # as nearly all are
            return delta
        changes: dict[str, Any] = {}
        for name in _BESIDE:
            text: str | None = getattr(delta, name)
            if text or name in self._held:
                changes[name] = self._text(name, text)
        if isinstance(content, list):
            changes["content"] = [self._chunk(one) for one in content]
        elif content or "text" in self._held:
            changes["content"] = self._text("text", content)
        if delta.tool_calls:
            changes["tool_calls"] = [self._tool_call(one) for one in delta.tool_calls]
        delta = msgspec.structs.replace(delta, **changes) if changes else delta
        if is_last and self._held:
            delta = self._with_the_rest(delta)
        return delta

    def _text(self, key: _Key, piece: str | None) -> str:
        if piece is None:
            return ""
        if piece.isascii() and (not piece or key not in self._held):
            return piece
        text = self._held.pop(key, "") + piece
        if _is_first_half(text[-1]):
            self._held[key], text = text[-1], text[:-1]
        return whole_characters(text)

    def _chunk(self, chunk: _Chunk) -> _Chunk:
        kind = chunk.get("type")
        if kind == "text" and isinstance(chunk.get("text"), str):
            return chunk | {"text": self._text("text", chunk["text"])}
        thinking = chunk.get("thinking")
        if kind != "thinking" or not isinstance(thinking, (str, list)):
            return without_halves(chunk)
        if isinstance(thinking, str):
            return chunk | {"thinking": self._text("thinking", thinking)}
        return chunk | {"thinking": [self._thought(one) for one in cast("list[Any]", thinking)]}

    def _thought(self, part: Any) -> Any:
        chunk = cast("_Chunk", part) if isinstance(part, dict) else {}
        if isinstance(chunk.get("text"), str):
            return chunk | {"text": self._text("thinking", chunk["text"])}
        return without_halves(part)

    def _tool_call(self, call: DeltaToolCall) -> DeltaToolCall:
        if call.index is not None or call.id:
            self._call = (call.id if call.index is None else call.index,)
        arguments = call.function.arguments
        if not arguments:
            return call
        if isinstance(arguments, dict):
            arguments = without_halves(arguments)
        else:
            if arguments.lstrip().startswith("{"):  # all of them once more, as some servers send them
                self._held.pop(self._call, None)
            arguments = self._text(self._call, arguments)
        function = msgspec.structs.replace(call.function, arguments=arguments)
        return msgspec.structs.replace(call, function=function)

    def _with_the_rest(self, delta: Delta) -> Delta:
        """The delta with U+FFFD for each half whose other never came."""
        content = delta.content
        calls = list(delta.tool_calls or ())
        changes: dict[str, Any] = {}
        for key in self._held:
            if isinstance(key, tuple):
                (name,) = key
                function = DeltaFunction(arguments=REPLACEMENT)
                calls.append(
                    DeltaToolCall(function, index=name)
                    if isinstance(name, int)
                    else DeltaToolCall(function, id=name)
                )
            elif key in _BESIDE:
                changes[key] = (getattr(delta, key) or "") + REPLACEMENT
            elif key == "text" and not isinstance(content, list):
                content = (content or "") + REPLACEMENT
            else:
                if not isinstance(content, list):
                    content = [{"type": "text", "text": content}] if content else []
                content = [*content, {"type": key, key: REPLACEMENT}]
        self._held.clear()
        return msgspec.structs.replace(delta, content=content, tool_calls=calls or None, **changes)


def _is_first_half(character: str) -> bool:
    return "\ud800" <= character <= "\udbff"
