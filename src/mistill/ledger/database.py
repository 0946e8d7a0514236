"""The ledger's file: how one is made, opened and put aside, and what is refused at the door."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import mkstemp
from threading import RLock
from typing import Any

from mistill.directories import identity
from mistill.errors import LedgerError, LedgerInUse, ManifestChanged
from mistill.ledger.checksums import add_checksum, meta_sum, schema_sum
from mistill.ledger.damage import DamagedMeta, SQLiteErrors, means_damage
from mistill.ledger.files import (
    cannot_write,
    free_name,
    is_database,
    jobs_of,
    journal_of,
    lock_of,
    log_of,
    main_name,
    rescued_copy,
    to_use_copy,
)
from mistill.ledger.lock import LedgerLock, is_held, read_commits
from mistill.ledger.migrations import STEPS, migrate
from mistill.ledger.permissions import check_may_read, is_denied, permission_denied
from mistill.ledger.tables import APPLICATION_ID, ATTEMPT_IS_SOUND, FORMAT, SCHEMA, TABLES, statements
from mistill.ledger.write_ahead_log import pages_in
from mistill.open_files import MORE, is_short_now, is_shortage, shortage
from mistill.wording import START_AGAIN, Phrase, Setting, words

_NO_SHARED_MEMORY = frozenset(
    {
        sqlite3.SQLITE_IOERR_SHMOPEN,
        sqlite3.SQLITE_IOERR_SHMSIZE,
        sqlite3.SQLITE_IOERR_SHMLOCK,
        sqlite3.SQLITE_IOERR_SHMMAP,
    }
)
_FULL = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_FORBIDDEN = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM})


_FRESH = Setting("fresh", True)

_READ_THE_REST = (
    "; ",
    Phrase("export_run(out, to, partial=True)", "`mistill export --partial`"),
    " writes what can still be read",
)

_OTHER_READER_S = 2.0
"""How long a reader waits for whoever is in the middle of a change: another one that brings the ledger up to date."""

_EXCHANGED_WITHIN_S = 0.5
"""How long a start that begins may take to put a fresh ledger in an old one's place."""

_EXCHANGE = RLock()
"""Held in this process while SQLite opens a ledger's files, and while another ledger takes its name.

SQLite finds log and index by the ledger's name, when it first reads. Who had opened the old file and found the new
one's index would cut it off under whoever has it mapped: within one process no lock of a file holds that back.
"""
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_EXCHANGE.acquire, after_in_parent=_EXCHANGE.release, after_in_child=_EXCHANGE.release
    )

_MAX_DIGITS = 18
"""SQLite's numbers have no more."""


def explain(path: Path, error: Exception, *, is_readable: bool = True) -> LedgerError:
    """SQLite's error as ours: what happened to which file, and what to do. Raise it ``from`` the error.

    ``is_readable``: where it is damaged, the rest can perhaps be read; not where it cannot even be opened.
    """
    whole_code = getattr(error, "sqlite_errorcode", 0)
    if whole_code in _NO_SHARED_MEMORY:
        return LedgerError(
            f"the ledger {path} cannot be there: files of that file system cannot be mapped as shared memory",
            hint=words(
                "give ",
                Setting("ledger"),
                " on a disk of this machine; some network file systems (sshfs, 9p, FUSE with direct_io) are like that",
            ),
        )
    code = whole_code & 0xFF  # the low byte is the primary result code
    if means_damage(error) and code != sqlite3.SQLITE_NOTADB:
        code = sqlite3.SQLITE_CORRUPT
    if code in _FULL:
        return cannot_write(path, error)
    if code == sqlite3.SQLITE_NOTADB:
        return LedgerError(
            f"{path} is not a ledger: {error}",
            hint="nothing was changed; give another path for the ledger or output",
        )
    if code == sqlite3.SQLITE_CORRUPT:
        return LedgerError(
            f"the ledger {path} is damaged: {error}",
            hint=words(
                "restore it from a copy, or start over with ",
                _FRESH,
                ", which keeps this file under another name",
                *(_READ_THE_REST if is_readable else ()),
            ),
        )
    if code in _FORBIDDEN and is_short_now():
        return _no_more_files(path)
    if code in _FORBIDDEN:
        for file in (path, log_of(path)):
            if is_denied(file, "read"):
                return permission_denied(file, "read")
            if is_denied(file, "written"):
                return permission_denied(file, "written")
        return LedgerError(
            f"cannot open the ledger {path}: {error}",
            hint="check that the directory exists and that you may write to it",
        )
    return LedgerError(f"the ledger {path} failed: {error}", hint=words(START_AGAIN, " to resume"))


