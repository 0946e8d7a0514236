"""What a run asks for each row: completions of a prompt, or the vector of a text. The run loop does not know which."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import Struct

from mistill.api.embeddings import MOST_TEXTS
from mistill.datasets.sources import Row
from mistill.delivery.governor import Governor
from mistill.delivery.worker_pool import WorkerPool
from mistill.errors import InputError
from mistill.ledger import RowState
from mistill.llms.embeddings import Embedder
from mistill.llms.generation import Generation, Prompt, Server
from mistill.llms.parameters import describe_parameters
from mistill.llms.types import Completion, Outcome
from mistill.runs.answers import AnswerReader, ChatReader, EmbeddingReader
from mistill.runs.attempt_recorder import RowJournal
from mistill.runs.prompts import PromptTemplate, TextTemplate
from mistill.runs.row_parameters import RowParameters

A = TypeVar("A")


class Task(Struct, frozen=True, gc=False):
    """A row that is to be asked. ``asked`` is an error where the row cannot be: its outcome, which costs nothing."""

    state: RowState
    row: Row
    asked: Any


class Work(ABC, Generic[A]):
    """A run's settings at work. ``A`` is a row made ready to be sent.

    Attributes:
        reader: reads raw answers, now and from the ledger.
        row_parameters: the columns that have rows' own parameters.
        most_together: rows that one request can ask at the most.
    """

    reader: AnswerReader
    row_parameters: RowParameters
    num_generations = 1
    most_together = 1

    @property
    @abstractmethod
    def server(self) -> Server:
        """What answers."""

    @property
    @abstractmethod
    def governor(self) -> Governor:
        """What paces the requests."""

    @abstractmethod
    def prepare(self, row: Row) -> A:
        """The row, ready to be sent.

        Raises:
            InputError: it cannot be; names the row.
        """

    @abstractmethod
    def fingerprint(self, asked: A) -> bytes:
        """16 bytes that tell it from any other request of this run."""

    @abstractmethod
    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """A retry's generation parameters, over those that are set, as JSON values.

        Raises:
            InputError: one of them is wrong.
        """

    @abstractmethod
    def with_parameters(self, asked: A, parameters: Mapping[str, Any]) -> A:
        """The same, to be sent with a retry's parameters, as `check_parameters` gave them."""

    def take(self, ready: deque[Task]) -> list[Task]:
        """The next tasks that one request asks, taken out of ``ready``, where there is one at least.

        What cannot be asked, or may have its answer from before a crash, stands alone.
        """
        return [ready.popleft()]

    @abstractmethod
    async def answer(
        self, asked: Sequence[A], journal: RowJournal, pool: WorkerPool[Any]
    ) -> Sequence[Outcome]:
        """One outcome for each. Raises only what ends the whole run."""

    def told(self, outcome: Outcome) -> tuple[Completion | None, ...]:
        """The completions of an outcome as whoever iterates over the run is given them."""
        return outcome.completions


class ChatWork(Work[Prompt]):
    """A prompt for each row, completions for each prompt."""

    def __init__(
        self, generation: Generation, template: PromptTemplate, row_parameters: RowParameters
    ) -> None:
        self.generation = generation
        self.row_parameters = row_parameters
        self.num_generations = generation.num_generations
        self.reader = ChatReader(generation.structured.schema if generation.structured else None)
        self._rows_have_parameters = bool(row_parameters)
        self._template = template

    @property
    def server(self) -> Server:
        return self.generation.server

    @property
    def governor(self) -> Governor:
        return self.generation.dispatcher.governor

    def prepare(self, row: Row) -> Prompt:
        generation = self.generation
        if self._rows_have_parameters:
            generation = self.row_parameters.apply(generation, row)
        return generation.check(self._template.render(row))

    def fingerprint(self, asked: Prompt) -> bytes:
        if not self._rows_have_parameters:
            return digest(asked.messages)
        own = asked.generation
        return digest(_encode_sorted((msgspec.Raw(asked.messages), own.parameters, own.extra_body)))

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        return describe_parameters(given, self.generation.with_parameters(given).parameters)

    def with_parameters(self, asked: Prompt, parameters: Mapping[str, Any]) -> Prompt:
        return Prompt(asked.messages, asked.generation.with_parameters(parameters))

    async def answer(
        self, asked: Sequence[Prompt], journal: RowJournal, pool: WorkerPool[Any]
    ) -> Sequence[Outcome]:
        (prompt,) = asked
        return (await prompt.answer(journal, pool),)


class EmbeddingWork(Work[str]):
    """A text for each row, a vector for each text; as many together as one request takes."""

    most_together = MOST_TEXTS

    def __init__(self, embedder: Embedder, template: TextTemplate) -> None:
        self.embedder = embedder
        self.row_parameters = RowParameters({})
        self.reader = EmbeddingReader(embedder.parameters.output_dtype)
        self._template = template

    @property
    def server(self) -> Server:
        return self.embedder.server

    @property
    def governor(self) -> Governor:
        return self.embedder.dispatcher.governor

    def prepare(self, row: Row) -> str:
        return self.embedder.check(self._template.render(row))

    def fingerprint(self, asked: str) -> bytes:
        return digest(asked.encode())

    def check_parameters(self, given: Mapping[str, Any]) -> dict[str, Any]:
        if given:
            raise InputError(
                f"embeddings have no generation parameters, such as {next(iter(given))}", hint="leave it out"
            )
        return {}

    def with_parameters(self, asked: str, parameters: Mapping[str, Any]) -> str:  # noqa: ARG002  there are none
        return asked

    def take(self, ready: deque[Task]) -> list[Task]:
        if _stands_alone(ready[0]):
            return super().take(ready)
        together = takewhile(lambda task: not _stands_alone(task), ready)
        return [ready.popleft() for _ in range(self.embedder.batch_size(task.asked for task in together))]

    async def answer(
        self, asked: Sequence[str], journal: RowJournal, pool: WorkerPool[Any]
    ) -> Sequence[Outcome]:
        return await self.embedder.answer(asked, journal, pool)

    def told(self, outcome: Outcome) -> tuple[Completion | None, ...]:
        return tuple(one and self._with_value(one) for one in outcome.completions)

    def _with_value(self, completion: Completion) -> Completion:
        (read,) = self.reader.read(completion.raw)
        return msgspec.structs.replace(completion, value=read.value)


def _stands_alone(task: Task) -> bool:
    return isinstance(task.asked, InputError) or task.state.has_answers


def digest(data: bytes) -> bytes:
    """16 bytes that tell the data from any other."""
    return hashlib.blake2b(data, digest_size=16).digest()


_encode_sorted = msgspec.json.Encoder(order="sorted").encode
