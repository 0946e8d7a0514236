"""Parquet and Arrow files. Needs the extra ``arrow``."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, ClassVar

from mistill.datasets.column_names import check_columns_once
from mistill.datasets.hugging_face import features_of
from mistill.datasets.optional_library import PYARROW
from mistill.datasets.sources.arrow_rows import rows_of_batch, rows_within
from mistill.datasets.sources.input_file import FileReader, InputFile
from mistill.datasets.sources.row import Row
from mistill.datasets.sources.slices import CutPoint
from mistill.errors import InputError

_BATCH_BYTES = 8 << 20  # as Arrow data
_READ_BYTES = 1 << 20


class ArrowFile(FileReader):
    """Base of files that pyarrow reads. ``where`` counts rows from 0.

    Attributes:
        kind: what the format is called, for messages.
    """

    kind: ClassVar[str]

    def __init__(self, file: InputFile) -> None:
        super().__init__(file)
        if not file.repeatable:
            raise InputError(
                f"{file.name}: {self.kind} cannot be read from a pipe",
                hint="save it as a file, or send jsonl",
            )
        with self._refusing_damage():
            schema = self._read_schema()
            self._columns = check_columns_once(schema.names, self.name)
            self._types = dict(zip(schema.names, schema.types, strict=True))
            self._features = features_of(schema)

    @abstractmethod
    def _read_schema(self) -> Any:
        """The Arrow schema; called once, before anything else is read."""

    @abstractmethod
    def _batches(self, first: int, end: int) -> tuple[int, Iterator[Any]]:
        """Record batches of a bounded size, which have the rows from the first to before the end among them; and which
        row they begin with.

        Raises:
            Exception: whatever pyarrow raises.
        """

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def types(self) -> Mapping[str, Any]:
        return self._types

    def features(self) -> Mapping[str, Any]:
        return self._features

    @property
    @abstractmethod
    def _rows_in_file(self) -> int | None:
        """Of the whole file; ``None`` where only its end tells."""

    def total(self) -> int | None:
        stretch = self._file.stretch
        return self._rows_in_file if stretch is None else stretch.end - stretch.begin

    def path_to_cut(self) -> Path | None:
        return None if self._rows_in_file is None else self._file.path_to_cut

    @property
    def format_to_cut(self) -> str:
        return self.kind.lower()

    def cut_points(self, first_index: int) -> Iterator[CutPoint]:  # noqa: ARG002  no row is read for them
        """At any row."""
        return (CutPoint(row, row) for row in range((self._rows_in_file or 0) + 1))

    def where(self, place: int) -> str:
        return f"{self.name} row {place - 1}"

    def rows(self, first_index: int) -> Iterator[Row]:
        stretch = self._file.stretch
        begin = 0 if stretch is None else stretch.begin
        end = sys.maxsize if stretch is None else stretch.end
        with self._refusing_damage():
            place, batches = self._batches(begin, end)
            for whole in batches:
                first = max(place, begin)
                batch = whole.slice(first - place, max(0, end - first))
                yield from rows_of_batch(batch, self, first_index + first - begin, first)
                place += whole.num_rows
        self._file.place.check_unchanged()

    @contextmanager
    def _refusing_damage(self) -> Generator[None]:
        """Whatever pyarrow makes of a damaged file, by the file's name."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise InputError(f"{self.name}: cannot be read: {error}") from error


class ParquetReader(ArrowFile):
    """A Parquet file, read in batches of about 8 MiB."""

    kind = "Parquet"

    @property
    def _rows_in_file(self) -> int:
        return self._total

    def _read_schema(self) -> Any:
        with self._open() as opened:
            footer = opened.metadata
            groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
            self._total: int = footer.num_rows
            if self._total != sum(group.num_rows for group in groups):
                raise ValueError("its footer contradicts itself about the number of rows")
            self._groups = [0, *accumulate(group.num_rows for group in groups)]
            stored_bytes = sum(group.total_byte_size for group in groups)
            self._batch_rows = rows_within(_BATCH_BYTES, self._total, stored_bytes)
            return opened.schema_arrow

    def _batches(self, first: int, end: int) -> tuple[int, Iterator[Any]]:
        begins = enumerate(zip(self._groups, self._groups[1:], strict=False))
        groups = [number for number, (begin, after) in begins if after > first and begin < end]
        return (self._groups[groups[0]] if groups else first), self._batches_of(groups)

    def _batches_of(self, groups: Sequence[int]) -> Iterator[Any]:
        if not groups:
            return
        rows = self._groups[groups[0]]
        with self._open() as opened:
            batches = opened.iter_batches(batch_size=self._batch_rows, row_groups=groups)
            while True:
                try:
                    batch = next(batches, None)
                except Exception as error:
                    raise self._refusal(error, rows) from error
                if batch is None:
                    return
                rows += batch.num_rows
                yield batch

    def _refusal(self, error: Exception, rows_before: int) -> InputError:
        """A value that pyarrow checks itself when it reads the file, a word of a dictionary, by its column."""
        problem = "it is not UTF-8" if "UTF8" in str(error) else str(error)
        where = f"{self.name}: after row {rows_before - 1}" if rows_before else self.name
        column = next((f"column {name!r} " for name in self._columns if not self._is_readable(name)), "")
        return InputError(f"{where}: {column}cannot be read: {problem}", index=rows_before)

    def _is_readable(self, column: str) -> bool:
        with self._open() as opened:
            try:
                return all(True for _ in opened.iter_batches(batch_size=self._batch_rows, columns=[column]))
            except Exception:
                return False

    @contextmanager
    def _open(self) -> Generator[Any]:
        # With a buffer a column is streamed; without, a row group's whole column is in memory.
        parquet = PYARROW.load(f"reading {self.name}", "pyarrow.parquet")
        with (
            self._file.place.for_library() as source,
            parquet.ParquetFile(
                source, buffer_size=_READ_BYTES, pre_buffer=False, page_checksum_verification=True
            ) as opened,
        ):
            yield opened


class ArrowIpcReader(ArrowFile):
    """An Arrow IPC file (Feather version 2) or stream, read record batch by record batch, as they were written."""

    kind = "Arrow"

    @property
    def _rows_in_file(self) -> int | None:
        return self._total

    def _read_schema(self) -> Any:
        with self._open() as opened:
            schema = opened.schema
            # Of a file it stands with each of its batches, of which only that is read; a stream tells at its end.
            self._total = opened.count_rows() if hasattr(opened, "count_rows") else None
        return schema

    def _batches(self, first: int, end: int) -> tuple[int, Iterator[Any]]:  # noqa: ARG002  it begins with the first
        return 0, self._every_batch(end)

    def _every_batch(self, end: int) -> Iterator[Any]:
        rows = 0
        with self._open() as opened:
            if not hasattr(opened, "get_batch"):
                yield from opened
                return
            for number in range(opened.num_record_batches):
                if rows >= end:
                    return
                batch = opened.get_batch(number)
                rows += batch.num_rows
                yield batch

    @contextmanager
    def _open(self) -> Generator[Any]:
        pyarrow = PYARROW.load(f"reading {self.name}")
        with self._file.place.for_library() as source:
            stream = pyarrow.OSFile(source, "rb") if isinstance(source, str) else source
            is_file = stream.read(6) == b"ARROW1"
            stream.seek(0)
            with pyarrow.ipc.open_file(stream) if is_file else pyarrow.ipc.open_stream(stream) as opened:
                yield opened
