"""Which fields the objects have that a JSON schema lets pass: what its properties name, wherever in it they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct

from mistill.structured.keywords import Schema
from mistill.structured.response_schema import referred

_ALTERNATIVES = ("anyOf", "oneOf")
_CONDITIONAL = ("then", "else")


class ObjectFields(Struct):
    """The fields of the objects among what fits a schema.

    Attributes:
        schemas: field → its schemas, one of each place that names it. In order.
        is_open: further fields may be in them; ``None`` where nothing says so or otherwise.
        always: nothing fits but objects and null.
        reached: what all this was found in, by the identity of each schema.
    """

    schemas: dict[str, list[Any]]
    is_open: bool | None
    always: bool
    reached: frozenset[int] = frozenset()


def object_fields(schema: Any, root: Mapping[str, Any]) -> ObjectFields:
    """The fields of the objects that fit ``schema``, which stands in ``root``, behind whatever ``$ref``, ``allOf``,
    ``anyOf``, ``oneOf`` and conditions its properties stand. None are where it has no properties."""
    reached: set[int] = set()
    found = _fields(schema, cast("Schema", root), reached) or ObjectFields({}, None, False)
    found.reached = frozenset(reached)
    return found


Names = dict[str, Any]
"""Field → the names of the fields in it, which are again such a dict; empty where it is not always an object of known
fields."""


def nested_names(schemas: Sequence[Any], root: Mapping[str, Any], above: frozenset[int]) -> Names:
    """The fields of what fits one of some schemas, and the fields in them.

    Args:
        above: schemas that led here, by identity; what is one of them in itself has no end, and no names.
    """
    reached: set[int] = set()
    found = _alternatives(schemas, cast("Schema", root), reached)
    if not found.always or reached & above:
        return {}
    return {name: nested_names(inner, root, above | reached) for name, inner in found.schemas.items()}


def _fields(schema: Any, root: Schema, seen: set[int]) -> ObjectFields | None:
    """``None`` where no object fits, or nothing is said of one that was not seen on the way here."""
    if not isinstance(schema, dict) or id(cast("Any", schema)) in seen:
        return None
    node = cast("Schema", schema)
    types = _types(node)
    if types is not None and "object" not in types:
        return None
    seen.add(id(node))
    own = node.get("properties")
    own = cast("dict[str, Any]", own) if isinstance(own, dict) else {}
    parts = [ObjectFields({name: [one] for name, one in own.items()}, _says_open(node), _is_always(node))]
    parts += (found for one in _conjuncts(node, root) if (found := _fields(one, root, seen)) is not None)
    for word in _ALTERNATIVES:
        if isinstance(members := node.get(word), list):
            parts.append(_alternatives(cast("list[Any]", members), root, seen))
    says = [part.is_open for part in parts]
    return ObjectFields(
        _merged(parts),
        False if False in says else True if True in says else None,
        any(p.always for p in parts),
    )


def _alternatives(members: Iterable[Any], root: Schema, seen: set[int]) -> ObjectFields:
    others = [one for one in members if one != {"type": "null"}]
    # Each by itself: what two of them refer to belongs to both.
    found: list[ObjectFields] = []
    reached: set[int] = set()
    for one in others:
        path = set(seen)
        if (fields := _fields(one, root, path)) is not None:
            found.append(fields)
        reached |= path
    seen |= reached
    says = [one.is_open for one in found]
    is_open = True if True in says else None if None in says or not says else False
    always = len(found) == len(others) and all(one.always for one in found)
    return ObjectFields(_merged(found), is_open, always and bool(found))


def _conjuncts(node: Schema, root: Schema) -> Iterator[Any]:
    """What fits too where ``node`` does, or may have to."""
    if isinstance(reference := node.get("$ref"), str):
        yield referred(reference, root)
    if isinstance(members := node.get("allOf"), list):
        yield from cast("list[Any]", members)
    for word in _CONDITIONAL:
        if word in node:
            yield node[word]
    if isinstance(dependent := node.get("dependentSchemas"), dict):
        yield from cast("dict[str, Any]", dependent).values()


def _merged(parts: Iterable[ObjectFields]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for part in parts:
        for name, schemas in part.schemas.items():
            found.setdefault(name, []).extend(schemas)
    return found


def _types(node: Schema) -> list[Any] | None:
    said = node.get("type")
    return cast("list[Any]", said) if isinstance(said, list) else None if said is None else [said]


def _is_always(node: Schema) -> bool:
    types = _types(node)
    return "properties" in node if types is None else set(types) <= {"object", "null"}


def _says_open(node: Schema) -> bool | None:
    if node.get("patternProperties"):
        return True
    said = node.get("additionalProperties", node.get("unevaluatedProperties"))
    return None if said is None else said is not False
