"""Records that did not begin as JSON, turned into it."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast

import msgspec

from mistill.errors import InputError


def encode_record(record: Mapping[Any, Any]) -> bytes:
    """Any mapping as one line of JSON.

    What JSON has no type for becomes: dates, times and durations ISO 8601 text; ``Decimal`` a number with
    all its digits; bytes base64 text; sets and tuples lists; numpy scalars and arrays, tensors and series
    plain values and lists; pydantic models and dataclasses objects; NaN, infinities, ``NaT`` and
    ``pandas.NA`` null. Raises TypeError or ValueError for anything else.
    """
    plain = cast("dict[Any, Any]", record) if type(record) is dict else dict(record)
    raw = _encode(plain)
    if b"NaN" in raw or b"Infinity" in raw:
        # Of all types only Decimal writes its NaN as it is, which is no JSON.
        raw = _encode(_without_nan_decimals(plain))
    return raw


def _to_plain(value: Any) -> Any:
    """For the types that msgspec does not know. Duck-typed, so that no library is imported for it."""
    kind = type(value).__name__
    if kind in ("NaTType", "NAType"):
        return None
    if kind in ("datetime64", "timedelta64"):
        return None if str(value) == "NaT" else str(value)
    if isinstance(
        value, datetime.datetime
    ):  # pandas.Timestamp: the digits below 1 µs are kept if there are any
        exact = getattr(value, "nanosecond", 0) == 0
        return cast("Any", value).to_pydatetime() if exact else value.isoformat()
    if isinstance(value, datetime.timedelta):
        return datetime.timedelta(value.days, value.seconds, value.microseconds)
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    for method in ("tolist", "to_list", "model_dump"):
        if callable(convert := getattr(value, method, None)):
            return convert()
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__}")


_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=_to_plain).encode


def _without_nan_decimals(value: Any) -> Any:
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {key: _without_nan_decimals(item) for key, item in items}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_without_nan_decimals(item) for item in cast("list[Any]", value)]
    return value


def encode_row(record: Mapping[Any, Any], where: str, index: int) -> bytes:
    """``encode_record``, with an ``InputError`` that names the row and the column."""
    try:
        return encode_record(record)
    except (TypeError, ValueError, RecursionError, OverflowError) as error:
        raise InputError(f"{where}: {_misfit(record, error)}", index=index) from error


def _misfit(record: Mapping[Any, Any], error: Exception) -> str:
    for column, value in record.items():
        try:
            encode_record({column: value})
        except UnicodeEncodeError:
            return f"column {column!r} holds a lone surrogate, which UTF-8 cannot carry"
        except (TypeError, ValueError, RecursionError, OverflowError) as cause:
            return f"column {column!r} holds what JSON cannot carry: {cause}; convert it before the run"
    return str(error)
