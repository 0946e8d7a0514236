"""Nulls that columnar files add to nested values."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, cast


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