def _no_more_files(path: Path) -> LedgerError:
    return LedgerError(f"cannot open the ledger {path}: {shortage()}", hint=MORE)


@contextmanager
def explained(path: Path, *, is_readable: bool = True) -> Generator[None]:
    """Turn any SQLite error inside into a ``LedgerError``; see `explain`."""
    try:
        yield
    except SQLiteErrors as error:
        raise explain(path, error, is_readable=is_readable) from error


def name_to_write(path: Path) -> Path:
    """The ledger's main name, see ``files``.

    Raises:
        LedgerError: it is no file, or not all its names are known.
    """
    for place in (path, log_of(path)):
        if place.exists() and not place.is_file():
            what = "a directory" if place.is_dir() else "a pipe or a device"
            raise LedgerError(f"{place} is {what}, and no file", hint="give another path for the ledger")
    name, all_known = main_name(path)
    if os.path.islink(name):  # noqa: PTH114  False of a name that no file can have
        raise LedgerError(
            f"the ledger {path} is a symbolic link that leads back to itself",
            hint="nothing was changed; remove it, or give another path for the ledger",
        )
    if not all_known:
        raise LedgerError(
            f"the ledger {path} has other names in other directories (hard links), "
            "and writing to it would change all of them",
            hint=f"make it a file of its own: cp {path} {path}.new, then mv {path}.new {path}",
        )
    return name


def make_ledger(
    path: Path, manifest: Mapping[str, Any], settings: Mapping[str, Any], version: str, *, fresh: bool
) -> tuple[bool, Path | None]:
    """Makes the ledger if there is none; ``fresh``: in any case, and puts aside what is there.

    It is made under another name and renamed: whoever looks for it meanwhile finds none, or all of it.

    The caller has the ledger's lock. Returns whether it is new, and where the old one is.

    Raises:
        LedgerError: it cannot be made, or its log is there without it.
    """
    if not fresh:
        if path.exists() and path.stat().st_size:
            return False, None
        _check_log_has_ledger(path)
    try:
        made = _beside(path)
    except OSError as error:
        raise LedgerError(
            f"cannot make the ledger {path}: {error.strerror}",
            hint="check that the directory exists and that you may write to it",
        ) from error
    try:
        with explained(path), closing(_connect(made)) as connection:
            _create(connection, manifest, settings, version)
        with _EXCHANGE:
            backup = set_aside(path) if fresh else None
            made.replace(path)
    except BaseException:
        for beside in made.parent.glob(f"{made.name}*"):  # what SQLite has begun, too
            beside.unlink(missing_ok=True)
        raise
    return True, backup


def _beside(path: Path) -> Path:
    """An empty file of ours beside the ledger; those that a kill has left there go."""
    prefix = f"{path.name}.new-"
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(prefix):
                path.with_name(entry.name).unlink(missing_ok=True)
    descriptor, made = mkstemp(prefix=prefix, dir=path.parent)  # which nobody else may read
    os.close(descriptor)
    return Path(made)


def open_to_write(
    path: Path, manifest: Mapping[str, Any], version: str, *, commits: int = 0
) -> sqlite3.Connection:
    """A connection to the ledger of this very run. Leaves anything else as it is.

    ``commits``: how many transactions it must have seen.

    The caller has the ledger's lock. A ledger of an older format is migrated.
    """
    with explained(path):
        connection = _connect(path)
        try:
            _check_tables(connection)
            _check_nothing_is_lost(path, connection, commits)
            if _is_empty(connection):  # a database that somebody has just made
                _create(connection, manifest, {}, version)
            else:
                found = check(path, connection)
                if found < FORMAT:
                    migrate(connection, found)
                _check_manifest(path, connection, manifest)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection


