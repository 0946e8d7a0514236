"""The ledger's tables, as its newest format has them.

Thin tables (rows, attempts, outcomes) are apart from fat ones (records, answers), so that a resume or a count over a
million rows reads tens of megabytes, not the dataset.

What ``meta`` has: ``manifest`` and ``settings`` (JSON, see `Ledger.open`), ``created_at``, ``mistill_version``,
``schema`` (a checksum of these tables' own words), ``dedupe``, ``answers_by_model`` (see
``model_counts``), and ``input_rows`` once the input was read to its end.

``settings`` has what retries asked with in place of the run's own settings, each once: a JSON object that whoever
opens the ledger makes. Where a column ``settings`` is NULL, it was the run's own.

Attempts at rows that one request asks have the first one's number as their ``request``; where it is NULL, the request
asks one row. ``asked`` is the CRC-32 of the request's body; it is NULL in attempts of before format 5.

``jobs`` has what the server answers in its own time, a file of requests each, and ``attempts.job`` in which job an
attempt is; NULL: it is a request of its own. While it is open, its ``input_tokens`` are what it weighs, see
`PlannedAttempt`.

``marks`` has what people say of outcomes that they have looked at: by the row, and by when that outcome came, so that
no mark is taken for one of a later answer. They are written beside the run that may be on the ledger, see ``marks``.

Every table has checksums, see ``checksums``. Whoever writes a line works its sum out; those of ``rows``, whose lines
are changed many at once, follow by a trigger. A line that did not fit its sum before still does not after.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

APPLICATION_ID = 0x4D53544C  # "MSTL": tells a ledger from any other SQLite file
FORMAT = 6

Mark = Literal["good", "bad"]
JobState = Literal[
    "planned", "uploaded", "creating", "running", "ended", "fetched", "read", "doubtful", "dropped"
]
OVER = ("read", "dropped")
"""Of these nothing comes any more."""

# A row is in the current input when it has a position; a row that was removed keeps what was paid for it.
# A copied row (same_as) shows its leader's outcome: that is derived, so the two cannot differ.
_TABLES = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL, checksum INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE settings (id INTEGER PRIMARY KEY, settings TEXT NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE starts (
    id INTEGER PRIMARY KEY,
    started_at REAL NOT NULL,
    ended_at REAL,
    record TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE jobs (
    id INTEGER PRIMARY KEY,
    tag TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL CHECK (state IN ({", ".join(f"'{state}'" for state in get_args(JobState))})),
    changed_at REAL NOT NULL,
    record TEXT NOT NULL,
    checksum INTEGER NOT NULL
);
CREATE TABLE rows (
    id INTEGER PRIMARY KEY,
    position INTEGER,
    fingerprint BLOB NOT NULL,
    digest BLOB NOT NULL,
    asked_again INTEGER NOT NULL DEFAULT 0,
    maybe_billed INTEGER NOT NULL DEFAULT 0,
    same_as INTEGER,
    settings INTEGER,
    checksum INTEGER NOT NULL
);
CREATE UNIQUE INDEX rows_position ON rows (position);
CREATE TABLE records (row INTEGER PRIMARY KEY, record BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    row INTEGER NOT NULL,
    sent_at REAL NOT NULL,
    ended_at REAL,
    status TEXT CHECK (status IN ('answered', 'failed', 'maybe_billed', 'not_sent')),
    error TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost REAL,
    cached_tokens INTEGER,
    settings INTEGER,
    request INTEGER,
    job INTEGER,
    asked INTEGER,
    checksum INTEGER NOT NULL
);
CREATE TABLE answers (attempt INTEGER PRIMARY KEY, body BLOB NOT NULL, checksum INTEGER NOT NULL);
CREATE TABLE outcomes (
    row INTEGER PRIMARY KEY,
    state TEXT NOT NULL CHECK (state IN ('completion', 'failure')),
    answer INTEGER,
    more_answers TEXT,
    finish_reason TEXT,
    error_kind TEXT,
    error TEXT,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost REAL,
    ended_at REAL NOT NULL,
    settings INTEGER,
    checksum INTEGER NOT NULL
);
CREATE TABLE earlier_outcomes (
    row INTEGER NOT NULL,
    state TEXT NOT NULL,
    answer INTEGER,
    more_answers TEXT,
    finish_reason TEXT,
    error_kind TEXT,
    error TEXT,
    input_tokens INTEGER NOT NULL,
    output_tokens INTEGER NOT NULL,
    cost REAL,
    ended_at REAL NOT NULL,
    settings INTEGER,
    checksum INTEGER NOT NULL
);
CREATE TABLE marks (
    row INTEGER NOT NULL,
    outcome_at REAL NOT NULL,
    mark TEXT CHECK (mark IN ({", ".join(f"'{mark}'" for mark in get_args(Mark))})),
    note TEXT,
    marked_at REAL NOT NULL,
    checksum INTEGER NOT NULL,
    PRIMARY KEY (row, outcome_at)
) WITHOUT ROWID;
"""

