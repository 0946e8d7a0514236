"""Raw answers from the ledger → completions: for the output, and for what was paid before a crash. Nothing is sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import msgspec

from mistill.api.chat import Choice, decode_response
from mistill.api.embeddings import Dtype, decode_stored
from mistill.errors import MistillError
from mistill.llms.completions import split_content
from mistill.llms.embeddings import read_embedding
from mistill.llms.types import Completion
from mistill.structured.repair import read_answer
from mistill.structured.schema import OutputSchema


class AnswerReader(ABC):
    """Reads the raw bodies of answers. Token counts and cost are the ledger's to tell, so they are left at nothing.

    Attributes:
        columns: what a record has of an answer and its row's end, in order, by our own names.
        extra_columns: what it has besides, where that is asked for.
        schema: what answers must fit, where they must.
    """

    columns: ClassVar[tuple[str, ...]]
    extra_columns: ClassVar[tuple[str, ...]]
    schema: OutputSchema | None = None

    @abstractmethod
    def read(self, body: bytes) -> list[Completion]:
        """The completions in one body.

        Raises:
            MistillError: what is in it does not fit.
        """

    @abstractmethod
    def fields(self, bodies: Sequence[bytes], *, several: bool) -> dict[str, Any]:
        """What the bodies of one row give to its record: columns of ours, and ``value``, the value of the first.

        Args:
            several: a column has a list, since each row has several generations.

        Raises:
            MistillError: what is in a body does not fit.
        """

    def read_fitting(self, bodies: Sequence[bytes]) -> list[Completion]:
        """The completions in the bodies, without the answers that do not fit: those were asked again."""
        fitting: list[Completion] = []
        for body in bodies:
            try:
                fitting.extend(self.read(body))
            except MistillError:
                continue
        return fitting


class ChatReader(AnswerReader):
    """Reads chat completions; with a schema, each with its value. ``InvalidOutput`` where one does not fit."""

    columns = ("generation", "finish_reason", "input_tokens", "output_tokens", "error")
    extra_columns = ("thinking", "tool_calls", "cost", "model")

    def __init__(self, schema: OutputSchema | None = None) -> None:
        self.schema = schema

    def read(self, body: bytes) -> list[Completion]:
        response = decode_response(body)
        completions: list[Completion] = []
        for choice in response.choices:
            text, thinking = split_content(choice.message)
            completion = Completion(
                text=text,
                thinking=thinking,
                tool_calls=choice.message.tool_calls or (),
                finish_reason=choice.finish_reason,
                model=response.model,
                id=response.id,
                raw=body,
            )
            schema = self.schema
            completions.append(completion if schema is None else _typed(completion, choice, schema))
        return completions

    def fields(self, bodies: Sequence[bytes], *, several: bool) -> dict[str, Any]:
        completions = [completion for body in bodies for completion in self.read(body)]
        if several:
            return {
                "generation": [one.text for one in completions],
                "thinking": [one.thinking for one in completions],
                "tool_calls": [one.tool_calls or None for one in completions],
                "model": completions[0].model if completions else None,
            }
        if not completions:
            return {}
        first = completions[0]
        return {
            "generation": first.text,
            "thinking": first.thinking,
            "tool_calls": first.tool_calls or None,
            "model": first.model,
            "value": first.value,
        }


class EmbeddingReader(AnswerReader):
    """Reads vectors, one a body. ``MalformedAnswer`` where one is none."""

    columns = ("embedding", "input_tokens", "error")
    extra_columns = ("cost", "model")

    def __init__(self, dtype: Dtype | None = None) -> None:
        self._dtype: Dtype | None = dtype

    def read(self, body: bytes) -> list[Completion]:
        return [read_embedding(body, self._dtype)]

    def fields(self, bodies: Sequence[bytes], *, several: bool) -> dict[str, Any]:  # noqa: ARG002  a row has one
        stored = decode_stored(bodies[0])  # its numbers were read when it came
        return {"embedding": stored.embedding, "model": stored.model}


def _typed(completion: Completion, choice: Choice, schema: OutputSchema) -> Completion:
    text = completion.text
    if not text and choice.message.tool_calls:
        # In tool modes the answer is the arguments of a call.
        arguments = choice.message.tool_calls[0].function.arguments
        text = arguments if isinstance(arguments, str) else msgspec.json.encode(arguments).decode()
    parsed = read_answer(schema, text or "")
    return msgspec.structs.replace(completion, text=parsed.text, value=parsed.value)
