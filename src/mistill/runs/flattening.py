"""The fields of a structured answer, each as a column of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, cast

import msgspec
from msgspec import Raw, Struct
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from mistill.errors import InputError, InvalidOutput
from mistill.structured.schema import OutputSchema
from mistill.structured.typeddicts import with_modern_typeddicts
from mistill.wording import Setting, words


class FlatFields:
    """Which fields the answers of a schema have, and how they are found in an answer's value.

    Args:
        schema: ``None`` where answers are plain text.

    Attributes:
        names: as the schema calls them, in order.
        is_open: an answer may have further fields, of any name.

    Raises:
        InputError: its answers are no objects with known fields.
    """

    def __init__(self, schema: OutputSchema | None) -> None:
        properties = schema.json_schema.get("properties") if schema else None
        if schema is None or not isinstance(properties, dict) or not properties:
            raise InputError(
                "only answers that are objects with known fields can be flattened",
                hint=words("give a schema with properties, or leave ", Setting("flatten"), " out"),
            )
        self.names = tuple(cast("dict[str, Any]", properties))
        self._is_of_type = not isinstance(schema.source, dict)
        self.is_open = bool(schema.json_schema.get("additionalProperties", not self._is_of_type))
        self._fields = _fields_of_type(schema.source, self.names) if self._is_of_type else {}

    def read(self, value: Any, text: str) -> dict[str, Any]:
        """The fields of one answer, as JSON values: all of `names`, then those that it has besides.

        Of a Python type as validated, so defaults and coercions count; of a JSON schema as the model wrote them, to the
        digit.

        Args:
            value: of the answer. ``text``: its JSON.

        Raises:
            InvalidOutput: the answer is no object.
            Exception: whatever a serializer of the user's own raises.
        """
        if self._is_of_type:
            return self._of_type(value)
        try:
            found = _decode_fields(msgspec.json.format(text, indent=-1))
        except msgspec.ValidationError as error:
            raise InvalidOutput("the answer is no object, and has no fields", text=text) from error
        return self._chosen(found, {name: found.get(name) for name in self.names}, ())

    def _of_type(self, value: Any) -> dict[str, Any]:
        dumped: Any = to_jsonable_python(value, by_alias=True)
        found = cast("dict[str, Any]", dumped) if isinstance(dumped, dict) else {}
        fields: dict[str, Any] = {}
        for name in self.names:
            field = self._fields.get(name, _Field((name,), name))
            key = next((key for key in field.keys if key in found), None)
            # A serializer of the user's own may make something else of the value, without this field.
            fields[name] = found[key] if key is not None else field.of(value)
        keys = {key for field in self._fields.values() for key in field.keys}
        return self._chosen(found, fields, keys)

    def _chosen(
        self, found: Mapping[str, Any], fields: dict[str, Any], known: Collection[str]
    ) -> dict[str, Any]:
        if self.is_open:
            for name, value in found.items():
                if name not in known:
                    fields.setdefault(name, value)
        return fields


class _Field(Struct, frozen=True):
    """Where a field stands in a value: in what it is dumped to, under one of ``keys``; in itself, as ``attribute``."""

    keys: tuple[str, ...]
    attribute: str | None

    def of(self, value: Any) -> Any:
        if self.attribute is None or isinstance(value, dict):
            return None
        return to_jsonable_python(getattr(value, self.attribute, None), by_alias=True)


def _fields_of_type(type_: Any, names: Collection[str]) -> dict[str, _Field]:
    """By the names of the JSON schema, which are those by which values are validated."""
    core: Any = TypeAdapter(with_modern_typeddicts(type_)).core_schema
    found: dict[str, _Field] = {}
    for attribute, field in _core_fields(core, {}).items():
        name = next((alias for alias in _validated_by(field, attribute) if alias in names), None)
        if name is not None:
            keys = (field.get("serialization_alias") or attribute, attribute)
            found[name] = _Field(keys, None if field.get("serialization_exclude") else attribute)
    return found


def _core_fields(core: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    """The fields of a model, a dataclass or a TypedDict in pydantic's own schema of it."""
    kind = core["type"]
    if kind in ("model-fields", "typed-dict"):
        return core["fields"]
    if kind == "dataclass-args":
        return {field["name"]: field for field in core["fields"]}
    if kind == "definitions":
        definitions |= {definition["ref"]: definition for definition in core["definitions"]}
    if kind == "definition-ref":
        return _core_fields(definitions[core["schema_ref"]], definitions)
    return _core_fields(core["schema"], definitions) if "schema" in core else {}


def _validated_by(field: Any, attribute: str) -> Iterator[str]:
    alias = field.get("validation_alias", attribute)
    if isinstance(alias, str):
        yield alias
        return
    for path in alias:  # some ways to it, each a key and what is in it
        yield str(path if isinstance(path, str) else path[0])


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
