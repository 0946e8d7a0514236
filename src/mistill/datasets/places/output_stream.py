"""Bytes on their way out."""

from __future__ import annotations

import os
from collections.abc import Callable

from mistill.errors import MistillError

_FLUSH_BYTES = 1 << 20


class OutputStream:
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


def write_failure(name: str, error: OSError) -> MistillError:
    """What to say of an output that the operating system does not take."""
    reason = error.strerror or str(error)
    return MistillError(
        f"{name} could not be written: {reason}",
        hint="no answer is lost, the ledger has them; make room or name another place, and export again",
    )


def write_all(descriptor: int, data: bytes) -> None:
    """Write ``data`` past any buffer of Python's."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
