"""Rows of Arrow data: record batches to records, whatever is in them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mistill.datasets.iso_dates import iso_date, iso_datetime, iso_duration, iso_time
from mistill.datasets.optional_library import PYARROW
from mistill.datasets.sources.row import Input, Row
from mistill.errors import InputError

_MAX_ROWS = 1024
_SLICE_BYTES = 1 << 20  # as Python objects, which take several times as much

_TICKS_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY_MS = 86_400_000
_NANOSECOND_TIME = "time64[ns]"


def rows_of_batch(batch: Any, origin: Input, first_index: int, first_place: int) -> Iterator[Row]:
    """The rows of a record batch or table, decoded a slice at a time.

    Structs become objects, lists lists, maps lists of [key, value] pairs; the rest as ``encode_record`` says. Dates and
    times that Python has no type for, since they are beyond the years 1 to 9999, become ISO 8601 text all the same.

    Args:
        first_index: the index of the first row over all inputs.
        first_place: how many rows of ``origin`` came before.

    Raises:
        InputError: a value is damaged or has no form in JSON; it names row and column.
    """
    try:
        batch.validate()  # pyarrow itself would read where a damaged batch points, and end the process
    except Exception as error:
        raise InputError(f"{origin.name}: cannot be read: {error}", index=first_index) from error
    step = rows_within(_SLICE_BYTES, batch.num_rows, batch.nbytes)
    for start in range(0, batch.num_rows, step):
        part = batch.slice(start, step)
        records = _records(part, origin, first_index + start, first_place + start)
        for offset, record in enumerate(records, start):
            place, index = first_place + offset + 1, first_index + offset
            yield Row.of(record, origin, index, place)


def rows_within(limit_bytes: int, rows: int, size_bytes: int) -> int:
    """How many rows of ``size_bytes / rows`` each make about ``limit_bytes``."""
    return max(1, min(_MAX_ROWS, limit_bytes * rows // max(1, size_bytes)))


def _records(part: Any, origin: Input, first_index: int, first_place: int) -> list[dict[str, Any]]:
    found = None if any(_loses_digits(field.type) for field in part.schema) else _python_values(part)
    if found is not None:
        return found
    names = part.schema.names
    columns = [
        column_values(column, name, origin, first_index, first_place)
        for name, column in zip(names, part.columns, strict=True)
    ]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def column_values(column: Any, name: str, origin: Input, first_index: int, first_place: int) -> list[Any]:
    """The values of an Arrow array, which is the column ``name``; for the rest see ``rows_of_batch``."""
    found = None if _loses_digits(column.type) else _python_values(column)
    if found is not None:
        return found
    chunks = getattr(column, "chunks", [column])
    places = ((chunk, at) for chunk in chunks for at in range(len(chunk)))
    return [
        _checked_value(chunk, at, name, origin, first_index + offset, first_place + offset)
        for offset, (chunk, at) in enumerate(places)
    ]


def _python_values(data: Any) -> list[Any] | None:
    """All values of Arrow data at once; ``None`` where one needs a closer look."""
    try:
        data.validate(full=True)
        return data.to_pylist()
    except Exception:  # of any type, by what is wrong
        return None


def _loses_digits(kind: Any) -> bool:
    """pyarrow gives times of day in nanoseconds as Python's, which have microseconds, without a word."""
    return _NANOSECOND_TIME in str(kind)  # which says what is in it, too; a field of that name does no harm


def _checked_value(array: Any, at: int, name: str, origin: Input, index: int, rows_before: int) -> Any:
    try:
        return _value(array, at)
    except Exception as error:
        problem = "it is not UTF-8" if "UTF8" in str(error) else str(error)
        where = f"{origin.where(rows_before + 1)} (record {rows_before + 1}, counted from 1)"
        raise InputError(f"{where}: column {name!r} cannot be read: {problem}", index=index) from error


def _value(array: Any, at: int) -> Any:
    """One value of an Arrow array as Python's; dates and times that Python has no type for as text.

    Each value is checked before pyarrow touches it, and no more than that value: what is damaged may stand in another
    row. Where values are nested, that is done level by level, since pyarrow follows even the damaged pointers of a
    level below.
    """
    types = PYARROW.load("reading Arrow data").types
    kind = array.type
    one = array.slice(at, 1)
    one.validate()
    if one.null_count:
        return None
    if types.is_struct(kind):
        names = [field.name for field in kind]
        if len(set(names)) < len(names):
            raise ValueError(f"two of its fields have one name: {', '.join(names)}")
        return {name: _value(one.field(number), 0) for number, name in enumerate(names)}
    if types.is_map(kind):
        keys, values = one[0].values.field(0), one[0].values.field(1)
        return [[_value(keys, number), _value(values, number)] for number in range(len(keys))]
    if hasattr(kind, "value_field"):  # a list of any sort
        values = one[0].values
        return [_value(values, number) for number in range(len(values))]
    if types.is_dictionary(kind):
        number = one.indices[0].as_py()
        if not 0 <= number < len(one.dictionary):
            raise ValueError(f"it points at word {number} of a dictionary of {len(one.dictionary)}")
        return _value(one.dictionary, number)
    return _plain(one)


def _plain(one: Any) -> Any:
    pyarrow = PYARROW.load("reading Arrow data")
    one.validate(full=True)
    scalar = one[0]
    if str(one.type) == _NANOSECOND_TIME:
        return iso_time(scalar.value, _TICKS_PER_S["ns"])
    try:
        return scalar.as_py()
    except (ArithmeticError, ValueError):
        if pyarrow.types.is_temporal(one.type):
            return _iso_text(scalar)
        if not hasattr(scalar, "value"):
            raise
        return _value(pyarrow.repeat(scalar.value, 1), 0)  # what a union, a run or an extension holds


def _iso_text(scalar: Any) -> str:
    types = PYARROW.load("reading Arrow data").types
    kind = scalar.type
    if types.is_date32(kind):
        return iso_date(scalar.value)
    if types.is_date64(kind):
        return iso_date(scalar.value // _DAY_MS)
    if types.is_timestamp(kind):  # what has a zone is given in UTC
        return iso_datetime(scalar.value, _TICKS_PER_S[kind.unit], utc=kind.tz is not None)
    if types.is_duration(kind):
        return iso_duration(scalar.value, _TICKS_PER_S[kind.unit])
    raise TypeError(f"there is no text for a value of type {kind}")
