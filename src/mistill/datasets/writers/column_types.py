"""Which type each column of an Arrow table gets, from all the records that will stand in it.

The types do not depend on the order of the records:

- numbers: int64, or double as soon as one has a fraction; strings: text; booleans: boolean;
- lists and objects: lists and structs, an object's keys being all that occur; a missing key comes back as null;
- a column of nulls only: text;
- a column whose values fit no such type (a number here, a string there; integers beyond 64 bits, or beyond 2^53 beside
  fractions; fractions with more digits than a double keeps; an object that never has a key; lists and objects more than
  `MAX_DEPTH` deep): JSON text of each value.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from mistill.datasets.optional_library import PYARROW

_PURPOSE = "writing Arrow data"
_EXACT_IN_DOUBLE = 2**53
MAX_DEPTH = 32
"""Lists and objects in one another. pyarrow 26 writes Parquet that it cannot open itself from 50 on, and no Arrow file
from 64 on; others stop earlier."""


class ColumnTypes:
    """The type of each column, as batches of records go by."""

    def __init__(self, columns: list[str]) -> None:
        self._pa = PYARROW.load(_PURPOSE)
        self._types: dict[str, Any] = dict.fromkeys(columns, self._pa.null())
        self._as_text: set[str] = set()
        self._large_integers: set[str] = set()
        self._widened: set[str] = set()

    def learn(
        self,
        records: list[dict[str, Any]],
        *,
        known: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> None:
        """Looks at a batch of records.

        Args:
            known: columns whose type is known; of these, it is kept that they are there. ``only``: the only columns.
        """
        for name in dict.fromkeys(name for record in records for name in record):
            so_far = self._types.setdefault(name, self._pa.null())
            if name in self._as_text or name in known or not (only is None or name in only):
                continue
            array = self._array([record.get(name) for record in records])
            joined = None if array is None else self._join(so_far, array.type, name)
            if joined is None:
                self._as_text.add(name)
                continue
            self._types[name] = joined
            if self._has_large_integer(array):
                self._large_integers.add(name)

    def schema(self, known: Mapping[str, Any]) -> tuple[Any, set[str]]:
        """The schema for all records learnt, and the columns of JSON text in it; ``known``: types of some columns."""
        as_text = self._as_text | (self._large_integers & self._widened)
        as_text |= {name for name, kind in self._types.items() if self._has_empty_struct(kind)}
        fields = [
            self._pa.field(name, self._pa.string() if name in as_text else self._without_null_type(kind))
            if name not in known
            else self._pa.field(name, known[name])
            for name, kind in self._types.items()
        ]
        return self._pa.schema(fields), as_text

    def _array(self, values: list[Any]) -> Any:
        """The values as pyarrow would have them, checked; None where they fit no one type."""
        try:
            array = self._pa.array(values)
        except (self._pa.ArrowException, OverflowError, TypeError, ValueError):
            return None
        if _depth_of(array.type) > MAX_DEPTH or self._holds_boolean_as_double(values, array.type):
            return None
        return array

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
        extremes = PYARROW.load(_PURPOSE, "pyarrow.compute").min_max(array).as_py()
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


def _depth_of(kind: Any) -> int:
    """How many lists and structs stand in one another."""
    depth, level = 0, [kind]
    while level := [child.field(place).type for child in level for place in range(child.num_fields)]:
        depth += 1
    return depth
