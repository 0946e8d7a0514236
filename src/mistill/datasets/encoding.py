"""Records that did not begin as JSON, turned into it."""

from __future__ import annotations

import datetime
import io
from collections.abc import Mapping
from decimal import Decimal
from pathlib import PurePath
from typing import Any, cast

import msgspec

from mistill.characters import whole_characters
from mistill.datasets.iso_dates import iso_duration, with_signed_year
from mistill.errors import let_interrupt_pass

_TICKS_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_DAY_S = 86_400

_TEXT_TYPES = (bytes, datetime.datetime, datetime.date, datetime.time, datetime.timedelta, Decimal)
"""Types that JSON has not, and that msgspec writes as the text that we want."""


def encode_record(record: Mapping[Any, Any]) -> bytes:
    """Any mapping as one line of JSON.

    What JSON has no type for becomes: dates, times and durations ISO 8601 text; ``Decimal`` a number with all its
    digits; bytes base64 text, and so images of Pillow, as the files that they are; decoders of sound their samples and
    rate; paths text; tuples lists; sets sorted lists; numpy scalars and arrays, tensors and series plain values and
    lists; pydantic models and dataclasses objects; NaN, infinities, ``NaT`` and ``pandas.NA`` null; a lone surrogate,
    which UTF-8 cannot carry, U+FFFD.

    Raises:
        TypeError: it holds something else.
        ValueError: a value has no form in JSON.
    """
    plain = cast("dict[Any, Any]", record) if type(record) is dict else dict(record)
    if not _FLAT_TYPES.issuperset(map(type, plain.values())):
        plain = _without_sets(plain)
    try:
        raw = _encode(plain)
    except (UnicodeEncodeError, TypeError):
        return _encode(_normalize(plain))
    # Of all types only Decimal writes its NaN as it is, which is no JSON. The words may as well stand in a text.
    return _encode(_normalize(plain)) if b"NaN" in raw or b"Infinity" in raw else raw


def encode_what_can_be(record: Mapping[Any, Any]) -> tuple[bytes, str]:
    """A record that `encode_record` refuses, with null for each value that has no form in JSON, and what is wrong."""
    kept: dict[Any, Any] = {}
    problem = ""
    for column, value in record.items():
        try:
            encode_record({column: value})
            kept[column] = value
        except BaseException as cause:  # a value's own tolist or model_dump may raise anything
            let_interrupt_pass(cause)
            what = "it never ends" if isinstance(cause, RecursionError) else str(cause)
            problem = (
                problem
                or f"column {column!r} holds what JSON cannot carry: {what}; convert it before the run"
            )
            if isinstance(column, str):
                kept[column] = None
    return encode_record(kept), problem


def _to_plain(value: Any) -> Any:
    """For the types that msgspec does not know. Duck-typed, so that no library is imported for it."""
    kind = type(value).__name__
    if kind in ("NaTType", "NAType"):
        return None
    if kind in ("datetime64", "timedelta64"):
        return _numpy_time(value)
    if isinstance(value, datetime.datetime):
        return _pandas_timestamp(value)
    if isinstance(value, datetime.timedelta):
        return _pandas_timedelta(value)
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, PurePath):
        return str(value)
    if type(value).__module__.startswith("PIL."):
        return _image_file(value)
    if hasattr(value, "get_all_samples"):  # of torchcodec, as Hugging Face's Audio feature gives it
        samples = value.get_all_samples()
        return {"array": samples.data.tolist(), "sampling_rate": samples.sample_rate}
    for method in ("tolist", "to_list"):
        if callable(convert := getattr(value, method, None)):
            return convert()
    if callable(dump := getattr(value, "model_dump", None)):
        return dump(by_alias=True)  # as its JSON has it: a message in a row is the one that `generate` takes
    for base in (str, int, float):
        if isinstance(value, base):
            return base(value)
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__}")


def _image_file(image: Any) -> bytes:
    """An image of Pillow as the bytes of a file: a JPEG as it was compressed, all else as PNG, which loses nothing."""
    written = io.BytesIO()
    if type(image).__name__ == "JpegImageFile":
        image.save(written, format="JPEG", quality="keep")
    else:
        as_png = image if image.mode in _PNG_MODES else image.convert("RGB")
        as_png.save(written, format="PNG")
    return written.getvalue()


_PNG_MODES = ("1", "L", "LA", "I", "I;16", "P", "RGB", "RGBA")

# --- sets -------------------------------------------------------------------------------------------------------------

