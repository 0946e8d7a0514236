"""Records to Parquet or Arrow, whose columns need one type each, while JSON promises none.

Records go to a temporary spool first, and only when all are there, so that every value had its say, are types chosen
(see `column_types`; `typed_columns` for those that are known before) and the file written. No row is sampled, and none
is lost. While it lasts it costs the disk space of the records as JSON Lines, in the directory of the output.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import msgspec

from mistill.datasets.encoding import encode_record
from mistill.datasets.hugging_face import with_features
from mistill.datasets.optional_library import PYARROW
from mistill.datasets.writers.column_types import ColumnTypes
from mistill.datasets.writers.destination import Destination, Vectors
from mistill.datasets.writers.exact_records import decode, decode_exactly
from mistill.datasets.writers.typed_columns import TypedColumn

BATCH_ROWS = 8192
_BATCH_BYTES = 4 << 20
_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 32 << 20
_PURPOSE = "writing Arrow data"

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ArrowWriter(ABC):
    """Base of formats that pyarrow writes. Known columns come first, in their order, then others as they appear.

    Args:
        batch_rows: so many records are in memory at once, and what they show of a column's type is joined batch by
            batch.
    """

    def __init__(self, destination: Destination, *, batch_rows: int = BATCH_ROWS) -> None:
        self._batch_rows = batch_rows
        self._stream = destination.stream
        self._types = ColumnTypes(destination.columns or [])
        self._typed = {name: _typed_column(name, kind) for name, kind in destination.types.items()}
        self._features = destination.features
        self._spool = destination.open_spool()

    @abstractmethod
    def _open(self, schema: Any, as_text: Collection[str]) -> Any:
        """A context manager of what has ``write_table``, as pyarrow's own writers.

        Args:
            as_text: columns of JSON text.
        """

    def write(self, record: Mapping[str, Any]) -> None:
        self._spool.append(encode_record(record))

    def write_raw(self, line: bytes) -> None:
        self._spool.append(line)

    def finish(self) -> None:
        unfit = self._learn()
        if unfit:
            for lines in self._batches():
                self._types.learn([decode_exactly(line) for line in lines], only=unfit)
        schema, as_text = self._types.schema({name: column.type for name, column in self._typed.items()})
        features = {name: one for name, one in self._features.items() if name in self._typed}
        self._write_groups(with_features(schema, features), as_text)

    def _learn(self) -> set[str]:
        """Looks at all records. Gives the columns that turned out not to have the type that they were to have."""
        unfit: set[str] = set()
        for lines in self._batches():
            fields = [_decode_fields(line) for line in lines] if self._typed else []
            for name, column in list(self._typed.items()):
                if not column.fits([one.get(name) for one in fields]):
                    del self._typed[name]
                    unfit.add(name)
            self._types.learn([decode_exactly(line) for line in lines], known=self._typed.keys() | unfit)
        return unfit

    def _batches(self) -> Iterator[list[bytes]]:
        lines: list[bytes] = []
        size = 0
        for line in self._spool.lines():
            lines.append(line)
            size += len(line)
            if len(lines) >= self._batch_rows or size >= _BATCH_BYTES:
                yield lines
                lines, size = [], 0
        if lines:
            yield lines

    def _write_groups(self, schema: Any, as_text: set[str]) -> None:
        pyarrow = PYARROW.load(_PURPOSE)
        with self._open(schema, as_text) as file:
            group: list[Any] = []
            for lines in self._batches():
                group.append(self._to_batch(pyarrow, lines, schema, as_text))
                rows = sum(batch.num_rows for batch in group)
                if rows >= _GROUP_ROWS or sum(batch.nbytes for batch in group) >= _GROUP_BYTES:
                    file.write_table(pyarrow.Table.from_batches(group))
                    group = []
            if group:
                file.write_table(pyarrow.Table.from_batches(group))

    def _to_batch(self, pyarrow: Any, lines: list[bytes], schema: Any, as_text: set[str]) -> Any:
        records = [decode(line) for line in lines]
        fields = [_decode_fields(line) for line in lines] if as_text or self._typed else []
        arrays: list[Any] = []
        for field in schema:
            name = field.name
            if name in self._typed:
                arrays.append(self._typed[name].array([one.get(name) for one in fields]))
                continue
            if name in as_text:
                values = [_json_text(one.get(name)) for one in fields]
            else:
                values = [record.get(name) for record in records]
            arrays.append(pyarrow.array(values, type=field.type))
        return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


class ParquetWriter(ArrowWriter):
    """Parquet, in row groups of about 32 MiB."""

    def _open(self, schema: Any, as_text: Collection[str]) -> Any:  # noqa: ARG002  of text, they are texts
        return PYARROW.load(_PURPOSE, "pyarrow.parquet").ParquetWriter(self._stream, schema)


class ArrowIpcWriter(ArrowWriter):
    """Arrow IPC files (Feather version 2)."""

    def _open(self, schema: Any, as_text: Collection[str]) -> Any:  # noqa: ARG002  of text, they are texts
        return PYARROW.load(_PURPOSE).ipc.new_file(self._stream, schema)


def _typed_column(name: str, kind: Any) -> TypedColumn:
    if not isinstance(kind, Vectors):
        return TypedColumn(name, kind)
    pyarrow = PYARROW.load(_PURPOSE)
    return TypedColumn(name, pyarrow.list_(getattr(pyarrow, kind.numbers)()), is_vector=True)


def _json_text(value: msgspec.Raw | None) -> str | None:
    """A value's own JSON, without blanks, to the digit."""
    if value is None or bytes(value) == b"null":
        return None
    return msgspec.json.format(value, indent=-1).decode()
