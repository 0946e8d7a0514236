"""Runs of embeddings: a text for each row, a vector for each text, as many together as one request takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import msgspec

from mistill.api.embeddings import EMBEDDINGS, Dtype, EmbeddingResponse
from mistill.api.stored_embeddings import NumberType, number_type, stored_as_text
from mistill.datasets.sources import Row
from mistill.datasets.writers import Vectors
from mistill.delivery.dispatcher import Delivered
from mistill.errors import InputError, MalformedAnswer
from mistill.kinds.kind import MARK_COLUMNS, AnswerFields, AnswerReader, usage_in
from mistill.kinds.manifest import RunManifest
from mistill.kinds.options import RunOptions
from mistill.kinds.texts import TextKind
from mistill.ledger import AnswerTerms, PaidAnswer
from mistill.llms.completions import kept_embedding, kept_part, stored_embedding
from mistill.llms.embeddings import Embedder, MistralEmbeddings
from mistill.llms.types import Completion, Outcome
from mistill.prompts.prompt_template import TextDescription, TextTemplate
from mistill.struct_types import look_at

_NUMBERS: Mapping[NumberType, Literal["float32", "int8", "uint8"]] = {
    "f": "float32",
    "b": "int8",
    "B": "uint8",
}


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

    def settings(self) -> dict[str, Any]:
        found = {
            **super().settings(),
            "prompt": self.prompt["prompt"],
            "output_dimension": self.output_dimension,
            "output_dtype": self.output_dtype,
        }
        return {name: value for name, value in found.items() if value is not None}

    def options(self) -> dict[str, Any]:
        return {"prompt": self.prompt["prompt"]}


class EmbeddingReader(AnswerReader):
    """Reads vectors, one a body. ``MalformedAnswer`` where one is none."""

    always_fits = True

    def __init__(self, dtype: Dtype | None = None) -> None:
        self._dtype: Dtype | None = dtype
        self.vectors = {"embedding": Vectors(_NUMBERS[number_type(dtype)])}

    def read(self, body: bytes) -> list[Completion]:
        return [kept_embedding(body, self._dtype)]

    def fields(self, bodies: Sequence[bytes], *, several: bool) -> AnswerFields:  # noqa: ARG002  a row has one
        stored = stored_embedding(bodies[0])  # its numbers were read when it came
        return AnswerFields({"embedding": stored.as_json(), "model": stored.model})

    def as_text(self, body: bytes) -> str:
        try:
            return stored_as_text(body)
        except msgspec.DecodeError:
            return super().as_text(body)


class EmbeddingKind(TextKind):
    """A text for each row, a vector for each text; as many together as one request takes."""

    manifest_type = EmbeddingManifest
    columns: ClassVar = ("embedding", "input_tokens", "error")
    extra_columns: ClassVar = ("cost", "model", "prompt", "raw", "settings", *MARK_COLUMNS)
    asked_for = "embeddings"
    batch_path: ClassVar = EMBEDDINGS.path

    def __init__(self, llm: MistralEmbeddings, options: RunOptions) -> None:
        super().__init__(llm, options)
        self.manifest = EmbeddingManifest(
            model=llm.model,
            prompt=self.template.describe(),
            output_dimension=llm.output_dimension,
            output_dtype=llm.output_dtype,
        )
        self.reader = EmbeddingReader(llm.output_dtype)

    def call_of(self, llm: MistralEmbeddings) -> Embedder:
        return llm.embedder(keeps_values=False, offline=True)

    @classmethod
    def reader_of(
        cls,
        manifest: EmbeddingManifest,
        llm: Mapping[str, Any],  # noqa: ARG003  the kind's signature
        schema: Any = None,
        *,
        trust: bool = False,  # noqa: ARG003
    ) -> AnswerReader:
        if schema is not None:
            raise InputError(
                "this run's answers are vectors, which no schema reads", hint="leave the schema out"
            )
        return EmbeddingReader(manifest.output_dtype)

    @classmethod
    def prompts_of(cls, manifest: EmbeddingManifest) -> Callable[[Row], Any]:
        return TextTemplate(manifest.prompt["prompt"]).render

    @classmethod
    def text_of(cls, body: bytes) -> str:
        try:
            vector = kept_embedding(body).value
        except MalformedAnswer:
            return body.decode(errors="replace")
        return f"a vector of {len(vector):,} numbers"

    def delivered(self, answer: PaidAnswer) -> Delivered[EmbeddingResponse]:
        return kept_part(answer.body, usage=usage_in(answer), cost=answer.cost, recorded=(answer.attempt,))

    @classmethod
    def model_of(cls, body: bytes) -> str | None:
        try:
            return stored_embedding(body).model
        except MalformedAnswer:
            return None

    @classmethod
    def terms_of(cls, body: bytes) -> AnswerTerms | None:
        try:
            return AnswerTerms(
                stored_embedding(body).model, has_usage=None
            )  # what is kept of a vector has none
        except MalformedAnswer:
            return None

    def with_values(self, outcome: Outcome) -> tuple[Completion | None, ...]:
        return tuple(one and self._with_value(one) for one in outcome.completions)

    def _with_value(self, completion: Completion) -> Completion:
        (read,) = self.reader.read(completion.raw)
        return msgspec.structs.replace(completion, value=read.value)


look_at(EmbeddingManifest)
