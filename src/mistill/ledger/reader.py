"""The reading side of a ledger: for the output, for status, for triage; while a run writes, and after."""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from mistill.ledger import database
from mistill.ledger.error_record import ErrorRecord, decode_error
from mistill.ledger.selection import EVERYTHING, Selection


class LedgerRow(msgspec.Struct, frozen=True, gc=False):
    """A row of the current input with its outcome.

    ``record``: the row of the input, JSON; ``answers``: the raw bodies of its generations; ``error``: the
    JSON of an `ErrorRecord`; ``parameters``: JSON of what the outcome was asked with over the run's own;
    ``asked_again``: a retry of it is due, with ``next_parameters``, and this is still the earlier outcome;
    ``copied``: it shares the outcome of an identical row, and cost nothing; ``ended_at``: unix seconds;
    ``cost``: US dollars.
    """

    row: int
    position: int
    record: bytes
    state: Literal["completion", "failure", "pending"]
    answers: tuple[bytes, ...]
    finish_reason: str | None
    error: str | None
    input_tokens: int
    output_tokens: int
    cost: float | None
    ended_at: float | None
    parameters: str | None
    next_parameters: str | None
    maybe_billed: bool
    asked_again: bool
    copied: bool


class EarlierOutcome(msgspec.Struct, frozen=True):
    """An outcome that a later one replaced; fields as in ``LedgerRow``."""

    state: Literal["completion", "failure"]
    answers: tuple[bytes, ...]
    finish_reason: str | None
    error: str | None
    input_tokens: int
    output_tokens: int
    cost: float | None
    ended_at: float
    parameters: str | None


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of the current input by state (``rows`` is their sum), and the attempts of all rows ever.

    Rows that are to be asked again count as pending. ``cached_tokens`` are some of ``input_tokens``. ``cost``: US
    dollars, of attempts whose price is known; ``None`` where there are answers and none has
    one.
    """

    rows: int
    completions: int
    failures: int
    pending: int
    no_longer_in_input: int
    attempts: int
    maybe_billed: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: float | None
    input_was_read_to_its_end: bool

    @property
    def is_finished(self) -> bool:
        """Every row of the input has an outcome."""
        return self.input_was_read_to_its_end and not self.pending


class Cause(msgspec.Struct, frozen=True):
    """Failures of one kind: how many, and the first row that has one, with its error. Rows count from 0."""

    kind: str
    count: int
    row: int
    error: ErrorRecord


class Start(msgspec.Struct, frozen=True):
    """One start of the run: a process that worked on it. Times in unix seconds.

    ``ended_at`` is ``None`` while it goes on, and for ever where it was killed. ``record`` is what it said of itself,
    as JSON.
    """

    number: int
    started_at: float
    ended_at: float | None
    record: bytes


class LedgerReader:
    """Reads a ledger, never writes it, whether or not a run is writing it.

    Raises:
        LedgerError: there is none, it is of another format, or it is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._connection = database.open_to_read(self.path)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def manifest(self) -> bytes:
        """What makes it the same run, as JSON, as ``Ledger.open`` was given it."""
        return self._meta("manifest")

    def settings(self) -> bytes:
        """What the last start was set to beside the manifest, as JSON, as ``Ledger.open`` was given it."""
        return self._meta("settings")

    def _meta(self, key: str) -> bytes:
        with database.explained(self.path):
            return (database.read_meta(self._connection, key) or "{}").encode()

    def starts(self) -> list[Start]:
        """The starts of the run, the oldest first. Those of before format 2 are not known."""
        with database.explained(self.path):
            found = self._connection.execute(
                "SELECT id, started_at, ended_at, record FROM starts ORDER BY id"
            ).fetchall()
        return [Start(number, started, ended, record.encode()) for number, started, ended, record in found]

    def finish_reasons(self) -> dict[str, int]:
        """Why answers ended → how many answered rows of the current input, the most frequent first."""
        with database.explained(self.path):
            found = self._connection.execute(
                """SELECT finish_reason, count(*) AS rows FROM row_states
                   WHERE position IS NOT NULL AND state = 'completion' AND finish_reason IS NOT NULL
                   GROUP BY finish_reason ORDER BY rows DESC, finish_reason"""
            ).fetchall()
        return dict(found)

    def latencies_s(self, shares: Sequence[float]) -> list[float]:
        """Seconds within which such shares (0 to 1) of all answers came; empty where there is no answer yet."""
        with database.explained(self.path):
            answers = self._connection.execute(
                "SELECT count(*) FROM attempts WHERE status = 'answered'"
            ).fetchone()[0]
            if not answers:
                return []
            places = [max(0, math.ceil(share * answers) - 1) for share in shares]
            sorted_s = self._connection.execute(
                "SELECT ended_at - sent_at AS s FROM attempts WHERE status = 'answered' ORDER BY s"
            )
            wanted = set(places)
            found = {place: max(0.0, s) for place, (s,) in enumerate(sorted_s) if place in wanted}
        return [found[place] for place in places]

    def rows(self, selection: Selection = EVERYTHING) -> Iterator[LedgerRow]:
        """The selected rows of the current input, in its order, one in memory at a time."""
        with database.explained(self.path):
            for *values, more_answers in self._connection.execute(
                f"""SELECT id, position, record, state, body, finish_reason, error,
                        coalesce(input_tokens, 0), coalesce(output_tokens, 0), cost, ended_at, parameters,
                        next_parameters, maybe_billed, asked_again, same_as, more_answers
                    FROM row_states JOIN records ON records.row = id LEFT JOIN answers ON attempt = answer
                    WHERE position IS NOT NULL AND {selection.sql} ORDER BY position""",  # noqa: S608 - our own words
                selection.values,
            ):
                yield self._row(values, more_answers)

    def earlier_outcomes(self, row: int) -> list[EarlierOutcome]:
        """How a row (``LedgerRow.row``) ended before it was asked again or tried again, the oldest first."""
        with database.explained(self.path):
            found = self._connection.execute(
                """SELECT state, answer, more_answers, finish_reason, error, input_tokens, output_tokens, cost,
                       ended_at, parameters
                   FROM earlier_outcomes WHERE row = ? ORDER BY rowid""",
                (row,),
            ).fetchall()
            return [
                EarlierOutcome(state, self._bodies(answer, more_answers), *rest)
                for state, answer, more_answers, *rest in found
            ]

    def counts(self) -> Counts:
        """How far the run is. Reads every row's state: about 0.5 s for a million."""
        with database.explained(self.path):
            return count_rows(self._connection)

    def failures(self) -> list[Cause]:
        """Failures of the current input by kind of error, the most frequent first."""
        with database.explained(self.path):
            found = self._connection.execute(
                # With min(), SQLite takes the error from the row that has the minimum
                # (https://www.sqlite.org/lang_select.html#bareagg).
                """SELECT error_kind, count(*) AS failed, min(position), error
                   FROM row_states WHERE position IS NOT NULL AND state = 'failure'
                   GROUP BY error_kind ORDER BY failed DESC, error_kind"""
            ).fetchall()
        return [Cause(kind, failed, row, decode_error(error)) for kind, failed, row, error in found]

    def _row(self, values: list[Any], more_answers: str | None) -> LedgerRow:
        (
            row, position, record, state, body, finish_reason, error, input_tokens, output_tokens, cost,
            ended_at, parameters, next_parameters, maybe_billed, asked_again, same_as,
        ) = values  # fmt: skip
        answers = () if body is None else (body,)
        if more_answers is not None:
            answers += tuple(self._body(attempt) for attempt in json.loads(more_answers))
        copied = same_as is not None
        if copied:  # its leader paid
            input_tokens, output_tokens, cost = 0, 0, 0.0
        return LedgerRow(
            row, position, record, state, answers, finish_reason, error, input_tokens, output_tokens, cost,
            ended_at, parameters, next_parameters, bool(maybe_billed), bool(asked_again), copied,
        )  # fmt: skip

    def _bodies(self, answer: int | None, more_answers: str | None) -> tuple[bytes, ...]:
        attempts = [] if answer is None else [answer, *json.loads(more_answers or "[]")]
        return tuple(self._body(attempt) for attempt in attempts)

    def _body(self, attempt: int) -> bytes:
        return self._connection.execute("SELECT body FROM answers WHERE attempt = ?", (attempt,)).fetchone()[
            0
        ]


