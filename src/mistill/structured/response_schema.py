"""How a JSON schema is put on the wire: its name, and an object at its root. Pure functions."""

from __future__ import annotations

import re
from typing import Any, cast

Schema = dict[str, Any]

WRAPPER_KEY = "value"

_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_-]+")
_MAX_NAME_CHARS = 64
_MAX_REF_HOPS = 32

# Where a subschema may stand (JSON Schema 2020-12 and the drafts before it); everything else is data and
# stays as it is.
_ONE = (
    "additionalItems", "additionalProperties", "contains", "contentSchema", "else", "if", "items", "not",
    "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
)  # fmt: skip
_LIST = ("allOf", "anyOf", "items", "oneOf", "prefixItems")
_MAP = ("$defs", "definitions", "dependencies", "dependentSchemas", "patternProperties", "properties")


def wire_name(name: str) -> str:
    """``name`` in the characters that the API takes: ``^[a-zA-Z0-9_-]{1,64}$``."""
    return _NOT_IN_NAME.sub("_", name).strip("_")[:_MAX_NAME_CHARS] or "output"


def has_object_root(schema: Schema) -> bool:
    """Whether every answer that fits ``schema`` is a JSON object."""
    root = _follow_ref(schema)
    if "type" in root:
        return root["type"] == "object"
    if "properties" in root:
        return True
    members = root.get("allOf")
    return isinstance(members, list) and any(
        has_object_root({**_definitions(schema), **member})
        for member in cast("list[Any]", members)
        if isinstance(member, dict)
    )


def inline_root(schema: Schema) -> Schema:
    """``schema`` with a root ``$ref`` (pydantic writes one for a recursive model) resolved."""
    if set(schema) - {"$defs"} != {"$ref"}:
        return schema
    return {**_follow_ref(schema), "$defs": schema["$defs"]}


def wrap(schema: Schema) -> Schema:
    """An object schema whose one required property ``value`` is ``schema``; every ``$ref`` still resolves."""
    inner = dict(schema)
    hoisted = {key: inner.pop(key) for key in ("$schema",) if key in inner}
    if "$id" not in inner:  # with an $id it is a resource of its own, and its references stay inside it
        for key in ("$defs", "definitions"):
            if key in inner:
                hoisted[key] = {name: _rebase(sub) for name, sub in inner.pop(key).items()}
        inner = _rebase(inner)
    return {
        **hoisted,
        "type": "object",
        "properties": {WRAPPER_KEY: inner},
        "required": [WRAPPER_KEY],
        "additionalProperties": False,
    }


def _rebase(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    node = cast("Schema", schema)
    if "$id" in node:
        return node
    moved: Schema = {}
    for key, value in node.items():
        if key in ("$ref", "$dynamicRef") and isinstance(value, str):
            moved[key] = _rebase_pointer(value)
        elif key in _LIST and isinstance(value, list):
            moved[key] = [_rebase(sub) for sub in cast("list[Any]", value)]
        elif key in _MAP and isinstance(value, dict):
            moved[key] = {name: _rebase(sub) for name, sub in cast("Schema", value).items()}
        elif key in _ONE:
            moved[key] = _rebase(value)
        else:
            moved[key] = value
    return moved


def _rebase_pointer(ref: str) -> str:
    if ref != "#" and not ref.startswith("#/"):
        return ref  # an anchor or another document
    if ref.startswith(("#/$defs/", "#/definitions/")):
        return ref  # hoisted to the same place
    return f"#/properties/{WRAPPER_KEY}{ref[1:]}"


def _definitions(schema: Schema) -> Schema:
    return {key: schema[key] for key in ("$defs", "definitions") if key in schema}


def _follow_ref(schema: Schema) -> Schema:
    node: Schema = schema
    for _ in range(_MAX_REF_HOPS):
        ref = node.get("$ref")
        if not isinstance(ref, str) or not ref.startswith("#/"):
            break
        target: Any = schema
        for part in ref[2:].split("/"):
            step = part.replace("~1", "/").replace("~0", "~")
            target = cast("Schema", target).get(step) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            break
        node = cast("Schema", target)
    return node
