"""The ledger as a file: its one name among several, what stands beside it, and who may read it."""

from __future__ import annotations

import glob
import os
import shlex
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path

from mistill.errors import LedgerError
from mistill.ledger.tables import APPLICATION_ID
from mistill.wording import START_AGAIN, words

_MAGIC = b"SQLite format 3\0"
_COMPANIONS = ("-wal", "-shm", "-journal", ".lock")


def jobs_of(path: Path) -> Path:
    """The folder with the files of batch jobs."""
    return path.with_name(path.name + ".jobs")


def log_of(ledger: Path) -> Path:
    """SQLite's write-ahead log, whose name is made from the one by which the ledger was opened."""
    return ledger.with_name(ledger.name + "-wal")


def journal_of(ledger: Path) -> Path:
    """SQLite's rollback journal, while a transaction outside of WAL mode is under way, or was cut off."""
    return ledger.with_name(ledger.name + "-journal")


def lock_of(ledger: Path) -> Path:
    return ledger.with_name(ledger.name + ".lock")


def files_of(ledger: Path) -> list[Path]:
    """The ledger and all that stands beside it while it is in use: its log, the log's index, a journal, the lock."""
    return [ledger, *(ledger.with_name(ledger.name + suffix) for suffix in _COMPANIONS)]


def owner_of(path: Path) -> Path | None:
    """The database (a ledger, as a rule) that would be harmed if this file were written: itself, or that it stands
    beside as log, index, journal or lock. A symbolic link is what it names."""
    names = [path]
    with suppress(OSError):
        names.append(Path(os.path.realpath(path)))
    owners = [
        path,
        *(
            name.with_name(name.name.removesuffix(end))
            for name in names
            for end in _COMPANIONS
            if name.name.endswith(end)
        ),
    ]
    return next((owner for owner in owners if owner.name and is_database(owner)), None)


def main_name(path: Path) -> tuple[Path, bool]:
    """The one name by which a ledger is to be opened, and whether all its names are known.

    Its log and its lock go by its name, so whoever opens it by another would see neither. A symbolic link is followed.
    Of hard links in one directory, that is the name which has a log or a lock, or else the first.
    """
    if os.path.islink(path):  # noqa: PTH114  False of a name that no file can have
        path = Path(os.path.realpath(path))  # of one that leads back to itself, `resolve` raises
    try:
        found = path.stat()
    except OSError:
        return path, True
    if found.st_nlink < 2:
        return path, True
    names = [path]
    with suppress(OSError), os.scandir(path.parent) as entries:
        names = sorted(path.with_name(entry.name) for entry in entries if entry.inode() == found.st_ino)
    in_use = [name for name in names if log_of(name).exists()] + [
        name for name in names if lock_of(name).exists()
    ]
    return (in_use or names)[0], len(names) >= found.st_nlink


def is_database(path: Path) -> bool:
    """Whether it is a file of SQLite's (https://www.sqlite.org/fileformat2.html, 1.3.1), or the rest of one."""
    return _application_in(path) is not None or _begins_as_one(path)


def is_ledger(path: Path) -> bool:
    """Whether it is a database of ours: its header says whose it is (the same, 1.3.14)."""
    return _application_in(path) == APPLICATION_ID


def _begins_as_one(path: Path) -> bool:
    """Of a file that SQLite does not take: nobody has locks on it by a connection that works."""
    try:
        if not path.is_file() or not path.stat().st_size:
            return False
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except (OSError, ValueError):
        return False


def _application_in(path: Path) -> int | None:
    """Whose database a file is, by its header; ``None``: it is none.

    SQLite looks, and nothing of ours: whoever closes a file drops all locks that this process has on it, those of a
    connection too by which a run writes or somebody reads (https://www.sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        if not path.is_file() or not path.stat().st_size:
            return None
        uri = f"{path.absolute().as_uri()}?immutable=1"
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            return connection.execute("PRAGMA application_id").fetchone()[0]
    except (OSError, ValueError, sqlite3.Error):  # no name that a file can have, or no database
        return None


def free_name(path: Path, why: str) -> Path:
    """A name beside the ledger, with the time in it, that no file has."""
    first = path.with_name(f"{path.name}.{why}-{time.strftime('%Y%m%d-%H%M%S')}")
    free, number = first, 1
    while free.exists() or log_of(free).exists():
        number += 1
        free = first.with_name(f"{first.name}-{number}")
    return free


def cannot_write(path: Path, why: object) -> LedgerError:
    """The error of a ledger, or a file of it, that the disk does not take."""
    return LedgerError(
        f"cannot write the ledger {path}: {why}",
        hint=words("make room on the disk and ", START_AGAIN, ": what was committed is kept"),
    )


def rescued_copy(ledger: Path) -> Path | None:
    """The newest whole copy that a run made of a ledger whose files were hurt."""
    copies = ledger.parent.glob(f"{glob.escape(ledger.name)}.rescued-*[0-9]")
    return max(copies, key=lambda copy: copy.stat().st_mtime_ns, default=None)


def to_use_copy(copy: Path, ledger: Path) -> str:
    """What puts it in the ledger's place."""
    # The log first: it would be taken for the copy's.
    beside = " ".join(shlex.quote(str(path)) for path in (log_of(ledger), lock_of(ledger)))
    return f"rm -f {beside} && mv {shlex.quote(str(copy))} {shlex.quote(str(ledger))}"
