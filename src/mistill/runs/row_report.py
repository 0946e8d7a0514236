"""`RowReport`: everything that a run knows of one row, from its ledger alone: what was asked, and what came of it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mistill.datasets.sources import name_of
from mistill.errors import InputError, MistillError
from mistill.kinds.kept_settings import find_run, read_manifest, read_options
from mistill.kinds.kind import AnswerReader, Kind
from mistill.ledger import EarlierOutcome, ErrorRecord, LedgerReader, LedgerRow, PastAttempt, named
from mistill.ledger.conditions import look_up
from mistill.ledger.error_record import decode_error
from mistill.records.columns import nearest_and_all
from mistill.runs.record_shape import RecordShape, shape_of
from mistill.runs.where import SeenColumns
from mistill.wording import Setting, words

_MAX_NAMED = 5


class AttemptReport(Struct, frozen=True, kw_only=True):
    """One attempt at a row. Times in unix seconds.

    Attributes:
        number: among those of its row, from 1. ``status``: how it ended; ``None`` where nothing has ended it.
        since: why it was made, where the row had been asked before: ``attempt 1 failed (rate_limited)``.
        seconds: from sending to its end.
        cached_tokens: those of ``input_tokens`` that the server had cached.
        cost: US dollars; ``None`` where no price is known. ``model``: which one answered, as it says.
        error: why it got no answer, or why the answer does not fit.
        settings: what it was asked with in place of the run's own settings.
        answer: the answer's text. ``raw``: its body as it came.
        job: the tag of the batch job that it is in; ``None``: it was a request of its own.
        damaged: the ledger did not write its figures, or its error, so.
    """

    number: int
    sent_at: float
    seconds: float | None
    status: str | None
    input_tokens: int | None
    cached_tokens: int | None
    output_tokens: int | None
    cost: float | None
    model: str | None
    error: ErrorRecord | None
    settings: dict[str, Any]
    answer: str | None
    raw: str | None
    job: str | None = None
    damaged: bool = False
    since: str | None = None


class OutcomeReport(Struct, frozen=True, kw_only=True):
    """How a row ended, for good or until a better outcome came.

    Attributes:
        state: ``completion`` or ``failure``; ``pending`` where the row has not ended yet.
        answers: the texts of its answers, one a generation as a rule.
        settings: what it was asked with in place of the run's own settings.
        cost: US dollars, of all that it took. ``ended_at``: unix seconds.
        mark: what somebody said of it who looked at it, ``good`` or ``bad``. ``note``: and wrote.
    """

    state: str
    finish_reason: str | None
    error: ErrorRecord | None
    answers: list[str]
    input_tokens: int
    output_tokens: int
    cost: float | None
    ended_at: float | None
    settings: dict[str, Any]
    mark: str | None = None
    note: str | None = None


class RowReport(Struct, frozen=True, kw_only=True):
    """A row of a run.

    Attributes:
        row: its place in the input, from 0. ``record``: the row as it was read.
        row_id: what it calls itself, ``id 'a7'``, where a column that says it is known.
        prompt: what was asked, rendered once more: messages, or a text to embed; ``None`` where none can be made of it.
        prompt_error: why none can.
        outcome: how it ended. ``earlier``: outcomes that a later one replaced, the oldest first.
        attempts: all that were ever made at it, the oldest first.
        copied: it shares the outcome, and the attempts, of an identical row.
        asked_again: a retry is to ask it.
    """

    row: int
    row_id: str | None
    record: dict[str, Any]
    prompt: Any
    prompt_error: str | None
    outcome: OutcomeReport
    earlier: list[OutcomeReport]
    attempts: list[AttemptReport]
    copied: bool
    asked_again: bool

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        return msgspec.to_builtins(self)


def read_row(
    out: str | Path, row: int | str, *, ledger: str | Path | None = None, id_column: str | None = None
) -> RowReport:
    """What the run that writes ``out`` knows of a row. No key is needed, and a run may be writing meanwhile.

    Args:
        out: the run's output, or its ledger.
        row: its place in the input, from 0; or its id, where it is a text, or where ``id_column`` is given.
        ledger: where the run remembers, if not beside ``out``.
        id_column: which column has ids; that of the run, if it has one, unless given.

    Raises:
        InputError: there is no such run, or it has no such row, or several of that id.
        LedgerError: its ledger cannot be read.
    """
    _, path = find_run(out, ledger)
    with LedgerReader(path) as reader:
        column = id_column or read_options(reader).get("id_column")
        position = position_of(row, id_column, reader)
        found = next(reader.rows(first=position, until=position + 1), None)
        if found is None or found.position != position:
            raise InputError(
                f"there is no row {row}", hint=f"{reader.counts().rows:,} were read, and they count from 0"
            )
        return RowReader(reader, column).report(found)


def position_of(row: int | str, id_column: str | None, reader: LedgerReader) -> int:
    """The place in the input of the row that somebody names: ``row`` and ``id_column`` as for `read_row`.

    Raises:
        InputError: no row has that id, or several have. A place is not looked for.
    """
    if isinstance(row, int) and id_column is None:
        return row
    return _position_of(str(row), id_column or read_options(reader).get("id_column"), reader)


def _position_of(row_id: str, column: str | None, reader: LedgerReader) -> int:
    """The place of the one row that has this id."""
    if column is None:
        raise InputError(
            f"there is no row {row_id!r}: rows count from 0",
            hint=words("to find one by its id, say which column has it: ", Setting("id_column")),
        )
    columns, found = SeenColumns([column]), list[int]()
    for row in reader.rows():
        record: dict[str, Any] = msgspec.json.decode(row.record)
        columns.see(record)
        if str(look_up(record, column)) == row_id:
            found.append(row.position)
    if columns.missing and columns.known:
        raise InputError(
            words(Setting("id_column"), f": no row has a column {column!r}"),
            hint=nearest_and_all(column, columns.known),
        )
    if len(found) != 1:
        several = (
            f"{len(found):,} rows have the {column} {row_id!r}: {', '.join(map(str, found[:_MAX_NAMED]))}"
        )
        more = ", …" if len(found) > _MAX_NAMED else ""
        raise InputError(
            f"{several}{more}" if found else f"no row has the {column} {row_id!r}",
            hint="give the number of one" if found else None,
        )
    return found[0]


class RowReader:
    """Makes reports of rows that were read."""

    def __init__(self, reader: LedgerReader, id_column: str | None) -> None:
        self._reader = reader
        self._id_column = id_column
        self._kind: type[Kind[Any]] = read_manifest(reader)[0]
        self._shape: RecordShape = shape_of(reader)
        self._tags = {job.id: job.tag for job in reader.jobs()}

    def report(self, row: LedgerRow) -> RowReport:
        earlier = self._reader.earlier_outcomes(row.leader)
        prompt, problem = None, None
        try:
            prompt = self._shape.settings_of(row).prompt_of(row)
        except InputError as error:
            problem = str(error)
        return RowReport(
            row=row.position,
            row_id=name_of(row.record, self._id_column),
            record=msgspec.json.decode(row.record),
            prompt=prompt,
            prompt_error=problem,
            outcome=self._outcome(row, row),
            earlier=[self._outcome(one, row) for one in earlier],
            attempts=_with_reasons(
                [
                    self._attempt(number, one)
                    for number, one in enumerate(self._reader.attempts_of(row.leader), start=1)
                ],
                [*earlier, *(() if row.ended_at is None else (row,))],
            ),
            copied=row.copied,
            asked_again=row.asked_again,
        )

    def _outcome(self, outcome: LedgerRow | EarlierOutcome, row: LedgerRow) -> OutcomeReport:
        """Of a row as it is, or of an earlier outcome of it."""
        said = self._reader.mark_of(row.row, outcome.ended_at)
        return OutcomeReport(
            state=outcome.state,
            finish_reason=outcome.finish_reason,
            error=None if outcome.error is None else decode_error(outcome.error),
            answers=[self._kind.text_of(body) for body in outcome.answers],
            input_tokens=outcome.input_tokens,
            output_tokens=outcome.output_tokens,
            cost=outcome.cost,
            ended_at=outcome.ended_at,
            settings=self._shape.changes_of(outcome.settings),
            mark=None if said is None else said.mark,
            note=None if said is None else said.note,
        )

    def _attempt(self, number: int, attempt: PastAttempt) -> AttemptReport:
        body, answers = attempt.body, self._shape.answers_of(attempt.settings)
        error = None if attempt.error is None else decode_error(attempt.error)
        return AttemptReport(
            number=number,
            sent_at=attempt.sent_at,
            seconds=None if attempt.ended_at is None else attempt.ended_at - attempt.sent_at,
            status=attempt.status,
            input_tokens=attempt.input_tokens,
            cached_tokens=attempt.cached_tokens,
            output_tokens=attempt.output_tokens,
            cost=attempt.cost,
            model=None if body is None else named(self._kind.model_of(body)),
            error=error if error is not None or body is None else _misfit(answers, body),
            settings=self._shape.changes_of(attempt.settings),
            answer=None if body is None else self._kind.text_of(body),
            raw=None if body is None else answers.as_text(body),
            job=None if attempt.job is None else self._tags.get(attempt.job, str(attempt.job)),
            damaged=attempt.damaged,
        )


def _misfit(answers: AnswerReader, body: bytes) -> ErrorRecord | None:
    """Why an answer does not fit; ``None``: it does."""
    try:
        answers.read(body)
    except MistillError as error:
        return ErrorRecord.of(error)
    return None


def _with_reasons(
    attempts: Iterable[AttemptReport], outcomes: Iterable[EarlierOutcome | LedgerRow]
) -> list[AttemptReport]:
    """Attempts with why each was made: for an outcome that was to be a better one, or for one that had come to nothing.

    Of several generations, each has attempts of its own at the same time: one that failed is the reason of one other.
    """
    found: list[AttemptReport] = []
    open_ones: list[AttemptReport] = []
    ends = [(one.ended_at or 0.0, one) for one in outcomes]
    for attempt in attempts:
        since = None
        while ends and ends[0][0] <= attempt.sent_at:
            since, open_ones = _of_outcome(ends.pop(0)[1]), []
        over = [one for one in open_ones if _ended_at(one) <= attempt.sent_at]
        if since is None and over:
            last = max(over, key=_ended_at)
            open_ones.remove(last)
            since = _of_attempt(last)
        attempt = msgspec.structs.replace(attempt, since=since)
        found.append(attempt)
        if attempt.error is not None or attempt.status not in ("answered", None):
            open_ones.append(attempt)
    return found


def _ended_at(attempt: AttemptReport) -> float:
    return attempt.sent_at + (attempt.seconds or 0.0)


def _of_outcome(outcome: EarlierOutcome | LedgerRow) -> str:
    if outcome.state == "completion":
        return "the row was to be asked again"
    kind = "" if outcome.error is None else f" ({decode_error(outcome.error).kind})"
    return f"the row had failed{kind}"


def _of_attempt(attempt: AttemptReport) -> str:
    kind = "" if attempt.error is None else f" ({attempt.error.kind})"
    if attempt.status == "answered":
        return f"the answer of attempt {attempt.number} does not fit{kind}"
    ended = {"failed": "failed", "not_sent": "was not sent"}.get(attempt.status or "", "had no answer")
    return f"attempt {attempt.number} {ended}{kind}"
