"""What a kind of run is: what it asks of a row, how the answer is read, and what of it goes into a record.

The run loop knows no kind. A kind is one file beside this one and one line of the registry in ``kinds/__init__.py``.
"""

from __future__ import annotations

import hashlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Final, Generic, TypeVar

from msgspec import Struct

from mistill.api.client import HTTPAnswer
from mistill.api.usage import Usage
from mistill.datasets.sources import Row
from mistill.datasets.writers import Vectors
from mistill.delivery.cache_key import CacheKey
from mistill.delivery.dispatcher import AnswerPart, Delivered, Dispatcher, Send
from mistill.delivery.retry import classify
from mistill.errors import InputError, MistillError
from mistill.kinds.manifest import RunManifest
from mistill.kinds.options import RunOptions
from mistill.ledger import AnswerTerms, KnownAttempt, PaidAnswer, RowState
from mistill.llms.generation import Server
from mistill.llms.types import Completion, Outcome
from mistill.prompts.beginnings import Met
from mistill.prompts.prompt_layout import PromptLayout
from mistill.prompts.row_parameters import RowParameters
from mistill.structured.schema import OutputSchema
from mistill.wording import Setting, words

A = TypeVar("A")

_log = logging.getLogger("mistill")


class PendingRow(Struct, frozen=True, gc=False):
    """A row that is to be asked.

    Attributes:
        prepared: what is sent of it; an error where it cannot be sent: its outcome, which costs nothing.
        known: what came of its requests before, oldest first.
    """

    state: RowState
    row: Row
    prepared: Any
    known: Sequence[KnownAttempt] = ()

    def stands_alone(self, max_retries: int) -> bool:
        """It is not sent together with others: it cannot be sent, or more is known of it than that a request which it
        was part of failed once, as any may."""
        if isinstance(self.prepared, InputError):
            return True
        failures = 0
        for one in self.known:
            if one.error is None:
                return True
            decision = classify(one.error.to_error())
            if not decision.retry and not decision.fatal:
                return True
            failures += not decision.fatal
        return failures > min(1, max_retries)


class RequestSize(Struct, frozen=True, gc=False):
    """About how large a row's request is, and what may come of it.

    Attributes:
        input_tokens: as estimated, see ``mistill.api.token_estimate``.
        most_output_tokens: of its answers; ``None`` where nothing bounds them.
        requests: in how many it goes; part of one, where rows go together.
    """

    input_tokens: int
    most_output_tokens: int | None
    requests: float


MARK_COLUMNS: Final = ("mark", "note")
"""What people said of a row's outcome, as columns of a record."""


class AnswerFields(Struct, frozen=True, gc=False):
    """What the answers of one row give to its record.

    Attributes:
        columns: columns of ours.
        value: of the first answer, where a schema reads it; of all of them, where a row has several.
        is_empty: there is nothing in some answer, neither a text nor a tool call.
    """

    columns: dict[str, Any]
    value: Any = None
    is_empty: bool = False


class AnswerReader(ABC):
    """Reads answers that a ledger has kept. Token counts and cost are the ledger's own, so they are left at nothing.

    Attributes:
        schema: what answers must fit, where they must.
        vectors: columns of ours that have vectors.
        always_fits: each answer that was good makes a record as asked, and has content.
    """

    always_fits: ClassVar[bool] = False
    schema: OutputSchema | None = None
    vectors: Mapping[str, Vectors] = {}

    @abstractmethod
    def read(self, body: bytes) -> list[Completion]:
        """The completions in one body.

        Raises:
            MistillError: it is no answer, or what is in it does not fit.
        """

    @abstractmethod
    def fields(self, bodies: Sequence[bytes], *, several: bool) -> AnswerFields:
        """What the bodies of one row give to its record.

        Args:
            several: a column has a list, since each row has several generations.

        Raises:
            MistillError: a body is no answer, or what is in it does not fit.
        """

    def as_text(self, body: bytes) -> str:
        """A body for people to read."""
        return body.decode(errors="replace")


