"""Streamed answers: the chunks of the wire → chunks of text, thinking and whole tool calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import msgspec
from msgspec import Struct

from mistill.api.chat import (
    AnsweredFunction,
    AnsweredToolCall,
    AnswerMessage,
    ChatChunk,
    ChatResponse,
    Choice,
    ChunkChoice,
    DeltaToolCall,
)
from mistill.api.usage import Usage, usage_of
from mistill.errors import MistillError
from mistill.llms.completions import split_content, streamed_completion
from mistill.llms.types import Completion


class StreamChunk(Struct, frozen=True, kw_only=True):
    """A piece of a streamed answer.

    Attributes:
        text, thinking: what is new of each; ``""`` where there is none.
        tool_calls: calls that are whole now; those whose arguments come bit by bit wait for their end.
        finish_reason, usage: with the last chunk, as a rule.
        model, id: as the server says them.
    """

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[AnsweredToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage | None = None
    model: str | None = None
    id: str | None = None


async def read_stream(chunks: AsyncGenerator[ChatChunk]) -> AsyncGenerator[StreamChunk]:
    """The chunks of one choice's answer, as they come.

    Raises:
        MistillError: the stream broke off; ``partial`` is what had come until then.
    """
    received = _Received()
    try:
        async for chunk in chunks:
            yield received.add(chunk)
        if received.calls:  # they came after the finish reason
            yield StreamChunk(tool_calls=received.take_calls())
    except MistillError as error:
        error.partial = received.completion()
        raise
    finally:
        await chunks.aclose()


class _Call(Struct):
    """A tool call as far as it has come. Some servers send it whole, some its arguments bit by bit; some say its id and
    its name once, some with every bit; some send all of it again, or all that there is so far; some send ``{}`` first,
    in the place of arguments that come.

    Attributes:
        joined: the arguments as their pieces make them together, or an object.
        latest: the last of the pieces.
        is_repeated: every piece began with the whole one before it.
    """

    name: str
    id: str | None
    index: int
    joined: str | dict[str, Any] = ""
    latest: str = ""
    is_repeated: bool = False

    @property
    def arguments(self) -> str | dict[str, Any]:
        """What came bit by bit, joined; or the last piece, if only that is JSON and it begins with all before it."""
        if self.is_repeated and not _is_object(self.joined) and _is_object(self.latest):
            return self.latest
        return self.joined

    def goes_on_in(self, piece: DeltaToolCall) -> bool:
        """Whether ``piece`` is a further piece of this call, or the call once more; else it is another call."""
        name, arguments = piece.function.name, piece.function.arguments
        same_index = piece.index is None or piece.index == self.index
        if piece.id and self.id:
            if piece.id != self.id:
                return False
        elif not same_index:
            return False
        is_marked = bool(piece.id and self.id) or piece.index is not None
        if name and self.name and name != self.name:
            return is_marked and same_index and not self.joined  # the name comes in pieces
        if not _is_object(self.joined):
            return is_marked or not (name and piece.id)
        if not arguments or (isinstance(arguments, str) and not arguments.strip()):
            return is_marked or not name
        if not is_marked or arguments == self.joined:
            return is_marked
        return same_index and (not name or self._is_empty)

    def take(self, piece: DeltaToolCall) -> None:
        """Adds what is new in a piece of it."""
        self.id = self.id or piece.id
        name, arguments = piece.function.name or "", piece.function.arguments
        if name != self.name:
            self.name = name if name.startswith(self.name) else self.name + name
        if not arguments:
            return
        if (
            isinstance(arguments, str)
            and (not arguments.strip() or arguments == self.joined)
            and _is_object(self.joined)
        ):
            return
        if isinstance(arguments, dict) or isinstance(self.joined, dict) or not self.joined or self._is_empty:
            self.joined = arguments
        else:
            self.is_repeated = arguments.startswith(self.latest) and (
                self.is_repeated or self.latest == self.joined
            )
            self.joined += arguments
        self.latest = arguments if isinstance(arguments, str) else ""

    @property
    def _is_empty(self) -> bool:
        return self.joined == {} or (
            isinstance(self.joined, str) and self.joined.split() in (["{}"], ["{", "}"])
        )


def _is_object(arguments: str | dict[str, Any]) -> bool:
    """Whether they are a JSON object, after which no more of them can come."""
    if not isinstance(arguments, str):
        return True
    if not arguments[-9:].rstrip().endswith("}"):
        return False
    try:
        msgspec.json.decode(arguments, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


class _Received:
    """What has come so far."""

    def __init__(self) -> None:
        self.calls: list[_Call] = []
        self._whole: tuple[AnsweredToolCall, ...] = ()
        self._text: list[str] = []
        self._thinking: list[str] = []
        self._finish_reason: str | None = None
        self._last = StreamChunk()
        self._usage = Usage()

    def add(self, chunk: ChatChunk) -> StreamChunk:
        choice = chunk.choices[0] if chunk.choices else ChunkChoice()
        delta = choice.delta
        text, thinking = split_content(
            AnswerMessage(
                content=delta.content,
                reasoning_content=delta.reasoning_content,
                reasoning=delta.reasoning,
            )
        )
        for call in delta.tool_calls or ():
            self._add_call(call)
        usage = usage_of(chunk) if chunk.usage is not None else None
        self._usage = usage or self._usage
        self._text.append(text or "")
        self._thinking.append(thinking or "")
        piece = StreamChunk(
            text=text or "",
            thinking=thinking or "",
            tool_calls=self.take_calls() if choice.finish_reason else (),
            finish_reason=choice.finish_reason,
            usage=usage,
            model=chunk.model,
            id=chunk.id,
        )
        self._last = piece
        self._finish_reason = piece.finish_reason or self._finish_reason
        return piece

    def _add_call(self, piece: DeltaToolCall) -> None:
        for call in reversed(self.calls):
            if call.goes_on_in(piece):
                call.take(piece)
                return
        index = piece.index if piece.index is not None else len(self.calls)
        call = _Call(piece.function.name or "", piece.id, index)
        call.take(piece)
        self.calls.append(call)

    def take_calls(self) -> tuple[AnsweredToolCall, ...]:
        """The calls that have gathered, now whole."""
        whole = tuple(
            AnsweredToolCall(AnsweredFunction(call.name, call.arguments), id=call.id, index=call.index)
            for call in self.calls
        )
        self.calls.clear()
        self._whole += whole
        return whole

    def completion(self) -> Completion:
        """The answer as far as it received."""
        message = AnswerMessage(
            content="".join(self._text),
            reasoning_content="".join(self._thinking) or None,
            tool_calls=self._whole + self.take_calls(),
        )
        choice = Choice(message, finish_reason=self._finish_reason)
        return streamed_completion(
            ChatResponse([choice], id=self._last.id, model=self._last.model), self._usage
        )
