"""The classes whose objects the answers of a Python type are: how each calls its fields, and how it dumps them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, cast

from msgspec import Struct
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from mistill.structured.typeddicts import with_modern_typeddicts


class Field(Struct, frozen=True):
    """Where a field stands in a value: in what it is dumped to, under one of ``keys``; in itself, as ``attribute``."""

    keys: tuple[str, ...]
    attribute: str | None

    def of(self, value: Any) -> Any:
        """It as a JSON value; ``None`` where the value has none."""
        if self.attribute is None:
            return None
        if isinstance(value, dict):
            found = cast("dict[str, Any]", value).get(self.attribute)
        else:
            found = getattr(value, self.attribute, None)
        return to_jsonable_python(found, by_alias=True)


class AnswerClass(Struct, frozen=True):
    """A model, a dataclass or a TypedDict.

    Attributes:
        kind: of its objects. ``fields``: by the names that the JSON schema has for them.
    """

    kind: Any
    fields: dict[str, Field]

    def has(self, value: Any) -> bool:
        """Whether a value is one of its objects."""
        return isinstance(value, self.kind)

    def field(self, name: str) -> Field:
        """A field by its name; one that the class does not know may still be in what it is dumped to."""
        found = self.fields.get(name)
        if found is None:
            is_anothers = any(name in field.keys for field in self.fields.values())
            found = Field((), None) if is_anothers else Field((name,), name)
        return found


def answer_classes(type_: Any, names: Collection[str]) -> Iterator[AnswerClass]:
    """The classes in ``type_``, those before others that they derive from.

    Args:
        names: of fields in the JSON schema by which values are validated.
    """
    core: Any = TypeAdapter(with_modern_typeddicts(type_)).core_schema
    found = [_class_of(one, names) for one in _classes(core, {}, set())]
    by_depth = sorted(found, key=lambda one: len(one.kind.__mro__), reverse=True)
    dicts = [one for one in by_depth if one.kind is dict]
    yield from (one for one in by_depth if one.kind is not dict)
    if dicts:  # nothing tells one TypedDict's value from another's
        yield AnswerClass(
            dict, {name: field for one in reversed(dicts) for name, field in one.fields.items()}
        )


def _class_of(core: Any, names: Collection[str]) -> AnswerClass:
    fields: dict[str, Field] = {}
    inner = _with_fields(core)
    for attribute, field in _named_fields(inner):
        name = next((alias for alias in _validated_by(field, attribute) if alias in names), None)
        if name is not None:
            keys = (field.get("serialization_alias") or attribute, attribute)
            fields[name] = Field(keys, None if field.get("serialization_exclude") else attribute)
    for computed in inner.get("computed_fields", ()):
        attribute = computed["property_name"]
        key = computed.get("alias") or attribute
        fields.setdefault(key, Field((key, attribute), attribute))
    return AnswerClass(dict if core["type"] == "typed-dict" else core["cls"], fields)


_WITH_FIELDS = ("model-fields", "dataclass-args", "typed-dict")


def _with_fields(core: Any) -> Mapping[str, Any]:
    while core["type"] not in _WITH_FIELDS:  # behind validators and serializers of its own
        core = core["schema"]
    return core


def _named_fields(core: Mapping[str, Any]) -> Iterable[tuple[str, Any]]:
    fields = core["fields"]
    if isinstance(fields, list):
        return [(one["name"], one) for one in cast("list[Any]", fields)]
    return cast("dict[str, Any]", fields).items()


def _classes(core: Any, definitions: dict[str, Any], seen: set[str]) -> Iterator[Any]:
    """pydantic's own schemas of the classes whose objects fit one."""
    kind = core["type"]
    if kind in ("dataclass", "typed-dict") or (kind == "model" and not core.get("root_model")):
        yield core
        return
    if kind == "definitions":
        definitions |= {definition["ref"]: definition for definition in core["definitions"]}
    if kind == "definition-ref":
        reference = core["schema_ref"]
        if reference not in seen:
            yield from _classes(definitions[reference], definitions, seen | {reference})
        return
    for one in _within(core):
        yield from _classes(one, definitions, seen)


def _within(core: Mapping[str, Any]) -> Iterator[Any]:
    """What a value that fits may fit too, in pydantic's own schema of it."""
    choices: Any = core.get("choices", ())
    choices = cast("Iterable[Any]", choices.values() if isinstance(choices, dict) else choices)
    for one in choices:
        yield cast("Any", one)[0] if isinstance(one, tuple) else one  # with a label
    yield from core.get("steps", ())
    for name in ("schema", "json_schema", "python_schema", "lax_schema"):
        if isinstance(core.get(name), dict):
            yield core[name]


def _validated_by(field: Any, attribute: str) -> Iterator[str]:
    """What the JSON schema may call a field: an alias that is no way into a value, else its own name."""
    alias = field.get("validation_alias")
    if isinstance(alias, str):
        yield alias
    else:
        ways = (cast("list[Any]", way) for way in alias or () if isinstance(way, list))
        yield from (way[0] for way in ways if len(way) == 1)
    yield attribute
