"""`MistralEmbeddings`: vectors for many texts, with as few requests as their tokens allow."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Sequence
from itertools import accumulate, islice, pairwise
from typing import Annotated, Any, Protocol

import msgspec
from msgspec import Raw, Struct
from pydantic import Field

from mistill.api.client import Answer, MistralClient
from mistill.api.embeddings import (
    MOST_TEXTS,
    MOST_TOKENS,
    Dtype,
    EmbeddingParameters,
    EmbeddingResponse,
    EmbeddingTemplate,
    StoredEmbedding,
    decode_stored,
    decode_vector,
    encode_stored,
)
from mistill.delivery.dispatcher import Dispatcher, Request
from mistill.delivery.retry import classify
from mistill.delivery.worker_pool import SharedIterator, WorkerPool
from mistill.errors import BadRequest, GenerationError, InputError, MalformedAnswer, MistillError, Stopped
from mistill.llms.base import OnError
from mistill.llms.completions import usage_of
from mistill.llms.connection import Connection
from mistill.llms.event_loop import background
from mistill.llms.generation import Server
from mistill.llms.messages import not_utf8
from mistill.llms.runtime_parameters import RuntimeParameter
from mistill.llms.types import Completion, Outcome, Usage

_BYTES_PER_TOKEN = 3  # on the safe side for English; a batch that the server still finds too large is halved


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

    model: Annotated[str, Field(min_length=1)] = "mistral-embed"
    output_dimension: Annotated[int, Field(ge=1)] | None = None
    output_dtype: Dtype | None = None
    max_batch_tokens: RuntimeParameter[Annotated[int, Field(ge=1)]] = Field(
        default=MOST_TOKENS, description="Most tokens of one request."
    )

    def embed(self, texts: Sequence[str], *, on_error: OnError = "raise") -> list[list[float]]:
        """One vector for each text, in the order of ``texts``.

        Args:
            texts: none empty.
            on_error: ``"raise"``, or ``"none"`` to return ``None`` for each failed text.

        Raises:
            InputError: a text is wrong; nothing was sent.
            GenerationError: some texts failed; it has the others' vectors.
        """
        return background.run(self.aembed(texts, on_error=on_error))

    async def aembed(self, texts: Sequence[str], *, on_error: OnError = "raise") -> list[list[float]]:
        """As `embed`."""
        embedded = await self.aembed_outputs(texts, on_error=on_error)
        return embedded.vectors  # pyright: ignore[reportReturnType]  None is there only if it was asked for

    def embed_outputs(self, texts: Sequence[str], *, on_error: OnError = "raise") -> Embedded:
        """As `embed`, with tokens, cost and attempts."""
        return background.run(self.aembed_outputs(texts, on_error=on_error))

    async def aembed_outputs(self, texts: Sequence[str], *, on_error: OnError = "raise") -> Embedded:
        """As `embed_outputs`."""
        if on_error not in ("raise", "none"):
            raise InputError(f"on_error is {on_error!r}", hint="'raise' or 'none'")
        if isinstance(texts, str) or not isinstance(texts, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]  a user may give anything
            raise InputError("texts must be a list of texts", hint="for one text write [text]")
        embedder = self.embedder()
        for index, text in enumerate(texts):
            embedder.check(text, index)
        result = _Result(len(texts))

        async def embed(batch: range, pool: WorkerPool[range]) -> None:
            try:
                async for places, outcomes in embedder.parts([texts[index] for index in batch], pool=pool):
                    result.add(batch[places.start : places.stop], outcomes)
            except MistillError as error:
                result.fail_rest(batch, error)
                raise

        batches = list(embedder.batches(texts))
        fatal: MistillError | None = None
        if batches:
            try:
                await WorkerPool(
                    SharedIterator(batches), embed, size=min(self.max_concurrent_requests, len(batches))
                ).run()
            except MistillError as error:
                fatal = error
        return result.embedded(fatal, on_error)

    def embedder(self, *, keeps_values: bool = True) -> Embedder:
        """The settings of a call, checked and resolved, to embed any number of texts with.

        Args:
            keeps_values: completions have their vectors as numbers, which take twice the memory of their JSON; else
                ``value`` is ``None``, and `read_embedding` makes them of ``raw``.
        """
        session = self._open()
        parameters = EmbeddingParameters(self.output_dimension, self.output_dtype)
        return Embedder(
            session.dispatcher, session.server, parameters, self.max_batch_tokens, keeps_values=keeps_values
        )

    def _exchange(self, client: MistralClient) -> Callable[[bytes], Awaitable[Answer[EmbeddingResponse]]]:
        return client.embeddings


class BatchJournal(Protocol):
    """Where the attempts of texts that are sent together are written down; see `Journal`."""

    async def sending(self, request: Request, places: Sequence[int]) -> Any:
        """An attempt with the texts at ``places`` is about to leave; returns when that is safe on disk."""
        ...

    def answered(self, attempt: Any, answer: Answer[Any], completions: Sequence[Completion | None]) -> None:
        """It was answered; ``completions`` are those of its texts, ``None`` where the answer has no vector."""
        ...

    def ended(self, attempt: Any, error: MistillError) -> None:
        """It ended with no answer."""
        ...


class Embedder:
    """Everything of a call but its texts. Safe to share by tasks and threads."""

    def __init__(
        self,
        dispatcher: Dispatcher[EmbeddingResponse],
        server: Server,
        parameters: EmbeddingParameters,
        max_batch_tokens: int,
        *,
        keeps_values: bool,
    ) -> None:
        self.dispatcher = dispatcher
        self.server = server
        self.parameters = parameters
        self._max_batch_tokens = max_batch_tokens
        self._keeps_values = keeps_values
        self._template = EmbeddingTemplate(server.model, parameters)

    def check(self, text: Any, index: int | None = None) -> str:
        """The text, if it may be sent.

        Raises:
            InputError: it is no string, is empty, or holds what UTF-8 cannot carry.
        """
        name = "the text" if index is None else f"text {index}"
        if not isinstance(text, str):
            raise InputError(f"{name} is {type(text).__name__}, not a string", index=index)
        if not text:
            raise InputError(f"{name} is empty", index=index)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise not_utf8(name, index) from error
        return text

    def batch_size(self, texts: Iterable[str]) -> int:
        """How many of the first texts fit one request; a text that does not fit stands alone."""
        tokens = size = 0
        for text in islice(texts, MOST_TEXTS):
            tokens += _estimate(text)
            if size and tokens > self._max_batch_tokens:
                break
            size += 1
        return size

    def batches(self, texts: Sequence[str]) -> Iterator[range]:
        """Consecutive texts, as many a request as fit."""
        start = 0
        while start < len(texts):
            size = self.batch_size(texts[index] for index in range(start, len(texts)))
            yield range(start, start + size)
            start += size

    async def answer(
        self,
        texts: Sequence[str],
        journal: BatchJournal | None = None,
        pool: WorkerPool[Any] | None = None,
    ) -> list[Outcome]:
        """One outcome for each of the texts, see `parts`."""
        found: list[Outcome] = []
        async for _, outcomes in self.parts(texts, journal, pool):
            found += outcomes
        return found

    async def parts(
        self,
        texts: Sequence[str],
        journal: BatchJournal | None = None,
        pool: WorkerPool[Any] | None = None,
    ) -> AsyncGenerator[tuple[range, list[Outcome]]]:
        """The outcomes of texts that are sent together, with their places, in order and as they come.

        A refused request is sent again in halves, until what is refused stands alone. A request's attempts are told
        with its first text.

        Raises only what ends the whole call: a refused key, a stop, a broken ledger.
        """
        refused = 0
        parts = [range(len(texts))]
        while parts:
            places = parts.pop()
            part = _Part(self, texts, places, journal)
            try:
                delivered = await self.dispatcher.send(
                    Request(self._template.encode(part.texts), 0), part, pool
                )
            except MistillError as error:
                if classify(error).fatal:
                    raise
                if isinstance(error, BadRequest) and len(places) > 1:
                    refused += error.attempts
                    middle = len(places) // 2
                    parts += [places[middle:], places[:middle]]
                    continue
                outcomes = list(part.failed(error, refused + error.attempts))
            else:
                outcomes = list(part.outcomes(refused + delivered.attempts))
            refused = 0
            yield places, outcomes

    def completions_of(
        self, answer: Answer[EmbeddingResponse], texts: Sequence[str]
    ) -> list[Completion | None]:
        """What an answer has for each of its texts, ``None`` where it has no vector.

        Its tokens are shared out by the length of the texts.
        """
        read = [self._read(vector, answer) for vector in answer.response.in_order(len(texts))]
        weights = [_estimate(text) if one else 0 for one, text in zip(read, texts, strict=True)]
        usages = _shares(usage_of(answer.response), weights)
        price = self.server.price
        return [
            one and msgspec.structs.replace(one, usage=usage, cost=price.cost(usage) if price else None)
            for one, usage in zip(read, usages, strict=True)
        ]

    def _read(self, vector: Raw | None, answer: Answer[EmbeddingResponse]) -> Completion | None:
        if vector is None:
            return None
        response = answer.response
        body = encode_stored(StoredEmbedding(vector, response.model, response.id))
        try:
            completion = read_embedding(body, self.parameters.output_dtype)
        except MalformedAnswer:
            return None
        return msgspec.structs.replace(
            completion,
            value=completion.value if self._keeps_values else None,
            correlation_id=answer.correlation_id,
            latency_s=answer.latency_s,
        )


class _Part:
    """Some of the texts of a batch, on their way in one request: the dispatcher's journal of it."""

    def __init__(
        self, embedder: Embedder, texts: Sequence[str], places: range, journal: BatchJournal | None
    ) -> None:
        self.texts = [texts[place] for place in places]
        self._embedder = embedder
        self._places = places
        self._journal = journal
        self._completions: list[Completion | None] = []

    async def sending(self, request: Request) -> Any:
        return None if self._journal is None else await self._journal.sending(request, self._places)

    def answered(self, attempt: Any, answer: Answer[EmbeddingResponse]) -> None:
        self._completions = self._embedder.completions_of(answer, self.texts)
        if self._journal is not None:
            self._journal.answered(attempt, answer, self._completions)

    def ended(self, attempt: Any, error: MistillError) -> None:
        if self._journal is not None:
            self._journal.ended(attempt, error)

    def outcomes(self, attempts: int) -> Iterator[Outcome]:
        for place, completion in enumerate(self._completions):
            told = 0 if place else attempts
            if completion is None:
                yield Outcome(completions=(None,), error=no_vector(len(self.texts)), attempts=told)
            else:
                yield Outcome(
                    completions=(msgspec.structs.replace(completion, attempts=attempts),),
                    usage=completion.usage,
                    attempts=told,
                    cost=completion.cost,
                )

    def failed(self, error: MistillError, attempts: int) -> Iterator[Outcome]:
        for place in range(len(self.texts)):
            yield Outcome(completions=(None,), error=error, attempts=0 if place else attempts)


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
        if fatal is not None:
            unsent = Stopped("not sent, since the call was ended by another text's error")
            unsent.__cause__ = fatal
            for index, vector in enumerate(self._vectors):
                if vector is None:
                    self._failures.setdefault(index, unsent)
        if self._failures and (on_error == "raise" or fatal is not None):
            raise GenerationError.of(self._vectors, dict(sorted(self._failures.items())))
        return Embedded(vectors=self._vectors, usage=self._usage, cost=self._cost, attempts=self._attempts)


def read_embedding(body: bytes, dtype: Dtype | None = None) -> Completion:
    """A vector as a ledger keeps it → the completion whose value it is.

    Raises:
        MalformedAnswer: there is no vector in it, or not one of such numbers.
    """
    try:
        stored = decode_stored(body)
        vector = decode_vector(stored.embedding, dtype)
    except msgspec.DecodeError as error:
        raise MalformedAnswer(f"what came is no vector: {error}") from error
    return Completion(text=None, value=vector, model=stored.model, id=stored.id, raw=body)


def no_vector(texts: int) -> MalformedAnswer:
    """The error of a text for which an answer had no vector."""
    return MalformedAnswer(f"the answer for {texts} texts has no vector for this one")


def _estimate(text: str) -> int:
    """The tokens of a text, at most, as a rule."""
    return len(text.encode()) // _BYTES_PER_TOKEN + 1


def _shares(usage: Usage, weights: Sequence[int]) -> list[Usage]:
    """The input tokens of one request shared out by weight, so that their sum is what was billed."""
    total = sum(weights) or 1  # no text, no share
    ends = [usage.input_tokens * end // total for end in accumulate(weights, initial=0)]
    return [Usage(end - start) for start, end in pairwise(ends)]
