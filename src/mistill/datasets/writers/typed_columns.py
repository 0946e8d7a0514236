"""Columns of an Arrow table whose type is known before: those of an input that is Arrow data itself, and vectors.

Records are JSON, so a value of such a column is made from its JSON again: a timestamp from ISO text, a decimal from all
its digits, bytes from base64. A type stands if each value of the column, read back as any input is, is the very same
JSON; else the column gets a type by its values, as every other.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec
from msgspec import Raw

from mistill.datasets.encoding import encode_record
from mistill.datasets.optional_library import PYARROW
from mistill.datasets.sources.arrow_rows import column_values
from mistill.datasets.sources.in_memory import Items
from mistill.errors import InputError

_PURPOSE = "writing Arrow data"
_MAX_WORDS = 1 << 16
"""Of a dictionary (a categorical column): it is in memory as a whole, and of more words it saves little."""
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_NS_PER_TICK = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_FRACTION = re.compile(r"(\.\d{1,6})(\d{0,3})")
_DAY_MS = 86_400_000

_decode_value = msgspec.json.Decoder().decode
_decode_exact = msgspec.json.Decoder(float_hook=Decimal).decode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode

Reading = Callable[[Any], Any]
"""A value as JSON has it → as pyarrow takes it for a type."""


class TypedColumn:
    """A column and the type that it is to have.

    Args:
        type_: pyarrow's.
        is_vector: its numbers may be rounded to the type, such as float32; what they are not is another kind of value.
    """

    def __init__(self, name: str, type_: Any, *, is_vector: bool = False) -> None:
        self._pa = PYARROW.load(_PURPOSE)
        self.type = type_
        self._name = name
        self._is_vector = is_vector
        self._is_dictionary = self._pa.types.is_dictionary(type_)
        self._plain = type_.value_type if self._is_dictionary else type_
        self._read = reading_of(self._pa, self._plain)
        self._decode = _decode_exact if _holds_decimal(self._pa, type_) else _decode_value
        self._words: dict[Any, None] = {}

    def fits(self, values: Sequence[Raw | None]) -> bool:
        """Whether these values, too, have the type."""
        try:
            array = self._plain_array(values)
            if self._is_dictionary:
                self._words.update(dict.fromkeys(array.unique().drop_null().to_pylist()))
                if len(self._words) > _MAX_WORDS:
                    return False
                array = self._encoded(array)
            return self._holds_finite(array) if self._is_vector else self._reads_back(array, values)
        except (self._pa.ArrowException, InputError, ArithmeticError, TypeError, ValueError, LookupError):
            return False

    def array(self, values: Sequence[Raw | None]) -> Any:
        """An Arrow array of values, all of which `fits` has seen."""
        array = self._plain_array(values)
        return self._encoded(array) if self._is_dictionary else array

    def _plain_array(self, values: Sequence[Raw | None]) -> Any:
        decoded = [None if value is None else self._decode(value) for value in values]
        if self._read is not None:
            decoded = [None if value is None else self._read(value) for value in decoded]
        try:
            return self._pa.array(decoded, type=self._plain)
        except self._pa.ArrowNotImplementedError:  # float16 in older ones takes numpy's numbers only
            return self._pa.array(decoded).cast(self._plain)

    def _encoded(self, array: Any) -> Any:
        """With the words of the whole column: an Arrow file has one dictionary a column."""
        words = self._pa.array(list(self._words), type=self._plain)
        indices = PYARROW.load(_PURPOSE, "pyarrow.compute").index_in(array, value_set=words)
        return self._pa.DictionaryArray.from_arrays(
            indices.cast(self.type.index_type), words, ordered=self.type.ordered
        )

    def _reads_back(self, array: Any, values: Sequence[Raw | None]) -> bool:
        found = column_values(array, self._name, _NOWHERE, 0, 0)
        return all(
            (value is None or bytes(value) == b"null") if back is None else value == _encode_value(back)
            for value, back in zip(values, found, strict=True)
        )

    def _holds_finite(self, array: Any) -> bool:
        numbers = array.flatten()
        if numbers.null_count:
            return False
        compute = PYARROW.load(_PURPOSE, "pyarrow.compute")
        return not len(numbers) or bool(compute.all(compute.is_finite(numbers)).as_py())


_NOWHERE = Items([])
"""Where the values come from that are read back; nobody is told."""


def _encode_value(value: Any) -> Raw:
    return _decode_fields(encode_record({"": value}))[""]


def _holds_decimal(pa: Any, kind: Any) -> bool:
    return pa.types.is_decimal(kind) or any(_holds_decimal(pa, inner) for inner in _inner_types(kind))


def _inner_types(kind: Any) -> list[Any]:
    return [kind.field(place).type for place in range(kind.num_fields)]


def reading_of(pa: Any, kind: Any) -> Reading | None:
    """How a value that is not null is read for the type; ``None``: as JSON has it."""
    types = pa.types
    if types.is_timestamp(kind):
        has_zone = kind.tz is not None
        return lambda text: _ns_of(text, has_zone=has_zone) // _NS_PER_TICK[kind.unit]
    if types.is_date32(kind):
        return lambda text: (date.fromisoformat(text) - date(1970, 1, 1)).days
    if types.is_date64(kind):
        return lambda text: (date.fromisoformat(text) - date(1970, 1, 1)).days * _DAY_MS
    if types.is_time(kind):
        return lambda text: _ns_of_time(text) // _NS_PER_TICK[kind.unit]
    if types.is_duration(kind):
        return lambda text: _ns_of_duration(text) // _NS_PER_TICK[kind.unit]
    if types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind):
        return lambda text: base64.b64decode(text, validate=True)
    if types.is_decimal(kind):
        return Decimal
    return _nested_reading(pa, kind)


def _nested_reading(pa: Any, kind: Any) -> Reading | None:
    types = pa.types
    if types.is_struct(kind):
        return _reading_of_fields({field.name: reading_of(pa, field.type) for field in kind})
    if types.is_map(kind):
        key, item = (_or_same(reading_of(pa, inner)) for inner in (kind.key_type, kind.item_type))
        return lambda pairs: [(key(one), None if other is None else item(other)) for one, other in pairs]
    if types.is_dictionary(kind):
        return reading_of(pa, kind.value_type)
    if hasattr(kind, "value_field"):  # a list of any sort
        inner = reading_of(pa, kind.value_type)
        if inner is not None:
            return lambda values: [None if value is None else inner(value) for value in values]
    return None


def _reading_of_fields(readings: Mapping[str, Reading | None]) -> Reading | None:
    special = {name: read for name, read in readings.items() if read is not None}
    if not special:
        return None

    def read(value: dict[str, Any]) -> dict[str, Any]:
        found = {
            name: special[name](one) for name, one in value.items() if name in special and one is not None
        }
        return value | found

    return read


def _or_same(read: Reading | None) -> Reading:
    return read or (lambda value: value)


def _ns_of(text: str, *, has_zone: bool) -> int:
    """Nanoseconds from 1970 on of a moment in ISO 8601. A text of another sort is no moment of that column."""
    text, below_us = _without_ns(text)
    moment = datetime.fromisoformat(text)
    if (moment.tzinfo is not None) != has_zone:
        raise ValueError("a moment with a zone where others have none, or the other way")
    since = (moment if has_zone else moment.replace(tzinfo=UTC)) - _EPOCH
    return since // timedelta(microseconds=1) * 1000 + below_us


def _ns_of_time(text: str) -> int:
    text, below_us = _without_ns(text)
    found = time.fromisoformat(text)
    seconds = (found.hour * 60 + found.minute) * 60 + found.second
    return (seconds * 10**6 + found.microsecond) * 1000 + below_us


def _ns_of_duration(text: str) -> int:
    return msgspec.convert(text, timedelta) // timedelta(microseconds=1) * 1000


def _without_ns(text: str) -> tuple[str, int]:
    """An ISO text without the digits below a microsecond, and those in nanoseconds."""
    found = _FRACTION.search(text)
    if found is None or not found[2]:
        return text, 0
    return text[: found.end(1)] + text[found.end() :], int(found[2].ljust(3, "0"))
