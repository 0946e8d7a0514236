"""A file of this machine: read where it is; written beside its place, synced, then renamed."""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO

from mistill.datasets.formats import files_in
from mistill.datasets.places.file_modes import NEW_FILE, mode_within, stat_of_file, usual_mode
from mistill.datasets.places.output_stream import OutputStream, write_all, write_failure
from mistill.datasets.places.place import Place
from mistill.directories import is_at, sync_directory
from mistill.errors import InputError

if sys.platform != "win32":
    import fcntl

_UNFINISHED = re.compile(r"(.+)\.[0-9a-f]{8}\.partial", re.DOTALL)


class LocalFile(Place):
    """A path: of a file, or of a device or a pipe, which are read and written as they are.

    While it is written, a new file is ``NAME.xxxxxxxx.partial`` beside it, which its owner alone can read, and whose
    lock its writer has. Only a process that was killed leaves one behind, for the next that writes to clear away.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._path = Path(name)

    @property
    def folders(self) -> Sequence[Path]:
        return (self._path.parent,)

    @property
    def repeatable(self) -> bool:
        return self._path.is_file()

    def check_readable(self) -> None:
        if self._path.is_dir():
            names = (path.name for path in self._path.iterdir())
            raise InputError(
                f"{self.name} is a directory", hint=f"name its files: {files_in(str(self._path), names)}"
            )
        if not self._path.exists():
            raise InputError(f"{self.name}: no such file")

    @contextmanager
    def open(self) -> Generator[IO[bytes]]:
        with self._path.open("rb") as file:
            yield file

    @contextmanager
    def for_library(self) -> Generator[str | IO[bytes]]:
        yield str(self._path)

    # --- writing ----------------------------------------------------------------------------------------------------

    @property
    def folder(self) -> Path | None:
        return self._path.parent if _is_replaceable(self._path) else None

    def holds_something(self) -> bool:
        return self._path.is_file() and self._path.stat().st_size > 0

    def check_writable(self) -> None:
        path = self._written
        if path.is_dir():
            raise InputError(f"{self.name} is a directory", hint="name a file in it")
        if not path.parent.is_dir():
            raise InputError(
                f"{self.name}: there is no directory {path.parent}", hint=f"mkdir -p '{path.parent}'"
            )
        place = path.parent if _is_replaceable(path) else path
        if not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
            raise InputError(
                f"{self.name}: the directory cannot be written to", hint="name another place for the output"
            )

    def writing(self, made_of: Sequence[str | Path] = ()) -> AbstractContextManager[OutputStream]:
        self.check_writable()
        self.clear_away()
        path = self._written
        return _beside(path, self.name, made_of) if _is_replaceable(path) else _device(path, self.name)

    def clear_away(self) -> None:
        path = self._written
        clear_unfinished(path.parent, {path.name})

    @property
    def _written(self) -> Path:
        return Path(os.path.realpath(self._path))  # the file a link names is replaced, not the link


def _is_replaceable(path: Path) -> bool:
    """Whether it is, or can become, a regular file; else it is a device, a pipe or a directory."""
    return path.is_file() or not path.exists()


@contextmanager
def _device(path: Path, name: str) -> Generator[OutputStream]:
    with path.open("wb", buffering=0) as raw:
        output = OutputStream(name, partial(write_all, raw.fileno()))
        yield output
        output.emit_pending()


@contextmanager
def _beside(path: Path, name: str, made_of: Sequence[str | Path]) -> Generator[OutputStream]:
    try:
        mode, temporary, descriptor = _new_file(path)
    except OSError as error:
        raise InputError(f"{name}: cannot be written: {error.strerror}") from error
    output = OutputStream(name, partial(write_all, descriptor))
    try:
        try:
            yield output
            output.emit_pending()
            _commit(descriptor, temporary, partial(_mode_for, mode, path, made_of), name)
        finally:
            os.close(descriptor)
        _replace(temporary, path, name)
    except BaseException:
        output.discard()
        with suppress(OSError):
            temporary.unlink()
        raise


def _new_file(path: Path) -> tuple[int, Path, int]:
    """The mode that a file there gets, and one beside it for writing: its path, and its descriptor, which has the lock
    by which nobody takes it for one that was left."""
    while True:
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        mode = usual_mode(temporary)
        descriptor = os.open(temporary, NEW_FILE, 0o600)
        _lock(descriptor)
        if is_at(descriptor, temporary):
            return mode, temporary, descriptor
        os.close(descriptor)  # somebody has cleared it away before it was locked


def _lock(descriptor: int) -> None:
    if sys.platform != "win32":
        with suppress(OSError):  # no locks there: then nobody clears it away either
            fcntl.flock(descriptor, fcntl.LOCK_EX)


def clear_unfinished(folder: Path, names: Collection[str]) -> None:
    """Removes what processes that were killed have left of files of these names; never what another one writes."""
    with suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208  there may be many, and no paths are made of them
            if (left := _UNFINISHED.fullmatch(name)) is not None and left[1] in names:
                _remove_if_left(folder / name)


def _remove_if_left(file: Path) -> None:
    """Removes it unless somebody writes it."""
    if sys.platform == "win32":
        return
    with suppress(OSError):
        descriptor = os.open(file, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(descriptor, file) and stat.S_ISREG(os.fstat(descriptor).st_mode):
                file.unlink()
        finally:
            os.close(descriptor)


def _commit(descriptor: int, temporary: Path, mode_for: Callable[[os.stat_result], int], name: str) -> None:
    try:
        temporary.chmod(mode_for(os.fstat(descriptor)))
        os.fsync(descriptor)
    except OSError as error:
        raise write_failure(name, error) from error


def _mode_for(usual: int, path: Path, made_of: Sequence[str | Path], new: os.stat_result) -> int:
    """The mode of an output that replaces ``path``: its own or the usual one, for nobody whom a source shuts out."""
    replaced = stat_of_file(path)
    return mode_within(usual if replaced is None else stat.S_IMODE(replaced.st_mode), made_of, new)


def _replace(temporary: Path, path: Path, name: str) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        raise write_failure(name, error) from error
    sync_directory(path.parent)
