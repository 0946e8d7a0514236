"""Which fields the objects have that a JSON schema lets pass: what its properties name, wherever in it they stand."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, cast

from msgspec import Struct

from mistill.errors import InputError
from mistill.structured.keywords import Schema
from mistill.structured.schema_references import SchemaReferences
from mistill.wording import Setting, words

_ALTERNATIVES = ("anyOf", "oneOf")
_CONDITIONAL = ("then", "else")
_MAX_DEPTH = 50
_MAX_INNER = 2_000
_NULL = {"type": "null"}


class ObjectFields(Struct):
    """The fields of the objects among what fits a schema.

    Attributes:
        schemas: field → its schemas, one of each place that names it. In order.
        is_open: further fields may be in them; ``None`` where nothing says so or otherwise.
        always: nothing fits but objects and null.
    """

    schemas: dict[str, list[Any]]
    is_open: bool | None
    always: bool


Names = dict[str, Any]
"""Field → the names of the fields in it, which are again such a dict; empty where it is not always an object of known
fields."""


class SchemaFields:
    """What objects of a schema have, behind whatever ``$ref``, ``$dynamicRef``, ``allOf``, ``anyOf``, ``oneOf`` and
    conditions their properties stand.

    Each part of the schema is read once, however many ways lead to it. Where a part refers to itself, it says nothing
    more.

    Args:
        root: the whole schema, which must not change.
    """

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = cast("Schema", root)
        self._references = SchemaReferences(self._root)
        self._read: dict[int, ObjectFields | None] = {}
        self._reached: dict[int, frozenset[int]] = {}

    def fields(self) -> ObjectFields:
        """The fields of the objects that fit it. None are where it has no properties."""
        return self._fields(self._root) or ObjectFields({}, None, False)

    def names(self) -> Names:
        """The fields of the objects that fit it, and those of the objects in each; not those of a type in itself, which
        have no end.

        Raises:
            InputError: there are too many, or they are nested too deep.
        """
        counted = [0]
        above = self._reached_from([self._root])
        return {
            name: self._names_in(inner, above, (name,), counted)
            for name, inner in self.fields().schemas.items()
        }

    def _names_in(
        self, schemas: Sequence[Any], above: frozenset[int], path: tuple[str, ...], counted: list[int]
    ) -> Names:
        """The names in what fits one of some schemas. ``above``: schemas that led here, by identity."""
        found = _alternatives([(one, self._fields(one)) for one in schemas])
        reached = self._reached_from(schemas)
        counted[0] += len(path) > 1
        if counted[0] > _MAX_INNER:
            raise InputError(
                f"{path[0]!r} and other objects in the answers would be more than {_MAX_INNER:,} columns",
                hint=_LEAVE_DEEP_OUT,
            )
        if not found.always or reached & above:
            return {}
        if len(path) > _MAX_DEPTH:
            raise InputError(
                f"the field {path[0]!r} has objects in objects, more than {_MAX_DEPTH} deep",
                hint=_LEAVE_DEEP_OUT,
            )
        return {
            name: self._names_in(inner, above | reached, (*path, name), counted)
            for name, inner in found.schemas.items()
        }

    def _fields(self, schema: Any) -> ObjectFields | None:
        """``None`` where no object fits."""
        for node in self._in_place([schema]):
            if id(node) not in self._read:
                self._read[id(node)] = self._combined(node)
        return self._read.get(id(schema))

    def _reached_from(self, schemas: Sequence[Any]) -> frozenset[int]:
        """All that the fields of some schemas are found in, by identity."""
        return frozenset(id(node) for node in self._in_place(schemas))

    def _in_place(self, schemas: Sequence[Any]) -> list[Schema]:
        """All schemas that the same value is held against, those first which others need. Any depth will do."""
        ordered: list[Schema] = []
        seen: set[int] = set()
        waiting: list[tuple[Any, bool]] = [(one, False) for one in reversed(schemas)]
        while waiting:
            node, is_done = waiting.pop()
            if is_done:
                ordered.append(node)
            elif id(node) not in seen and _may_be_object(node):
                seen.add(id(node))
                waiting.append((node, True))
                waiting += ((one, False) for one in self._applied(node))
        return ordered

    def _applied(self, node: Schema) -> Iterator[Any]:
        yield from self._conjuncts(node)
        for members in _choices(node):
            yield from members

    def _conjuncts(self, node: Schema) -> Iterator[Any]:
        """What fits too where ``node`` does, or may have to."""
        yield from self._references.of(node)
        if isinstance(members := node.get("allOf"), list):
            yield from cast("list[Any]", members)
        for word in _CONDITIONAL:
            if word in node:
                yield node[word]
        if isinstance(dependent := node.get("dependentSchemas"), dict):
            yield from cast("dict[str, Any]", dependent).values()

    def _combined(self, node: Schema) -> ObjectFields:
        """The fields of ``node``, by those of the schemas that are applied in its place."""
        own = node.get("properties")
        own = cast("dict[str, Any]", own) if isinstance(own, dict) else {}
        parts = [ObjectFields({name: [one] for name, one in own.items()}, _says_open(node), _is_always(node))]
        conjuncts = (self._read.get(id(one)) for one in self._conjuncts(node))
        parts += (found for found in conjuncts if found is not None)
        parts += (
            _alternatives([(one, self._read.get(id(one))) for one in members]) for members in _choices(node)
        )
        says = [part.is_open for part in parts]
        return ObjectFields(
            _merged(parts),
            False if False in says else True if True in says else None,
            any(part.always for part in parts),
        )


_LEAVE_DEEP_OUT = words("leave deep out: ", Setting("flatten", True))


def _choices(node: Schema) -> Iterator[list[Any]]:
    for word in _ALTERNATIVES:
        if isinstance(members := node.get(word), list):
            yield cast("list[Any]", members)


def _may_be_object(schema: Any) -> bool:
    if not isinstance(schema, dict):
        return False
    types = _types(cast("Schema", schema))
    return types is None or "object" in types


def _alternatives(members: Sequence[tuple[Any, ObjectFields | None]]) -> ObjectFields:
    """What some schemas, of which a value fits one, have together."""
    others = [fields for schema, fields in members if schema != _NULL]
    found = [fields for fields in others if fields is not None]
    says = [one.is_open for one in found]
    is_open = True if True in says else None if None in says or not says else False
    always = len(found) == len(others) and all(one.always for one in found)
    return ObjectFields(_merged(found), is_open, always and bool(found))


def _merged(parts: Iterable[ObjectFields]) -> dict[str, list[Any]]:
    found: dict[str, dict[int, Any]] = {}  # each schema once, whatever ways lead to it
    for part in parts:
        for name, schemas in part.schemas.items():
            found.setdefault(name, {}).update((id(one), one) for one in schemas)
    return {name: list(schemas.values()) for name, schemas in found.items()}


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
