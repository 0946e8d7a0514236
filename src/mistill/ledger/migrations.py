"""Ledgers of older formats → the newest: a table of steps, each from one format to the next.

A step changes what it must and loses nothing. All steps of a ledger are one transaction: a kill in the middle leaves
the old format. To change the format, write a step here, raise `FORMAT`, and keep a small ledger of the old one in the
tests.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from typing import Any

from mistill.ledger.checksums import schema_sum
from mistill.ledger.tables import FORMAT, TRIGGERS_AND_VIEWS, statements


def migrate(connection: sqlite3.Connection, found: int) -> None:
    """Brings a ledger of the format ``found`` to the newest. The caller has the ledger's lock."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        for number in range(found, FORMAT):
            STEPS[number](connection)
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
    connection.execute("DROP VIEW row_states")
    connection.execute("DROP TRIGGER outcome_replaced")
    for table, checksum in _SUMS.items():
        connection.execute(f"ALTER TABLE {table} ADD COLUMN checksum INTEGER NOT NULL DEFAULT 0")
        connection.execute(f"UPDATE {table} SET checksum = {checksum}")  # noqa: S608 - our own words
    for statement in statements(TRIGGERS_AND_VIEWS):
        connection.execute(statement)
    schema = schema_sum(connection) or ""
    connection.execute("INSERT INTO meta VALUES ('schema', ?1, meta_sum('schema', ?1))", (schema,))


STEPS: dict[int, Callable[[sqlite3.Connection], None]] = {1: _to_2}
"""Format → the step that leads from it to the next."""
