"""`MistralEmbeddings`: vectors for many texts, with as few requests as their tokens allow."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Annotated, ClassVar

import msgspec
from msgspec import Raw, Struct
from pydantic import Field

from mistill.api.embeddings import (
    EMBEDDINGS,
    MAX_TEXTS,
    MAX_TOKENS,
    Dtype,
    Embedding,
    EmbeddingParameters,
    EmbeddingResponse,
    EmbeddingTemplate,
    decode_vector,
)
from mistill.api.operation import Operation
from mistill.api.stored_embeddings import encode_stored
from mistill.api.usage import Usage
from mistill.delivery.dispatcher import Dispatcher
from mistill.delivery.worker_pool import SharedIterator, WorkerPool
from mistill.errors import InputError, MalformedAnswer, MistillError
from mistill.llms.base import OnError, check_on_error, raise_failures
from mistill.llms.batching import BatchedCall, TextAnswer
from mistill.llms.connection import Connection
from mistill.llms.generation import Server
from mistill.llms.runtime_parameters import RuntimeParameter
from mistill.llms.shown_call import Count, run_call
from mistill.llms.types import Outcome
from mistill.progress.display import Display, OnProgress

_PACKED: tuple[Dtype, ...] = ("binary", "ubinary")  # eight numbers of a bit each in one


class Embedded(Struct, frozen=True, kw_only=True):
    """Vectors in the order of the texts, and what they took.

    Attributes:
        vectors: one for each text; ``None`` for one that failed.
        usage: tokens billed.
        cost: US dollars, or ``None`` where the model has no known price.
        attempts: HTTP attempts, failed ones included.
    """

    vectors: list[list[float] | None]
    usage: Usage = Usage()
    cost: float | None = None
    attempts: int = 0


class MistralEmbeddings(Connection):
    """A Mistral model for embeddings, or any server that speaks that API.

    Args:
        output_dimension: length of the vectors, for models that let one choose.
        output_dtype: ``float``, or ``int8``, ``uint8``, ``binary``, ``ubinary`` for models that give integers.
        max_batch_tokens: most tokens of one request, as estimated from the length of its texts.
        the others: as `Connection` says.
    """

    kind: ClassVar[str] = "embedding"

    model: Annotated[str, Field(min_length=1)] = "mistral-embed"
    output_dimension: Annotated[int, Field(ge=1)] | None = None
    output_dtype: Dtype | None = None
    max_batch_tokens: RuntimeParameter[Annotated[int, Field(ge=1)]] = Field(
        default=MAX_TOKENS, description="Most tokens of one request."
    )

    def embed(
        self,
        texts: Sequence[str],
        *,
        on_error: OnError = "raise",
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> list[list[float]]:
        """One vector for each text, in the order of ``texts``.

        Args:
            texts: none empty.
            on_error: ``"raise"``, or ``"none"`` to return ``None`` for each failed text.
            progress, on_progress: as for `MistralLLM.generate`.

        Raises:
            InputError: a text is wrong; nothing was sent.
            GenerationError: some texts failed; it has the others' vectors.
        """
        embedded = self.embed_outputs(texts, on_error=on_error, progress=progress, on_progress=on_progress)
        return embedded.vectors  # pyright: ignore[reportReturnType]  None is there only if it was asked for

    async def aembed(self, texts: Sequence[str], *, on_error: OnError = "raise") -> list[list[float]]:
        """As `embed`."""
        embedded = await self.aembed_outputs(texts, on_error=on_error)
        return embedded.vectors  # pyright: ignore[reportReturnType]  None is there only if it was asked for

    def embed_outputs(
        self,
        texts: Sequence[str],
        *,
        on_error: OnError = "raise",
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
    ) -> Embedded:
        """As `embed`, with tokens, cost and attempts."""
        embedder, texts = self._checked(texts, on_error)
        call = partial(self._embed_all, embedder, texts, on_error)
        display = Display(progress, on_progress)
        at_once = self.max_concurrent_requests
        return run_call(call, len(texts), embedder.dispatcher.governor, display, at_once=at_once)

    async def aembed_outputs(self, texts: Sequence[str], *, on_error: OnError = "raise") -> Embedded:
        """As `embed_outputs`."""
        return await self._embed_all(*self._checked(texts, on_error), on_error)

    def _checked(self, texts: Sequence[str], on_error: OnError) -> tuple[Embedder, list[str]]:
        check_on_error(on_error)
        if isinstance(texts, str) or not isinstance(texts, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]  a user may give anything
            raise InputError("texts must be a list of texts", hint="for one text write [text]")
        embedder = self.embedder()
        return embedder, [embedder.check(text, index) for index, text in enumerate(texts)]

    async def _embed_all(
        self, embedder: Embedder, texts: Sequence[str], on_error: OnError, count: Count | None = None
    ) -> Embedded:
        result = _Result(len(texts))
        batches = list(embedder.batches(texts))
        pool = WorkerPool(SharedIterator(batches), size=min(self.max_concurrent_requests, len(batches)))
        send = partial(embedder.dispatcher.send, pool=pool)

        async def embed(batch: range) -> None:
            try:
                async for places, outcomes in embedder.parts([texts[index] for index in batch], send):
                    result.add(batch[places.start : places.stop], outcomes)
                    if count is not None:
                        for outcome in outcomes:
                            count(outcome)
            except MistillError as error:
                result.fail_rest(batch, error)
                raise

        fatal: MistillError | None = None
        if batches:
            try:
                await pool.run(embed)
            except MistillError as error:
                fatal = error
        return result.embedded(fatal, on_error)

    def embedder(self, *, keeps_values: bool = True, offline: bool = False) -> Embedder:
        """The settings of a call, checked and resolved, to embed any number of texts with.

        Args:
            keeps_values: completions have their vectors as numbers, which take eight times the memory of their
                bytes; else ``value`` is ``None``, and can be read in ``raw``.
            offline: no key is needed: for texts that are not sent, or not yet.
        """
        session = self._open(offline=offline)
        parameters = EmbeddingParameters(self.output_dimension, self.output_dtype)
        return Embedder(
            session.dispatcher, session.server, parameters, self.max_batch_tokens, keeps_values=keeps_values
        )

    @property
    def _operation(self) -> Operation[EmbeddingResponse]:
        return EMBEDDINGS


class Embedder(BatchedCall[EmbeddingResponse]):
    """Everything of a call of embeddings but its texts."""

    def __init__(
        self,
        dispatcher: Dispatcher[EmbeddingResponse],
        server: Server,
        parameters: EmbeddingParameters,
        max_batch_tokens: int,
        *,
        keeps_values: bool,
    ) -> None:
        encode = EmbeddingTemplate(server.model, parameters).encode
        super().__init__(dispatcher, server, encode, max_texts=MAX_TEXTS, max_tokens=max_batch_tokens)
        self._dtype: Dtype | None = parameters.output_dtype
        self._asked = _length_asked(parameters)
        self._seen: Counter[int] = Counter()
        """How many answers had vectors of a length, each counted as the most of its vectors are."""
        self._keeps_values = keeps_values

    def read(self, response: EmbeddingResponse, texts: int) -> list[TextAnswer | MistillError]:
        vectors = [self._read(raw, texts) for raw in vectors_in_order(response.data, texts)]
        return [
            vector if isinstance(vector, MistillError) else self._answer(vector, response)
            for vector in self._of_one_length(vectors)
        ]

    def _answer(self, vector: _Vector, response: EmbeddingResponse) -> TextAnswer:
        body = encode_stored(vector.raw, vector.numbers, self._dtype, response.model, response.id)
        return TextAnswer(body, vector.numbers if self._keeps_values else None)

    def _read(self, raw: Raw, texts: int) -> _Vector | MalformedAnswer:
        """A vector and its numbers, or why there is none."""
        problem = f"the answer for {texts} texts has no vector for this one"
        try:
            numbers = decode_vector(raw, self._dtype)
        except msgspec.DecodeError as error:
            return MalformedAnswer(f"{problem}: {error}")
        return _Vector(raw, numbers) if numbers else MalformedAnswer(f"{problem}: it has no numbers")

    def _of_one_length(self, vectors: Sequence[_Vector | MalformedAnswer]) -> list[_Vector | MalformedAnswer]:
        """The vectors; refused are those of another length than was asked for, or than most have."""
        lengths = Counter(len(vector.numbers) for vector in vectors if isinstance(vector, _Vector))
        right = self._asked or self._agreed(lengths)
        return [
            vector
            if not isinstance(vector, _Vector) or len(vector.numbers) == right
            else _wrong_length(len(vector.numbers), right, lengths)
            for vector in vectors
        ]

    def _agreed(self, lengths: Counter[int]) -> int | None:
        """The length that most answers have, this one of such lengths included; ``None`` where they do not agree.

        It is one answer, one vote: a server that gives one wrong answer may give it to 256 texts.
        """
        if (vote := _majority(lengths)) is not None:
            self._seen[vote] += 1
        return _majority(self._seen)


def _majority(counts: Counter[int]) -> int | None:
    """What more than half of all are."""
    for length, count in counts.most_common(1):
        if 2 * count > counts.total():
            return length
    return None


class _Vector(Struct, frozen=True, gc=False):
    """A vector as its JSON and as its numbers."""

    raw: Raw
    numbers: list[float]


def vectors_in_order(found: Sequence[Embedding], texts: int) -> list[Raw]:
    """The vectors of so many texts, in their order.

    The indexes say it, if they are those of the texts, each once. The order says it only where there is no index at
    all and a vector for each text.

    Raises:
        MalformedAnswer: neither says it.
    """
    indexes = [one.index for one in found]
    if indexes == [None] * texts:
        return [one.embedding for one in found]
    by_index = {one.index: one.embedding for one in found}
    if len(found) == texts and by_index.keys() == set(range(texts)):
        return [by_index[index] for index in range(texts)]
    raise MalformedAnswer(
        f"the answer for {texts} texts has {len(found)} vectors whose indexes do not say which is of which: "
        f"{', '.join(map(str, indexes[:8]))}"
    )


def _length_asked(parameters: EmbeddingParameters) -> int | None:
    length = parameters.output_dimension
    if length is None or parameters.output_dtype not in _PACKED:
        return length
    return -(-length // 8)


def _wrong_length(length: int, right: int | None, lengths: Counter[int]) -> MalformedAnswer:
    if right is not None:
        return MalformedAnswer(f"a vector of {length} numbers, where {right} are right")
    if len(lengths) == 1:
        return MalformedAnswer(
            f"a vector of {length} numbers, where other answers had vectors of another length"
        )
    several = ", ".join(map(str, sorted(lengths)))
    return MalformedAnswer(f"the vectors of one answer are of different lengths: {several}")


class _Result:
    """One call of `MistralEmbeddings`: what has become of its texts."""

    def __init__(self, count: int) -> None:
        self._vectors: list[list[float] | None] = [None] * count
        self._failures: dict[int, MistillError] = {}
        self._usage = Usage()
        self._cost: float | None = None
        self._attempts = 0

    def add(self, batch: range, outcomes: Sequence[Outcome]) -> None:
        for index, outcome in zip(batch, outcomes, strict=True):
            (completion,) = outcome.completions
            if completion is not None:
                self._vectors[index] = completion.value
            if outcome.error is not None:
                self._failures[index] = outcome.error
            self._usage += outcome.usage
            self._attempts += outcome.attempts
            if outcome.cost is not None:
                self._cost = (self._cost or 0.0) + outcome.cost

    def fail_rest(self, batch: range, error: MistillError) -> None:
        """What of a batch has no end yet, ends with the error."""
        for index in batch:
            if self._vectors[index] is None:
                self._failures.setdefault(index, error)

    def embedded(self, fatal: MistillError | None, on_error: OnError) -> Embedded:
        raise_failures(self._vectors, self._failures, fatal, on_error)
        return Embedded(vectors=self._vectors, usage=self._usage, cost=self._cost, attempts=self._attempts)
