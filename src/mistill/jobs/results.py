"""The results of a job → answers and failed attempts in the ledger. Nothing of rows is known here, or needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import Struct

from mistill.api.batch_lines import ResultLine, read_lines
from mistill.api.client import HTTPAnswer
from mistill.api.prices import Price
from mistill.api.usage import Usage
from mistill.delivery.dispatcher import AnswerPart
from mistill.delivery.retry import as_failure, classify
from mistill.errors import MistillError
from mistill.estimates.budget import Budget
from mistill.jobs.job_files import JobFiles
from mistill.ledger import Job, JobRecord, Ledger, LineAttempt

T = TypeVar("T")

_LINES_TOGETHER = 500
_MOST_TOKENS_A_BYTE = 8

Split = Callable[[HTTPAnswer[Any], Sequence[int]], "Sequence[AnswerPart | MistillError] | None"]


class LineReader(Protocol):
    """Reads a line as a live request would have been answered: a `Dispatcher`."""

    @property
    def max_answer_bytes(self) -> int:
        """A line with more is broken."""
        ...

    def read_line(self, line: ResultLine, price: Price | None) -> HTTPAnswer[Any]:
        """Raises: MistillError: the line has no answer that is good for anything."""
        ...


class Taken(Struct):
    """What came of the lines of a job.

    Attributes:
        kept: lines that were taken over, failed ones too. ``broken``: that are no lines of results.
        unknown: of no attempt that waits for one, those that came twice too.
        fatal: a failure that no other row can survive, such as a key that is refused.
        failure: the last of any kind.
        unread: rows whose answer is on the bill, as it seems, and cannot be read.
        answers, tokens, longest_output_tokens, cost: of the answers among them.
    """

    kept: int = 0
    broken: int = 0
    unknown: int = 0
    fatal: MistillError | None = None
    failure: MistillError | None = None
    unread: int = 0
    answers: int = 0
    tokens: int = 0
    longest_output_tokens: int = 0
    cost: float = 0.0

    def add(self, usage: Usage, cost: float | None) -> None:
        self.answers += 1
        self.tokens += usage.input_tokens + usage.output_tokens
        self.longest_output_tokens = max(self.longest_output_tokens, usage.output_tokens)
        self.cost += cost or 0.0


class ResultReader:
    """Takes the results of jobs over into a ledger.

    Args:
        split: shares an answer out among the rows that it was asked for by; ``None``: it is the one row's.
        note_model: is told which model gave an answer.
    """

    def __init__(
        self,
        ledger: Ledger,
        files: JobFiles,
        lines: LineReader,
        split: Split,
        budget: Budget,
        note_model: Callable[[str | None], object],
    ) -> None:
        self._ledger = ledger
        self._files = files
        self._lines = lines
        self._split = split
        self._budget = budget
        self._note_model = note_model

    async def read(self, job: Job) -> Taken:
        """Returns when all that came is on disk. What was taken over before is passed by.

        Raises:
            LedgerError: a file cannot be read, or the ledger cannot be written.
        """
        taken, price = Taken(), price_of(job.record)
        with self._files.explained():
            for path in self._files.results(job.tag):
                for lines in _groups(
                    read_lines(path, max_bytes=self._lines.max_answer_bytes), _LINES_TOGETHER
                ):
                    waiting = await self._ledger.attempts_of_lines(job.id, [*_numbers(lines)])
                    # Of lines of one id, an answer goes before a failure.
                    for line in sorted(lines, key=attrgetter("has_failed")):
                        self._take(line, waiting, job, price, taken)
                    await self._ledger.flush()
        return taken

    def _take(
        self,
        line: ResultLine,
        waiting: dict[int, list[LineAttempt]],
        job: Job,
        price: Price | None,
        taken: Taken,
    ) -> None:
        if line.broken is not None:
            taken.broken += 1
            return
        number = _number(line)
        attempts = [] if number is None else waiting.pop(number, [])
        if not attempts:
            taken.unknown += 1
            return
        taken.kept += 1
        try:
            answer = self._believed(self._lines.read_line(line, price), attempts, job, price)
            parts = self._split(answer, [one.weight for one in attempts])
        except Exception as caught:
            error = as_failure(caught)
            self._fail(attempts, error)
            taken.failure = error
            taken.unread += len(attempts) if error.maybe_billed else 0
            if classify(error).fatal:
                taken.fatal = error
            return
        model = answer.response.model
        if answer.cost is None and self._budget.max_cost is not None:
            self._budget.note_unpriced(model)
        self._note_model(model)
        taken.add(answer.usage, answer.cost)
        if parts is None:
            self._ledger.answer(attempts[0].attempt, answer.raw, answer.usage, answer.cost, model)
            return
        for one, part in zip(attempts, parts, strict=True):
            if isinstance(part, MistillError):
                self._fail([one], part)
            elif one.awaits_answer:
                self._ledger.answer(one.attempt, part.body, part.usage, part.cost, model)

    def _believed(
        self, answer: HTTPAnswer[Any], attempts: Sequence[LineAttempt], job: Job, price: Price | None
    ) -> HTTPAnswer[Any]:
        """The answer with what it took; an estimate where it does not say that, or says what cannot be."""
        usage, wire = answer.usage, answer.response.usage
        most_output = math.ceil(job.record.most_output_tokens / max(1, job.record.lines))
        if wire is None or wire.prompt_tokens is None or (wire.completion_tokens is None and most_output > 0):
            self._budget.warn_of_estimates()
            usage = None
        asked = sum(one.weight for one in attempts) + 1
        spent = self._budget.estimated(usage, asked, most_output, tokens_a_byte=_MOST_TOKENS_A_BYTE)
        if spent is None:
            return answer
        cost = None if price is None else price.cost(spent.usage)
        return msgspec.structs.replace(answer, usage=spent.usage, cost=cost)

    def _fail(self, attempts: Sequence[LineAttempt], error: MistillError) -> None:
        classify(error)  # so that it says whether another attempt could help
        for one in attempts:
            if one.awaits_answer:
                self._ledger.end_attempt(
                    one.attempt, "maybe_billed" if error.maybe_billed else "failed", error
                )


def price_of(record: JobRecord) -> Price | None:
    """What the tokens of a job cost, as it was made at; ``None`` where that was not known."""
    return None if record.price is None else Price(*record.price)


def _number(line: ResultLine) -> int | None:
    """The attempt that a line is of, by what it says."""
    said = None if line.custom_id is None else line.custom_id.strip()
    return int(said) if said is not None and said.isascii() and said.isdigit() and len(said) <= 18 else None


def _numbers(lines: Iterable[ResultLine]) -> Iterator[int]:
    for line in lines:
        if (number := _number(line)) is not None:
            yield number


def _groups(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while group := list(islice(items, size)):
        yield group
