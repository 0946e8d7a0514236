"""One row with all that a run knows of it, as a page shows it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, cast

import msgspec
from msgspec import Struct

from mistill.errors import InputError, MistillError
from mistill.ledger import ErrorRecord, LedgerRow
from mistill.records.columns import add_columns
from mistill.runs.record_lines import added_columns
from mistill.runs.row_report import AttemptReport, OutcomeReport, RowReader, RowReport
from mistill.viewer.pages import RunRows
from mistill.viewer.texts import Text, page_json, page_text
from mistill.wording import in_python


class Part(Struct, frozen=True):
    """A text with a name: a column, or a message by who says it. ``name`` of the whole text: see `whole_text`."""

    name: str
    text: Text


class ShownOutcome(Struct, frozen=True, kw_only=True):
    """As `OutcomeReport`. ``settings``: JSON, empty where they are the run's own."""

    state: str
    finish_reason: str | None
    error: ErrorRecord | None
    answers: list[Text]
    input_tokens: int
    output_tokens: int
    cost: float | None
    ended_at: float | None
    settings: str
    mark: str | None
    note: str | None


class ShownAttempt(Struct, frozen=True, kw_only=True):
    """As `AttemptReport`."""

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
    settings: str
    answer: Text | None
    raw: Text | None
    job: str | None
    damaged: bool
    since: str | None


class ShownRow(Struct, frozen=True, kw_only=True):
    """As `RowReport`.

    Attributes:
        value: the columns that the run adds to the row, as its record has them: the answer by its schema, in columns
            where it is flattened. ``None``: there is no outcome.
    """

    row: int
    row_id: str | None
    record: list[Part]
    prompt: list[Part]
    prompt_error: str | None
    value: Text | None
    outcome: ShownOutcome
    earlier: list[ShownOutcome]
    attempts: list[ShownAttempt]
    copied: bool
    asked_again: bool


def find_row(rows: RunRows, position: int) -> LedgerRow:
    """The row at a position.

    Raises:
        InputError: there is none.
    """
    found = next(rows.reader.rows(first=position, until=position + 1), None)
    if found is None:
        last = rows.reader.last_position
        known = "none was read yet" if last is None else f"rows 0 to {last:,} were read"
        raise InputError(f"there is no row {position:,}", hint=known)
    return found


def show_row(rows: RunRows, position: int) -> ShownRow:
    """What there is to show of the row at a position.

    Raises:
        InputError: there is no such row.
    """
    row = find_row(rows, position)
    report = RowReader(rows.reader, rows.id_column).report(row)
    return ShownRow(
        row=report.row,
        row_id=None if report.row_id is None else page_text(report.row_id, 300).text,
        record=[Part(page_text(name, 300).text, page_json(value)) for name, value in report.record.items()],
        prompt=list(_messages(report.prompt)),
        prompt_error=None if report.prompt_error is None else page_text(report.prompt_error).text,
        value=_value(rows, row),
        outcome=_outcome(report.outcome),
        earlier=list(map(_outcome, report.earlier)),
        attempts=list(map(_attempt, report.attempts)),
        copied=report.copied,
        asked_again=report.asked_again,
    )


def whole_text(rows: RunRows, position: int, name: str) -> str:
    """A text of which a page has but the beginning.

    Args:
        name: where it stands in a `ShownRow`: ``record.2``, ``prompt.0``, ``value``, ``answer.0``, ``raw.17`` of the
            attempt with that number, ``earlier.0.1`` of an earlier outcome.

    Raises:
        InputError: there is no such row or text.
    """
    row = find_row(rows, position)
    report = RowReader(rows.reader, rows.id_column).report(row)
    found = _texts(report).get(name) if name != "value" else _own_columns(rows, row)
    if found is None:
        raise InputError(f"row {position:,} has no text {name!r}")
    return found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, indent=2)


def _texts(report: RowReport) -> dict[str, Any]:
    """Every long text of a row, by the name that `whole_text` is given."""
    texts: dict[str, Any] = {f"record.{place}": value for place, value in enumerate(report.record.values())}
    texts |= {f"prompt.{place}": content for place, (_, content) in enumerate(_contents(report.prompt))}
    texts |= {f"answer.{place}": text for place, text in enumerate(report.outcome.answers)}
    for number, outcome in enumerate(report.earlier):
        texts |= {f"earlier.{number}.{place}": text for place, text in enumerate(outcome.answers)}
    for attempt in report.attempts:
        texts |= {f"raw.{attempt.number}": attempt.raw, f"attempt.{attempt.number}": attempt.answer}
    return texts


def _contents(prompt: Any) -> Iterator[tuple[str, Any]]:
    """Who says what; of a text to embed, nobody."""
    if not isinstance(prompt, list):
        if prompt is not None:
            yield "text", prompt
        return
    for message in cast("list[dict[str, Any]]", prompt):
        rest = {name: value for name, value in message.items() if name != "role"}
        yield str(message.get("role")), rest["content"] if rest.keys() == {"content"} else rest


def _messages(prompt: Any) -> Iterator[Part]:
    for name, content in _contents(prompt):
        yield Part(page_text(name, 100).text, page_json(content))


def _own_columns(rows: RunRows, row: LedgerRow) -> Any:
    """What the run adds to the record of a row, as it goes out; or why that cannot be made."""
    try:
        return msgspec.json.decode(add_columns(b"{}", added_columns(row, rows.shape)))
    except (MistillError, ValueError, TypeError) as error:
        return str(error)


def _value(rows: RunRows, row: LedgerRow) -> Text | None:
    return None if row.state == "pending" else page_json(_own_columns(rows, row))


def _settings(changes: dict[str, Any]) -> str:
    return page_text(json.dumps(changes, ensure_ascii=False), 2000).text if changes else ""


def shown_error(error: ErrorRecord | None) -> ErrorRecord | None:
    """An error in words, as a page shows it."""
    if error is None:
        return None
    told = error.worded(in_python)
    hint = None if told.hint is None else page_text(told.hint).text
    return ErrorRecord(
        kind=page_text(told.kind, 100).text,
        message=page_text(told.message).text,
        hint=hint,
        status=told.status,
    )


def _outcome(outcome: OutcomeReport) -> ShownOutcome:
    return ShownOutcome(
        state=outcome.state,
        finish_reason=None if outcome.finish_reason is None else page_text(outcome.finish_reason, 100).text,
        error=shown_error(outcome.error),
        answers=list(map(page_text, outcome.answers)),
        input_tokens=outcome.input_tokens,
        output_tokens=outcome.output_tokens,
        cost=outcome.cost,
        ended_at=outcome.ended_at,
        settings=_settings(outcome.settings),
        mark=outcome.mark,
        note=outcome.note,
    )


def _attempt(attempt: AttemptReport) -> ShownAttempt:
    return ShownAttempt(
        number=attempt.number,
        sent_at=attempt.sent_at,
        seconds=attempt.seconds,
        status=attempt.status,
        input_tokens=attempt.input_tokens,
        cached_tokens=attempt.cached_tokens,
        output_tokens=attempt.output_tokens,
        cost=attempt.cost,
        model=None if attempt.model is None else page_text(attempt.model, 200).text,
        error=shown_error(attempt.error),
        settings=_settings(attempt.settings),
        answer=None if attempt.answer is None else page_text(attempt.answer),
        raw=None if attempt.raw is None else page_text(attempt.raw),
        job=attempt.job,
        damaged=attempt.damaged,
        since=None if attempt.since is None else page_text(attempt.since, 200).text,
    )
