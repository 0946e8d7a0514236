"""JSON text -> value, checked: by pydantic for a Python type, by jsonschema-rs for a JSON schema.

Both readers raise ``InvalidOutput`` with the JSON path of the first mistake and name up to eight of them, so
that a model that is asked again knows them all, in a message whose length is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Protocol, cast

from pydantic import TypeAdapter, ValidationError

from mistill.errors import InputError, InvalidOutput

MAX_MISTAKES = 8
_MAX_MISTAKE_CHARS = 200
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")


class Reader(Protocol):
    """``json_text`` is read. ``raw`` is the whole answer that it stands in; ``root`` is its place there."""

    def __call__(self, json_text: str, *, raw: str, root: str = "$") -> Any: ...


def json_path(parts: Iterable[str | int], root: str = "$") -> str:
    """``["items", 2, "age"]`` -> ``$.items[2].age``; a key that is no identifier is quoted."""
    path = root
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if _IDENTIFIER.match(part) else f"[{json.dumps(part, ensure_ascii=False)}]"
    return path


# --- a Python type ------------------------------------------------------------------------------------------


def type_reader(adapter: TypeAdapter[Any], label: str) -> Reader:
    validate_json = adapter.validate_json

    def read(json_text: str, *, raw: str, root: str = "$") -> Any:
        if "NaN" in json_text or "Infinity" in json_text:  # pydantic reads them as numbers; they are not JSON
            _decode(json_text, label, raw, root)
        try:
            return validate_json(json_text)
        except ValidationError as error:
            raise _invalid(label, raw, _pydantic_mistakes(error, json_text, root)) from error
        except Exception as error:
            # A validator of the user's own that breaks must not lose an answer that is paid for.
            mistake = (root, f"its validator raised {type(error).__name__}: {error}")
            raise _invalid(label, raw, [mistake]) from error

    return read


def _pydantic_mistakes(error: ValidationError, json_text: str, root: str) -> list[tuple[str, str]]:
    try:
        document = json.loads(json_text)
    except (ValueError, RecursionError):
        document = None
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        (json_path(_places(detail["loc"], detail["type"], document), root), detail["msg"])
        for detail in details[: MAX_MISTAKES + 1]
    ]


def _places(loc: Sequence[str | int], kind: str, document: Any) -> list[str | int]:
    """pydantic's ``loc`` without the names of union members in it: only what is in the document."""
    places: list[str | int] = []
    node = document
    for depth, part in enumerate(loc):
        if isinstance(node, dict) and part in node:
            node = cast("dict[Any, Any]", node)[part]
        elif isinstance(node, list) and isinstance(part, int) and part < len(cast("list[Any]", node)):
            node = cast("list[Any]", node)[part]
        elif kind == "missing" and depth == len(loc) - 1:
            pass
        else:
            continue
        places.append(part)
    return places


# --- a JSON schema ------------------------------------------------------------------------------------------


def json_schema_reader(schema: dict[str, Any], label: str) -> Reader:
    """A reader for ``schema``; formats (``date``, ``email`` …) are checked, other documents are never
    fetched.

    Raises:
        InputError: ``schema`` is no JSON schema (with the path of the mistake), or the extra ``schema`` is
            missing.
    """
    validator: Any = _validator(schema)

    def read(json_text: str, *, raw: str, root: str = "$") -> Any:
        document = _decode(json_text, label, raw, root)
        try:
            if validator.is_valid(document):
                return document
            errors: list[Any] = list(islice(validator.iter_errors(document), MAX_MISTAKES + 1))
        except Exception as error:  # a pattern that backtracks too far, a string that is not Unicode
            raise _invalid(label, raw, [(root, f"it could not be checked: {error}")]) from error
        raise _invalid(label, raw, [(json_path(_place(e), root), e.message) for e in errors])

    return read


def _validator(schema: dict[str, Any]) -> Any:
    import jsonschema_rs  # only schemas given as JSON Schema need it

    try:
        jsonschema_rs.meta.validate(schema)
        return jsonschema_rs.validator_for(
            schema, validate_formats=True, retriever=_refuse_to_fetch, mask="the value"
        )
    except jsonschema_rs.ValidationError as error:
        path = json_path(error.instance_path) if error.instance_path else _path_of_ref(schema, error.message)
        raise InputError(f"not a JSON schema: {path}: {error.message}") from error
    except (jsonschema_rs.ReferencingError, ValueError) as error:
        raise InputError(f"not a JSON schema: {error}") from error


def _place(error: Any) -> list[str | int]:
    missing = [error.kind.property] if error.kind.name == "required" else []
    return [*error.instance_path, *missing]


def _refuse_to_fetch(uri: str) -> Any:
    raise ValueError(f"{uri} is another document; put it under $defs")


def _path_of_ref(schema: dict[str, Any], message: str) -> str:
    """Where the reference stands that ``message`` complains of: the library tells its target only."""
    stack: list[tuple[list[str | int], Any]] = [([], schema)]
    while stack:
        path, node = stack.pop()
        if isinstance(node, dict):
            ref = cast("dict[str, Any]", node).get("$ref")
            if isinstance(ref, str) and ref.strip("#") and ref.strip("#") in message:
                return json_path([*path, "$ref"])
            stack.extend(([*path, key], value) for key, value in cast("dict[str, Any]", node).items())
        elif isinstance(node, list):
            stack.extend(([*path, index], value) for index, value in enumerate(cast("list[Any]", node)))
    return "$"


# --- both ---------------------------------------------------------------------------------------------------


def _decode(json_text: str, label: str, raw: str, root: str) -> Any:
    try:
        return _strict_loads(json_text)
    except (ValueError, RecursionError) as error:
        raise _invalid(label, raw, [(root, f"Invalid JSON: {error}")]) from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_strict_loads: Callable[[str], Any] = json.JSONDecoder(parse_constant=_refuse_constant).decode


def _invalid(label: str, raw: str, mistakes: list[tuple[str, str]]) -> InvalidOutput:
    told = "; ".join(f"{path}: {_short(message)}" for path, message in mistakes[:MAX_MISTAKES])
    more = "; and more" if len(mistakes) > MAX_MISTAKES else ""
    return InvalidOutput(f"the answer does not fit {label}: {told}{more}", text=raw, path=mistakes[0][0])


def _short(message: str) -> str:
    return message if len(message) <= _MAX_MISTAKE_CHARS else message[: _MAX_MISTAKE_CHARS - 1] + "…"
