"""Records to files: JSONL, JSON, CSV, TSV, Parquet, Arrow, each in bounded memory and whole or not at all.

    with open_writer("answers.csv.gz", columns=["id", "generation"]) as writer:
        writer.write({"id": 1, "generation": "…"})

A CSV cell is a string as it is, nothing for null, and JSON for all else, so null and "" look alike there.
For Parquet and Arrow see ``arrow_writer``.
"""

from __future__ import annotations

import csv
import gzip
import importlib
import sys
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mistill.datasets.encoding import encode_record
from mistill.datasets.formats import Compression, Format, arrow_module, format_of
from mistill.datasets.writers.arrow_table import ArrowWriter
from mistill.datasets.writers.output_file import (
    OutputFile,
    Spool,
    check_place,
    is_replaceable,
    open_output,
    open_spool,
)
from mistill.errors import InputError

_GZIP_LEVEL = 6  # what the gzip command uses; 9, Python's default, takes twice the time for 1% less

# The csv module quotes a field for the characters of its line terminator, so a lone \r needs this one to be quoted.
_CRLF = "\r\n"


class Writer(Protocol):
    """Takes records one by one."""

    def write(self, record: Mapping[str, Any]) -> None:
        """A record of JSON values."""
        ...

    def write_raw(self, line: bytes) -> None:
        """A record that is JSON already: one object, without a newline in it. The fast way to JSONL and
        JSON.
        """
        ...

    def finish(self) -> None:
        """Write what must stand at the end. ``open_writer`` calls it."""
        ...


def check_target(target: str | Path, format: str | None = None) -> Format:  # noqa: A002 the public name
    """What ``open_writer`` would refuse, without writing: for the time before any money is spent.

    Raises ``InputError`` for an unknown format, a place that cannot be written to, a library that is missing.
    """
    chosen = format_of(str(target), format)
    check_place(target)
    if chosen.kind in ("parquet", "arrow"):
        arrow_module("pyarrow", f"writing {target}")
    if chosen.compression == "zst" and sys.version_info < (3, 14):
        arrow_module("pyarrow", f"writing {target} (.zst)")
    is_binary = bool(chosen.compression) or chosen.kind in ("parquet", "arrow")
    if str(target) == "-" and is_binary and sys.stdout.isatty():
        raise InputError("binary output would garble the terminal", hint="name a file, or pipe it on")
    return chosen


@contextmanager
def open_writer(
    target: str | Path,
    *,
    format: str | None = None,  # noqa: A002 the public name
    columns: Iterable[str] | None = None,
) -> Generator[Writer]:
    """A writer to ``target``, a path or ``-`` for stdout; the file appears when the block ends well, else
    nothing changes.

    ``format``: see ``formats``; else the suffix says it. ``columns``: all that records can have, in order;
    CSV wants them if the first record may not have all. Raises ``InputError`` at once for what
    ``check_target`` refuses, and for a record that does not fit; ``MistillError`` when the disk is full or
    fails.
    """
    chosen = check_target(target, format)
    names = None if columns is None else list(columns)
    with (
        open_output(target) as output,
        _compressed(output, chosen.compression) as stream,
        _spool(chosen, target) as spool,
    ):
        writer = _writer(chosen, stream, names, spool)
        yield writer
        writer.finish()


def _writer(chosen: Format, stream: Any, columns: list[str] | None, spool: Spool | None) -> Writer:
    match chosen.kind:
        case "jsonl":
            return JsonLinesWriter(stream)
        case "json":
            return JsonArrayWriter(stream)
        case "csv":
            return CsvWriter(stream, ",", columns)
        case "tsv":
            return CsvWriter(stream, "\t", columns)
        case "parquet" | "arrow":
            assert spool is not None
            return ArrowWriter(stream, chosen.kind, columns, spool)


@contextmanager
def _spool(chosen: Format, target: str | Path) -> Generator[Spool | None]:
    if chosen.kind not in ("parquet", "arrow"):
        yield None
        return
    path = Path(target)
    with open_spool(path.parent if is_replaceable(path) else None, str(target)) as spool:
        yield spool


@contextmanager
def _compressed(output: OutputFile, compression: Compression) -> Generator[Any]:
    if not compression:
        yield output
        return
    stream = _open_gzip(output) if compression == "gz" else _open_zst(output)
    try:
        yield stream
    except BaseException:
        output.discard()  # closing the stream writes its trailer, which nobody wants now
        raise
    finally:
        stream.close()


def _open_gzip(output: OutputFile) -> Any:
    # mtime=0: the same records, the same bytes.
    return gzip.GzipFile("", "wb", _GZIP_LEVEL, fileobj=output, mtime=0)  # type: ignore[arg-type]


def _open_zst(output: OutputFile) -> Any:
    if sys.version_info >= (3, 14):
        return importlib.import_module("compression.zstd").open(output, "wb")
    return arrow_module("pyarrow", "writing .zst").CompressedOutputStream(output, "zstd")


class JsonLinesWriter:
    """One record a line."""

    def __init__(self, stream: Any) -> None:
        self._put = stream.write

    def write(self, record: Mapping[str, Any]) -> None:
        self._put(encode_record(record) + b"\n")

    def write_raw(self, line: bytes) -> None:
        self._put(line + b"\n")

    def finish(self) -> None:
        pass


class JsonArrayWriter:
    """One JSON list, a record on each line."""

    def __init__(self, stream: Any) -> None:
        self._put = stream.write
        self._lead = b"[\n"

    def write(self, record: Mapping[str, Any]) -> None:
        self.write_raw(encode_record(record))

    def write_raw(self, line: bytes) -> None:
        self._put(self._lead + line)
        self._lead = b",\n"

    def finish(self) -> None:
        self._put(b"\n]\n" if self._lead == b",\n" else b"[]\n")


class CsvWriter:
    """RFC 4180, with \\n instead of \\r\\n at the end of a record."""

    def __init__(self, stream: Any, delimiter: str, columns: list[str] | None) -> None:
        self._csv = csv.writer(_Lines(stream), delimiter=delimiter, lineterminator=_CRLF)
        self._columns = columns
        self._records = 0
        self._known: frozenset[str] = frozenset()
        if columns is not None:
            self._begin(columns)

    def _begin(self, columns: list[str]) -> None:
        self._columns = columns
        self._known = frozenset(columns)
        self._csv.writerow(columns)

    def write(self, record: Mapping[str, Any]) -> None:
        if self._columns is None:
            self._begin(list(record))
        assert self._columns is not None
        self._records += 1
        if not self._known.issuperset(record):
            raise self._stranger(record)
        self._csv.writerow([_cell(record.get(name)) for name in self._columns])

    def write_raw(self, line: bytes) -> None:
        self.write(msgspec.json.decode(line))

    def finish(self) -> None:
        pass

    def _stranger(self, record: Mapping[str, Any]) -> InputError:
        name = next(name for name in record if name not in self._known)
        return InputError(
            f"record {self._records} has a column {name!r}, which is not in the header of the CSV",
            hint="write JSONL or Parquet, where records may differ",
        )


class _Lines:
    """What csv.writer writes to, a whole record at a time."""

    def __init__(self, stream: Any) -> None:
        self._put = stream.write

    def write(self, text: str) -> None:
        self._put(text.removesuffix(_CRLF).encode() + b"\n")


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "" if value is None else msgspec.json.encode(value).decode()
