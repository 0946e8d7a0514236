"""The fields of a structured answer, each as a column of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from msgspec import Raw, Struct
from pydantic import TypeAdapter
from pydantic_core import to_jsonable_python

from mistill.errors import InputError, InvalidOutput
from mistill.structured.schema import OutputSchema
from mistill.structured.typeddicts import with_modern_typeddicts
from mistill.wording import Setting, words

SEPARATOR: Final = "."
"""Between the names of a field and of an object's field in it, as pandas, polars and Hugging Face datasets have it."""


class Flattening(Struct, frozen=True):
    """How the option ``flatten`` is meant.

    Attributes:
        deep: fields of objects in an answer are columns too, ``address.city``.
        prefix: stands before the name of each column.
    """

    deep: bool = False
    prefix: str = ""

    @classmethod
    def of(cls, option: bool | str) -> Flattening | None:
        """``None`` where nothing is to be flattened.

        Raises:
            InputError: it has two prefixes.
        """
        if option is False:
            return None
        said = [word for word in option.split(",") if word] if isinstance(option, str) else []
        prefixes = [word for word in said if word != "deep"]
        if len(prefixes) > 1:
            raise InputError(
                f"flatten has two prefixes, {prefixes[0]!r} and {prefixes[1]!r}",
                hint=words("for example ", Setting("flatten", "deep,answer_")),
            )
        return cls("deep" in said, prefixes[0] if prefixes else "")


class FlatFields:
    """Which fields the answers of a schema have, and how they are found in an answer's value.

    Args:
        schema: ``None`` where answers are plain text.
        deep: fields of objects are fields too, ``address.city``; not those of lists, nor those of a type in itself.

    Attributes:
        names: as the schema calls them, in order.
        is_open: an answer may have further fields, of any name.

    Raises:
        InputError: its answers are no objects with known fields.
    """

    def __init__(self, schema: OutputSchema | None, *, deep: bool = False) -> None:
        properties = schema.json_schema.get("properties") if schema else None
        if schema is None or not isinstance(properties, dict) or not properties:
            raise InputError(
                "only answers that are objects with known fields can be flattened",
                hint=words("give a schema with properties, or leave ", Setting("flatten"), " out"),
            )
        self._top_names = names = tuple(cast("dict[str, Any]", properties))
        self._is_of_type = not isinstance(schema.source, dict)
        self.is_open = bool(schema.json_schema.get("additionalProperties", not self._is_of_type))
        self._fields = _fields_of_type(schema.source, names) if self._is_of_type else {}
        self._inner = self._inner_names(schema) if deep else {}
        self.names = tuple(_expanded(names, self._inner)) if deep else names
        if deep:
            self.is_open = True  # what is no object after all stands under its own name
        if len(set(self.names)) < len(self.names):
            twice = next(name for name in self.names if self.names.count(name) > 1)
            raise InputError(f"two fields of the answers would be called {twice!r}", hint="leave deep out")

    def _inner_names(self, schema: OutputSchema) -> dict[str, _Names]:
        """Field → the names of the fields in it, by which an answer's values are dumped."""
        if not self._is_of_type:
            return _names_in(schema.json_schema, schema.json_schema, ())
        # Inside a field, what is dumped goes by its serialization alias.
        adapter = TypeAdapter[Any](with_modern_typeddicts(schema.source))
        written = adapter.json_schema(mode="serialization", by_alias=True)
        by_key = _names_in(written, written, ())
        keys = {name: field.keys for name, field in self._fields.items()}
        nothing: _Names = {}
        return {
            name: next((by_key[key] for key in keys.get(name, (name,)) if key in by_key), nothing)
            for name in self._top_names
        }

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
        fields = self._of_type(value) if self._is_of_type else self._of_text(text)
        if not self._inner:
            return fields
        spread: dict[str, Any] = {}
        for name, one in fields.items():
            _spread(name, one, self._inner.get(name, {}), spread)
        return {name: spread.get(name) for name in self.names} | spread

    def _of_text(self, text: str) -> dict[str, Any]:
        try:
            found = _decode_fields(msgspec.json.format(text, indent=-1))
        except msgspec.ValidationError as error:
            raise InvalidOutput("the answer is no object, and has no fields", text=text) from error
        return self._chosen(found, {name: found.get(name) for name in self._top_names}, ())

    def _of_type(self, value: Any) -> dict[str, Any]:
        dumped: Any = to_jsonable_python(value, by_alias=True)
        found = cast("dict[str, Any]", dumped) if isinstance(dumped, dict) else {}
        fields: dict[str, Any] = {}
        for name in self._top_names:
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


# --- objects in an answer ---------------------------------------------------------------------------------------

_Names = dict[str, Any]
"""Field → the names of the fields in it, which are again such a dict; empty where it is no object of known fields."""


def _names_in(schema: Any, root: Mapping[str, Any], above: tuple[str, ...]) -> _Names:
    """The fields of an object, by its JSON schema. ``above``: references that led here; none is followed again."""
    if not isinstance(schema, dict):
        return {}
    one = cast("dict[str, Any]", schema)
    reference = one.get("$ref")
    if isinstance(reference, str):
        return {} if reference in above else _names_in(_referred(reference, root), root, (*above, reference))
    for word in ("anyOf", "oneOf", "allOf"):
        others = [other for other in one.get(word, ()) if other != {"type": "null"}]
        if others:  # of several, no one knows which it will be
            return _names_in(others[0], root, above) if len(others) == 1 else {}
    properties = one.get("properties")
    if not isinstance(properties, dict) or not _is_object(one.get("type", "object")):
        return {}
    found = cast("dict[str, Any]", properties)
    return {name: _names_in(inner, root, above) for name, inner in found.items()}


def _is_object(type_: Any) -> bool:
    return type_ in ("object", ["object"], ["object", "null"], ["null", "object"])


def _referred(reference: str, root: Mapping[str, Any]) -> Any:
    found: Any = root
    for step in reference.removeprefix("#").split("/")[1:]:
        if not isinstance(found, dict):
            return None
        found = cast("dict[str, Any]", found).get(step.replace("~1", "/").replace("~0", "~"))
    return found


def _expanded(names: Collection[str], inner: Mapping[str, _Names]) -> Iterator[str]:
    for name in names:
        if within := inner.get(name):
            yield from (f"{name}{SEPARATOR}{one}" for one in _expanded(within, within))
        else:
            yield name


def _spread(name: str, value: Any, inner: _Names, into: dict[str, Any]) -> None:
    """Puts a field into ``into``: an object of known fields as those, anything else as it is."""
    if inner and isinstance(value, msgspec.Raw):  # its numbers keep their digits
        with suppress(msgspec.ValidationError):
            value = _decode_fields(value)
    if not inner or not isinstance(value, dict):
        if not inner or not _is_null(value):
            into[name] = value
        return
    for key, one in cast("dict[str, Any]", value).items():
        _spread(f"{name}{SEPARATOR}{key}", one, inner.get(key, {}), into)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, msgspec.Raw) and bytes(value) == b"null")


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
