"""A type or a JSON schema, compiled once: what goes out as ``response_format``, and how an answer is read.

What goes out is what was written: every constraint, ``$ref``, recursion and alias, nothing added. Two exceptions, both
about the root, since servers that constrain an answer by its schema want an object there:

- A root that is no object (an enum, a list, a union, a number …) goes out as ``{"value": …}``; the answer is unwrapped
  again, byte for byte, so that a caller sees JSON of the schema that was asked for.
- pydantic writes a recursive model as a bare root ``$ref``; what it names is put at the root. A JSON schema of the
  user's own is never changed so.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable
from dataclasses import dataclass
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, get_type_hints

import msgspec
from pydantic import BaseModel, TypeAdapter
from pydantic.errors import PydanticUndefinedAnnotation, PydanticUserError
from pydantic_core import SchemaError

from mistill.api.chat import JsonSchema, ResponseFormat
from mistill.errors import InputError, InvalidOutput
from mistill.structured.json_schemas import compile_validator, decode_schema
from mistill.structured.readers import Reader, invalid_output, json_schema_reader, type_reader
from mistill.structured.response_schema import WRAPPER_KEY, has_object_root, inline_root, wire_name, wrap
from mistill.structured.strict_json import TOO_DEEP, decode_json
from mistill.structured.typeddicts import with_modern_typeddicts

_MEMO_SIZE = 512
_UNNAMED = "its schema"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A good answer: the typed ``value``, and ``text``, its JSON as the model wrote it."""

    value: Any
    text: str


class OutputSchema:
    """A schema that answers must fit. Immutable and safe to share between rows, tasks and threads.

    Attributes:
        source: what it was compiled from. Not to be changed.
        json_schema: the one of ``response_format()`` before a root that is no object was wrapped. Not to be changed.
        name: the one that goes out.
        is_wrapped: whether it goes out as the ``value`` of an object.
    """

    __slots__ = (
        "_fingerprint",
        "_label",
        "_read",
        "_response_format",
        "is_wrapped",
        "json_schema",
        "name",
        "source",
    )

    def __init__(
        self, source: Any, json_schema: dict[str, Any], name: str, read: Reader, *, id_keyword: str = "$id"
    ) -> None:
        self.source = source
        self.json_schema = json_schema
        self.name = wire_name(name)
        self.is_wrapped = not has_object_root(json_schema)
        self._label = name or _UNNAMED
        self._read = read
        schema = wrap(json_schema, id_keyword) if self.is_wrapped else json_schema
        self._response_format = ResponseFormat(
            type="json_schema", json_schema=JsonSchema(name=self.name, schema=schema, strict=True)
        )
        try:
            self._fingerprint = hashlib.sha256(msgspec.json.encode(self._response_format)).hexdigest()
        except (TypeError, ValueError) as error:
            raise InputError(f"not a schema: it cannot be sent as JSON: {error}") from error

    def __repr__(self) -> str:
        return f"OutputSchema({self.name})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (compile_schema, (self.source,))

    @property
    def wire_schema(self) -> dict[str, Any]:
        """The JSON schema as it goes out: ``json_schema``, wrapped in an object where it had to be."""
        sent = self._response_format.json_schema
        assert sent is not None
        return sent.schema

    def response_format(self) -> ResponseFormat:
        """``{"type": "json_schema", "json_schema": {name, schema, strict: true}}``, made once."""
        return self._response_format

    def fingerprint(self) -> str:
        """SHA-256 of what goes out, hexadecimal: the same in every process while requests are the same."""
        return self._fingerprint

    def parse(self, text: str) -> Any:
        """The typed value of an answer's text: an instance of the Python type, or decoded JSON for a JSON schema.

        Raises:
            InvalidOutput: it does not fit; ``path`` is the first mistake's place, such as ``$.items[2].age``.
        """
        return self.read(text).value

    def read(self, text: str, *, bare: bool = True) -> Parsed:
        """As :meth:`parse`, with the value's JSON beside it: ``text`` itself, or unwrapped from it.

        Args:
            bare: whether a value may stand without the object that it was asked for in. A model that knows the schema
                but is not held to it may leave that out. An object with the wrapper's key is never taken for bare: it
                may be meant as the wrapper, whatever is wrong with it.

        Raises:
            InvalidOutput: as :meth:`parse`.
        """
        if not self.is_wrapped:
            return Parsed(self._read(text, raw=text), text)
        try:
            inner = bytes(_decode_wrapper(text).value).decode()
        except msgspec.ValidationError as error:
            return self._read_bare(text, str(error), allowed=bare)
        except _NOT_JSON as error:
            raise self._invalid(text, _why_not_json(text, error)) from error
        return Parsed(self._read(inner, raw=text, root=f"$.{WRAPPER_KEY}"), inner)

    def _read_bare(self, text: str, mistake: str, *, allowed: bool) -> Parsed:
        """``text``, which is not the wrapper because of ``mistake``, as the value itself."""
        try:
            keys = _decode_object(text).keys()
        except msgspec.ValidationError:
            keys = None  # no object
        except _NOT_JSON as error:
            raise self._invalid(text, _why_not_json(text, error)) from error
        if allowed and (keys is None or WRAPPER_KEY not in keys):
            try:
                return Parsed(self._read(text, raw=text), text)
            except InvalidOutput:
                if keys is None:
                    raise
        raise self._invalid(text, mistake)

    def _invalid(self, text: str, mistake: str) -> InvalidOutput:
        return invalid_output(self._label, text, [("$", mistake)])


