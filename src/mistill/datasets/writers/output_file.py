"""A file that is there whole or not at all: written beside its place, synced, then renamed."""

from __future__ import annotations

import os
import secrets
import stat
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, cast

from mistill.directories import sync_directory
from mistill.errors import InputError, MistillError
from mistill.visible import visible_records

_FLUSH_BYTES = 1 << 20
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


class OutputFile:
    """Bytes on their way out, in pieces of about 1 MiB. As much of a file object as gzip and pyarrow ask for.

    A failure to write is raised once, as a ``MistillError``. What is written after it is dropped: gzip and pyarrow
    write their trailers when they are collected, and must find somebody there.
    """

    closed = False

    def __init__(self, name: str, emit: Callable[[bytes], object]) -> None:
        self.name = name
        self._emit = emit
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._emitted_bytes = 0
        self._discarded = False

    def write(self, data: bytes) -> int:
        size = len(data)
        if size >= _FLUSH_BYTES:  # as it is: a column of Arrow data is one piece of tens of megabytes
            self.emit_pending()
            self._send(data)
            return size
        self._pending.append(bytes(data))
        self._pending_bytes += size
        if self._pending_bytes >= _FLUSH_BYTES:
            self.emit_pending()
        return size

    def emit_pending(self) -> None:
        """Hand everything on to the operating system. ``flush`` is no name for it: gzip calls that too often."""
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self._send(data)

    def _send(self, data: bytes) -> None:
        self._emitted_bytes += len(data)
        if self._discarded:
            return
        try:
            self._emit(data)
        except OSError as error:
            self._discarded = True
            raise write_failure(self.name, error) from error

    def discard(self) -> None:
        self._discarded = True

    def tell(self) -> int:
        return self._emitted_bytes + self._pending_bytes

    def flush(self) -> None:
        pass

    def close(self) -> None:
        """Nothing: who opened it decides whether what was written counts."""

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


@contextmanager
def open_output(target: str | Path, made_of: Sequence[str | Path] = ()) -> Generator[OutputFile]:
    """The place ``target`` for writing: a path, or ``-`` for stdout.

    A regular file appears, or is replaced, when the block ends well; until then, and if it ends badly, the old one
    stays as it was. Meanwhile the new one is ``NAME.xxxxxxxx.partial`` beside it, which only a process that was killed
    leaves behind, and which its owner alone can read. Devices and pipes (``/dev/null``) are written to as they are.

    Args:
        target: where it goes.
        made_of: the files that are in it, ``-`` for stdin: whoever may not read these, or the file that it replaces,
            may not read it either.

    Raises:
        InputError: nothing can be written at that place.
        MistillError: writing fails later (a full disk).
    """
    if str(target) == "-":
        yield from _stdout()
        return
    path = Path(os.path.realpath(target))  # the file a link names is replaced, not the link
    if is_replaceable(path):
        yield from _beside(path, str(target), made_of)
    else:
        yield from _device(path, str(target))


def is_replaceable(path: Path) -> bool:
    """Whether ``path`` is, or can become, a regular file; else it is a device, a pipe, a directory, or stdout."""
    return str(path) != "-" and (path.is_file() or not path.exists())


def check_place(target: str | Path) -> None:
    """Refuses a ``target`` that cannot be written, as far as that can be seen without writing.

    Raises:
        InputError: it is a directory, there is no directory for it, or that cannot be written to.
    """
    if str(target) == "-":
        return
    path = Path(os.path.realpath(target))
    if path.is_dir():
        raise InputError(f"{target} is a directory", hint="name a file in it")
    if not path.parent.is_dir():
        raise InputError(f"{target}: there is no directory {path.parent}", hint=f"mkdir -p '{path.parent}'")
    place = path.parent if is_replaceable(path) else path
    if not os.access(place, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
        raise InputError(
            f"{target}: the directory cannot be written to", hint="name another place for the output"
        )


def write_failure(name: str, error: OSError) -> MistillError:
    """What to say of an output that the operating system does not take."""
    reason = error.strerror or str(error)
    return MistillError(
        f"{name} could not be written: {reason}",
        hint="no answer is lost, the ledger has them; make room or name another place, and export again",
    )


def _stdout() -> Generator[OutputFile]:
    stdout = cast("Any", sys.stdout)
    if stdout is None:
        raise InputError("stdout is closed", hint="name a file instead of -")
    stdout.flush()
    write = stdout.buffer.write
    # A terminal obeys what is in foreign text. What is emitted at once are whole records.
    output = OutputFile("stdout", (lambda data: write(visible_records(data))) if stdout.isatty() else write)
    yield output
    output.emit_pending()
    stdout.buffer.flush()


def _device(path: Path, name: str) -> Generator[OutputFile]:
    check_place(path)
    with path.open("wb", buffering=0) as raw:
        output = OutputFile(name, partial(write_all, raw.fileno()))
        yield output
        output.emit_pending()


def _beside(path: Path, name: str, made_of: Sequence[str | Path]) -> Generator[OutputFile]:
    check_place(path)
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
    try:
        mode = _usual_mode(temporary)
        descriptor = os.open(temporary, _NEW_FILE, 0o600)
    except OSError as error:
        raise InputError(f"{name}: cannot be written: {error.strerror}") from error
    output = OutputFile(name, partial(write_all, descriptor))
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


def _commit(descriptor: int, temporary: Path, mode_for: Callable[[os.stat_result], int], name: str) -> None:
    try:
        temporary.chmod(mode_for(os.fstat(descriptor)))
        os.fsync(descriptor)
    except OSError as error:
        raise write_failure(name, error) from error


def _usual_mode(unused: Path) -> int:
    """The mode that a new file of that name gets, by this process's umask and the directory's default rights."""
    descriptor = os.open(unused, _NEW_FILE, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        unused.unlink()


def _mode_for(usual: int, path: Path, made_of: Sequence[str | Path], new: os.stat_result) -> int:
    """The mode of an output that replaces ``path``: its own, or the usual one, but for nobody whom a source shuts out.

    A source's group is another one's "others": only where both files are of one group, its rights are the group's.
    """
    mode = usual
    if (replaced := _stat(path)) is not None:
        mode = stat.S_IMODE(replaced.st_mode)
    for source in filter(None, map(_stat, made_of)):
        others_read = source.st_mode & stat.S_IROTH
        group_reads = source.st_mode & stat.S_IRGRP if source.st_gid == new.st_gid else others_read
        mode &= ~(0 if others_read else stat.S_IRWXO) & ~(0 if group_reads else stat.S_IRWXG)
    return mode


def _stat(path: str | Path) -> os.stat_result | None:
    """``None`` where there is no such file, or where it is a pipe: of those, nobody knows who may read them."""
    try:
        found = os.fstat(sys.stdin.fileno()) if str(path) == "-" else Path(path).stat()
    except (AttributeError, OSError, ValueError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _replace(temporary: Path, path: Path, name: str) -> None:
    try:
        temporary.replace(path)
    except OSError as error:
        raise write_failure(name, error) from error
    sync_directory(path.parent)


def write_all(descriptor: int, data: bytes) -> None:
    """Write ``data`` past any buffer of Python's."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