def open_to_read(path: Path, *, as_it_is: bool = False) -> sqlite3.Connection:
    """A read-only connection: works while a run writes or begins, and where the directory cannot be written.

    ``as_it_is``: a ledger of an older format is left so, for whoever looks at ledgers that nobody has named.
    """
    before, since = identity(path), time.monotonic()
    while True:
        try:
            check_may_read(path)
            connection = _open_to_read(path, as_it_is=as_it_is)
        except (LedgerError, OSError) as error:
            # Another one has come, and what was found is of two; or whoever has it is in the middle of a change.
            is_there_still = identity(path) == before
            if is_there_still and time.monotonic() - since >= _patience_with(error, path):
                if isinstance(error, LedgerError):
                    raise
                if is_shortage(error):
                    raise _no_more_files(path) from error
                raise LedgerError(
                    f"cannot read the ledger {path}: {error.strerror}",
                    hint="check that it is there, and that you may read it and its directory",
                ) from error
        else:
            if identity(path) == before:
                return connection
            connection.close()
        time.sleep(_EXCHANGED_WITHIN_S / 50)
        if (now := identity(path)) != before:
            before, since = now, time.monotonic()


def _patience_with(error: LedgerError | OSError, path: Path) -> float:
    """For how many seconds a ledger that cannot be read is looked at again."""
    if isinstance(error, LedgerInUse):
        return _OTHER_READER_S
    return _EXCHANGED_WITHIN_S if is_held(main_name(path)[0]) else 0.0


def _open_to_read(path: Path, *, as_it_is: bool) -> sqlite3.Connection:
    """`open_to_read`, if nobody puts another ledger in its place meanwhile."""
    if not path.is_file():
        raise LedgerError(
            f"there is no ledger at {path}", hint="check the output's name; a run makes the ledger"
        )
    path, _ = main_name(path)
    check_may_read(log_of(path))
    _check_log_has_ledger(path)
    # The log of one that was hurt may have its first page.
    if _size(path) and not is_database(path) and not _has_log(path):
        raise LedgerError(f"{path} is not a ledger", hint="give the output of the run, or its ledger")
    commits = read_commits(path)  # before the ledger, which is ahead of it
    with explained(path, is_readable=False):
        if _was_cut_off(path):
            if as_it_is:
                raise LedgerError(
                    f"the ledger {path} was cut off in the middle of a change",
                    hint=words(
                        Phrase("Run.open(path).report()", "`mistill status`"), " of it, by name, undoes it"
                    ),
                )
            _bring_up_to_date(path)
        connection = _connect_to_read(path)
        try:
            try:
                found = check(path, connection)
            except sqlite3.OperationalError:
                # WAL needs a writable directory for its index, unless nothing is in the log. A log that is there by now
                # may just have been made, by a start that begins.
                connection.close()
                connection = _connect_to_read(path, immutable=not _has_log(path))
                found = check(path, connection)
            if found == FORMAT:
                _check_nothing_is_lost(path, connection, commits)
        except BaseException:
            connection.close()
            raise
        if found == FORMAT:
            return connection
        if as_it_is or not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):
            return _migrated_copy(connection, found)
        connection.close()
        _bring_up_to_date(path)
        return _connect_to_read(path)


_ANOTHER_WRITES_S = 10.0
"""How long a note waits for a commit of the run, or for somebody who reads a ledger that no run is on."""


def open_to_note(path: Path) -> sqlite3.Connection:
    """A connection for a few small writes beside the run that may be on the ledger, to be closed at once.

    The run keeps its lock: SQLite lets one write after the other. What is in the log, the run brings into the file.
    """
    open_to_read(path).close()  # which brings it to the newest format, and refuses what is damaged
    path = name_to_write(path)
    with explained(path):
        connection = _connect(path)
        try:
            connection.execute(f"PRAGMA busy_timeout = {_ANOTHER_WRITES_S * 1000:.0f}")
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection


def _has_log(path: Path) -> bool:
    return _size(log_of(path)) > 0