class _Wrapper(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    value: msgspec.Raw


_decode_wrapper = msgspec.json.Decoder(_Wrapper).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NOT_JSON = (msgspec.DecodeError, RecursionError, UnicodeError)


def _why_not_json(text: str, error: Exception) -> str:
    try:
        decode_json(text)
    except ValueError as reason:
        return str(reason)
    return f"it is not JSON: {error}"


def compile_schema(schema: Any) -> OutputSchema:
    """``schema`` compiled; the same type or the same JSON schema again costs a look-up.

    Args:
        schema: a pydantic model class, dataclass, TypedDict, Enum, ``Literal``, ``list[...]``, a union, anything that
            ``pydantic.TypeAdapter`` takes; a JSON schema as a dict, as a JSON string, or as the field of a request that
            would hold it; or an :class:`OutputSchema`.

    Raises:
        InputError: it is no schema; the message has the path of the mistake.
    """
    if isinstance(schema, OutputSchema):
        return schema
    if isinstance(schema, str):
        return _compile_json(schema)
    if isinstance(schema, dict | bool):
        try:
            text = json.dumps(schema, ensure_ascii=False, allow_nan=False)
        except RecursionError as error:
            raise InputError(f"not a JSON schema: {TOO_DEEP}") from error
        except (TypeError, ValueError) as error:
            raise InputError(f"not a JSON schema: it is not JSON: {error}") from error
        return _compile_json(text)
    return _compile_type(_Key(schema))


# --- a Python type ----------------------------------------------------------------------------------------------------


class _Key:
    """A type in the memo. ``int | str == str | int``, but their JSON schemas differ: so the repr counts."""

    __slots__ = ("_key", "type")

    def __init__(self, type_: Any) -> None:
        self.type = type_
        self._key: Hashable = (type_, repr(type_))
        try:
            hash(self._key)
        except TypeError:
            self._key = id(type_)  # stays its own: the memo holds ``type`` as long as it holds this key

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and self._key == other._key


@lru_cache(maxsize=_MEMO_SIZE)
def _compile_type(key: _Key) -> OutputSchema:
    type_ = key.type
    _refuse_what_is_no_type(type_)
    try:
        adapter: TypeAdapter[Any] = TypeAdapter(with_modern_typeddicts(type_))
        json_schema = adapter.json_schema(by_alias=True, mode="validation")
    except _PYDANTIC_REFUSES as error:
        path, cause = _deepest_mistake(type_, _type_name(type_) or repr(type_), error)
        message = str(cause).partition("\n")[0]
        raise InputError(f"not a schema: {path}: {message}") from error
    json_schema = inline_root(json_schema)
    title = json_schema.get("title")
    name = title if isinstance(title, str) else _type_name(type_)
    return OutputSchema(type_, json_schema, name, type_reader(adapter, name or _UNNAMED))


_PYDANTIC_REFUSES = (
    PydanticUserError,
    PydanticUndefinedAnnotation,
    SchemaError,
    NameError,
    TypeError,
    ValueError,
    RecursionError,
)


def _refuse_what_is_no_type(value: Any) -> None:
    # TypeAdapter takes a function too, to call it with what comes: an answer is no call.
    if value is None or isinstance(value, FunctionType | BuiltinFunctionType | MethodType):
        raise InputError(f"not a schema: {value!r}", hint="pass a type, such as a pydantic model class")
    if isinstance(value, BaseModel):
        name = type(value).__name__
        raise InputError(f"not a schema: an instance of {name}", hint=f"pass the class: {name}")


def _type_name(type_: Any) -> str:
    return type_.__name__ if isinstance(type_, type) else ""


def _deepest_mistake(type_: Any, path: str, error: Exception) -> tuple[str, Exception]:
    """pydantic names the type that it cannot represent, not where it stands: try each field by itself."""
    for name, annotation in _annotations(type_).items():
        try:
            TypeAdapter(annotation).json_schema()
        except _PYDANTIC_REFUSES as inner:
            return _deepest_mistake(annotation, f"{path}.{name}", inner)
    return path, error


def _annotations(type_: Any) -> dict[str, Any]:
    try:
        return get_type_hints(type_, include_extras=True) if isinstance(type_, type) else {}
    except (NameError, TypeError):
        return {}


# --- a JSON schema ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=_MEMO_SIZE)
def _compile_json(text: str) -> OutputSchema:
    schema = decode_schema(text)
    title = schema.get("title")
    name = title if isinstance(title, str) else ""
    validator, draft = compile_validator(schema)
    read = json_schema_reader(validator, name or _UNNAMED)
    return OutputSchema(schema, schema, name, read, id_keyword=draft.id_keyword)
