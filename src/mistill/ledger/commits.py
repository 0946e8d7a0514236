"""The one thread that writes a ledger: what many tasks ask for meanwhile becomes one transaction, one fsync.

A waiter hears of it only after the commit that holds its write. Whatever was asked for while the disk was busy
is the next group, so the group grows with the load. Where groups come in crowds, each waits a moment for more: fewer
and larger ones cost a fifth less CPU a row, and the threads hand the interpreter's lock over less often.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from itertools import chain
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol, TypeVar

from mistill.errors import LedgerError, copied
from mistill.ledger.damage import SQLiteErrors
from mistill.ledger.database import explain, explained, write_meta
from mistill.ledger.files_in_use import FilesInUse
from mistill.ledger.forks import forget, of_another_process, register_for_forks
from mistill.ledger.rescue import fill_cache, rescue
from mistill.process import OwnProcess, keep_unused
from mistill.wording import START_AGAIN, words

T = TypeVar("T")
Values = tuple[Any, ...]
Job = Callable[[sqlite3.Connection], Any]
PendingWrite = tuple["asyncio.Future[Any]", Any]

# Rows in one statement. Each execution gives the interpreter's lock away and waits to get it back, so fewer and larger
# ones are better: 0.6 µs a row of three numbers, against 1.5 µs with executemany (CPython 3.11, SQLite 3.40).
_MAX_ROWS = 64

EPOCH = "epoch"
"""What ``meta`` has the number of owners under that a ledger has had: each finds there whether it still is the one."""

_READ_EPOCH = f"SELECT value FROM meta WHERE key = '{EPOCH}'"  # noqa: S608 - our own words

_CROWD = 8  # writes in a group, from which on the next one waits
_LINGER_S = 0.003  # a hundredth of what a request to a model takes


class Statement(Protocol):
    """A way to write rows of values, whose order is kept."""

    def write(self, connection: sqlite3.Connection, rows: list[Values]) -> None: ...


class Insert:
    """A way into a table: a statement for 1, 2, 4 … 64 rows each, so that SQLite can keep them compiled.

    ``head`` names the table and its columns, ``row`` is one row's ``(?, …)``. On a hot path, give numbers, ``str`` and
    ``bytearray``, and leave out what is NULL: ``sqlite3`` looks for an adapter of every ``bytes`` and ``None``, at
    0.6 µs each (``need_adapt`` in CPython's Modules/_sqlite/statement.c).
    """

    def __init__(self, head: str, row: str, tail: str = "") -> None:
        self._sql = {size: f"{head} VALUES {', '.join([row] * size)} {tail}" for size in _sizes()}

    def write(self, connection: sqlite3.Connection, rows: list[Values]) -> None:
        start = 0
        for size, sql in self._sql.items():  # largest first
            while len(rows) - start >= size:
                connection.execute(sql, list(chain.from_iterable(rows[start : start + size])))
                start += size


class Update:
    """A rarer change, row by row."""

    def __init__(self, sql: str) -> None:
        self._sql = sql

    def write(self, connection: sqlite3.Connection, rows: list[Values]) -> None:
        connection.executemany(self._sql, rows)


def _sizes() -> list[int]:
    return [_MAX_ROWS >> shift for shift in range(_MAX_ROWS.bit_length())]


class CommitQueue:
    """Owns the write connection, and the thread that uses it, until ``close``.

    Each commit, and so each attempt, which is planned by one, first looks whether this ``epoch`` is the ledger's still.

    Commits are counted in the ledger, from ``commits`` on, and by ``note_commits`` beside it, so that a lost log is
    noticed. Before one it looks whether ``files`` are what they were: what is written in a file that was deleted,
    nobody would find, and what is written behind the end of one that was cut makes the rest unreadable.

    Writes of one statement are done in the order in which they were put. What is put together is on disk
    together or not at all. A job sees every write put before it.
    """

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        files: FilesInUse,
        *,
        commits: int,
        epoch: int,
        note_commits: Callable[[int], None],
    ) -> None:
        self._path = path
        self._connection = connection
        self._guard = _open_guard(path)
        self._files = files
        self._note_commits = note_commits
        self._commits = commits
        self._epoch = str(epoch)
        self._seen_version = -1
        self._process = OwnProcess()
        self._in_sqlite = threading.Lock()
        self._queue: SimpleQueue[_Write | _Task | None] = SimpleQueue()
        self._broken: LedgerError | None = None
        with explained(path):
            fill_cache(connection, path)
        self._thread = threading.Thread(target=self._serve, name=f"ledger {path.name}", daemon=True)
        self._thread.start()
        register_for_forks(self)

    @property
    def closed(self) -> bool:
        return not self._thread.is_alive()

    @property
    def files_were_hurt(self) -> bool:
        """They were cut or overwritten, and are left as they were found."""
        return self._files.hurt is not None

    def put(self, *writes: tuple[Statement, list[Values]]) -> None:
        """Write these together, soon. Whoever waits for a later write of this queue waits for them too."""
        self._check()
        self._queue.put((writes, None))

    def commit(self, result: T, *writes: tuple[Statement, list[Values]]) -> asyncio.Future[T]:
        """Write these together; the future gives ``result`` once they are on disk."""
        self._check()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put((writes, (future, result)))
        return future

    def run(self, job: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Run ``job`` inside the transaction, in its turn; the future gives its result once it is on disk."""
        self._check()
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._queue.put(_Task(job, future))
        return future

    def close(self) -> None:
        """Commit what was put, end the thread and close the connection. Harmless when done already."""
        if self._broken is None:
            self._broken = LedgerError(f"the ledger {self._path} is closed")
        self._queue.put(None)
        self._thread.join()
        forget(self)

    def busy(self) -> threading.Lock:
        """Held while the connection is used; see `Forkable`."""
        return self._in_sqlite

    def leave_to_parent(self) -> None:
        """In a forked child, which has no such thread: nothing can be written here."""
        self._broken = of_another_process(self._path, self._process)
        keep_unused(self._connection)
        keep_unused(self._guard)

    def _check(self) -> None:
        if self._broken is not None:
            raise copied(self._broken)

    def _serve(self) -> None:
        failed = False
        open_for_more = True
        group: list[_Write | _Task] = []
        while open_for_more:
            group, open_for_more = self._gather(_LINGER_S if len(group) >= _CROWD else 0.0)
            if not failed:
                failed = not self._commit(group)
            if failed:
                assert self._broken is not None
                _resolve_all(_waiters_of(group), self._broken)
        with self._in_sqlite:
            self._close_files()

    def _close_files(self) -> None:
        if not self.files_were_hurt:
            with suppress(LedgerError):
                self._files.check(now=True)
        self._files.close()
        if not self.files_were_hurt:
            self._guard.close()
            # On a full disk the last checkpoint fails; the log stays, and it has all.
            with suppress(sqlite3.Error):
                # Out of WAL mode, the ledger is one file again, and a reader makes none beside it. Not while one reads,
                # and not where the log's name is perhaps another ledger's by now.
                self._connection.execute("PRAGMA busy_timeout = 0")
                if self._files.are_there():
                    self._connection.execute("PRAGMA journal_mode = DELETE")
        with suppress(sqlite3.Error):
            self._connection.close()
        self._guard.close()

    def _gather(self, linger_s: float) -> tuple[list[_Write | _Task], bool]:
        group: list[_Write | _Task] = []
        operation = self._queue.get()
        if linger_s:
            time.sleep(linger_s)
        try:
            while operation is not None:
                group.append(operation)
                operation = self._queue.get_nowait()
        except Empty:
            return group, True
        return group, False

    def _commit(self, group: list[_Write | _Task]) -> bool:
        if not group:
            return True
        with self._in_sqlite:
            try:
                self._files.check(now=any(isinstance(operation, _Task) for operation in group))
                self._follow_others()
                self._connection.execute("BEGIN IMMEDIATE")
                if self._connection.execute(_READ_EPOCH).fetchone() != (self._epoch,):
                    raise self._superseded()  # noqa: TRY301  a call for each commit less
                self._apply(group)
                write_meta(self._connection, "commits", str(self._commits + 1))
                self._connection.execute("COMMIT")
                self._files.note_commit()
                self._commits += 1
                self._note_commits(self._commits)
            except Exception as error:
                with suppress(sqlite3.Error):
                    self._connection.rollback()
                self._broken = self._explain(error)
                return False
        _resolve_all(_waiters_of(group), None)
        return True

    def _follow_others(self) -> None:
        """Where somebody else has written (a mark, say), SQLite has forgotten its cache: what a log could
        lose goes into the ledger at once, and into the cache again, see ``rescue``."""
        version: int = self._connection.execute("PRAGMA data_version").fetchone()[0]
        if version != self._seen_version:
            if self._seen_version >= 0:
                self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
                self._files.note_commit()
                fill_cache(self._connection, self._path)
            self._seen_version = version

    def _is_superseded(self) -> bool:
        """By what the log says, or the ledger's file: who has taken it over may have ended by now, and put the log
        away."""
        with suppress(sqlite3.Error):
            if self._is_later(self._connection):
                return True
        address = f"{self._path.absolute().as_uri()}?immutable=1"
        with (
            suppress(sqlite3.Error, ValueError),
            closing(sqlite3.connect(address, uri=True, timeout=0.0)) as connection,
        ):
            return self._is_later(connection)
        return False

    def _is_later(self, connection: sqlite3.Connection) -> bool:
        found = connection.execute(_READ_EPOCH).fetchone()
        return found is not None and int(found[0]) > int(self._epoch)

    def _superseded(self) -> LedgerError:
        return LedgerError(
            f"another process has taken over the ledger {self._path}, and this one writes nothing more",
            hint="it was held up for too long, and is not needed any more: that one goes on",
        )

    def _explain(self, error: Exception) -> LedgerError:
        """Why a commit failed. What SQLite finds is perhaps what was done to its files, or what another owner did."""
        if not isinstance(error, LedgerError):
            try:
                self._files.check(now=True)
            except LedgerError as found:
                found.__cause__ = error
                error = found
        if not self.files_were_hurt and self._is_superseded():
            return self._superseded()
        broken = _broken_by(self._path, error)
        if self.files_were_hurt:
            broken.hint = rescue(self._connection, self._path, self._commits)
        return broken

    def _apply(self, group: list[_Write | _Task]) -> None:
        tables: dict[Statement, list[Values]] = {}
        for operation in group:
            if isinstance(operation, _Task):
                self._write(tables)
                operation.result = operation.job(self._connection)
            else:
                for statement, rows in operation[0]:
                    tables.setdefault(statement, []).extend(rows)
        self._write(tables)

    def _write(self, tables: dict[Statement, list[Values]]) -> None:
        for statement, rows in tables.items():
            statement.write(self._connection, rows)
        tables.clear()


def _open_guard(path: Path) -> sqlite3.Connection:
    """A connection that only reads. While there is one, closing the other copies no log into the ledger: of a log that
    was hurt, what it copies would be written over what is whole.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    with explained(path):
        guard = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        guard.execute("SELECT 1 FROM sqlite_master").fetchone()  # SQLite's lock is taken here
    return guard


class _Task:
    __slots__ = ("future", "job", "result")

    def __init__(self, job: Job, future: asyncio.Future[Any]) -> None:
        self.job = job
        self.future = future
        self.result: Any = None


_Write = tuple[tuple[tuple[Statement, list[Values]], ...], PendingWrite | None]


def _waiters_of(group: list[_Write | _Task]) -> Iterable[PendingWrite]:
    for operation in group:
        if isinstance(operation, _Task):
            yield operation.future, operation.result
        elif operation[1] is not None:
            yield operation[1]


def _resolve_all(waiters: Iterable[PendingWrite], error: LedgerError | None) -> None:
    """Wake every event loop once, however many of its tasks wait."""
    by_loop: dict[asyncio.AbstractEventLoop, list[PendingWrite]] = {}
    for waiter in waiters:
        by_loop.setdefault(waiter[0].get_loop(), []).append(waiter)
    for loop, theirs in by_loop.items():
        with suppress(RuntimeError):  # a loop that was closed has nobody left to tell
            loop.call_soon_threadsafe(_resolve, theirs, error)


def _resolve(waiters: list[PendingWrite], error: LedgerError | None) -> None:
    for future, result in waiters:
        if future.done():
            continue  # cancelled meanwhile
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(copied(error))


def _broken_by(path: Path, error: Exception) -> LedgerError:
    if isinstance(error, LedgerError):
        return error
    if isinstance(error, SQLiteErrors):
        broken = explain(path, error)
    else:
        broken = LedgerError(
            f"a write to the ledger {path} failed: {error!r}",
            hint=words(START_AGAIN),
        )
    broken.__cause__ = error
    return broken