_ROW = "id, position, fingerprint, digest, asked_again, maybe_billed, same_as, settings"


def _row_sum(line: str) -> str:
    return f"checksum('rows', {', '.join(f'{line}.{column}' for column in _ROW.split(', '))})"


TRIGGERS_AND_VIEWS = f"""
CREATE TRIGGER outcome_replaced BEFORE UPDATE ON outcomes BEGIN
    INSERT INTO earlier_outcomes SELECT * FROM outcomes WHERE row = old.row;
    UPDATE rows SET asked_again = 0 WHERE id = old.row AND asked_again;
END;
CREATE TRIGGER row_changed AFTER UPDATE OF {_ROW} ON rows BEGIN
    UPDATE rows SET checksum = CASE old.checksum WHEN {_row_sum("old")} THEN {_row_sum("new")} ELSE -1 END
    WHERE id = new.id;
END;
CREATE VIEW row_states AS
    SELECT r.id, r.position, r.fingerprint, r.digest, r.asked_again, r.maybe_billed, r.same_as,
        r.settings AS next_settings, r.checksum AS row_checksum,
        o.row AS outcome_row, coalesce(o.state, 'pending') AS state, o.answer, o.more_answers, o.finish_reason,
        o.error_kind, o.error, o.input_tokens, o.output_tokens, o.cost, o.ended_at, o.settings,
        o.checksum AS outcome_checksum
    FROM rows AS r LEFT JOIN outcomes AS o ON o.row = coalesce(r.same_as, r.id);
"""  # noqa: S608 - our own words

SCHEMA = _TABLES + TRIGGERS_AND_VIEWS

ROW_IS_SOUND = """(row_checksum IS checksum(
    'rows', id, position, fingerprint, digest, asked_again, maybe_billed, same_as, next_settings))"""
OUTCOME_IS_SOUND = """(outcome_row IS NULL OR outcome_checksum IS checksum(
    'outcomes', outcome_row, state, answer, more_answers, finish_reason, error_kind, error,
    input_tokens, output_tokens, cost, ended_at, settings))"""
"""Conditions over ``row_states``."""

MARK_SUM = "checksum('marks', row, outcome_at, mark, note, marked_at)"


def of_mark(column: str) -> str:
    """What somebody said of the outcome that a row of ``row_states`` has; a damaged mark is none."""
    return f"""(SELECT {column} FROM marks
        WHERE row = row_states.id AND outcome_at = row_states.ended_at AND checksum IS {MARK_SUM})"""  # noqa: S608 - our own words


NOT_IN_INDEX = """
    SELECT position FROM rows NOT INDEXED WHERE position IS NOT NULL AND
        (SELECT count(position), total(position) FROM rows NOT INDEXED)
        != (SELECT count(position), total(position) FROM rows INDEXED BY rows_position)
    EXCEPT SELECT position FROM rows INDEXED BY rows_position"""
"""Positions that a damaged index lost. Comparing counts and sums is enough mostly, and costs 0.1 s for a million."""

SETTINGS_SUM = "checksum('settings', id, settings)"
START_SUM = "checksum('starts', id, started_at, ended_at, record)"
JOB_SUM = """checksum('jobs', id, changed_at, CAST(tag AS BLOB), CAST(state AS BLOB), CAST(record AS BLOB),
    typeof(tag), typeof(state), typeof(record))"""
"""Of bytes, since a damaged job is worked with, and no function is given a text that is not UTF-8."""

ATTEMPT_COLUMNS = (
    "id", "row", "sent_at", "ended_at", "status", "error", "input_tokens", "output_tokens", "cost", "cached_tokens",
    "settings", "request", "job", "asked",
)  # fmt: skip
"""All but the checksum. They are named wherever a line is written, since a migrated table has others last."""

