"""The ledger's file: its tables, how one is made, and what is refused at the door.

Thin tables (rows, attempts, outcomes) are apart from fat ones (records, answers), so that a resume or a
count over a million rows reads tens of megabytes, not the dataset.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from mistill.errors import LedgerError, PlanChanged

APPLICATION_ID = 0x4D53544C  # "MSTL": tells a ledger from any other SQLite file
FORMAT = 1

# A row is in the current input when it has a position; a row that was removed keeps what was paid for it.
# A copied row (same_as) shows its leader's outcome: that is derived, so the two cannot differ.
SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rows (
    id INTEGER PRIMARY KEY,
    position INTEGER,
    fingerprint BLOB NOT NULL,
    digest BLOB NOT NULL,
    asked_again INTEGER NOT NULL DEFAULT 0,
    maybe_billed INTEGER NOT NULL DEFAULT 0,
    same_as INTEGER,
    parameters TEXT
);
CREATE UNIQUE INDEX rows_position ON rows (position);
CREATE TABLE records (row INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE attempts (
    id INTEGER PRIMARY KEY,
    row INTEGER NOT NULL,
    sent_at REAL NOT NULL,
    ended_at REAL,
    status TEXT CHECK (status IN ('answered', 'failed', 'maybe_billed', 'not_sent')),
    error TEXT,
    input_tokens INTEGER,
    output_tokens INTEGER,
    cost REAL
);
CREATE TABLE answers (attempt INTEGER PRIMARY KEY, body BLOB NOT NULL);
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
    parameters TEXT
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
    parameters TEXT
);
CREATE TRIGGER outcome_replaced BEFORE UPDATE ON outcomes BEGIN
    INSERT INTO earlier_outcomes SELECT * FROM outcomes WHERE row = old.row;
    UPDATE rows SET asked_again = 0 WHERE id = old.row;
END;
CREATE VIEW row_states AS
    SELECT r.id, r.position, r.digest, r.asked_again, r.maybe_billed, r.same_as, r.parameters AS
    next_parameters,
        coalesce(o.state, 'pending') AS state, o.answer, o.more_answers, o.finish_reason, o.error_kind,
        o.error, o.input_tokens, o.output_tokens, o.cost, o.ended_at, o.parameters
    FROM rows AS r LEFT JOIN outcomes AS o ON o.row = coalesce(r.same_as, r.id);
"""

# Made when a pass first has to look a row up by its content: kept out of a first pass, where a random index
# would cost a page of log for each row.
FINGERPRINT_INDEX = "CREATE INDEX IF NOT EXISTS rows_fingerprint ON rows (fingerprint, position)"

_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT})
_FORBIDDEN = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