def _size(path: Path) -> int:
    """0 where there is no such file, as where one is put aside meanwhile."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _check_log_has_ledger(path: Path) -> None:
    """Refuses a log without its ledger: SQLite deletes the log of one that is missing or empty."""
    if _has_log(path) and not _size(path):
        raise LedgerError(
            f"{log_of(path)} is the log of a ledger, or somebody's file, and the ledger {path} is not there or empty",
            hint=words(
                "nothing was changed; ",
                *_use_rescued(path),
                "put the ledger back beside its log, or start over with ",
                _FRESH,
                ", which keeps the log under another name",
            ),
        )


def _use_rescued(path: Path) -> tuple[str, ...]:
    """What to do first where the run whose files were hurt has kept all it knew."""
    copy = rescued_copy(path)
    return (
        ()
        if copy is None
        else (f"all that was committed is in {copy}: {to_use_copy(copy, path)}; or else: ",)
    )


def _was_cut_off(path: Path) -> bool:
    """A change outside of WAL mode (a migration, say) was killed: it is still to be undone, from SQLite's journal."""
    return _size(journal_of(path)) > 0


def _connect_to_read(path: Path, *, immutable: bool = False) -> sqlite3.Connection:
    return _connect(f"{path.absolute().as_uri()}?{'immutable=1' if immutable else 'mode=ro'}", uri=True)


def _connect(database: Path | str, *, uri: bool = False) -> sqlite3.Connection:
    with _EXCHANGE:
        connection = sqlite3.connect(database, uri=uri, isolation_level=None, check_same_thread=False)
        with suppress(sqlite3.Error):  # what is wrong with it the next statement says
            connection.execute("PRAGMA application_id").fetchone()  # which opens its log and index
    add_checksum(connection)
    return connection


def _migrated_copy(connection: sqlite3.Connection, found: int) -> sqlite3.Connection:
    """A ledger of an older format that is not to be written, as one of the newest, of this connection alone."""
    copy = _connect("")  # SQLite's temporary database: on the disk where it is too large for its cache
    connection.backup(copy)
    connection.close()
    migrate(copy, found)
    return copy


def _bring_up_to_date(path: Path) -> None:
    """Undoes what a kill has cut off, and migrates a ledger of an older format, for a reader.

    Raises:
        LedgerInUse: a run is on it.
    """
    path = name_to_write(path)
    try:
        lock = LedgerLock(path)
    except LedgerInUse as error:
        raise LedgerInUse(
            error.message + ", and is of an older format or in the middle of a change",
            hint="it can be read once that run has ended",
        ) from error
    try:
        with closing(_connect(path)) as connection:  # the first statement undoes what was cut off
            found = check(path, connection)
            if found < FORMAT:  # else somebody was faster
                migrate(connection, found)
    finally:
        lock.release(keep=lock.commits_before > 0)


def check(path: Path, connection: sqlite3.Connection) -> int:
    """Refuse a file that is no ledger, is of a format that is not known here, or lost its end. Returns its format."""
    if _pragma(connection, "application_id") != APPLICATION_ID:
        raise LedgerError(f"{path} is not a ledger", hint="nothing was changed; choose another output")
    found = _pragma(connection, "user_version")
    if found != FORMAT and found not in STEPS:
        raise LedgerError(
            f"{path} has ledger format {found}; this version of mistill reads formats up to {FORMAT}",
            hint=words(
                "nothing was changed; use the version that wrote it, choose another output, or start over with ",
                _FRESH,
                ", which keeps this file under another name",
            ),
        )
    _check_its_end(path, connection)
    _check_tables(connection)
    if found == FORMAT and read_meta(connection, "schema") != schema_sum(connection):
        raise DamagedMeta("its tables are not those that were made")
    return found


def _check_tables(connection: sqlite3.Connection) -> None:
    """Refuses what only looks like a table of ours, before anything is read from it: a view may be without end."""
    named = ", ".join("?" * len(TABLES))
    query = f"""SELECT 1 FROM sqlite_master WHERE lower(name) IN ({named})
        AND (type <> 'table' OR sql NOT LIKE 'CREATE TABLE %') LIMIT 1"""  # noqa: S608 - our own words
    if connection.execute(query, TABLES).fetchone() is not None:
        raise DamagedMeta("its tables are not those that were made")


