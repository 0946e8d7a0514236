"""Where the host of a quota is found, and who may be it.

``MISTILL_GOVERNOR`` in the environment: unset, a socket in the user's runtime folder, one for each quota; ``off``, no
sharing; ``tcp://HOST:PORT``, one address for all quotas of all machines, with the token of ``MISTILL_GOVERNOR_TOKEN``.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import time
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

from mistill.delivery.sharing.frames import VERSION
from mistill.directories import is_at
from mistill.errors import InputError
from mistill.runtime_folder import is_our_folder, runtime_folder

if sys.platform != "win32":
    import fcntl

_log = logging.getLogger("mistill")
VARIABLE = "MISTILL_GOVERNOR"
TOKEN_VARIABLE = "MISTILL_GOVERNOR_TOKEN"  # noqa: S105  its name
_MIN_TOKEN_CHARS = 16
_BACKLOG = 512
_KEPT_FOR_S = 86_400
"""What was killed leaves its files behind; what has not been touched for a day is cleared away."""
LOCK, SOCKET, COUNTS, NEW = ".lock", ".sock", ".counts", ".new"


def file_of(folder: Path, name: str, suffix: str) -> Path:
    """A file of the governor of this name. Versions of mistill that could not talk to each other do not meet."""
    return folder / f"{VERSION}-{name}{suffix}"


class Seat:
    """The right to be the host at a place, and where its guests call.

    Args:
        listening: where they call, bound already.
        lock: the descriptor of the file whose lock is the right; ``None``: the address itself is.
        files: the socket's and the lock's, removed when it is given up.
    """

    def __init__(
        self, listening: socket.socket, lock: int | None = None, files: tuple[Path, Path] | None = None
    ) -> None:
        self.listening = listening
        self._lock = lock
        self._files = files

    def keep(self) -> bool:
        """It is in use: nobody clears it away. False: somebody has, and nobody finds it any more."""
        if self._lock is None or self._files is None:
            return True
        calls_at, lock = self._files
        if not (self._has_files(self._lock, lock) and calls_at.exists()):
            return False
        with suppress(OSError):
            os.utime(self._lock)
        return True

    def give_up(self) -> None:
        """Another may take it."""
        self.listening.close()
        if self._lock is not None and self._files is not None and self._has_files(self._lock, self._files[1]):
            for file in self._files:  # the lock's last; where it is another's, the socket is as well
                with suppress(OSError):
                    file.unlink()
        self._close_lock()

    def forget(self) -> None:
        """In a forked child: it is the parent's, who keeps it."""
        close_here(self.listening)
        self._close_lock()  # which unlocks nothing as long as the parent has it open

    def _has_files(self, lock: int, path: Path) -> bool:
        return is_our_folder(path.parent, make=False) and is_at(lock, path)

    def _close_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


class Place(ABC):
    """Where the host is found.

    Attributes:
        key: tells it from other places, within a process.
        token: what a guest there has to know.
        is_for_all: the host there has all quotas, not one.
    """

    key: str
    token: bytes = b""
    is_for_all: bool = False

    @abstractmethod
    def take(self) -> Seat | None:
        """The right to be the host, unless another has it.

        Raises:
            OSError: nobody can be it there now.
        """

    @abstractmethod
    def counts_path(self, name: str) -> Path | None:
        """Where the host there writes what it has counted, for the governor of this name; ``None``: nowhere."""

    @abstractmethod
    def caller(self) -> tuple[socket.socket, str | tuple[str, int]]:
        """A socket to call the host with, and its address.

        Raises:
            OSError: nobody can be called there now.
        """


