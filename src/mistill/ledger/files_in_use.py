"""The files of a ledger while a run is on it: whether they are still there, and what was written into them."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from mistill.directories import identity
from mistill.errors import LedgerError
from mistill.ledger.checksums import schema_sum
from mistill.ledger.files import log_of
from mistill.ledger.tables import APPLICATION_ID
from mistill.ledger.write_ahead_log import LogInUse
from mistill.wording import START_AGAIN, words

_LOOK_EVERY_S = 0.1
_READ_EVERY_S = 0.3


class FilesInUse:
    """The files of a ledger that is open, which somebody may delete, replace, cut or overwrite meanwhile.

    Args:
        ledger: which never becomes shorter while a run is on it.
        connection: the one that writes it.
        lock: the file of its lock.

    Attributes:
        hurt: what was cut or overwritten in place; ``None``: nothing.
    """

    def __init__(self, ledger: Path, connection: sqlite3.Connection, lock: Path) -> None:
        self.hurt: Path | None = None
        self._ledger = ledger
        self._ledger_bytes = 0
        log = log_of(ledger)
        self._found = {path: found for path in (ledger, log, lock) if (found := identity(path))}
        self._log_path = log
        self._log = LogInUse(log) if log in self._found else None
        # The log may have a newer schema than the file: until a checkpoint it is that one, then this one.
        self._schemas = {_schema_in(ledger), schema_sum(connection)}
        self._written_ns = self._written_at()
        self._next_look_s = 0.0
        self._next_read_s = 0.0

    def check(self, *, now: bool) -> None:
        """Looks whether they are what they were: at the log always, at the rest, unless it must be ``now``, only where
        it did not look just before.

        Raises:
            LedgerError: one is not: what is written now, nobody would find.
        """
        self.check_log()
        time_s = time.monotonic()
        # What was written into the ledger since, SQLite did not write: it is read before a checkpoint covers it.
        was_written = self._written_ns != self._written_at()
        if not now and not was_written and time_s < self._next_look_s:
            return
        self._next_look_s = time_s + _LOOK_EVERY_S
        for path in self._found:
            if not self._is_there(path):
                raise self._gone(path)
        if self._is_shorter():
            raise self._hurt(self._ledger)
        if was_written or time_s >= self._next_read_s:
            self._next_read_s = time_s + _READ_EVERY_S
            if _schema_in(self._ledger) not in self._schemas:
                raise self._hurt(self._ledger)

    def check_log(self) -> None:
        """The same of the log alone. It is looked at before a commit, which would write behind a hole, and after it.

        Raises:
            LedgerError: as `check`.
        """
        if self._log is not None and not self._log.follows():
            # Not one that took its place.
            raise self._hurt(self._log_path) if self._is_there(self._log_path) else self._gone(self._log_path)

    def note_commit(self) -> None:
        """A commit is done, which SQLite may have brought into the ledger: what it wrote is known.

        Raises:
            LedgerError: as `check`.
        """
        self.check_log()
        self._written_ns = self._written_at()

    def _written_at(self) -> int:
        found = _stat(self._ledger)
        return found.st_mtime_ns if found else 0

    def are_there(self) -> bool:
        return all(map(self._is_there, self._found))

    def close(self) -> None:
        if self._log is not None:
            self._log.close()
            self._log = None

    def _is_there(self, path: Path) -> bool:
        return identity(path) == self._found[path]

    def _is_shorter(self) -> bool:
        found = _stat(self._ledger)
        before, self._ledger_bytes = self._ledger_bytes, found.st_size if found else 0
        return self._ledger_bytes < before

    def _gone(self, path: Path) -> LedgerError:
        return LedgerError(
            f"the ledger {self._ledger} was deleted, moved or replaced while its run went on: "
            f"{path} is not what it was",
            hint=words("nothing more was sent; if it was moved, put it back and ", START_AGAIN),
        )

    def _hurt(self, path: Path) -> LedgerError:
        self.hurt = path
        return LedgerError(
            f"the ledger {self._ledger} was cut or overwritten while its run went on: "
            f"{path} is not what was written into it"
        )


def _schema_in(ledger: Path) -> str | None:
    """The checksum of the schema that the file has without its log; ``None`` where it has none that can be read.

    By SQLite, as closing a descriptor of our own would drop its locks (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    with (
        suppress(sqlite3.Error),
        closing(sqlite3.connect(f"{ledger.absolute().as_uri()}?immutable=1", uri=True)) as connection,
    ):
        if connection.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID:
            return schema_sum(connection)
    return None


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