def _check_its_end(path: Path, connection: sqlite3.Connection) -> None:
    """Refuses a file that is shorter than it was, unless all pages of its end are in its log."""
    page_bytes, pages = _pragma(connection, "page_size"), _pragma(connection, "page_count")
    size = path.stat().st_size
    if size >= pages * page_bytes:
        return
    missing = range(size // page_bytes + 1, pages + 1)
    if _has_log(path) and pages_in(log_of(path)).issuperset(missing):
        return
    raise LedgerError(
        f"{path} is damaged: {size} bytes are left of {pages * page_bytes}",
        hint=words(
            "nothing was changed; restore it from a copy, or start over with ",
            _FRESH,
            ", which keeps this file under another name",
        ),
    )


def set_aside(path: Path) -> Path | None:
    """Rename an old ledger (its log folded in, if it is one), so that a fresh one can take its place."""
    log = log_of(path)
    is_there = path.exists()
    if not is_there and not log.exists():
        return None
    if is_there and path.stat().st_size:  # beside an empty file, SQLite deletes the log
        # Not SQLite at all, or damaged: kept as it is.
        with (
            suppress(sqlite3.DatabaseError),
            closing(sqlite3.connect(path, isolation_level=None)) as connection,
        ):
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    aside = free_name(path, "bak")
    # What a damaged ledger still has in its log goes with it, under the name that SQLite would look for.
    if log.exists():
        log.rename(log_of(aside))
    path.with_name(path.name + "-shm").unlink(missing_ok=True)
    if jobs_of(path).is_dir():
        jobs_of(path).rename(jobs_of(aside))
    return path.rename(aside) if is_there else None


def read_meta(connection: sqlite3.Connection, key: str) -> str | None:
    """What ``meta`` has under a key.

    Raises:
        DamagedMeta: it does not fit its checksum.
    """
    found = connection.execute("SELECT value, checksum FROM meta WHERE key = ?", (key,)).fetchone()
    if found is None:
        return None
    value, checksum = found
    if not isinstance(value, str) or meta_sum(key, value) != checksum:
        raise DamagedMeta(f"its {key} cannot be read any more")
    return value


def read_number(connection: sqlite3.Connection, key: str) -> int | None:
    """The number that ``meta`` has under a key.

    Raises:
        DamagedMeta: it does not fit its checksum, or is none.
    """
    value = read_meta(connection, key)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS):
        raise DamagedMeta(f"its {key} is no number")
    return int(value)


def write_meta(connection: sqlite3.Connection, key: str, value: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value, meta_sum(key, value)))


def note_shard(path: Path, connection: sqlite3.Connection, shard: int) -> None:
    """Keeps which shard of its run a ledger has: where it stands, another may be put.

    Raises:
        LedgerError: it has another one.
    """
    known = read_number(connection, "shard")
    if known is None:
        write_meta(connection, "shard", str(shard))
    elif known != shard:
        raise _not_of_shard(path, shard, f"of shard {known}")


def check_shard(path: Path, connection: sqlite3.Connection, shard: int, manifest: bytes | None) -> None:
    """``LedgerError`` if a ledger stands in the place of a shard, and has another one, or answers of another run.

    Args:
        manifest: of the run; ``None``: nobody knows it.
    """
    if (known := read_number(connection, "shard")) not in (None, shard):
        raise _not_of_shard(path, shard, f"of shard {known}")
    own = read_meta(connection, "manifest")
    # Where nothing was spent, a start makes it one of the run.
    if (
        own is not None
        and manifest is not None
        and not _is_same(own, manifest)
        and _has_cost_money(connection)
    ):
        raise _not_of_shard(path, shard, "of a run with other settings")


def _is_same(manifest: str, other: bytes) -> bool:
    return _flat(json.loads(manifest)) == _flat(json.loads(other))


def _not_of_shard(path: Path, shard: int, whose: str) -> LedgerError:
    return LedgerError(
        f"{path} is not the ledger of shard {shard} of this run, but {whose}",
        hint=words(
            "put back the one that was there, or remove this one and ",
            START_AGAIN,
            ": its rows are asked and paid for again",
        ),
    )


def count_commits(connection: sqlite3.Connection) -> int:
    """The transactions that a ledger has seen, as far as its versions have counted them."""
    return read_number(connection, "commits") or 0


