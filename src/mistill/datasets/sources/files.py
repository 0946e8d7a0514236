"""Bytes of an input file or of stdin, decompressed, in bounded pieces."""

from __future__ import annotations

import gzip
import importlib
import sys
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any, Self, cast

from mistill.datasets.formats import Compression, arrow_module
from mistill.errors import InputError

_CHUNK_BYTES = 1 << 20

# How a file begins that is something else than text in UTF-8.
_SIGNATURES = (
    (b"\xff\xfe", "it looks like UTF-16; save it as UTF-8"),
    (b"\xfe\xff", "it looks like UTF-16; save it as UTF-8"),
    (b"\x1f\x8b", "it looks gzip-compressed; add .gz to its name or format"),
    (b"\x28\xb5\x2f\xfd", "it looks zstd-compressed; add .zst to its name or format"),
    (b"PAR1", "it looks like Parquet; pass the format parquet"),
    (b"ARROW1", "it looks like Arrow; pass the format arrow"),
)


class File:
    """One input file, or stdin for ``-``. ``name`` is how the user wrote it."""

    def __init__(self, path: str | Path, compression: Compression) -> None:
        self.name = str(path)
        self.is_stdin = self.name == "-"
        self.path = Path(path)
        self.repeatable = not self.is_stdin and self.path.is_file()  # a pipe can be read once, as stdin
        self._compression = compression
        self._started = False
        if self.is_stdin:
            self.name = "stdin"
        else:
            self._check_exists()

    def _check_exists(self) -> None:
        if self.path.is_dir():
            raise InputError(f"{self.name} is a directory", hint=f"name its files: '{self.path / '*.jsonl'}'")
        if not self.path.exists():
            raise InputError(f"{self.name}: no such file")

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces of about 1 MiB, as they come. Raises ``InputError`` for whatever goes wrong."""
        if self._started and not self.repeatable:
            raise InputError(f"{self.name} can be read only once")
        self._started = True
        try:
            with self._open() as stream:
                while chunk := stream.read1(_CHUNK_BYTES):
                    yield chunk
        except EOFError as error:
            raise InputError(
                f"{self.name}: the compressed data ends too early", hint="the file was cut; copy it again"
            ) from error
        except (OSError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise InputError(f"{self.name}: cannot be read: {reason}") from error

    def _open(self) -> Any:
        """A context manager with ``read1``."""
        if self._compression == "zst":
            return _open_zst(self._raw() if self.is_stdin else self.path.open("rb"), self.name)
        if self._compression == "gz":
            return gzip.open(self._raw() if self.is_stdin else self.path, "rb")
        return _Borrowed(self._raw()) if self.is_stdin else self.path.open("rb")

    def _raw(self) -> IO[bytes]:
        stdin = cast("Any", sys.stdin)
        if stdin is None:
            raise InputError("stdin is closed", hint="name a file instead of -")
        # Without its buffer, whose lock a thread that waits for input would hold when Python ends, and abort it.
        return getattr(stdin.buffer, "raw", stdin.buffer)


class _Borrowed:
    """stdin, which stays open after us."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.read1 = stream.read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def _open_zst(raw: IO[bytes], name: str) -> Any:
    if sys.version_info >= (3, 14):
        return importlib.import_module("compression.zstd").open(raw, "rb")
    return arrow_module("pyarrow", f"reading {name} (.zst)").CompressedInputStream(raw, "zstd")


def text_blocks(chunks: Iterable[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Chunks to blocks of whole lines, each with the number of its first line (from 1) and checked to be
    UTF-8.

    Only the last block can end without a newline. A byte order mark at the start is dropped. A block is as
    long as a chunk, or as one line where that is longer.
    """
    line, offset = 1, 0
    for block in _whole_lines(chunks):
        skip = 0
        if not block.isascii():
            _check_utf8(block, name, line, offset)
            skip = 3 if offset == 0 and block.startswith(b"\xef\xbb\xbf") else 0
        yield line, block[skip:] if skip else block
        line += block.count(b"\n")
        offset += len(block)


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end == 0:
            pending.append(chunk)
            continue
        pending.append(chunk[:end])
        yield b"".join(pending)
        pending = [chunk[end:]] if end < len(chunk) else []
    if pending:
        yield b"".join(pending)


def _check_utf8(block: bytes, name: str, line: int, offset: int) -> None:
    try:
        block.decode()
    except UnicodeDecodeError as error:
        line += block.count(b"\n", 0, error.start)
        raise not_utf8(error, f"{name} line {line}", offset + error.start) from error


def not_utf8(error: UnicodeDecodeError, where: str, offset: int) -> InputError:
    """What to say of bytes that are no UTF-8; ``offset`` counts from the start of the (decompressed) file."""
    hint = "save the file as UTF-8, for example: iconv -f LATIN1 -t UTF-8"
    if offset == error.start:  # the bytes at hand are the start of the file
        hint = next((text for start, text in _SIGNATURES if error.object.startswith(start)), hint)
    return InputError(
        f"{where}: not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset}", hint=hint
    )
