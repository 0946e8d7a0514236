"""Streamed answers: the chunks of the wire → chunks of text, thinking and whole tool calls."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from msgspec import Struct

from mistill.api.chat import (
    AnsweredToolCall,
    AnswerMessage,
    ChatChunk,
    ChatResponse,
    Choice,
    ChunkChoice,
)
from mistill.api.tool_call_pieces import ToolCallPieces
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
        if received.calls.is_any:  # they came after the finish reason
            yield StreamChunk(tool_calls=received.take_calls())
    except MistillError as error:
        error.partial = received.completion()
        raise
    finally:
        await chunks.aclose()


class _Received:
    """What has come so far."""

    def __init__(self) -> None:
        self.calls = ToolCallPieces()
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
            self.calls.add(call)
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

    def take_calls(self) -> tuple[AnsweredToolCall, ...]:
        """The calls that have gathered, now whole."""
        whole = self.calls.take()
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
