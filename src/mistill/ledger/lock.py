"""One run per ledger: an advisory lock that the operating system takes back however the process ends."""

from __future__ import annotations

import os
import stat
import sys
import time
from pathlib import Path

from mistill.directories import is_at
from mistill.errors import LedgerError, LedgerInUse
from mistill.ledger.files import cannot_write, lock_of
from mistill.ledger.permissions import is_denied, permission_denied
from mistill.wording import Phrase, words

if sys.platform == "win32":
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        # Far past the end, so that the process id at the start stays readable for the one that is refused.
        os.lseek(descriptor, 1 << 30, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)

    _try_glance = _try_lock
else:
    import fcntl

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _try_glance(descriptor: int) -> None:
        # Shared: NFS gives another only to who may write.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


_MAX_BYTES = 32
"""More than the numbers in it have: a file that is longer is somebody else's."""


def read_commits(ledger: Path) -> int:
    """How many transactions a ledger must have seen; 0 where nothing says it, as after a start that ended well."""
    try:
        with lock_of(ledger).open("rb") as file:
            numbers = file.read(_MAX_BYTES + 1).split()
        return int(numbers[1]) if len(numbers) == 2 else 0
    except (OSError, ValueError):
        return 0


_GLANCE_S = 0.05
"""How long somebody may hold the lock who only looks whether it is held."""


def _lock_soon(descriptor: int) -> None:
    """The lock, unless it is held for longer than a glance takes."""
    give_up_at = time.monotonic() + _GLANCE_S
    while True:
        try:
            return _try_lock(descriptor)
        except OSError:
            if time.monotonic() >= give_up_at:
                raise
        time.sleep(_GLANCE_S / 10)


def holder_of(ledger: Path) -> int | None:
    """The process whose run is on a ledger that is held, given by its main name; ``None``: it cannot say who it is."""
    try:
        with lock_of(ledger).open("rb") as file:
            return int(file.read(_MAX_BYTES + 1).split()[0])
    except (OSError, ValueError, IndexError):
        return None


def is_held(ledger: Path) -> bool:
    """Whether a run is on the ledger, which is given by its main name.

    Of one whose lock's file may not be read, as another user's may not, it is only seen that the file is there, which a
    run that comes to its end removes.
    """
    try:  # to read is enough: what is kept of a run that was killed may be read-only
        descriptor = os.open(lock_of(ledger), os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    except PermissionError:
        return True
    except OSError:
        return False  # each run makes one, that it removes at its end
    try:
        _try_glance(descriptor)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def _is_stopped(holder: str, lock: os.stat_result) -> bool:
    """Whether a process of this machine has the lock, and a signal has stopped it: then it holds it without end.

    A number is one of another machine, maybe: only who has the lock's file open is meant. Where there is no /proc, or
    it is another user's, nobody knows.
    """
    if not holder.isdecimal():
        return False
    process = Path("/proc", holder)
    try:
        # Its name, which stands before that, may be anything.
        state = (process / "stat").read_bytes().rpartition(b")")[2].split()[0]
        return state in b"Tt" and any(_is_file(one, lock) for one in (process / "fd").iterdir())
    except (OSError, ValueError, IndexError):
        return False


def _is_file(path: Path, wanted: os.stat_result) -> bool:
    try:
        return os.path.samestat(path.stat(), wanted)
    except OSError:  # closed meanwhile
        return False


def _how_to_go_on(process: str) -> str:
    return f", which is stopped: `kill -CONT {process}` lets it go on, `kill -9 {process}` ends it"


class LedgerLock:
    """Held from construction to ``release``.

    It is a file beside the ledger, because closing a second descriptor of the ledger itself would drop
    SQLite's own locks (https://www.sqlite.org/howtocorrupt.html, 2.2).

    Args:
        ledger: the ledger by its main name, see ``files``.

    Raises:
        LedgerInUse: another process (or another run in this one) holds it.
        LedgerError: the file cannot be made or written, or something else is in its place, which is left as it is.
    """

    def __init__(self, ledger: Path) -> None:
        self._ledger = ledger
        self.path = lock_of(ledger)
        while True:
            self._descriptor = self._acquire(ledger)
            if self._is_current():
                break
            os.close(self._descriptor)  # its last holder removed it between our open and our lock
        self.commits_before = read_commits(ledger)
        try:
            self.note_commits(self.commits_before)
        except LedgerError:
            self.release(keep=self.commits_before > 0)
            raise

    def note_commits(self, commits: int) -> None:
        """Keeps how many transactions the ledger has seen: written after each, so that it never says too many.

        It is there as long as the lock's file is: when a run was killed, the next start knows what its log must hold.

        Raises:
            LedgerError: the disk does not take it.
        """
        text = f"{os.getpid()} {commits}".encode()
        try:
            os.lseek(self._descriptor, 0, os.SEEK_SET)
            os.write(self._descriptor, text.ljust(_MAX_BYTES))
        except OSError as error:
            raise cannot_write(self._ledger, error.strerror) from error

    def release(self, *, keep: bool = False) -> None:
        """Lets go of it; ``keep``: its file stays, with what it says of the ledger."""
        # Removed while it is still held: whoever opened it meanwhile sees that it is not the current one.
        if sys.platform != "win32" and not keep and self._is_current():
            self.path.unlink(missing_ok=True)
        os.close(self._descriptor)

    def leave_to_parent(self) -> None:
        """In a forked child: the lock is the parent's alone, and is free when that has let go of it."""
        os.close(self._descriptor)

    def _acquire(self, ledger: Path) -> int:
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
        try:
            descriptor = os.open(self.path, flags, 0o600)
        except OSError as error:
            if os.path.islink(self.path):  # noqa: PTH114  False of a name that no file can have
                raise self._is_foreign(ledger) from error
            raise self._cannot_be(ledger, error) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_size > _MAX_BYTES:
            os.close(descriptor)
            raise self._is_foreign(ledger)
        try:
            _lock_soon(descriptor)
        except OSError as error:
            if not isinstance(error, BlockingIOError | PermissionError):  # of Windows: that one
                os.close(descriptor)
                raise self._cannot_be(ledger, error) from error
            os.lseek(descriptor, 0, os.SEEK_SET)
            holder = (os.read(descriptor, _MAX_BYTES).decode(errors="replace").split() or ["unknown"])[0]
            told = _how_to_go_on(holder) if _is_stopped(holder, os.fstat(descriptor)) else ""
            os.close(descriptor)
            raise LedgerInUse(
                f"the ledger {ledger} is in use by process {holder}{told}",
                hint=words(
                    "wait for that run, or stop it; ",
                    Phrase("Run.open(path).report()", "`mistill status`"),
                    " works meanwhile",
                ),
            ) from error
        return descriptor

    def _cannot_be(self, ledger: Path, error: OSError) -> LedgerError:
        if is_denied(self.path, "written"):
            return permission_denied(self.path, "written")
        return LedgerError(
            f"cannot lock the ledger {ledger}: {error.strerror}",
            hint="check that the directory exists, that you may write to it, and that its disk has locks",
        )

    def _is_foreign(self, ledger: Path) -> LedgerError:
        return LedgerError(
            f"cannot lock the ledger {ledger}: {self.path} is no lock of ours, but a link or another file",
            hint="nothing was changed; remove it, or give another path for the ledger or output",
        )

    def _is_current(self) -> bool:
        return is_at(self._descriptor, self.path)
