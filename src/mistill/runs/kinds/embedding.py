"""Runs of embeddings: a text for each row, a vector for each text, as many together as one request takes."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, ClassVar

import msgspec

from mistill.api.embeddings import MAX_TEXTS, Dtype, EmbeddingResponse, decode_stored
from mistill.datasets.sources import Row
from mistill.delivery.dispatcher import Send
from mistill.errors import InputError
from mistill.llms.completions import kept_embedding
from mistill.llms.embeddings import MistralEmbeddings
from mistill.llms.types import Completion, Outcome
from mistill.runs.kinds.kind import AnswerReader, Kind, PendingRow, digest, refuse_unused
from mistill.runs.manifest import RunManifest
from mistill.runs.options import RunOptions
from mistill.runs.prompts import TextDescription, TextTemplate
from mistill.runs.row_parameters import RowParameters


class EmbeddingManifest(RunManifest, frozen=True, kw_only=True):
    """What decides the vectors of a run.

    Attributes:
        prompt: how a row becomes a text.
        output_dimension, output_dtype: of the vectors, where they were chosen.
    """

    kind: str = "embedding"
    prompt: TextDescription
    output_dimension: int | None = None
    output_dtype: Dtype | None = None

    def options(self) -> dict[str, Any]:
        return {"prompt": self.prompt["prompt"]}


class EmbeddingReader(AnswerReader):
    """Reads vectors, one a body. ``MalformedAnswer`` where one is none."""

    def __init__(self, dtype: Dtype | None = None) -> None:
        self._dtype: Dtype | None = dtype

    def read(self, body: bytes) -> list[Completion]:
        return [kept_embedding(body, self._dtype)]

    def fields(self, bodies: Sequence[bytes], *, several: bool) -> dict[str, Any]:  # noqa: ARG002  a row has one
        stored = decode_stored(bodies[0])  # its numbers were read when it came
        return {"embedding": stored.embedding, "model": stored.model}


class EmbeddingKind(Kind[str]):
    """A text for each row, a vector for each text; as many together as one request takes."""

    manifest_type = EmbeddingManifest
    columns: ClassVar = ("embedding", "input_tokens", "error")
    extra_columns: ClassVar = ("cost", "model")
    row_columns: ClassVar = ("text",)
    unused_options = frozenset({"system", "num_generations", "parameters", "row_parameters", "flatten"})
    max_rows_together = MAX_TEXTS

    def __init__(self, llm: MistralEmbeddings, options: RunOptions) -> None:
        refuse_unused(type(self), options, "embeddings")
        self._template = TextTemplate(options.prompt)
        self.embedder = embedder = llm.embedder(keeps_values=False)
        self.dispatcher = embedder.dispatcher
        self.server = embedder.server
        self.row_parameters = RowParameters({})
        self.reader = EmbeddingReader(embedder.parameters.output_dtype)
        self.llm_settings = llm.dump()
        self.manifest = EmbeddingManifest(
            model=llm.model,
            prompt=self._template.describe(),
            output_dimension=embedder.parameters.output_dimension,
            output_dtype=embedder.parameters.output_dtype,
        )

    @classmethod
    def reader_of(cls, manifest: EmbeddingManifest, llm: Mapping[str, Any], schema: Any) -> AnswerReader:  # noqa: ARG003  the kind's signature
        if schema is not None:
            raise InputError(
                "this run's answers are vectors, which no schema reads", hint="leave the schema out"
            )
        return EmbeddingReader(manifest.output_dtype)

    def prepare(self, row: Row) -> str:
        return self.embedder.check(self._template.render(row))

    def fingerprint(self, prepared: str) -> bytes:
        return digest(prepared.encode())

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if given:
            raise InputError(
                f"embeddings have no generation parameters, such as {next(iter(given))}", hint="leave it out"
            )
        return {}

    def with_parameters(self, prepared: str, parameters: Mapping[str, Any]) -> str:  # noqa: ARG002  there are none
        return prepared

    def take(self, ready: deque[PendingRow]) -> list[PendingRow]:
        if ready[0].stands_alone:
            return super().take(ready)
        together = takewhile(lambda pending: not pending.stands_alone, ready)
        size = self.embedder.batch_size(pending.prepared for pending in together)
        return [ready.popleft() for _ in range(size)]

    async def answer(self, prepared: Sequence[str], send: Send[EmbeddingResponse]) -> Sequence[Outcome]:
        return await self.embedder.answer(prepared, send)

    def with_values(self, outcome: Outcome) -> tuple[Completion | None, ...]:
        return tuple(one and self._with_value(one) for one in outcome.completions)

    def _with_value(self, completion: Completion) -> Completion:
        (read,) = self.reader.read(completion.raw)
        return msgspec.structs.replace(completion, value=read.value)
