"""Records to Parquet or Arrow, whose columns need one type each, while JSON promises none.

Records go to a temporary spool first, and only when all are there, so that every value had its say, are
types chosen and the file written. No row is sampled, none is lost, and the types do not depend on the order
of the rows. The rules:

- numbers: int64, or double as soon as one has a fraction; strings: text; booleans: boolean;
- lists and objects: lists and structs, an object's keys being all that occur; a key that is missing comes
back as null; - a column of nulls only: text; - a column whose values fit no such type (a number here, a
string there; integers beyond 64 bits, or beyond 2^53 beside
  fractions; an object that never has a key): JSON text of each value.

It costs the disk space of the records as JSONL while it lasts, in the directory of the output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from mistill.datasets.encoding import encode_record
from mistill.datasets.formats import arrow_module
from mistill.datasets.writers.output_file import Spool

_BATCH_ROWS = 8192
_BATCH_BYTES = 4 << 20
_GROUP_ROWS = 1 << 16
_GROUP_BYTES = 32 << 20
_EXACT_IN_DOUBLE = 2**53

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ArrowWriter:
    """``kind`` is "parquet" or "arrow"; ``columns`` come first, in that order, then others as they appear."""

    def __init__(self, stream: Any, kind: str, columns: list[str] | None, spool: Spool) -> None:
        self._stream = stream
        self._kind = kind
        self._types = ColumnTypes(columns or [])
        self._spool = spool

    def write(self, record: Mapping[str, Any]) -> None:
        self._spool.append(encode_record(record))

    def write_raw(self, line: bytes) -> None:
        self._spool.append(line)

    def finish(self) -> None:
        for records in self._batches():
            self._types.learn(records)
        schema, as_text = self._types.schema()
        self._write_groups(schema, as_text)

    def _batches(self) -> Iterator[list[dict[str, Any]]]:
        records: list[dict[str, Any]] = []
        size = 0
        for line in self._spool.lines():
            records.append(_decode(line))
            size += len(line)
            if len(records) >= _BATCH_ROWS or size >= _BATCH_BYTES:
                yield records
                records, size = [], 0
        if records:
            yield records

    def _write_groups(self, schema: Any, as_text: set[str]) -> None:
        pyarrow = arrow_module("pyarrow", "writing Arrow data")
        with self._open(schema) as file:
            group: list[Any] = []
            for records in self._batches():
                group.append(_to_batch(pyarrow, records, schema, as_text))
                rows = sum(batch.num_rows for batch in group)
                if rows >= _GROUP_ROWS or sum(batch.nbytes for batch in group) >= _GROUP_BYTES:
                    file.write_table(pyarrow.Table.from_batches(group))
                    group = []
            if group:
                file.write_table(pyarrow.Table.from_batches(group))

    def _open(self, schema: Any) -> Any:
        if self._kind == "parquet":
            return arrow_module("pyarrow.parquet", "writing Parquet").ParquetWriter(self._stream, schema)
        return arrow_module("pyarrow", "writing Arrow").ipc.new_file(self._stream, schema)


def _to_batch(pyarrow: Any, records: list[dict[str, Any]], schema: Any, as_text: set[str]) -> Any:
    arrays: list[Any] = []
    for field in schema:
        values = [record.get(field.name) for record in records]
        if field.name in as_text:
            values = [None if value is None else msgspec.json.encode(value).decode() for value in values]
        arrays.append(pyarrow.array(values, type=field.type))
    return pyarrow.RecordBatch.from_arrays(arrays, schema=schema)


class ColumnTypes:
    """The type of each column, as batches of records go by."""

    def __init__(self, columns: list[str]) -> None:
        self._pa = arrow_module("pyarrow", "writing Arrow data")
        self._types: dict[str, Any] = dict.fromkeys(columns, self._pa.null())
        self._as_text: set[str] = set()
        self._large_integers: set[str] = set()
        self._widened: set[str] = set()

    def learn(self, records: list[dict[str, Any]]) -> None:
        for name in dict.fromkeys(name for record in records for name in record):
            known = self._types.setdefault(name, self._pa.null())
            if name in self._as_text:
                continue
            array = self._array([record.get(name) for record in records])
            joined = None if array is None else self._join(known, array.type, name)
            if joined is None:
                self._as_text.add(name)
                continue
            self._types[name] = joined
            if self._has_large_integer(array):
                self._large_integers.add(name)

    def schema(self) -> tuple[Any, set[str]]:
        """The schema for all records learnt, and the columns of JSON text in it."""
        as_text = self._as_text | (self._large_integers & self._widened)
        as_text |= {name for name, kind in self._types.items() if self._has_empty_struct(kind)}
        fields = [
            self._pa.field(name, self._pa.string() if name in as_text else self._without_null_type(kind))
            for name, kind in self._types.items()
        ]
        return self._pa.schema(fields), as_text

    def _array(self, values: list[Any]) -> Any:
        """The values as pyarrow would have them, checked; None where they fit no one type."""
        try:
            array = self._pa.array(values)
        except (self._pa.ArrowException, OverflowError, TypeError, ValueError):
            return None
        return None if self._holds_boolean_as_double(values, array.type) else array

    def _holds_boolean_as_double(self, values: list[Any], kind: Any) -> bool:
        """pyarrow refuses true among integers and strings, but among fractions it makes 1.0 of it."""
        types = self._pa.types
        if types.is_float64(kind):
            return bool in set(map(type, values))
        if not types.is_nested(kind):
            return False
        present = [value for value in values if value is not None]
        if types.is_list(kind):
            return self._holds_boolean_as_double(
                [item for value in present for item in value], kind.value_type
            )
        return any(
            self._holds_boolean_as_double([value.get(field.name) for value in present], field.type)
            for field in kind
        )

    def _join(self, one: Any, other: Any, column: str) -> Any:
        """The type that takes both. None if there is none."""
        types = self._pa.types
        if one == other or types.is_null(other):
            return one
        if types.is_null(one):
            return other
        if {one, other} == {self._pa.int64(), self._pa.float64()}:
            self._widened.add(column)
            return self._pa.float64()
        if types.is_list(one) and types.is_list(other):
            item = self._join(one.value_type, other.value_type, column)
            return None if item is None else self._pa.list_(item)
        if types.is_struct(one) and types.is_struct(other):
            return self._join_structs(one, other, column)
        return None

    def _join_structs(self, one: Any, other: Any, column: str) -> Any:
        kinds: dict[str, Any] = {field.name: field.type for field in one}
        for field in other:
            kinds[field.name] = self._join(kinds.get(field.name, self._pa.null()), field.type, column)
            if kinds[field.name] is None:
                return None
        return self._pa.struct(list(kinds.items()))

    def _has_large_integer(self, array: Any) -> bool:
        """Whether an integer at any depth is too large to be exact as a double."""
        types = self._pa.types
        if types.is_struct(array.type):
            return any(self._has_large_integer(child) for child in array.flatten())
        if types.is_list(array.type):
            return self._has_large_integer(array.flatten())
        if not types.is_int64(array.type):
            return False
        extremes = arrow_module("pyarrow.compute", "writing Arrow data").min_max(array).as_py()
        return any(abs(value) > _EXACT_IN_DOUBLE for value in extremes.values() if value is not None)

    def _has_empty_struct(self, kind: Any) -> bool:
        if self._pa.types.is_struct(kind):
            return kind.num_fields == 0 or any(self._has_empty_struct(field.type) for field in kind)
        return self._pa.types.is_list(kind) and self._has_empty_struct(kind.value_type)

    def _without_null_type(self, kind: Any) -> Any:
        """Text for what was null throughout: many readers of Parquet do not know Arrow's null type."""
        types = self._pa.types
        if types.is_null(kind):
            return self._pa.string()
        if types.is_list(kind):
            return self._pa.list_(self._without_null_type(kind.value_type))
        if types.is_struct(kind):
            return self._pa.struct([(field.name, self._without_null_type(field.type)) for field in kind])
        return kind
