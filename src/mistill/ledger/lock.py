"""One run per ledger: an advisory lock that the operating system takes back however the process ends."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mistill.errors import LedgerError, LedgerInUse

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        # Far past the end, so that the process id at the start stays readable for the one that is refused.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class LedgerLock:
    """Held from construction to ``release``.

    It is a file beside the ledger, because closing a second descriptor of the ledger itself would drop
    SQLite's own locks (https://www.sqlite.org/howtocorrupt.html, 2.2).

    Raises:
        LedgerInUse: another process (or another run in this one) holds it.
        LedgerError: the file cannot be made.
    """

    def __init__(self, ledger: Path) -> None:
        self._path = ledger.with_name(ledger.name + ".lock")
        while True:
            self._descriptor = self._acquire(ledger)
            if self._is_current():
                break
            os.close(self._descriptor)  # its last holder removed it between our open and our lock
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, str(os.getpid()).encode())

    def release(self) -> None:
        # Removed while it is still held: whoever opened it meanwhile sees that it is not the current one.
        if sys.platform != "win32":
            self._path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def _acquire(self, ledger: Path) -> int:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise LedgerError(
                f"cannot lock the ledger {ledger}: {error.strerror}",
                hint="check that the directory exists and that you may write to it",
            ) from error
        try:
            _try_lock(descriptor)
        except OSError as error:
            os.lseek(descriptor, 0, os.SEEK_SET)
            holder = os.read(descriptor, 32).decode(errors="replace") or "unknown"
            os.close(descriptor)
            raise LedgerInUse(
                f"the ledger {ledger} is in use by process {holder}",
                hint="wait for that run, or stop it; `mistill status` works meanwhile",
            ) from error
        return descriptor

    def _is_current(self) -> bool:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return False
        mine = os.fstat(self._descriptor)
        return (found.st_dev, found.st_ino) == (mine.st_dev, mine.st_ino)
