"""What SQLite makes of a log, and what it never would."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mistill.ledger.write_ahead_log import LogInUse


def connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA wal_autocheckpoint=0")
    return connection


@pytest.mark.parametrize("times", [1, 4])
def test_another_connection_may_begin_the_log_anew(tmp_path: Path, times: int) -> None:
    """Its own count of checkpoints may be smaller than that of the one before."""
    path = tmp_path / "ledger"
    with closing(connect(path)) as run:
        run.execute("CREATE TABLE t (x)")
        for _ in range(5):
            run.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            run.execute("INSERT INTO t VALUES (1)")
        log = LogInUse(tmp_path / "ledger-wal")
        for _ in range(times):
            run.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
            with closing(connect(path)) as other:
                other.execute("INSERT INTO t VALUES (2)")
        assert log.follows()
        assert log.follows()
        run.execute("INSERT INTO t VALUES (3)")
        assert log.follows()
        log.close()


def test_a_log_that_stood_there_before_is_none_that_follows(tmp_path: Path) -> None:
    path, wal = tmp_path / "ledger", tmp_path / "ledger-wal"
    with closing(connect(path)) as run:
        run.execute("CREATE TABLE t (x)")
        earlier = wal.read_bytes()
        run.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        run.execute("INSERT INTO t VALUES (1)")
        log = LogInUse(wal)
        with wal.open("r+b") as file:
            file.write(earlier)
        assert not log.follows()
        log.close()