class SocketFile(Place):
    """A socket in the user's runtime folder, and a lock beside it.

    The folder may be removed and made by another user, or opened to others, at any time: it is looked at before each
    use, and one that is not this user's own is as one that is not there.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._lock, self._socket = file_of(folder, name, LOCK), file_of(folder, name, SOCKET)
        self.key = str(self._socket)
        self._has_warned = False

    def take(self) -> Seat | None:
        self._check_folder(make=True)  # it may have been removed
        lock = _locked(self._lock)
        if lock is None:
            return None
        listening = socket.socket(socket.AF_UNIX)
        try:
            self._socket.unlink(missing_ok=True)  # of one that was killed
            listening.setblocking(False)
            listening.bind(self.key)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            os.close(lock)
            raise
        _clear_away(self._folder)
        return Seat(listening, lock, (self._socket, self._lock))

    def counts_path(self, name: str) -> Path:
        return file_of(self._folder, name, COUNTS)

    def caller(self) -> tuple[socket.socket, str]:
        self._check_folder(make=False)
        calling = socket.socket(socket.AF_UNIX)
        calling.setblocking(False)
        return calling, self.key

    def _check_folder(self, *, make: bool) -> None:
        """What was this user's own may have been removed, and another's be there now."""
        if is_our_folder(self._folder, make=make):
            return
        if self._folder.exists() and not self._has_warned:
            self._has_warned = True
            _log.warning(
                "the governor of this quota is not shared: %s is not this user's own, or others may look into it",
                self._folder,
            )
        raise PermissionError(f"{self._folder} is no folder of this user's own")


class Address(Place):
    """A TCP address. The host is who could bind it."""

    is_for_all = True

    def __init__(self, host: str, port: int, token: bytes) -> None:
        self.key = f"{host}:{port}"
        self.token = token
        self._family, self._address = _resolved(host, port)

    def take(self) -> Seat | None:
        listening = socket.socket(self._family)
        try:
            if sys.platform == "win32":
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
            else:  # connections of the last host may linger
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.setblocking(False)
            listening.bind(self._address)
            listening.listen(_BACKLOG)
        except OSError:  # another has it, or it is of another machine
            listening.close()
            return None
        return Seat(listening)

    def counts_path(self, name: str) -> Path | None:
        folder = runtime_folder()
        return None if folder is None else file_of(folder, f"{name}-{self._address[1]}", COUNTS)

    def caller(self) -> tuple[socket.socket, tuple[str, int]]:
        return _calling(self._family), self._address


class Door(Place):
    """Where one process has a governor for some others, which it tells of this, and no other process ever is the host.

    Args:
        address: of the machine that has it. ``port``: 0 where it is to be opened.
        token: what proves that one was told.
    """

    def __init__(self, address: str, port: int, token: bytes) -> None:
        self.address, self.port, self.token = address, port, token
        self.key = f"{address}:{port}"

    def take(self) -> None:
        """Nobody but the one that has opened it."""

    def open(self) -> Seat:
        """This process has it.

        Raises:
            OSError: the address is none of this machine.
        """
        family, address = _resolved(self.address, self.port)
        listening = socket.socket(family)
        try:
            listening.setblocking(False)
            listening.bind(address)
            listening.listen(_BACKLOG)
        except OSError:
            listening.close()
            raise
        self.port = listening.getsockname()[1]
        self.key = f"{self.address}:{self.port}"
        return Seat(listening)

    def counts_path(self, name: str) -> None:
        """Nowhere: nobody takes its place."""

    def caller(self) -> tuple[socket.socket, tuple[str, int]]:
        family, address = _resolved(self.address, self.port)
        return _calling(family), address


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, tuple[str, int]]:
    """``OSError`` where nobody knows the host."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return family, (str(address[0]), int(address[1]))


def _calling(family: socket.AddressFamily) -> socket.socket:
    calling = socket.socket(family)
    calling.setblocking(False)
    calling.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    calling.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    return calling


def place_of(name: str) -> Place | None:
    """Where the governor of this name is found, as the environment says; ``None``: it is shared with nobody.

    Raises:
        InputError: what the environment says is no place.
    """
    said = os.environ.get(VARIABLE, "")
    if said == "off":
        return None
    if said:
        return _address(said)
    folder = runtime_folder(lambda folder: len(os.fsencode(file_of(folder, name, SOCKET))) <= _MAX_PATH_BYTES)
    if folder is None:
        _log.info("the governor is not shared: there is no folder of this user's own for its socket")
        return None
    return SocketFile(folder, name)


_MAX_PATH_BYTES = 103
"""Of a socket: as macOS has it; Linux has four more."""
_addresses: dict[tuple[str, str], Address] = {}


def _address(said: str) -> Address:
    token = os.environ.get(TOKEN_VARIABLE, "")
    if (found := _addresses.get((said, token))) is not None:
        return found
    try:
        parts = urlsplit(said)
        host, port = parts.hostname, parts.port
    except ValueError:
        _refuse(said)
    if parts.scheme != "tcp" or not host or not port or parts.path not in ("", "/") or "@" in parts.netloc:
        _refuse(said)
    if len(token) < _MIN_TOKEN_CHARS:
        raise InputError(
            f"{VARIABLE} is {said}, and {TOKEN_VARIABLE} "
            + (f"has fewer than {_MIN_TOKEN_CHARS} characters" if token else "is not set"),
            hint="set it to the same secret, such as of `openssl rand -hex 16`, on every machine that shares the quota",
        )
    try:
        _addresses[said, token] = address = Address(host, port, token.encode())
    except OSError as error:
        raise InputError(
            f"{VARIABLE} is {said}, and nothing has that name: {error.strerror}",
            hint="give the name or the number of a machine that this one knows",
        ) from error
    return address


def _refuse(said: str) -> NoReturn:
    shown = said if "@" not in said else "an address with a user in it"
    raise InputError(
        f"{VARIABLE} is {shown!r}, which is none of: off, tcp://HOST:PORT",
        hint="leave it unset to share the quota with the other processes of this machine",
    )


def _locked(path: Path) -> int | None:
    """The descriptor of the file, which is locked by this process until it is closed; ``None``: by another one."""
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            return None
        if is_at(lock, path):
            return lock
        os.close(lock)  # the one that had it has removed it meanwhile


def _clear_away(folder: Path) -> None:
    oldest_s = time.time() - _KEPT_FOR_S
    with suppress(OSError):
        for stem in {path.with_suffix("") for path in folder.iterdir() if path.lstat().st_mtime < oldest_s}:
            lock_file = stem.with_suffix(LOCK)
            if (lock := _locked(lock_file)) is not None:
                for file in (*(stem.with_suffix(each) for each in (COUNTS, NEW, SOCKET)), lock_file):
                    file.unlink(missing_ok=True)
                os.close(lock)


def close_here(of_parent: socket.socket) -> None:
    """In a forked child: lets go of a socket, with which the parent goes on."""
    if (descriptor := of_parent.detach()) >= 0:
        os.close(descriptor)
