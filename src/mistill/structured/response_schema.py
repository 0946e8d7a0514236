"""How a JSON schema is put on the wire: its name, and an object at its root. Pure functions."""

from __future__ import annotations

import re
from typing import Any, cast
from urllib.parse import unquote

from mistill.json_pointers import look_up
from mistill.structured.keywords import Schema, map_subschemas

WRAPPER_KEY = "value"

_NOT_IN_NAME = re.compile(r"[^a-zA-Z0-9_-]+")
_MAX_NAME_CHARS = 64
_MAX_REF_HOPS = 32
_DEFINITIONS = ("$defs", "definitions")


def wire_name(name: str) -> str:
    """``name`` in the characters that the API takes: ``^[a-zA-Z0-9_-]{1,64}$``."""
    return _NOT_IN_NAME.sub("_", name).strip("_")[:_MAX_NAME_CHARS] or "output"


def has_object_root(schema: Schema) -> bool:
    """Whether ``schema`` may go out as it is: it says that an answer is an object, or names properties of one."""
    left: list[Any] = [schema]
    seen: set[int] = set()  # members may refer to what they are members of
    while left:
        member = left.pop()
        if not isinstance(member, dict):
            continue
        root = _follow_ref(cast("Schema", member), schema)
        if id(root) in seen:
            continue
        seen.add(id(root))
        if "type" in root or "properties" in root:
            if root.get("type", "object") == "object":
                return True
            continue
        members = root.get("allOf")
        left += cast("list[Any]", members) if isinstance(members, list) else []
    return False


def inline_root(schema: Schema) -> Schema:
    """``schema`` with a root ``$ref`` (pydantic writes one for a recursive model) resolved."""
    if set(schema) - {"$defs"} != {"$ref"}:
        return schema
    return {**_follow_ref(schema, schema), "$defs": schema["$defs"]}


def wrap(schema: Schema, id_keyword: str = "$id") -> Schema:
    """An object schema whose one required property ``value`` is ``schema``; every ``$ref`` still resolves.

    Args:
        id_keyword: ``"id"`` in draft 4. A schema that has one is a resource of its own: its references stay inside it.
    """
    inner = dict(schema)
    hoisted = {key: inner.pop(key) for key in ("$schema",) if key in inner}
    if not isinstance(inner.get(id_keyword), str):
        for key in _DEFINITIONS:
            if isinstance(inner.get(key), dict):
                hoisted[key] = {name: _rebase(one, id_keyword) for name, one in inner.pop(key).items()}
        inner = _rebase(inner, id_keyword)
    return {
        **hoisted,
        "type": "object",
        "properties": {WRAPPER_KEY: inner},
        "required": [WRAPPER_KEY],
        "additionalProperties": False,
    }


def _rebase(schema: Any, id_keyword: str) -> Any:
    """``schema`` with its references to places in the whole schema changed to where those stand in the wrapper."""
    if not isinstance(schema, dict):
        return schema
    node = cast("Schema", schema)
    if isinstance(node.get(id_keyword), str):
        return node
    moved = map_subschemas(node, lambda one: _rebase(one, id_keyword))
    for key in ("$ref", "$dynamicRef", "$recursiveRef"):
        ref = moved.get(key)
        if isinstance(ref, str):
            # A recursive reference can be to the whole only, which is the wrapper now: so it becomes a plain one.
            del moved[key]
            moved["$ref" if key == "$recursiveRef" else key] = _rebase_pointer(ref)
    return moved


def _rebase_pointer(ref: str) -> str:
    pointer = unquote(ref)
    if pointer != "#" and not pointer.startswith("#/"):
        return ref  # an anchor or another document
    if pointer.startswith(tuple(f"#/{key}/" for key in _DEFINITIONS)):
        return ref  # hoisted to the same place
    return f"#/properties/{WRAPPER_KEY}{ref[1:]}"


def _follow_ref(node: Schema, schema: Schema) -> Schema:
    """What ``node`` refers to in ``schema``, the whole; itself where it refers to nothing in it."""
    for _ in range(_MAX_REF_HOPS):
        ref = node.get("$ref")
        target = referred(ref, schema) if isinstance(ref, str) and ref != "#" else None
        if not isinstance(target, dict):
            break
        node = cast("Schema", target)
    return node


def referred(reference: str, schema: Schema) -> Any:
    """What a reference to a place in ``schema``, the whole, stands for; ``None`` where there is no such place."""
    try:
        return look_up(reference, schema)
    except LookupError:
        return None
