"""Compressions of text formats: how a stream of bytes is read and written through each."""

from __future__ import annotations

import gzip
import importlib
import sys
from collections.abc import Callable
from typing import IO, Any

from msgspec import Struct

from mistill.datasets.optional_library import PYARROW, OptionalLibrary

_GZIP_LEVEL = 6  # what the gzip command uses; 9, Python's default, takes twice the time for 1% less

_STANDARD_ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else None
"""The module of the standard library, where Python has it."""


class Compression(Struct, frozen=True, kw_only=True):
    """One way to compress a file.

    Attributes:
        suffix: what it adds to a file's name, without the dot.
        open_reader: compressed bytes → a context manager of a stream with ``read1``.
        open_writer: the output → a stream with ``write`` and ``close``; closing it leaves the output open.
        library: what it needs.
    """

    suffix: str
    open_reader: Callable[[IO[bytes]], Any]
    open_writer: Callable[[Any], Any]
    library: OptionalLibrary | None = None


def _read_gzip(compressed: IO[bytes]) -> Any:
    return gzip.GzipFile(fileobj=compressed, mode="rb")


def _write_gzip(output: Any) -> Any:
    # mtime=0: the same records, the same bytes.
    return gzip.GzipFile("", "wb", _GZIP_LEVEL, fileobj=output, mtime=0)


def _read_zstd(compressed: IO[bytes]) -> Any:
    if _STANDARD_ZSTD:
        return importlib.import_module(_STANDARD_ZSTD).open(compressed, "rb")
    return PYARROW.load("reading .zst").CompressedInputStream(compressed, "zstd")


def _write_zstd(output: Any) -> Any:
    if _STANDARD_ZSTD:
        return importlib.import_module(_STANDARD_ZSTD).open(output, "wb")
    return PYARROW.load("writing .zst").CompressedOutputStream(output, "zstd")


COMPRESSIONS = (
    Compression(suffix="gz", open_reader=_read_gzip, open_writer=_write_gzip),
    Compression(
        suffix="zst",
        open_reader=_read_zstd,
        open_writer=_write_zstd,
        library=None if _STANDARD_ZSTD else PYARROW,
    ),
)