def count_rows(connection: sqlite3.Connection) -> Counts:
    """``LedgerReader.counts`` on any connection."""
    completions, failures, rows = connection.execute(
        """SELECT
               coalesce(sum(state = 'completion' AND NOT asked_again), 0),
               coalesce(sum(state = 'failure' AND NOT asked_again), 0),
               count(*)
           FROM row_states WHERE position IS NOT NULL"""
    ).fetchone()
    every = connection.execute("SELECT count(*) FROM rows").fetchone()[0]
    took = connection.execute(
        # total(), since sum() fails on integers that overflow.
        """SELECT count(*), coalesce(sum(status = 'maybe_billed'), 0), CAST(total(input_tokens) AS INTEGER),
               CAST(total(output_tokens) AS INTEGER), CAST(total(cached_tokens) AS INTEGER),
               CASE WHEN count(cost) OR NOT count(input_tokens) THEN total(cost) END
           FROM attempts"""
    ).fetchone()
    total = database.read_meta(connection, "input_rows")
    attempts, maybe_billed, input_tokens, output_tokens, cached_tokens, cost = took
    return Counts(
        rows=rows,
        completions=completions,
        failures=failures,
        pending=rows - completions - failures,
        no_longer_in_input=every - rows,
        attempts=attempts,
        maybe_billed=maybe_billed,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_tokens=cached_tokens,
        cost=cost,
        input_was_read_to_its_end=total is not None and int(total) == rows,
    )
