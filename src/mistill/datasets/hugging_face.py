"""Hugging Face's features: what its datasets know of columns beyond Arrow's types, such as the names of labels.

They stand in an Arrow schema's metadata, as JSON, so they outlive files and ledgers. ``datasets`` takes no notice of
the feature of a column whose type is another.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from mistill.struct_types import look_at

_KEY = b"huggingface"


class _Info(msgspec.Struct):
    features: dict[str, Any] | None = None


class _Metadata(msgspec.Struct):
    info: _Info = msgspec.field(default_factory=_Info)


def features_of(schema: Any) -> dict[str, Any]:
    """The features of an Arrow schema's columns, each as JSON has it; none where it has none, or none that we know."""
    written: bytes | None = dict[bytes, bytes](schema.metadata or {}).get(_KEY)
    if written is None:
        return {}
    try:
        return msgspec.json.decode(written, type=_Metadata).info.features or {}
    except (msgspec.MsgspecError, RecursionError):
        return {}


def with_features(schema: Any, features: Mapping[str, Any]) -> Any:
    """An Arrow schema, with the features of those of its columns that have one."""
    chosen = {name: features[name] for name in schema.names if name in features}
    if not chosen:
        return schema
    metadata = msgspec.json.encode({"info": {"features": chosen}})
    return schema.with_metadata({**(schema.metadata or {}), _KEY: metadata})


look_at(_Metadata)