def explain(path: Path, error: sqlite3.Error) -> LedgerError:
    """SQLite's error as ours: what happened to which file, and what to do. Raise it ``from`` the error."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary result code
    if code in _FULL:
        return LedgerError(
            f"cannot write the ledger {path}: {error}",
            hint="make room on the disk and start the same command again: what was committed is kept",
        )
    if code == sqlite3.SQLITE_NOTADB:
        return LedgerError(
            f"{path} is not a ledger: {error}",
            hint="nothing was changed; give another path for the ledger or output",
        )
    if code in _DAMAGED:
        return LedgerError(
            f"the ledger {path} is damaged: {error}",
            hint="nothing was changed; restore it from a copy, choose another output, "
            "or start over with --fresh, which keeps this file under another name",
        )
    if code in _FORBIDDEN:
        return LedgerError(
            f"cannot open the ledger {path}: {error}",
            hint="check that the directory exists and that you may write to it",
        )
    return LedgerError(f"the ledger {path} failed: {error}", hint="start the same command again to resume")


@contextmanager
def explained(path: Path) -> Generator[None]:
    """Turn any SQLite error inside into a ``LedgerError``."""
    try:
        yield
    except sqlite3.Error as error:
        raise explain(path, error) from error


def open_to_write(
    path: Path, plan_fingerprint: str, plan: Mapping[str, Any], version: str
) -> sqlite3.Connection:
    """A connection to the ledger of this very plan, made if there was none. Leaves anything else as it is."""
    with explained(path):
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            if _is_empty(connection):
                _create(connection, plan_fingerprint, plan, version)
            else:
                check(path, connection)
                if not _is_of(connection, plan_fingerprint) and not _has_attempts(connection):
                    _start_over(connection, plan_fingerprint, plan)
                _check_plan(path, connection, plan_fingerprint, plan)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """A read-only connection: works while a run writes, and where the directory cannot be written."""
    if not path.is_file():
        raise LedgerError(
            f"there is no ledger at {path}", hint="check the output's name; a run makes the ledger"
        )
    uri = path.absolute().as_uri()
    with explained(path):
        connection = sqlite3.connect(
            f"{uri}?mode=ro", uri=True, isolation_level=None, check_same_thread=False
        )
        try:
            try:
                check(path, connection)
            except sqlite3.OperationalError:
                # WAL needs a writable directory for its index, unless nothing is in the log.
                log = path.with_name(path.name + "-wal")
                if log.exists() and log.stat().st_size:
                    raise
                connection.close()
                connection = sqlite3.connect(
                    f"{uri}?immutable=1", uri=True, isolation_level=None, check_same_thread=False
                )
                check(path, connection)
        except BaseException:
            connection.close()
            raise
        return connection


def check(path: Path, connection: sqlite3.Connection) -> None:
    """Refuse a file that is no ledger, is of another format, or lost its end."""
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise LedgerError(f"{path} is not a ledger", hint="nothing was changed; choose another output")
    found = _pragma(connection, "user_version")
    if found != FORMAT:
        raise LedgerError(
            f"{path} has ledger format {found}; this version of mistill reads format {FORMAT}",
            hint="nothing was changed; use the version that wrote it, choose another output, "
            "or start over with --fresh, which keeps this file under another name",
        )
    log = path.with_name(path.name + "-wal")
    if not (log.exists() and log.stat().st_size):  # with a log, the file itself may rightly be shorter
        expected_bytes = _pragma(connection, "page_count") * _pragma(connection, "page_size")
        if path.stat().st_size < expected_bytes:
            raise LedgerError(
                f"{path} is damaged: {path.stat().st_size} bytes are left of {expected_bytes}",
                hint="nothing was changed; restore it from a copy, or start over with --fresh, "
                "which keeps this file under another name",
            )


def set_aside(path: Path) -> Path | None:
    """Rename an old ledger (its log folded in, if it is one), so that a fresh one can take its place."""
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    except sqlite3.DatabaseError:
        pass  # not SQLite at all, or damaged: kept as it is
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.bak-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.bak-{stamp}-{number}")
    # What a damaged ledger still has in its log goes with it, under the name that SQLite would look for.
    log = path.with_name(path.name + "-wal")
    if log.exists():
        log.rename(aside.with_name(aside.name + "-wal"))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    return path.rename(aside)


def read_meta(connection: sqlite3.Connection, key: str) -> str | None:
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if found is None else found[0]


def write_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _create(
    connection: sqlite3.Connection, plan_fingerprint: str, plan: Mapping[str, Any], version: str
) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "BEGIN IMMEDIATE"
    )  # all or nothing: a kill in here leaves an empty file, which is made again
    for statement in _statements(SCHEMA):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    _write_plan(connection, plan_fingerprint, plan)
    write_meta(connection, "created_at", str(time.time()))
    write_meta(connection, "mistill_version", version)
    connection.execute("COMMIT")


def _write_plan(connection: sqlite3.Connection, plan_fingerprint: str, plan: Mapping[str, Any]) -> None:
    write_meta(connection, "plan", json.dumps(plan, ensure_ascii=False))
    write_meta(connection, "plan_fingerprint", plan_fingerprint)


def _is_of(connection: sqlite3.Connection, plan_fingerprint: str) -> bool:
    return read_meta(connection, "plan_fingerprint") == plan_fingerprint


def _has_attempts(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM attempts LIMIT 1").fetchone() is not None


def _start_over(connection: sqlite3.Connection, plan_fingerprint: str, plan: Mapping[str, Any]) -> None:
    """A run that never sent anything had perhaps a wrong template: nothing is lost with its settings."""
    connection.execute("BEGIN IMMEDIATE")
    for table in ("rows", "records", "outcomes", "earlier_outcomes"):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own words
    connection.execute("DELETE FROM meta WHERE key = 'input_rows'")
    _write_plan(connection, plan_fingerprint, plan)
    connection.execute("COMMIT")


def _statements(script: str) -> Iterator[str]:
    # executescript() would commit first, and the whole of it must be one transaction.
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _check_plan(
    path: Path, connection: sqlite3.Connection, plan_fingerprint: str, plan: Mapping[str, Any]
) -> None:
    if _is_of(connection, plan_fingerprint):
        return
    before = _flat(json.loads(read_meta(connection, "plan") or "{}"))
    now = _flat(json.loads(json.dumps(plan)))
    changes: dict[str, tuple[object, object]] = {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }
    shown = "; ".join(f"{key}: {_short(old)} → {_short(new)}" for key, (old, new) in changes.items())
    raise PlanChanged(
        f"{path} belongs to a run with other settings: {shown or 'its fingerprint differs'}",
        changes=changes,
        hint="go back to those settings to resume, choose another output, "
        "or start over with --fresh, which keeps the old ledger under another name",
    )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if isinstance(value, dict) and value:
        parts: dict[str, Any] = {}
        for name, part in value.items():  # pyright: ignore[reportUnknownVariableType] - JSON
            parts |= _flat(part, f"{key}.{name}" if key else str(name))  # pyright: ignore[reportUnknownArgumentType] - JSON
        return parts
    return {key: value}


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
