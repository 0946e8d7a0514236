"""The fields of a structured answer, each as a column of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from typing import Any, Final, cast

import msgspec
from msgspec import Raw, Struct
from pydantic import RootModel, TypeAdapter
from pydantic_core import to_jsonable_python

from mistill.datasets.column_names import first_repeated
from mistill.errors import AnswerWithoutFields, FieldLeftOut, InputError
from mistill.records.answer_classes import AnswerClass, Field, answer_classes
from mistill.structured.object_fields import Names, SchemaFields
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

    They are those of all objects that fit the schema, wherever in it they are named; what a class computes besides
    comes last.

    Args:
        schema: ``None`` where answers are plain text.
        deep: fields of objects are fields too, ``address.city``; not those of lists, nor those of a type in itself.

    Attributes:
        names: as the schema calls them, in order.
        is_open: an answer may have further fields, of any name.

    Raises:
        InputError: its answers are no objects with known fields, or of too many or too deep ones where ``deep`` is set.
    """

    def __init__(self, schema: OutputSchema | None, *, deep: bool = False) -> None:
        found = None if schema is None else SchemaFields(schema.json_schema).fields()
        source: Any = None if schema is None else schema.source
        self._is_of_type = schema is not None and not isinstance(source, dict)
        self._classes: list[AnswerClass] = []
        names = dict.fromkeys(found.schemas if found is not None else ())
        if self._is_of_type:
            self._classes = list(answer_classes(source, names))
            names |= dict.fromkeys(name for one in self._classes for name in one.fields if names)
        if schema is None or found is None or not names:
            raise InputError(
                "only answers that are objects with known fields can be flattened",
                hint=words("give a schema with properties, or leave ", Setting("flatten"), " out"),
            )
        self._top_names = tuple(names)
        self.is_open = not self._is_of_type if found.is_open is None else found.is_open
        self._inner: Mapping[str, Names] = self._inner_names(schema) if deep else {}
        self.names = tuple(_expanded(names, self._inner)) if deep else self._top_names
        if deep:
            self.is_open = True  # what is no object after all stands under its own name
        if (twice := first_repeated(self.names)) is not None:
            raise InputError(f"two fields of the answers would be called {twice!r}", hint="leave deep out")

    def _inner_names(self, schema: OutputSchema) -> Mapping[str, Names]:
        """Field → the names of the fields in it, by which an answer's values are dumped."""
        if not self._is_of_type:
            return SchemaFields(schema.json_schema).names()
        # Inside a field, what is dumped goes by its serialization alias.
        adapter = TypeAdapter[Any](with_modern_typeddicts(schema.source))
        by_key = SchemaFields(adapter.json_schema(mode="serialization", by_alias=True)).names()
        nothing: Names = {}
        return {
            name: next((by_key[key] for key in self._keys_of(name) if key in by_key), nothing)
            for name in self._top_names
        }

    def _keys_of(self, name: str) -> Iterator[str]:
        """What a field may be called in what its answer is dumped to."""
        for one in self._classes:
            yield from one.field(name).keys
        yield name

    def read(self, value: Any, text: str) -> dict[str, Any]:
        """The fields of one answer, as JSON values: all of `names`, then those that it has besides.

        Of a Python type as validated, so defaults and coercions count; of a JSON schema as the model wrote them, to the
        digit. Where an answer is null, all of them are.

        Args:
            value: of the answer. ``text``: its JSON.

        Raises:
            AnswerWithoutFields: the answer is no object.
            FieldLeftOut: two of its fields would have one name.
            Exception: whatever a serializer of the user's own raises.
        """
        if value is None:
            return dict.fromkeys(self.names)
        fields = self._of_type(value, text) if self._is_of_type else self._of_text(text)
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
            raise _without_fields(text) from error
        return self._chosen(found, {name: found.get(name) for name in self._top_names}, ())

    def _of_type(self, value: Any, text: str) -> dict[str, Any]:
        dumped: Any = to_jsonable_python(value, by_alias=True)
        found = cast("dict[str, Any]", dumped) if isinstance(dumped, dict) else {}
        while isinstance(value, RootModel):
            value = cast("RootModel[Any]", value).root
        one = next((one for one in self._classes if one.has(value)), None)
        if one is None and not isinstance(dumped, dict):
            raise _without_fields(text)
        fields: dict[str, Any] = {}
        known: set[str] = set()
        for name in self._top_names:
            field = one.field(name) if one is not None else Field((name,), name)
            key = next((key for key in field.keys if key in found), None)
            # A serializer of the user's own may make something else of the value, without this field.
            fields[name] = found[key] if key is not None else field.of(value)
            known.update(field.keys)
        return self._chosen(found, fields, known)

    def _chosen(
        self, found: Mapping[str, Any], fields: dict[str, Any], known: Collection[str]
    ) -> dict[str, Any]:
        if self.is_open:
            for name, value in found.items():
                if name not in known:
                    fields.setdefault(name, value)
        return fields


def _without_fields(text: str) -> AnswerWithoutFields:
    return AnswerWithoutFields("the answer is no object, and has no fields", text=text)


# --- objects in an answer ---------------------------------------------------------------------------------------


def _expanded(names: Collection[str], inner: Mapping[str, Names]) -> Iterator[str]:
    for name in names:
        if within := inner.get(name):
            yield from (f"{name}{SEPARATOR}{one}" for one in _expanded(within, within))
        else:
            yield name


def _spread(name: str, value: Any, inner: Names, into: dict[str, Any]) -> None:
    """Puts a field into ``into``: an object of known fields as those, anything else as it is."""
    if inner and isinstance(value, msgspec.Raw):  # its numbers keep their digits
        with suppress(msgspec.ValidationError):
            value = _decode_fields(value)
    if not inner or not isinstance(value, dict):
        if not inner or not _is_null(value):
            if name in into:
                raise FieldLeftOut(f"two fields of the answer would be called {name!r}", text=None)
            into[name] = value
        return
    for key, one in cast("dict[str, Any]", value).items():
        _spread(f"{name}{SEPARATOR}{key}", one, inner.get(key, {}), into)


def _is_null(value: Any) -> bool:
    return value is None or (isinstance(value, msgspec.Raw) and bytes(value) == b"null")


_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode
