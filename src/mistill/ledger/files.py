"""The ledger as a file: its one name among several, who may read it, and whether it is still there."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from mistill.errors import LedgerError
from mistill.wording import START_AGAIN, words

_LOOK_EVERY_S = 0.1
_MAGIC = b"SQLite format 3\0"

_DATABASE = b"SQLite format 3\0"
_COMPANIONS = ("-wal", "-shm", "-journal", ".lock")


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
    return next((owner for owner in owners if owner.name and _is_database(owner)), None)


def is_same(path: Path, other: Path) -> bool:
    """Whether both names are of one file, or would be."""
    with suppress(OSError):
        return path.samefile(other)
    return os.path.realpath(path) == os.path.realpath(other)


def _is_database(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(len(_DATABASE)) == _DATABASE
    except (OSError, ValueError):
        return False


def main_name(path: Path) -> tuple[Path, bool]:
    """The one name by which a ledger is to be opened, and whether all its names are known.

    Its log and its lock go by its name, so whoever opens it by another would see neither. A symbolic link is followed.
    Of hard links in one directory, that is the name which has a log or a lock, or else the first.
    """
    if path.is_symlink():
        path = path.resolve()
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
    """Whether it is a file of SQLite's (https://www.sqlite.org/fileformat2.html, 1.3.1)."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


class FilesInUse:
    """The files of a ledger that is open, which somebody may delete, replace or cut meanwhile.

    Args:
        ledger: which never becomes shorter while a run is on it.
        others: its log and its lock.
    """

    def __init__(self, ledger: Path, *others: Path) -> None:
        self._ledger = ledger
        self._ledger_bytes = 0
        self._found = {
            path: (found.st_dev, found.st_ino) for path in (ledger, *others) if (found := _stat(path))
        }
        self._next_look_s = 0.0

    def check(self, *, now: bool) -> None:
        """Looks whether they are still there; unless it must be ``now``, only where it did not look just before.

        Raises:
            LedgerError: one is not: what is written now, nobody would find.
        """
        time_s = time.monotonic()
        if not now and time_s < self._next_look_s:
            return
        self._next_look_s = time_s + _LOOK_EVERY_S
        for path in self._found:
            if not self._is_there(path):
                raise LedgerError(
                    f"the ledger {self._ledger} was deleted, moved, replaced or cut while its run went on: "
                    f"{path} is not what it was",
                    hint=words(
                        "nothing more was sent; if it was moved, put it back and ",
                        START_AGAIN,
                    ),
                )

    def are_there(self) -> bool:
        return all(map(self._is_there, self._found))

    def _is_there(self, path: Path) -> bool:
        found = _stat(path)
        if found is None or (found.st_dev, found.st_ino) != self._found[path]:
            return False
        if path != self._ledger:
            return True
        before, self._ledger_bytes = self._ledger_bytes, found.st_size
        return before <= found.st_size


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except OSError:
        return None
