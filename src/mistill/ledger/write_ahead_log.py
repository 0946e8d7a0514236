"""SQLite's write-ahead log as a file (https://www.sqlite.org/fileformat2.html#walformat): whether it is what was
written, and which pages it has.

SQLite takes its length and its frames on trust while it is open, and copies into the ledger what is in their places.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

_HEADER_BYTES = 32
_FRAME_HEADER_BYTES = 24
_SALTS = slice(16, 24)
_BIG_ENDIAN_SUMS = 0x377F0683
_MAGICS = (_BIG_ENDIAN_SUMS - 1, _BIG_ENDIAN_SUMS)

_MOST_BEGUN_ANEW = 1000
"""Times between two looks."""


class LogInUse:
    """The log of a connection that writes it, which somebody else may cut or overwrite meanwhile.

    SQLite appends to it, or begins it anew at its start, under another header. Its file never becomes shorter.
    """

    def __init__(self, path: Path) -> None:
        # No lock of SQLite's is on this file, so closing a second descriptor of it drops none.
        self._file = path.open("rb", buffering=0)
        self._bytes = os.fstat(self._file.fileno()).st_size
        self._header: bytes = self._file.read(_HEADER_BYTES)
        self._last_frame: bytes = b""  # of one that a kill left, nobody knows whether it was committed

    def follows(self) -> bool:
        """Whether it is what it was at the last look, or what SQLite makes of that. It is remembered for the next."""
        size = os.fstat(self._file.fileno()).st_size
        header = self._read(0, _HEADER_BYTES)
        if size == self._bytes and header == self._header:
            return True
        if size < self._bytes or not (header == self._header or _succeeds(header, self._header)):
            return False
        self._header = header
        return size == self._bytes or self._has_grown(size, header[_SALTS])

    def _has_grown(self, size: int, salts: bytes) -> bool:
        """Whether the last frame before the end as it was is still there, or is one of the log that began anew: of a
        file that was cut and has grown again, it is a hole. The new end is remembered.
        """
        frame_bytes = _FRAME_HEADER_BYTES + struct.unpack_from(">I", self._header, 8)[0]
        before = self._last_frame
        # A kill leaves a part of a frame behind the last one.
        end, known_end = (at - (at - _HEADER_BYTES) % frame_bytes for at in (size, self._bytes))
        now = self._read(max(_HEADER_BYTES, known_end - frame_bytes), frame_bytes)
        self._last_frame = self._read(max(_HEADER_BYTES, end - frame_bytes), frame_bytes)
        self._bytes = size
        return now == before if before[8:16] == salts else now[8:16] == salts

    def close(self) -> None:
        self._file.close()

    def _read(self, start: int, size: int) -> bytes:
        self._file.seek(start)
        return self._file.read(size)


def pages_in(log: Path) -> set[int]:
    """The numbers of the pages of which a log has a version, as far as its frames belong to its header."""
    pages: set[int] = set()
    with log.open("rb") as file:
        header = file.read(_HEADER_BYTES)
        if not _is_header(header):
            return pages
        (page_bytes,) = struct.unpack_from(">I", header, 8)
        while len(frame := file.read(_FRAME_HEADER_BYTES)) == _FRAME_HEADER_BYTES:
            if frame[8:16] != header[_SALTS]:
                break  # of an earlier time: the log began anew before it
            pages.add(struct.unpack_from(">I", frame)[0])
            file.seek(page_bytes, os.SEEK_CUR)
    return pages


def _succeeds(header: bytes, before: bytes) -> bool:
    """Whether SQLite writes such a header after the one before.

    A log that begins anew has a first salt that is greater by one (https://www.sqlite.org/fileformat2.html, 4.1), and
    may have begun anew several times, by other connections too. The number of checkpoints beside it is one of the
    connection that began it, and may be smaller.
    """
    if not _is_header(header):
        return False
    return not _is_header(before) or (_first_salt(header) - _first_salt(before)) % 2**32 <= _MOST_BEGUN_ANEW


def _first_salt(header: bytes) -> int:
    return struct.unpack_from(">I", header, 16)[0]


def _is_header(header: bytes) -> bool:
    """Whether it fits its own checksum."""
    if len(header) < _HEADER_BYTES:
        return False
    magic, *_ = struct.unpack_from(">I", header)
    if magic not in _MAGICS:
        return False
    order = ">" if magic == _BIG_ENDIAN_SUMS else "<"
    first = second = 0
    words = struct.unpack_from(f"{order}6I", header)
    for one, two in zip(words[::2], words[1::2], strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + two + first) & 0xFFFFFFFF
    return (first, second) == struct.unpack_from(">2I", header, 24)
