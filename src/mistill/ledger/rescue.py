"""A copy of a ledger whose files were hurt while a run was on it: the connection still knows what they lost."""

from __future__ import annotations

import os
import shlex
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from mistill.ledger.checksums import add_checksum
from mistill.ledger.damage import SQLiteErrors
from mistill.ledger.database import count_commits
from mistill.ledger.files import free_name, to_use_copy
from mistill.wording import START_AGAIN, Phrase, Words, words

_CACHE_KIB = 8192
"""The cache of a connection that writes: more than the log of a thousand pages (4 MB) after which SQLite brings it into
the ledger. So what a log lost is still in memory."""


def fill_cache(connection: sqlite3.Connection, ledger: Path) -> None:
    """Reads a ledger that fits into the cache: afterwards all of it can be rescued, whatever its files lose."""
    connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
    if ledger.stat().st_size < _CACHE_KIB * 1024 // 2:
        connection.execute("PRAGMA quick_check(1)").fetchall()


def rescue(connection: sqlite3.Connection, ledger: Path, commits: int) -> Words:
    """Writes what the connection can still read into a new file beside the ledger, and says what to do now.

    ``commits``: how many transactions it has seen.
    """
    copy = free_name(ledger, "rescued")
    try:
        os.close(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))  # nobody else may read it
        with closing(sqlite3.connect(copy, isolation_level=None)) as target:
            connection.backup(target)
            target.execute("PRAGMA journal_mode = DELETE")
            is_whole = _is_whole(target, commits)
    except (*SQLiteErrors, OSError):
        with suppress(OSError):
            copy.unlink(missing_ok=True)
        return words(
            "nothing more was sent; ",
            START_AGAIN,
            ": it goes on with what is left, or says what is lost before anything is sent",
        )
    if is_whole:
        return words(
            f"nothing more was sent, and all that was committed is in {copy}; to go on with it, put it in the ledger's "
            f"place, {to_use_copy(copy, ledger)}, and ",
            START_AGAIN,
        )
    copy = copy.rename(free_name(ledger, "remains"))
    return words(
        f"nothing more was sent; what could still be read is in {copy}; ",
        Phrase(
            f"export_run({str(copy)!r}, to, partial=True)",
            f"`mistill export {shlex.quote(str(copy))} --to TO --partial`",
        ),
        " writes what is whole of it",
    )


def _is_whole(copy: sqlite3.Connection, commits: int) -> bool:
    add_checksum(copy)
    try:
        found = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
        return found == "ok" and count_commits(copy) >= commits  # the last one was perhaps not noted
    except SQLiteErrors:
        return False
