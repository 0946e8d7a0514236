"""Values of other libraries → what JSON and our own structs are made of.

What people have at hand is seldom a plain ``dict`` of ``str``: rows of pandas hold ``numpy.str_``, templates give
``Markup``, SDKs have classes for messages, Arrow fills every record with the keys of all others. All of it says plainly
what is meant, so it is taken for that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, cast

import msgspec
from msgspec import Struct

from mistill.characters import whole_characters


def plain(value: Any) -> Any:
    """``value`` in dicts, lists, texts and numbers of Python's own types; what is none of these is left as it is.

    Understood are subclasses of ``str``, numbers of numpy, mappings, sequences and arrays, dataclasses, pydantic models
    and msgspec's structs.
    """
    if isinstance(value, str):
        return whole_characters(value)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {plain(name): plain(item) for name, item in items}
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    fields = fields_of(value)
    if fields is not None:
        return plain(fields)
    items = items_of(value)
    return value if items is None else [plain(item) for item in items]


def fields_of(value: Any) -> Mapping[str, Any] | None:
    """The fields of an object that is a record: a pydantic model, a dataclass, a struct; else ``None``."""
    if isinstance(value, type):
        return None
    if isinstance(value, Struct):
        return cast("dict[str, Any]", msgspec.to_builtins(value, enc_hook=encodable))
    if callable(dump := getattr(value, "model_dump", None)):
        return cast("dict[str, Any]", dump(mode="json", by_alias=True))
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def items_of(value: Any) -> Iterable[Any] | None:
    """The items of a sequence or of an array; ``None`` for what is neither."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        return cast("Sequence[Any]", value)
    if callable(tolist := getattr(value, "tolist", None)) and isinstance(listed := tolist(), list):
        return cast("list[Any]", listed)
    return None


def encodable(value: Any) -> Any:
    """`plain`, as msgspec's ``enc_hook``: what it cannot help with is a ``TypeError``."""
    found = plain(value)
    if found is value:
        raise TypeError(f"there is no JSON for objects of type {type(value).__name__}")
    return found


def without_nulls(value: Any, *, keep: Collection[str] = (), opaque: Collection[str] = ()) -> Any:
    """A JSON value without the keys whose value is null, at any depth.

    Parquet and Arrow give every object of a column the keys that any of them has, null where it had none itself. Such a
    key says no more than its absence. A null in a list stays.

    Args:
        keep: keys that may be null in their own right: they stay.
        opaque: keys whose value is somebody else's: it is left as it is.
    """
    if isinstance(value, dict):
        return {
            key: one if key in opaque else without_nulls(one, keep=keep, opaque=opaque)
            for key, one in cast("dict[str, Any]", value).items()
            if one is not None or key in keep
        }
    if isinstance(value, list):
        return [without_nulls(one, keep=keep, opaque=opaque) for one in cast("list[Any]", value)]
    return value
