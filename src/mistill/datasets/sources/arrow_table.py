"""Parquet and Arrow files, and Arrow data in memory. Needs pyarrow (``pip install 'mistill[arrow]'``)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mistill.datasets.encoding import encode_row
from mistill.datasets.formats import arrow_module
from mistill.datasets.sources.files import File
from mistill.datasets.sources.row import Part, Row
from mistill.errors import InputError

_MOST_ROWS = 1024
_BATCH_BYTES = 8 << 20  # as Arrow data
_SLICE_BYTES = 1 << 20  # as Python objects, which take several times as much
_READ_BYTES = 1 << 20


class ArrowFile:
    """Base of files that pyarrow reads. ``where`` counts rows from 1."""

    repeatable = True

    def __init__(self, file: File, kind: str) -> None:
        if not file.repeatable:
            raise InputError(
                f"{file.name}: {kind} cannot be read from a pipe", hint="save it as a file, or send jsonl"
            )
        self._path = str(file.path)
        self.name = file.name
        arrow_module("pyarrow", f"reading {self.name}")

    def where(self, place: int) -> str:
        return f"{self.name} row {place}"

    def _refusal(self, error: Exception) -> InputError:
        return InputError(f"{self.name}: cannot be read: {error}")


class ParquetFile(ArrowFile):
    """A Parquet file, read in batches of about 8 MiB."""

    def __init__(self, file: File) -> None:
        super().__init__(file, "Parquet")
        with self._open() as opened:
            self._columns = check_columns_once(opened.schema_arrow.names, self.name)
            self._total: int = opened.metadata.num_rows
            groups = (opened.metadata.row_group(i) for i in range(opened.metadata.num_row_groups))
            stored_bytes = sum(group.total_byte_size for group in groups)
        self._batch_rows = _rows_within(_BATCH_BYTES, self._total, stored_bytes)

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def total(self) -> int:
        return self._total

    def rows(self, first_index: int) -> Iterator[Row]:
        place = 0
        with self._open() as opened:
            batches = opened.iter_batches(batch_size=self._batch_rows)
            while (batch := self._next(batches)) is not None:
                yield from rows_of_batch(batch, self, first_index + place, place)
                place += batch.num_rows

    def _open(self) -> Any:
        parquet = arrow_module("pyarrow.parquet", f"reading {self.name}")
        try:
            # With a buffer a column is streamed; without, a row group's whole column is in memory.
            return parquet.ParquetFile(self._path, buffer_size=_READ_BYTES, pre_buffer=False)
        except (OSError, ValueError) as error:
            raise self._refusal(error) from error

    def _next(self, batches: Iterator[Any]) -> Any:
        try:
            return next(batches, None)
        except (OSError, ValueError) as error:
            raise self._refusal(error) from error


class ArrowIpcFile(ArrowFile):
    """An Arrow IPC file (Feather version 2) or stream, read record batch by record batch, as they were
    written."""

    def __init__(self, file: File) -> None:
        super().__init__(file, "Arrow")
        with self._open() as opened:
            self._columns = check_columns_once(opened.schema.names, self.name)

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def total(self) -> None:
        return None

    def rows(self, first_index: int) -> Iterator[Row]:
        place = 0
        with self._open() as opened:
            for batch in self._batches(opened):
                yield from rows_of_batch(batch, self, first_index + place, place)
                place += batch.num_rows

    def _open(self) -> Any:
        pyarrow = arrow_module("pyarrow", f"reading {self.name}")
        try:
            stream = pyarrow.OSFile(self._path, "rb")
            is_file = stream.read(6) == b"ARROW1"
            stream.seek(0)
            return pyarrow.ipc.open_file(stream) if is_file else pyarrow.ipc.open_stream(stream)
        except (OSError, ValueError) as error:
            raise self._refusal(error) from error

    def _batches(self, opened: Any) -> Iterator[Any]:
        try:
            if hasattr(opened, "get_batch"):
                yield from (opened.get_batch(number) for number in range(opened.num_record_batches))
            else:
                yield from opened
        except (OSError, ValueError) as error:
            raise self._refusal(error) from error


class ArrowData:
    """Anything that exports an Arrow stream (PyCapsule interface): an Arrow table, a reader, a DuckDB
    relation."""

    def __init__(self, data: Any) -> None:
        pyarrow = arrow_module("pyarrow", "reading Arrow data")
        self.name = f"the {type(data).__name__}"
        self.repeatable = not isinstance(data, pyarrow.RecordBatchReader)
        self._data = pyarrow.Table.from_batches([data]) if isinstance(data, pyarrow.RecordBatch) else data
        names = getattr(getattr(data, "schema", None), "names", None)
        self._columns = None if names is None else check_columns_once(names, self.name)

    def columns(self) -> tuple[str, ...] | None:
        return self._columns

    def total(self) -> int | None:
        total = getattr(self._data, "num_rows", None)
        return total if isinstance(total, int) else None

    def where(self, place: int) -> str:
        return f"row {place} of {self.name}"

    def rows(self, first_index: int) -> Iterator[Row]:
        pyarrow = arrow_module("pyarrow", "reading Arrow data")
        place = 0
        for batch in pyarrow.RecordBatchReader.from_stream(self._data):
            yield from rows_of_batch(batch, self, first_index + place, place)
            place += batch.num_rows


def rows_of_batch(batch: Any, part: Part, first_index: int, first_place: int) -> Iterator[Row]:
    """The rows of a record batch or table, decoded a slice at a time.

    Structs become objects, lists lists, maps lists of [key, value] pairs; the rest as ``encode_record`` says.
    """
    step = _rows_within(_SLICE_BYTES, batch.num_rows, batch.nbytes)
    for start in range(0, batch.num_rows, step):
        try:
            records: list[dict[str, Any]] = batch.slice(start, step).to_pylist()
        except ValueError as error:  # times below 1 µs, for which pyarrow wants pandas
            rows = f"rows {first_place + start + 1} to {first_place + start + len(batch.slice(start, step))}"
            raise InputError(f"{part.name}, {rows}: {error}") from error
        for offset, record in enumerate(records, start):
            place = first_place + offset + 1
            index = first_index + offset
            yield Row(index, encode_row(record, part.where(place), index), part, place)


def _rows_within(limit_bytes: int, rows: int, size_bytes: int) -> int:
    """How many rows of ``size_bytes / rows`` each make about ``limit_bytes``."""
    return max(1, min(_MOST_ROWS, limit_bytes * rows // max(1, size_bytes)))


def check_columns_once(names: list[str], where: str) -> tuple[str, ...]:
    """The names as a tuple. ``InputError`` if one stands twice, since a record could hold only one of
    them."""
    if len(set(names)) < len(names):
        repeated = next(name for place, name in enumerate(names) if name in names[:place])
        raise InputError(f"{where}: the column {repeated!r} stands twice", hint="rename one")
    return tuple(names)