class Kind(ABC, Generic[A]):
    """A kind of run, made ready for one. ``A`` is a row made ready to be sent.

    Attributes:
        manifest_type: its manifest.
        columns: what a record has of an answer and its row's end, in order, by our own names.
        extra_columns: what it has besides, where that is asked for.
        row_columns: what is sent of a row where there is no template: the first of these that it has.
        unused_options: options of a run that it does not have.
        asked_for: what it asks a model for, in the plural: who has no such option or parameter, in an error's words.
        has_texts: an answer is a text or a tool call, and may be without either.
        batch_path: the endpoint that lines of a batch job are requests to; ``None``: it has no batch jobs.
        manifest: what makes it the same run.
        llm_settings: the model as dumped, to make it again for a retry; no secret is in it. It has the endpoint, which
            is not in the manifest: another host of the same model answers the same rows.
        reader: reads answers that a ledger has kept.
        dispatcher: sends its requests.
        server: what answers them.
        row_parameters: the columns that have rows' own parameters.
        num_generations: answers for each row.
        max_rows_together: rows that one request can ask at the most.
        may_be_priority: nothing rules out that answers come from the priority tier, which costs more.
        reads_files: of those that rows name, so that whatever reads them belongs into a thread.
    """

    manifest_type: ClassVar[type[RunManifest]]
    columns: ClassVar[tuple[str, ...]]
    extra_columns: ClassVar[tuple[str, ...]]
    row_columns: ClassVar[tuple[str, ...]]
    unused_options: ClassVar[frozenset[str]] = frozenset()
    asked_for: ClassVar[str] = "runs of this kind"
    has_texts: ClassVar[bool] = True
    batch_path: ClassVar[str | None] = None

    manifest: RunManifest
    llm_settings: dict[str, Any]
    reader: AnswerReader
    dispatcher: Dispatcher[Any]
    server: Server
    row_parameters: RowParameters = RowParameters({})
    num_generations: int = 1
    max_rows_together: int = 1
    may_be_priority: bool = False
    reads_files: bool = False

    @abstractmethod
    def __init__(self, llm: Any, options: RunOptions) -> None:
        """The kind for a run of ``llm`` with such options.

        Raises:
            InputError: a template, a parameter or a schema is wrong.
        """

    @classmethod
    @abstractmethod
    def reader_of(
        cls, manifest: Any, llm: Mapping[str, Any], schema: Any = None, *, trust: bool = False
    ) -> AnswerReader:
        """What reads the answers of a run of this kind, for which no model is needed.

        Args:
            manifest: the run's. ``llm``: the model as it was dumped.
            schema: reads them in place of the run's own; ``None``: that one.
            trust: ``llm`` is your own: a class that it names is imported.

        Raises:
            InputError: no schema reads such answers, or it is wrong.
        """

    @classmethod
    @abstractmethod
    def prompts_of(cls, manifest: Any) -> Callable[[Row], Any]:
        """What makes a row's prompt, as JSON values, for which no model is needed. It raises as `prepare` does."""

    @classmethod
    @abstractmethod
    def text_of(cls, body: bytes) -> str:
        """An answer that a ledger has kept, as a person reads it; whatever it is, and whether or not it fits."""

    @classmethod
    @abstractmethod
    def model_of(cls, body: bytes) -> str | None:
        """Which model an answer that a ledger has kept says that it is of; ``None``: none, or it is no answer."""

    @classmethod
    @abstractmethod
    def terms_of(cls, body: bytes) -> AnswerTerms | None:
        """By what an answer that a ledger has kept is billed, as far as it says so; ``None``: it is no answer."""

    def check_source(self, header: Sequence[str] | None, media_kinds: frozenset[str]) -> None:
        """Refuses an input that no row of which could be asked.

        Args:
            header: the columns, where no row has another.
            media_kinds: what its rows name, where they were made of files of images and the like.

        Raises:
            InputError: a column is missing; or nothing would send the files.
        """
        if header is not None:
            self.row_parameters.check_columns(header)
        if media_kinds:
            raise InputError(
                f"{self.asked_for} send no {', '.join(sorted(media_kinds))}", hint="give rows of text"
            )

    def digests(self, rows: Sequence[Row]) -> list[bytes]:
        """16 bytes for each row that tell it, with all that its request is made of, from any other."""
        return [digest(row.raw) for row in rows]

    @abstractmethod
    def prepare(self, row: Row) -> A:
        """The row, ready to be sent.

        Raises:
            InputError: it cannot be; names the row.
        """

    @abstractmethod
    def fingerprint(self, prepared: A) -> bytes:
        """16 bytes that tell it from any other request of this run."""

    def files_of(self, prepared: A) -> str:  # noqa: ARG002  most have none
        """What its files are called, for a message."""
        return ""

    @abstractmethod
    def size_of(self, prepared: A) -> RequestSize:
        """About how large its request is."""

    @abstractmethod
    def answer(self, prepared: Sequence[A], send: Send[Any]) -> Coroutine[Any, Any, Sequence[Outcome]]:
        """One outcome for each of the rows, which are asked together. Raises only what ends the whole run."""

    def met(self, prepared: A, key: CacheKey | None) -> Met:  # noqa: ARG002  most have none
        """How a row's prompt begins, as far as it can be cached.

        Args:
            key: under which it is, by `cache_keys`.
        """
        return Met(b"", [])

    @property
    def rows_have_limits(self) -> bool:
        """A row may say how long its answers may be."""
        return False

    def cache_keys(self) -> Callable[[A], CacheKey | None] | None:
        """What has the ``prompt_cache_key`` of each row, for one start; ``None``: no row has one."""
        return None

    def see_first(self, prepared: Sequence[A]) -> None:
        """Says what may be better done otherwise, by the first rows of an input that are asked."""

    @property
    def cached_layout(self) -> PromptLayout | None:
        """What of its prompts is the same in all rows; ``None`` where nothing is cached for money."""
        return None

    @abstractmethod
    def delivered(self, answer: PaidAnswer) -> Delivered[Any]:
        """An answer that a ledger has kept of a row, as its request was given it when it came.

        Raises:
            MalformedAnswer: it is none.
        """

    def split(
        self,
        answer: HTTPAnswer[Any],  # noqa: ARG002  all of it is the one row's, as a rule
        weights: Sequence[int],  # noqa: ARG002
    ) -> list[AnswerPart | MistillError] | None:
        """A part of an answer for each of the rows that its request asked, or why there is none for the row.

        Args:
            weights: of the rows: about how long each is. What the answer took and cost is shared out by them.

        Returns ``None`` where all of it is the one row's.

        Raises:
            MistillError: it is of no use to any of them.
        """
        return None

    def together(self, ready: Sequence[PendingRow]) -> int:  # noqa: ARG002  one is one
        """How many of the first rows of ``ready``, where there is one at least, one request asks.

        Not called where ``max_rows_together`` is 1.
        """
        return 1

    def with_values(self, outcome: Outcome) -> tuple[Completion | None, ...]:
        """The completions of an outcome as whoever iterates over the run is given them, values read."""
        return outcome.completions


def usage_in(answer: PaidAnswer) -> Usage:
    """What an answer took, as the ledger counts it."""
    return Usage(answer.input_tokens, answer.output_tokens, answer.cached_tokens)


def digest(data: bytes) -> bytes:
    """16 bytes that tell the data from any other."""
    return hashlib.blake2b(data, digest_size=16).digest()


def warn_of_doubts(doubts: Iterable[str]) -> None:
    """Says what may be meant otherwise in a template."""
    for doubt in doubts:
        _log.warning("%s", doubt)


def refuse_unused(kind: type[Kind[Any]], options: RunOptions) -> None:
    """``InputError`` if an option is given that the kind does not have."""
    for name, value in options.given().items():
        if name in kind.unused_options:
            raise InputError(
                words(Setting(name, value), f": {kind.asked_for} have no such setting"), hint="leave it out"
            )
