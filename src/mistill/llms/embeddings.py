"""`MistralEmbeddings`: vectors for many texts, with as few requests as their tokens allow."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Annotated, Any, Final

import msgspec
from msgspec import Struct
from pydantic import Field

from mistill.api.client import Answer, EmbeddingResponse, MistralClient
from mistill.api.errors import BadRequest, InputError, MalformedAnswer, MistillError, Stopped
from mistill.delivery.dispatcher import Crew, Each, Request
from mistill.delivery.retry import classify
from mistill.llms.base import OnError
from mistill.llms.connection import Connection, Session
from mistill.llms.errors import GenerationError
from mistill.llms.event_loop import background
from mistill.llms.runtime_parameters import RuntimeParameter
from mistill.llms.types import Usage

MOST_TOKENS_AT_ONCE: Final = 16_384
"""What one request to Mistral may hold in all; more is refused with code 3210."""
_MOST_TEXTS_AT_ONCE = 512
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
        max_batch_tokens: most tokens of one request, as estimated from the length of its texts.
        the others: as `Connection` says.
    """

    model: Annotated[str, Field(min_length=1)] = "mistral-embed"
    output_dimension: Annotated[int, Field(ge=1)] | None = None
    max_batch_tokens: RuntimeParameter[Annotated[int, Field(ge=1)]] = Field(
        default=MOST_TOKENS_AT_ONCE, description="Most tokens of one request."
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
        _check(texts)
        work = _Work(self._open(), texts, self.output_dimension)
        batches = list(_batches(texts, self.max_batch_tokens))
        size = min(self.max_concurrent_requests, len(batches))
        fatal: MistillError | None = None
        if batches:
            try:
                await Crew(Each(batches), work.embed, size=size).run()
            except MistillError as error:
                fatal = error
        return work.result(fatal, on_error)

    def _exchange(self, client: MistralClient) -> Callable[[bytes], Awaitable[Answer[EmbeddingResponse]]]:
        return client.embeddings


class _Work:
    """One call: its texts, and what has become of them."""

    def __init__(self, session: Session, texts: Sequence[str], output_dimension: int | None) -> None:
        self._session = session
        self._texts = texts
        self._fields: dict[str, Any] = {"model": session.server.model}
        if output_dimension is not None:
            self._fields["output_dimension"] = output_dimension
        self._vectors: list[list[float] | None] = [None] * len(texts)
        self._failures: dict[int, MistillError] = {}
        self._usage = Usage()
        self._attempts = 0

    async def embed(self, batch: range, crew: Crew[range]) -> None:
        """A batch; a refused one in halves, until what is refused stands alone."""
        body = msgspec.json.encode(self._fields | {"input": [self._texts[index] for index in batch]})
        try:
            delivered = await self._session.dispatcher.send(Request(body, 0), crew=crew)
            response: EmbeddingResponse = delivered.answer.response
            _check_count(response, len(batch))
        except MistillError as error:
            is_fatal = classify(error).fatal
            if isinstance(error, BadRequest) and len(batch) > 1 and not is_fatal:
                middle = len(batch) // 2
                await self.embed(batch[:middle], crew)
                await self.embed(batch[middle:], crew)
                return
            self._failures |= dict.fromkeys(batch, error)
            if is_fatal:
                raise
        else:
            self._attempts += delivered.attempts
            if response.usage is not None:
                self._usage += Usage(response.usage.prompt_tokens or 0)
            for place, embedding in enumerate(response.data):
                index = embedding.index if embedding.index is not None else place
                self._vectors[batch[index]] = embedding.embedding

    def result(self, fatal: MistillError | None, on_error: OnError) -> Embedded:
        price = self._session.server.price
        embedded = Embedded(
            vectors=self._vectors,
            usage=self._usage,
            cost=price.cost(self._usage) if price else None,
            attempts=self._attempts,
        )
        if fatal is not None:
            unsent = Stopped("not sent, since the call was ended by another text's error")
            unsent.__cause__ = fatal
            for index, vector in enumerate(self._vectors):
                if vector is None:
                    self._failures.setdefault(index, unsent)
        if self._failures and (on_error == "raise" or fatal is not None):
            raise GenerationError.of(self._vectors, self._failures)
        return embedded


def _check(texts: Sequence[str]) -> None:
    if isinstance(texts, str) or not isinstance(texts, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]  a user may give anything
        raise InputError("texts must be a list of texts", hint="for one text write [text]")
    for index, text in enumerate(texts):
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance]  as above
            raise InputError(f"text {index} is {type(text).__name__}, not a string", index=index)
        if not text:
            raise InputError(f"text {index} is empty", index=index)


def _batches(texts: Sequence[str], max_tokens: int) -> Iterator[range]:
    """Consecutive texts whose estimated tokens fit one request; a text that does not fit stands alone."""
    start = tokens = 0
    for index, text in enumerate(texts):
        cost = len(text.encode()) // _BYTES_PER_TOKEN + 1
        if index > start and (tokens + cost > max_tokens or index - start >= _MOST_TEXTS_AT_ONCE):
            yield range(start, index)
            start, tokens = index, 0
        tokens += cost
    if start < len(texts):
        yield range(start, len(texts))


def _check_count(response: EmbeddingResponse, wanted: int) -> None:
    if len(response.data) != wanted:
        raise MalformedAnswer(f"{len(response.data)} vectors came for {wanted} texts")
