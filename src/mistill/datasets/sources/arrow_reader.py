"""Parquet and Arrow files. Needs the extra ``arrow``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from mistill.datasets.column_names import check_columns_once
from mistill.datasets.hugging_face import features_of
from mistill.datasets.optional_library import PYARROW
from mistill.datasets.sources.arrow_rows import rows_of_batch, rows_within
from mistill.datasets.sources.input_file import FileReader, InputFile
from mistill.datasets.sources.row import Row
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
    def _batches(self) -> Iterator[Any]:
        """Record batches or tables of a bounded size.

        Raises:
            Exception: whatever pyarrow raises.
        """

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def types(self) -> Mapping[str, Any]:
        return self._types

    def features(self) -> Mapping[str, Any]:
        return self._features

    def total(self) -> int | None:
        return None

    def where(self, place: int) -> str:
        return f"{self.name} row {place - 1}"

    def rows(self, first_index: int) -> Iterator[Row]:
        place = 0
        with self._refusing_damage():
            for batch in self._batches():
                yield from rows_of_batch(batch, self, first_index + place, place)
                place += batch.num_rows
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

    def total(self) -> int:
        return self._total

    def _read_schema(self) -> Any:
        with self._open() as opened:
            footer = opened.metadata
            groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
            self._total: int = footer.num_rows
            if self._total != sum(group.num_rows for group in groups):
                raise ValueError("its footer contradicts itself about the number of rows")
            stored_bytes = sum(group.total_byte_size for group in groups)
            self._batch_rows = rows_within(_BATCH_BYTES, self._total, stored_bytes)
            return opened.schema_arrow

    def _batches(self) -> Iterator[Any]:
        rows = 0
        with self._open() as opened:
            batches = opened.iter_batches(batch_size=self._batch_rows)
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

    def total(self) -> int | None:
        return self._total

    def _read_schema(self) -> Any:
        with self._open() as opened:
            schema = opened.schema
            # Of a file it stands with each of its batches, of which only that is read; a stream tells at its end.
            self._total = opened.count_rows() if hasattr(opened, "count_rows") else None
        return schema

    def _batches(self) -> Iterator[Any]:
        with self._open() as opened:
            if hasattr(opened, "get_batch"):
                yield from (opened.get_batch(number) for number in range(opened.num_record_batches))
            else:
                yield from opened

    @contextmanager
    def _open(self) -> Generator[Any]:
        pyarrow = PYARROW.load(f"reading {self.name}")
        with self._file.place.for_library() as source:
            stream = pyarrow.OSFile(source, "rb") if isinstance(source, str) else source
            is_file = stream.read(6) == b"ARROW1"
            stream.seek(0)
            with pyarrow.ipc.open_file(stream) if is_file else pyarrow.ipc.open_stream(stream) as opened:
                yield opened