def _check_nothing_is_lost(path: Path, connection: sqlite3.Connection, commits: int) -> None:
    """Refuses a ledger that knows less than it did: SQLite passes over a log that is gone, and over what does not fit
    its sums from the first wrong byte on."""
    if not commits:
        return
    found = 0 if _is_empty(connection) else count_commits(connection)
    if found < commits:
        lock = lock_of(path)
        raise LedgerError(
            f"the ledger {path} lost the end of its log: {commits - found:,} of {commits:,} transactions are gone, "
            "with all that was answered in them",
            hint=words(
                *_use_rescued(path),
                f"{log_of(path)} was deleted, cut or changed: put it back as it was; to go on without it, remove "
                f"{lock}: what is lost is asked and paid for again",
            ),
        )


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def _create(
    connection: sqlite3.Connection, manifest: Mapping[str, Any], settings: Mapping[str, Any], version: str
) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "BEGIN IMMEDIATE"
    )  # all or nothing: a kill in here leaves an empty file, made again then
    for statement in statements(SCHEMA):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    _write_manifest(connection, manifest)
    write_settings(connection, settings)
    write_meta(connection, "created_at", str(time.time()))
    write_meta(connection, "mistill_version", version)
    write_meta(connection, "schema", schema_sum(connection) or "")
    connection.execute("COMMIT")
    # The file itself says what it is, with its log or without.
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def write_settings(connection: sqlite3.Connection, settings: Mapping[str, Any]) -> None:
    write_meta(connection, "settings", json.dumps(settings, ensure_ascii=False))


def _write_manifest(connection: sqlite3.Connection, manifest: Mapping[str, Any]) -> None:
    write_meta(connection, "manifest", json.dumps(manifest, ensure_ascii=False))


def _has_cost_money(connection: sqlite3.Connection) -> bool:
    """An attempt was answered, or may be on the bill."""
    query = f"""SELECT 1 FROM attempts
        WHERE coalesce(status NOT IN ('failed', 'not_sent'), 1) OR NOT {ATTEMPT_IS_SOUND} LIMIT 1"""  # noqa: S608 - our own words
    return connection.execute(query).fetchone() is not None


def _start_over(connection: sqlite3.Connection, manifest: Mapping[str, Any]) -> None:
    """A run that got no answer had perhaps a wrong template, model or key: nothing is lost with its settings.
    Jobs stay, none of which was answered: their files are perhaps still at the server."""
    connection.execute("BEGIN IMMEDIATE")
    for table in (
        "rows",
        "records",
        "attempts",
        "outcomes",
        "earlier_outcomes",
        "settings",
        "starts",
        "marks",
    ):
        connection.execute(f"DELETE FROM {table}")  # noqa: S608 - our own words
    connection.execute("DELETE FROM meta WHERE key = 'input_rows'")
    _write_manifest(connection, manifest)
    connection.execute("COMMIT")


def _check_manifest(path: Path, connection: sqlite3.Connection, manifest: Mapping[str, Any]) -> None:
    text = read_meta(connection, "manifest")
    if text is None:
        raise DamagedMeta("its manifest is lost")
    try:
        before = _flat(json.loads(text))
    except (ValueError, RecursionError) as error:
        raise DamagedMeta("its manifest is no JSON") from error
    now = _flat(json.loads(json.dumps(manifest)))
    changes: dict[str, tuple[object, object]] = {
        key: (before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    }
    if not changes:
        return
    if not _has_cost_money(connection):
        _start_over(connection, manifest)
        return
    shown = "; ".join(f"{key}: {_short(old)} → {_short(new)}" for key, (old, new) in changes.items())
    raise ManifestChanged(
        f"{path} belongs to a run with other settings: {shown}",
        changes=changes,
        hint=words(
            "go back to those settings to resume, choose another output, or start over with ",
            _FRESH,
            ", which keeps the old ledger under another name",
        ),
    )


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """``{"prompt": {"system": "…"}}`` → ``{"prompt.system": "…"}``. What is null or empty is as good as not there."""
    if isinstance(value, dict):
        parts: dict[str, Any] = {}
        for name, part in value.items():  # pyright: ignore[reportUnknownVariableType] - JSON
            parts |= _flat(part, f"{key}.{name}" if key else str(name))  # pyright: ignore[reportUnknownArgumentType] - JSON
        return parts
    return {} if value is None else {key: value}


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}…"


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]
