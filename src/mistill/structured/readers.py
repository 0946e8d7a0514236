"""JSON text → value, checked: by pydantic for a Python type, by jsonschema-rs for a JSON schema.

Both readers raise ``InvalidOutput`` with the JSON path of the first mistake and name up to eight of them, so that a
model that is asked again knows them all, in a message whose length is bounded. They raise nothing else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Any, Final, Protocol, cast

from pydantic import TypeAdapter, ValidationError

from mistill.errors import InvalidOutput, let_interrupt_pass
from mistill.structured.exact_numbers import ExactNumbers, NumberMistake
from mistill.structured.strict_json import decode_json
from mistill.wording import Phrase, words

MAX_MISTAKES = 8
_MAX_MISTAKE_CHARS = 200
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*\Z")

Mistake = tuple[str, str]
"""The place of a mistake as a JSON path, and what is wrong there."""


class Reader(Protocol):
    """``json_text`` is read. ``raw`` is the whole answer that it stands in; ``root`` is its place there."""

    def __call__(self, json_text: str, *, raw: str, root: str = "$") -> Any: ...


def json_path(parts: Iterable[str | int], root: str = "$") -> str:
    """``["items", 2, "age"]`` → ``$.items[2].age``; a key that is no identifier is quoted."""
    path = root
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            path += f".{part}" if _IDENTIFIER.match(part) else f"[{json.dumps(part, ensure_ascii=False)}]"
    return path


ASK_OTHERWISE: Final = words(
    "ask again with a larger model, with a prompt that says more of the fields, or more often: ",
    Phrase("'max_retries' of structured_output", "--schema-retries"),
)


def invalid_output(label: str, raw: str, mistakes: Sequence[Mistake]) -> InvalidOutput:
    """The error of an answer ``raw`` that does not fit the schema named ``label``."""
    named = "; ".join(f"{path}: {_shortened(message)}" for path, message in mistakes[:MAX_MISTAKES])
    more = "; and more" if len(mistakes) > MAX_MISTAKES else ""
    return InvalidOutput(
        f"the answer does not fit {label}: {named}{more}", text=raw, path=mistakes[0][0], hint=ASK_OTHERWISE
    )


def _shortened(message: str) -> str:
    return message if len(message) <= _MAX_MISTAKE_CHARS else message[: _MAX_MISTAKE_CHARS - 1] + "…"


# --- a Python type ----------------------------------------------------------------------------------------------------


def type_reader(adapter: TypeAdapter[Any], label: str) -> Reader:
    """A reader for the type of ``adapter``."""
    validate_json = adapter.validate_json
    numbers = ExactNumbers(adapter, pydantic_places)
    may_lose = numbers.may_lose

    def read(json_text: str, *, raw: str, root: str = "$") -> Any:
        try:
            if may_lose(json_text):
                json_text = numbers.exact(json_text)
            return validate_json(json_text)
        except ValidationError as error:
            raise invalid_output(label, raw, _pydantic_mistakes(error, json_text, root)) from error
        except NumberMistake as error:
            raise invalid_output(label, raw, [(json_path(error.place, root), error.message)]) from error
        except BaseException as error:
            let_interrupt_pass(error)
            # A validator of the user's own that breaks must not lose an answer that is paid for.
            mistake = (root, f"its validator raised {type(error).__name__}: {error}")
            raise invalid_output(label, raw, [mistake]) from error

    return read


def _pydantic_mistakes(error: ValidationError, json_text: str, root: str) -> list[Mistake]:
    try:
        document = json.loads(json_text)
    except (ValueError, RecursionError):
        document = None
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return [
        (json_path(pydantic_places(detail["loc"], detail["type"], document), root), detail["msg"])
        for detail in details[: MAX_MISTAKES + 1]
    ]


def pydantic_places(loc: Sequence[str | int], kind: str, document: Any) -> list[str | int]:
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


# --- a JSON schema ----------------------------------------------------------------------------------------------------


def json_schema_reader(validator: Any, label: str) -> Reader:
    """A reader for what ``validator`` lets pass, of ``json_schemas.compile_validator``."""

    def read(json_text: str, *, raw: str, root: str = "$") -> Any:
        try:
            document = decode_json(json_text)
        except ValueError as error:
            raise invalid_output(label, raw, [(root, str(error))]) from error
        try:
            if validator.is_valid(document):
                return document
            errors: list[Any] = list(islice(validator.iter_errors(document), MAX_MISTAKES + 1))
        except Exception as error:  # a pattern that backtracks too far
            raise invalid_output(label, raw, [(root, f"it could not be checked: {error}")]) from error
        raise invalid_output(label, raw, [(json_path(_place(e), root), e.message) for e in errors])

    return read


def _place(error: Any) -> list[str | int]:
    missing = [error.kind.property] if error.kind.name == "required" else []
    return [*error.instance_path, *missing]
