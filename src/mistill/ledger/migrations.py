"""Ledgers of older formats → the newest: a table of steps, each from one format to the next.

A step changes what it must and loses nothing. All steps of a ledger are one transaction: a kill in the middle leaves
the old format. To change the format, write a step here, raise `FORMAT`, and keep a small ledger of the old one in the
tests. Steps are about tables: triggers and views, which hold nothing, are dropped before them and made anew after them.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from typing import Any

from mistill.ledger.checksums import schema_sum
from mistill.ledger.tables import FORMAT, SETTINGS_SUM, TRIGGERS_AND_VIEWS, attempt_sum, statements


def migrate(connection: sqlite3.Connection, found: int) -> None:
    """Brings a ledger of the format ``found`` to the newest. The caller has the ledger's lock."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for kind, name in re.findall(r"^CREATE (TRIGGER|VIEW) (\w+)", TRIGGERS_AND_VIEWS, re.MULTILINE):
            connection.execute(f"DROP {kind} IF EXISTS {name}")
        for number in range(found, FORMAT):
            STEPS[number](connection)
        for statement in statements(TRIGGERS_AND_VIEWS):
            connection.execute(statement)
        schema = schema_sum(connection) or ""
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES ('schema', ?1, meta_sum('schema', ?1))", (schema,)
        )
        connection.execute(f"PRAGMA user_version = {FORMAT}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _to_2(connection: sqlite3.Connection) -> None:
    """The starts of a run, cached tokens, a manifest that says of which kind it is, and checksums."""
    for statement in statements(
        """
        CREATE TABLE starts (
            id INTEGER PRIMARY KEY,
            started_at REAL NOT NULL,
            ended_at REAL,
            record TEXT NOT NULL,
            checksum INTEGER NOT NULL
        );
        ALTER TABLE attempts ADD COLUMN cached_tokens INTEGER;
        """
    ):
        connection.execute(statement)
    meta: dict[str, str] = dict(connection.execute("SELECT key, value FROM meta"))
    plan: dict[str, Any] = json.loads(meta.get("plan", "{}"))
    details: dict[str, Any] = json.loads(meta.get("details", "{}"))
    vectors: dict[str, Any] | None = plan.pop("embeddings", None)
    manifest: dict[str, Any] = {"kind": "chat" if vectors is None else "embedding"} | plan | (vectors or {})
    output = details.get("output", {})
    options = {"output_format" if name == "format" else name: value for name, value in output.items()}
    settings = {"llm": details.get("llm"), "options": options}
    connection.execute("DELETE FROM meta WHERE key IN ('plan', 'plan_fingerprint', 'details')")
    connection.executemany(
        "INSERT INTO meta VALUES (?, ?)",
        [
            ("manifest", json.dumps(manifest, ensure_ascii=False)),
            ("settings", json.dumps(settings, ensure_ascii=False)),
        ],
    )
    _add_checksums(connection)


_OUTCOME_SUM = """checksum('outcomes', row, state, answer, more_answers, finish_reason, error_kind, error,
    input_tokens, output_tokens, cost, ended_at, parameters)"""
_SUMS = {
    "meta": "meta_sum(key, value)",
    "rows": "checksum('rows', id, position, fingerprint, digest, asked_again, maybe_billed, same_as, parameters)",
    "records": "record_sum(row, record)",
    "answers": "answer_sum(attempt, (SELECT row FROM attempts WHERE id = attempt), body)",
    "outcomes": _OUTCOME_SUM,
    "earlier_outcomes": _OUTCOME_SUM,
}


def _add_checksums(connection: sqlite3.Connection) -> None:
    for table, checksum in _SUMS.items():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
        connection.execute(f"UPDATE {table} SET checksum = {checksum}")  # noqa: S608 - our own words


_OUTCOME_COLUMNS = """row INTEGER {key}, state TEXT NOT NULL, answer INTEGER, more_answers TEXT, finish_reason TEXT,
    error_kind TEXT, error TEXT, input_tokens INTEGER NOT NULL, output_tokens INTEGER NOT NULL, cost REAL,
    ended_at REAL NOT NULL, settings INTEGER, checksum INTEGER NOT NULL"""
_NEW_TABLES = {
    "rows": """id INTEGER PRIMARY KEY, position INTEGER, fingerprint BLOB NOT NULL, digest BLOB NOT NULL,
        asked_again INTEGER NOT NULL DEFAULT 0, maybe_billed INTEGER NOT NULL DEFAULT 0, same_as INTEGER,
        settings INTEGER, checksum INTEGER NOT NULL""",
    "outcomes": _OUTCOME_COLUMNS.format(key="PRIMARY KEY"),
    "earlier_outcomes": _OUTCOME_COLUMNS.format(key="NOT NULL"),
}


def _to_3(connection: sqlite3.Connection) -> None:
    """Settings of retries, each kept once, where rows had parameters; attempts know theirs, and their request."""
    for statement in statements(
        """
        CREATE TABLE settings (id INTEGER PRIMARY KEY, settings TEXT NOT NULL, checksum INTEGER NOT NULL);
        ALTER TABLE attempts ADD COLUMN settings INTEGER;
        ALTER TABLE attempts ADD COLUMN request INTEGER;
        DROP INDEX rows_position;
        DROP INDEX IF EXISTS rows_fingerprint;
        """
    ):
        connection.execute(statement)
    _keep_parameters(connection)
    for table, columns in _NEW_TABLES.items():
        old_sum = _SUMS[table]
        new_sum = old_sum.replace("parameters", "settings")
        names = [column.split()[0] for column in re.split(r",\s+", columns)][:-2]
        same = ", ".join(names)
        connection.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
        connection.execute(f"CREATE TABLE {table} ({columns})")
        # What did not fit its sum before still does not.
        connection.execute(
            f"""INSERT INTO {table}
                SELECT {same}, settings, CASE WHEN sound THEN {new_sum} ELSE -1 END
                FROM (SELECT {same}, old_{table}.checksum IS {old_sum} AS sound,
                          (SELECT o.id FROM old_settings AS o WHERE o.parameters = old_{table}.parameters) AS settings
                      FROM old_{table} ORDER BY old_{table}.rowid)"""  # noqa: S608 - our own words
        )
        connection.execute(f"DROP TABLE old_{table}")
    connection.execute("DROP TABLE old_settings")
    connection.execute("CREATE UNIQUE INDEX rows_position ON rows (position)")
    for table in ("outcomes", "earlier_outcomes"):
        connection.execute(
            f"""UPDATE attempts SET settings = (SELECT settings FROM {table} WHERE answer = attempts.id)
                WHERE id IN (SELECT answer FROM {table} WHERE settings IS NOT NULL)"""  # noqa: S608 - our own words
        )
    _find_requests(connection)


def _keep_parameters(connection: sqlite3.Connection) -> None:
    """The parameters of retries become settings: the run's own, and those over them."""
    manifest, kept = _meta(connection, "manifest"), _meta(connection, "settings")
    connection.execute("CREATE TABLE old_settings (id INTEGER PRIMARY KEY, parameters TEXT UNIQUE NOT NULL)")
    for table in _NEW_TABLES:
        connection.execute(
            f"INSERT OR IGNORE INTO old_settings (parameters) SELECT parameters FROM {table} "  # noqa: S608 - our own words
            "WHERE parameters IS NOT NULL AND json_valid(parameters)"
        )
    for number, text in connection.execute("SELECT id, parameters FROM old_settings").fetchall():
        settings = json.dumps(_with_parameters(manifest, kept, json.loads(text)), ensure_ascii=False)
        connection.execute("INSERT INTO settings VALUES (?, ?, 0)", (number, settings))
    connection.execute(f"UPDATE settings SET checksum = {SETTINGS_SUM}")  # noqa: S608 - our own words


def _with_parameters(manifest: Any, kept: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a run, with the parameters of a retry over its own."""
    extra_body = _table(manifest, "extra_body") | _table(given, "extra_body")
    sent = {
        "max_tokens" if name == "max_new_tokens" else name: value
        for name, value in given.items()
        if name != "extra_body"
    }
    changed = {"parameters": _table(manifest, "parameters") | sent, "extra_body": extra_body or None}
    llm = _table(kept, "llm")
    llm["generation_kwargs"] = _table(llm, "generation_kwargs") | given
    return {"manifest": manifest | changed, "llm": llm}


def _table(value: Any, key: str) -> dict[str, Any]:
    return dict(value.get(key) or {})


def _find_requests(connection: sqlite3.Connection) -> None:
    """Of vectors, rows that one request asked were written at one moment, and no others were."""
    if _meta(connection, "manifest").get("kind") != "embedding":
        return
    connection.execute(
        "CREATE TEMP TABLE requests AS SELECT min(id) AS first, sent_at FROM attempts GROUP BY sent_at"
    )
    connection.execute("CREATE INDEX temp.requests_sent_at ON requests (sent_at)")
    connection.execute(
        "UPDATE attempts SET request = (SELECT first FROM requests WHERE requests.sent_at = attempts.sent_at)"
    )
    connection.execute("DROP TABLE temp.requests")


def _meta(connection: sqlite3.Connection, key: str) -> dict[str, Any]:
    """What stands under a key; nothing where it is damaged, which whoever opens the ledger finds."""
    found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    try:
        return json.loads(found[0])
    except (TypeError, ValueError):
        return {}


def _to_4(connection: sqlite3.Connection) -> None:
    """Checksums of attempts: what they say is believed once more."""
    connection.execute("ALTER TABLE attempts ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
    attempt = attempt_sum(job="NULL", asked="NULL")
    connection.execute(f"UPDATE attempts SET checksum = {attempt}")  # noqa: S608 - our own words


def _to_5(connection: sqlite3.Connection) -> None:
    """Jobs; attempts know theirs, and what their request asked."""
    for statement in statements(
        """
        CREATE TABLE jobs (
            id INTEGER PRIMARY KEY,
            tag TEXT NOT NULL UNIQUE,
            state TEXT NOT NULL CHECK (state IN ('planned', 'uploaded', 'creating', 'running', 'ended', 'fetched',
                'read', 'doubtful', 'dropped')),
            changed_at REAL NOT NULL,
            record TEXT NOT NULL,
            checksum INTEGER NOT NULL
        );
        ALTER TABLE attempts ADD COLUMN job INTEGER;
        ALTER TABLE attempts ADD COLUMN asked INTEGER;
        """
    ):
        connection.execute(statement)


def _to_6(connection: sqlite3.Connection) -> None:
    """Marks of people."""
    connection.execute(
        """CREATE TABLE marks (
            row INTEGER NOT NULL,
            outcome_at REAL NOT NULL,
            mark TEXT CHECK (mark IN ('good', 'bad')),
            note TEXT,
            marked_at REAL NOT NULL,
            checksum INTEGER NOT NULL,
            PRIMARY KEY (row, outcome_at)
        ) WITHOUT ROWID"""
    )


STEPS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _to_2, 2: _to_3, 3: _to_4, 4: _to_5, 5: _to_6}
"""Format → the step that leads from it to the next."""
