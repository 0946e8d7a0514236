"""What goes into an LLM and what comes out of it."""

from __future__ import annotations

import json
from typing import Any, TypeAlias, TypedDict

from msgspec import Struct

from mistill.api.chat import AnsweredToolCall
from mistill.api.usage import Usage
from mistill.errors import MistillError
from mistill.progress.formatting import latency
from mistill.progress.preformatted import in_html, preformatted
from mistill.structured.structured_output import StructuredOutput

StandardInput: TypeAlias = list[dict[str, Any]]
"""A list of messages."""

FormattedInput: TypeAlias = StandardInput | str | tuple[StandardInput | str, StructuredOutput | None]
"""A list of messages, one user message as a string, or either of them with a schema of its own."""


class LLMStatistics(TypedDict):
    """Tokens of each generation. Their sum is what was billed, re-asked answers included."""

    input_tokens: list[int]
    output_tokens: list[int]


class GenerateOutput(TypedDict):
    generations: list[str | None]
    statistics: LLMStatistics


class Completion(Struct, frozen=True, kw_only=True, gc=False):
    """A good answer.

    Attributes:
        text: the answer without its thinking; ``None`` where the model gave no content.
        value: the typed value, where a schema was asked for; else ``None``.
        thinking: what a reasoning model thought before it answered.
        tool_calls: the calls that the model wants made; never made by us.
        finish_reason: ``stop``, ``length``, ``tool_calls``, … as the server says it.
        usage: tokens billed for this completion, re-asked answers included.
        model, id, correlation_id: as the server says them.
        latency_s: seconds from sending to the last byte, of the attempt that was answered.
        attempts: HTTP attempts, failed ones and re-asked ones included.
        cost: US dollars, or ``None`` where the model has no known price.
        raw: the body of the answer as it came.
        attempt_id: the number of the answered attempt in the run's ledger; ``None`` outside of a run.
    """

    text: str | None
    value: Any = None
    thinking: str | None = None
    tool_calls: tuple[AnsweredToolCall, ...] = ()
    finish_reason: str | None = None
    usage: Usage = Usage()
    model: str | None = None
    id: str | None = None
    correlation_id: str | None = None
    latency_s: float = 0.0
    attempts: int = 1
    cost: float | None = None
    raw: bytes = b""
    attempt_id: int | None = None

    @property
    def is_empty(self) -> bool:
        """It has nothing in it, neither a text nor a tool call."""
        return not self.text and not self.tool_calls

    def __repr__(self) -> str:
        """Without the body, which says the same at ten times the length."""
        shown = (name for name in self.__struct_fields__ if name != "raw")
        return f"Completion({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    def _repr_html_(self) -> str:
        """For notebooks: the answer as it is, and in a line below it what it took."""
        took = [
            self.finish_reason or "no finish reason",
            f"{self.usage.input_tokens:,} tokens in, {self.usage.output_tokens:,} out",
            latency(self.latency_s),
            self.model or "",
        ]
        text = json.dumps([call.name for call in self.tool_calls]) if self.text is None else self.text
        line = in_html(" · ".join(part for part in took if part))
        return f"{preformatted(text)}<small>{line}</small>"

    def as_message(self) -> dict[str, Any]:
        """The answer as an assistant message, thinking and tool calls in it, to go on with the conversation."""
        content: Any = self.text
        if self.thinking is not None:
            thought = {"type": "thinking", "thinking": [{"type": "text", "text": self.thinking}]}
            content = [thought, {"type": "text", "text": self.text or ""}]
        message = {"role": "assistant", "content": content}
        if self.tool_calls:
            message["tool_calls"] = [
                {
                    "id": call.id or "null",
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.function.arguments},
                }
                for call in self.tool_calls
            ]
        return message


class Outcome(Struct, frozen=True, kw_only=True):
    """A row's end: its completions, or the error that ended it. What was paid on the way is counted either way.

    Attributes:
        completions: one for each generation; ``None`` in the place of one that failed.
        error: why the row failed; ``None`` where every generation was answered.
        finish_reason: of the last answer of a row that failed, where it had one that did not fit.
        usage: tokens of all answers of this row, the useless ones included.
        attempts: HTTP attempts, failed ones included.
        cost: US dollars, or ``None`` where the model has no known price.
    """

    completions: tuple[Completion | None, ...]
    error: MistillError | None = None
    finish_reason: str | None = None
    usage: Usage = Usage()
    attempts: int = 0
    cost: float | None = None
