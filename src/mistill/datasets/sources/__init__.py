"""Rows of anything: JSONL, JSON, CSV, Parquet, Arrow, stdin, iterables, frames; in bounded memory.

    for row in open_source("prompts-*.jsonl.gz", limit=1000):
        row.index, row.raw, row.record, row.where

What comes out of a source is a JSON object in UTF-8; anything else is an ``InputError`` that says where it
stands. At most one chunk of a file is held (1 MiB, or one row where that is longer), never the file.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, cast

from mistill.datasets.formats import format_of
from mistill.datasets.sources.arrow_table import ArrowIpcFile, ParquetFile
from mistill.datasets.sources.csv_table import CsvTable
from mistill.datasets.sources.files import File
from mistill.datasets.sources.in_memory import part_of
from mistill.datasets.sources.json_document import JsonDocument
from mistill.datasets.sources.jsonl import JsonLines
from mistill.datasets.sources.row import Part, Row
from mistill.errors import InputError

__all__ = ["Row", "Source", "open_source"]


class Source:
    """An iterable of rows over one or several inputs, in order.

    It can be iterated again if ``repeatable``: files, lists and frames can; stdin, pipes and generators
    cannot.
    """

    def __init__(self, parts: Sequence[Part], limit: int | None, paths: Sequence[str] = ()) -> None:
        self._parts = parts
        self._limit = limit
        self._paths = paths
        self._waiting: Iterator[Row] | None = None
        self.name = ", ".join(part.name for part in parts[:3]) + (" …" if len(parts) > 3 else "")
        self.repeatable = all(part.repeatable for part in parts)

    def reads(self, path: str | Path) -> bool:
        """Whether the file ``path`` is one of the inputs, under whatever name."""
        return any(_is_same_file(path, read) for read in self._paths)

    @property
    def total(self) -> int | None:
        """How many rows, where that is known without reading them; None for text files and streams."""
        totals = [part.total() for part in self._parts]
        known = [total for total in totals if total is not None]
        if len(known) < len(totals):
            return 0 if self._limit == 0 else None
        return sum(known) if self._limit is None else min(sum(known), self._limit)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Column names of all inputs together: from headers and schemas, else from the first row. None if
        there is none.

        JSON needs no two rows to be alike, so later rows may have others.
        """
        found: dict[str, None] = {}
        for part in self._parts:
            names = part.columns()
            if names is None and part.repeatable:
                first = next(part.rows(0), None)
                names = () if first is None else first.record
            found.update(dict.fromkeys(names or ()))
        if not found and not self.repeatable:
            first = self._peek()
            found.update(dict.fromkeys(first.record if first else ()))
        return tuple(found) or None

    @property
    def header(self) -> tuple[str, ...] | None:
        """Column names of all inputs together, where each has a header or schema: no row has another one."""
        found: dict[str, None] = {}
        for part in self._parts:
            names = part.columns()
            if names is None:
                return None
            found.update(dict.fromkeys(names))
        return tuple(found)

    def __iter__(self) -> Iterator[Row]:
        if self._waiting is not None:
            rows, self._waiting = self._waiting, None
            return rows
        return self._rows()

    def _peek(self) -> Row | None:
        """The first row of what can be read once; it is still the first that iteration gives."""
        rows = iter(self)
        first = next(rows, None)
        self._waiting = rows if first is None else chain([first], rows)
        return first

    def _rows(self) -> Iterator[Row]:
        rows = chain.from_iterable(self._rows_by_part())
        return rows if self._limit is None else islice(rows, self._limit)

    def _rows_by_part(self) -> Iterator[Iterator[Row]]:
        next_index = 0

        def counted(rows: Iterator[Row]) -> Iterator[Row]:
            nonlocal next_index
            row = None
            for row in rows:
                yield row
            if row is not None:
                next_index = row.index + 1

        for part in self._parts[:-1]:
            yield counted(part.rows(next_index))
        if self._parts:
            yield self._parts[-1].rows(next_index)


def open_source(source: Any, *, format: str | None = None, limit: int | None = None) -> Source:  # noqa: A002 the public name
    """The rows of ``source``.

    ``source``: a path, a glob (``"data/*.jsonl"``, sorted), ``"-"`` for stdin, several of these, an
    iterable of mappings, an Arrow table or whatever exports an Arrow stream, a pandas or polars frame, or a
    Hugging Face dataset. ``format`` is that of the files (see ``formats``) where their suffix does not say
    it. ``limit``: at most so many rows.

    Raises ``InputError`` for an input that is not there or of no known format; iterating raises it for what
    is wrong inside.
    """
    if limit is not None and limit < 0:
        raise InputError(f"limit is {limit}, and must be 0 or more")
    if isinstance(source, (str, os.PathLike)):
        paths = _expand(cast("str | os.PathLike[str]", source))
    elif _is_paths(source):
        paths = list(chain.from_iterable(_expand(path) for path in source))
    elif format is not None:
        raise InputError("a format can be given for files only", hint="leave it out")
    else:
        return Source([part_of(source)], limit)
    return Source([_file_part(path, format) for path in paths], limit, paths)


def _is_same_file(path: str | Path, other: str) -> bool:
    try:
        return Path(path).is_file() and Path(path).samefile(other)
    except OSError:  # "-", or a file that is not there yet
        return False


def _is_paths(source: Any) -> bool:
    if not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray)):
        return False
    items = cast("Sequence[object]", source)
    return bool(items) and all(isinstance(item, (str, os.PathLike)) for item in items)


def _expand(path: str | os.PathLike[str]) -> list[str]:
    """A glob to the files it matches, sorted; anything else to itself. A file whose own name has a * in it
    wins."""
    name = os.fspath(path)
    if not glob.has_magic(name) or Path(name).exists():
        return [name]
    found = sorted(match for match in glob.iglob(name, recursive=True) if not Path(match).is_dir())  # noqa: PTH207 a pattern may be absolute
    if not found:
        raise InputError(f"no file matches {name!r}")
    return found


def _file_part(path: str, override: str | None) -> Part:
    wanted = format_of(path, override)
    file = File(path, wanted.compression)
    match wanted.kind:
        case "jsonl":
            return JsonLines(file)
        case "json":
            return JsonDocument(file)
        case "csv":
            return CsvTable(file, ",")
        case "tsv":
            return CsvTable(file, "\t")
        case "parquet":
            return ParquetFile(file)
        case "arrow":
            return ArrowIpcFile(file)
