"""Schemas joined into one: references followed, allOf folded in, two schemas met at once."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

from mistill import json_pointers

Schema = dict[str, Any]


class Unsatisfiable(ValueError):
    """No instance can be made: the schema contradicts itself, or asks for what the sampler does not know."""


_PYTHON_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
    "array": (list,),
    "object": (dict,),
}


def resolve(schema: Schema | bool, root: Schema) -> Schema:
    """A copy with ``$ref`` and ``allOf`` replaced by what they stand for; anyOf and oneOf stay.

    Raises:
        Unsatisfiable: it is ``false``, a reference leads nowhere, or parts of it contradict each other.
    """
    if isinstance(schema, bool):
        if not schema:
            raise Unsatisfiable("the schema `false` has no instance")
        return {}
    merged = {key: value for key, value in schema.items() if key not in ("$ref", "allOf")}
    seen: set[str] = set()
    reference = schema.get("$ref")
    while reference is not None:
        if reference in seen:
            raise Unsatisfiable(f"{reference} refers to itself")
        seen.add(reference)
        target = look_up(reference, root)
        if isinstance(target, dict) and set(target) == {"$ref"}:
            reference = target["$ref"]
            continue
        merged = merge(merged, resolve(target, root))
        break
    for part in schema.get("allOf", ()):
        merged = merge(merged, resolve(part, root))
    return merged


def look_up(reference: str, root: Schema) -> Schema | bool:
    """The target of a local reference (``#/$defs/Name``).

    Raises:
        Unsatisfiable: it is of another kind, or leads nowhere.
    """
    if not reference.startswith("#"):
        raise Unsatisfiable(f"only local references are followed, not {reference}")
    try:
        return json_pointers.look_up(reference, root)
    except LookupError as error:
        raise Unsatisfiable(f"{reference} leads nowhere") from error


def merge(first: Schema, second: Schema) -> Schema:
    """A schema that asks for both.

    Raises:
        Unsatisfiable: they contradict each other.
    """
    merged = dict(first)
    for keyword, value in second.items():
        merged[keyword] = _join(keyword, merged[keyword], value) if keyword in merged else value
    return merged


def _join(keyword: str, first: Any, second: Any) -> Any:
    if keyword in _JOINS:
        return _JOINS[keyword](first, second)
    return second


def _both(first: Schema | bool, second: Schema | bool) -> Schema | bool:
    if first is False or second is False:
        return False
    if first is True or second is True:
        return second if first is True else first
    return {"allOf": [first, second]}


def _each(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    return first | {
        name: _both(first[name], value) if name in first else value for name, value in second.items()
    }


def _types(first: Any, second: Any) -> Any:
    left, right = _listed(first), _listed(second)
    common = [kind for kind in left if kind in right]
    if "integer" not in common and {"integer", "number"} <= {*left, *right}:
        common.append("integer")
    if not common:
        raise Unsatisfiable(f"types {first} and {second} at once")
    return common if len(common) > 1 else common[0]


def _members(first: list[Any], second: list[Any]) -> list[Any]:
    return [member for member in first if member in second]


def _same(first: Any, second: Any) -> Any:
    if first != second:
        raise Unsatisfiable(f"two constants at once: {first!r} and {second!r}")
    return first


def _union(first: list[str], second: list[str]) -> list[str]:
    return [*first, *(name for name in second if name not in first)]


def _patterns(first: str, second: str) -> str:
    return first if first == second else f"(?=.*(?:{first}))(?=.*(?:{second})).*"


_JOINS: dict[str, Callable[[Any, Any], Any]] = {
    "type": _types,
    "enum": _members,
    "const": _same,
    "properties": _each,
    "patternProperties": _each,
    "$defs": lambda first, second: first | second,
    "required": _union,
    "items": _both,
    "additionalProperties": _both,
    "propertyNames": _both,
    "pattern": _patterns,
    "uniqueItems": lambda first, second: first or second,
    "anyOf": lambda first, second: [_both(a, b) for a in first for b in second],
    "oneOf": lambda first, second: [_both(a, b) for a in first for b in second],
    **dict.fromkeys(("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"), max),
    **dict.fromkeys(("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"), min),
}


def _listed(kinds: Any) -> list[str]:
    return [kinds] if isinstance(kinds, str) else list(kinds)


def is_of_type(value: Any, kinds: Any) -> bool:
    """Whether ``value`` is of a JSON type, or of one in a list; ``None`` as the type takes any."""
    if kinds is None:
        return True
    for kind in _listed(kinds):
        if isinstance(value, bool):
            if kind == "boolean":
                return True
        elif isinstance(value, _PYTHON_TYPES.get(kind, ())):
            return True
    return False


def depth_needed(schema: Schema | bool, root: Schema, above: frozenset[str] = frozenset()) -> float:
    """How deep the smallest instance is; infinite if it must contain itself: the way out of a recursion."""
    if isinstance(schema, bool):
        return 1 if schema else math.inf
    depth = 0.0
    if (reference := schema.get("$ref")) is not None:
        if reference in above:
            return math.inf
        depth = depth_needed(look_up(reference, root), root, above | {reference})
    for keyword in ("anyOf", "oneOf"):
        if branches := cast("list[Schema | bool] | None", schema.get(keyword)):
            depth = max(depth, min(depth_needed(branch, root, above) for branch in branches))
    parts = list(schema.get("allOf", ()))
    depth = max([depth, *(depth_needed(part, root, above) for part in parts)])
    inside = [schema.get("properties", {}).get(name, True) for name in schema.get("required", ())]
    inside += schema.get("prefixItems", [])
    if schema.get("minItems", 0) > len(schema.get("prefixItems", [])):
        inside.append(schema.get("items", True))
    return max([depth, *(1 + depth_needed(part, root, above) for part in inside)])