_TIME = "coalesce(CAST({} * 1024 AS INTEGER), -1)"
_NUMBER = "coalesce({}, -1)"
_NEW_NUMBER = "coalesce({} + 1, 0)"
_FIGURES = {
    "id": (_NUMBER, 0x9E3779B),
    "row": (_NUMBER, 0x85EBCA7),
    "sent_at": (_TIME, 0xC2B2B),
    "ended_at": (_TIME, 0x27D4F),
    "status": (
        """CASE {} WHEN 'answered' THEN 1 WHEN 'failed' THEN 2 WHEN 'maybe_billed' THEN 3 WHEN 'not_sent' THEN 4
        ELSE 0 END""",
        0x165667B,
    ),
    "input_tokens": (_NUMBER, 0xB5297A5),
    "output_tokens": (_NUMBER, 0x68E31DB),
    "cost": ("coalesce(CAST({} * 1073741824 AS INTEGER), -1)", 0x1B56D),
    "cached_tokens": (_NUMBER, 0xD2511F5),
    "settings": (_NUMBER, 0xCD9E8D7),
    "request": (_NUMBER, 0x63C5F0B),
    "job": (_NEW_NUMBER, 0x5851F43),
    "asked": (_NEW_NUMBER, 0x14057B7),
}
"""What an attempt's line says → as which number it counts, and what that is multiplied by: odd, so that any other
number makes another sum; so small that the sum of what there is stays below 2^63. Times count by the millisecond,
dollars by the billionth. Columns that came later add nothing where they are NULL: sums of before hold."""
_LOW = 0xFFFFFFFF


def _figures_sum(given: Mapping[str, str]) -> str:
    terms = (
        f"{number.format(given.get(column, column))} * {factor}"
        for column, (number, factor) in _FIGURES.items()
    )
    return f"(({' + '.join(terms)}) & {_LOW})"


def attempt_sum(**given: str) -> str:
    """Of figures in SQL alone, since a run that goes on adds up a million of them: 0.3 s, and 0.8 s by a function of
    ours. What an error says has a sum of its own above that, which is looked at where the error is read.

    Args:
        given: what stands in place of a column, as SQL: what it is about to become.
    """
    error = given.get("error", "error")
    return f"({_figures_sum(given)} + CASE WHEN {error} IS NULL THEN 0 ELSE error_sum({error}) << 32 END)"


ATTEMPT_SUM = attempt_sum()

ATTEMPT_IS_SOUND = f"(checksum & {_LOW} IS {_figures_sum({})})"
"""Conditions over ``attempts``: that its figures are those that were written."""


def end_attempts(where: str, **ended: str) -> str:
    """An UPDATE that ends some attempts: columns → what they become, as SQL. What was damaged before still is."""
    changes = ", ".join(f"{column} = {value}" for column, value in ended.items())
    return f"""UPDATE attempts SET {changes},
            checksum = CASE WHEN {ATTEMPT_IS_SOUND} THEN {attempt_sum(**ended)} ELSE -1 END
        WHERE {where}"""  # noqa: S608 - our own words


_OPEN_JOBS = f"(SELECT id FROM jobs WHERE state NOT IN {OVER})"  # noqa: S608 - our own words
IS_WITH_SERVER = f"(status IS NULL AND job IS NOT NULL AND job IN {_OPEN_JOBS})"
"""Condition over ``attempts``: it is in a job that has not ended, and may still be answered."""

WITH_SERVER = f"(SELECT row FROM attempts WHERE {IS_WITH_SERVER})"  # noqa: S608 - our own words
"""Rows that are in such a job."""

WAITS = """(o.row IS NULL OR ((r.asked_again OR o.state = 'failure') AND a.sent_at > o.ended_at))"""
"""Condition over ``attempts AS a``, ``rows AS r`` and ``outcomes AS o``: its row has no outcome since it was asked."""

CHECKSUMMED = tuple(sorted(re.findall(r"^CREATE (?:UNIQUE )?\w+ (\w+)", SCHEMA, re.MULTILINE)))
"""The names of all tables, triggers and views."""

TABLES = tuple(re.findall(r"^CREATE TABLE (\w+)", SCHEMA, re.MULTILINE))

LATER_INDEXES = {
    # When a pass first has to look a row up by its content: kept out of a first pass, where a random index would cost
    # a page of log for each row.
    "rows_fingerprint": "CREATE INDEX rows_fingerprint ON rows (fingerprint, position)",
    # When the first job is begun: a run without one has no use for them.
    "attempts_job": "CREATE INDEX attempts_job ON attempts (job, row) WHERE job IS NOT NULL",
    "attempts_row": "CREATE INDEX attempts_row ON attempts (row)",
}
"""Name → how it is made, where it is first needed."""


def _if_not_exists(index: str) -> str:
    return LATER_INDEXES[index].replace("INDEX", "INDEX IF NOT EXISTS", 1)


FINGERPRINT_INDEX = _if_not_exists("rows_fingerprint")
JOB_INDEXES = (_if_not_exists("attempts_job"), _if_not_exists("attempts_row"))


def statements(script: str) -> Iterator[str]:
    """The statements of a script, one by one: ``executescript`` would commit first."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