_FLAT_TYPES = frozenset((str, int, float, bool, type(None), *_TEXT_TYPES))


def _without_sets(value: Any) -> Any:
    """``value`` with a sorted list for each set in it: the order of a set is another one in every process, and a row
    that reads otherwise is another row."""
    if type(value) in _FLAT_TYPES:
        return value
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value)
        if _FLAT_TYPES.issuperset(map(type, items.values())):
            return items
        return {key: _without_sets(item) for key, item in items.items()}
    if isinstance(value, (list, tuple)):
        members = cast("list[Any]", value)
        return members if _FLAT_TYPES.issuperset(map(type, members)) else list(map(_without_sets, members))
    if isinstance(value, (set, frozenset)):
        return _sorted([_without_sets(member) for member in cast("set[Any]", value)])
    if any(map(_holds_set, _fields_of(value))):
        return msgspec.to_builtins(value, builtin_types=_TEXT_TYPES, enc_hook=_known, order="deterministic")
    return value


def _holds_set(value: Any) -> bool:
    if isinstance(value, (set, frozenset)):
        return True
    if isinstance(value, dict):
        return any(map(_holds_set, cast("dict[Any, Any]", value).values()))
    members = cast("list[Any]", value) if isinstance(value, (list, tuple)) else _fields_of(value)
    return any(map(_holds_set, members))


def _fields_of(value: Any) -> list[Any]:
    """The values of a struct, a dataclass or an object of attrs; nothing of anything else."""
    kind = cast("Any", type(value))
    names = getattr(kind, "__struct_fields__", ())
    names = names or getattr(kind, "__dataclass_fields__", ())
    names = names or [field.name for field in getattr(kind, "__attrs_attrs__", ())]
    return [getattr(value, name, None) for name in names]


def _sorted(members: list[Any]) -> list[Any]:
    kinds = set(map(type, members))
    if kinds <= {str} or (kinds <= {int, float, bool} and all(one == one for one in members)):
        return sorted(members)
    return sorted(members, key=_sort_key)  # not all of them can be compared


def _sort_key(member: Any) -> bytes:
    return _encode(_normalize(member))


def _known(value: Any) -> Any:
    return _without_sets(_to_plain(value))


_encode = msgspec.json.Encoder(decimal_format="number", enc_hook=_known).encode

# --- other types ------------------------------------------------------------------------------------------------------


def _numpy_time(value: Any) -> Any:
    if str(value) == "NaT":
        return None
    if value.dtype.kind == "M":
        return with_signed_year(str(value))
    item = value.item()  # an integer where Python's own type is too coarse, or too small
    unit = str(value.dtype).removeprefix("timedelta64[").removesuffix("]")
    if isinstance(item, datetime.timedelta):
        return item
    return iso_duration(item, _TICKS_PER_S[unit]) if unit in _TICKS_PER_S else str(value)


def _pandas_timestamp(value: Any) -> Any:
    """Python's own type, unless that is too coarse or too small."""
    if getattr(value, "nanosecond", 0) == 0 and datetime.MINYEAR <= value.year <= datetime.MAXYEAR:
        return value.to_pydatetime()
    return with_signed_year(value.isoformat())


def _pandas_timedelta(value: Any) -> Any:
    """Python's own type, unless that is too coarse or too small."""
    if getattr(value, "nanoseconds", 0):
        return iso_duration(value.value, _TICKS_PER_S["ns"])
    try:
        return datetime.timedelta(value.days, value.seconds, value.microseconds)
    except OverflowError:
        return iso_duration(value.days * _DAY_S + value.seconds, 1)


def _normalize(value: Any) -> Any:
    """``value`` in types that msgspec writes by itself: with plain keys, without lone surrogates, without NaN."""
    return _normalize_builtin(msgspec.to_builtins(value, builtin_types=_TEXT_TYPES, enc_hook=_known))


def _normalize_builtin(value: Any) -> Any:
    if isinstance(value, str):
        return whole_characters(value)
    if isinstance(value, dict):
        items = cast("dict[Any, Any]", value).items()
        return {_normalize_key(key): _normalize_builtin(item) for key, item in items}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_normalize_builtin(item) for item in cast("list[Any]", value)]
    if isinstance(value, Decimal):
        return value if value.is_finite() else None
    return value


def _normalize_key(key: Any) -> Any:
    if hasattr(key, "tolist"):  # of numpy
        return _normalize_key(key.tolist())
    return whole_characters(key) if isinstance(key, str) else key
