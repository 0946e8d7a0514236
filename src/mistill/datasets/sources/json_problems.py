"""What is wrong with a piece of JSON, in words for the person who has to repair it."""

from __future__ import annotations

import json
from decimal import Decimal

import msgspec

from mistill.datasets.sources.json_text import json_decoder


class JsonProblem(msgspec.Struct):
    """What keeps a text from being a row.

    Attributes:
        message: what is wrong, with the column.
        cut: the text is right as far as it goes: it ends too early.
        hint: what to do about it.
    """

    message: str
    cut: bool = False
    hint: str | None = None


def explain_json(raw: bytes) -> JsonProblem:
    """What is wrong with a line of UTF-8 that is not the JSON object it should be."""
    text = raw.decode()
    if "\0" in text:
        return _explain_nul(text)
    try:
        value = json_decoder().decode(text)
    except json.JSONDecodeError as error:
        return _explain_syntax(error)
    except RecursionError:
        return JsonProblem("nested too deep")
    except ValueError as error:
        return JsonProblem(f"not JSON: {error}")
    if not isinstance(value, dict):
        return JsonProblem(f"{name_of_json(value)}, where a row must be an object")
    return JsonProblem("it cannot be read as a JSON object")


def _explain_nul(text: str) -> JsonProblem:
    column = text.index("\0") + 1
    if text[column - 1 :].strip("\0"):
        return JsonProblem(f"not JSON: a NUL byte, column {column}")
    return JsonProblem(nul_tail(column), hint=NUL_TAIL_HINT)


NUL_TAIL_HINT = "remove them, or write the file again"


def nul_tail(column: int) -> str:
    """What is wrong with a line that has NUL bytes from ``column`` (from 1) to its end."""
    return f"NUL bytes from column {column} on: the file was not written to its end, as after a power failure"


def _explain_syntax(error: json.JSONDecodeError) -> JsonProblem:
    before, found = error.doc[: error.pos], error.doc[error.pos : error.pos + 1]
    if error.msg == "Extra data" and before.endswith("\r"):
        return JsonProblem(
            "its lines end with CR alone", hint="end them with LF, for example: tr '\\r' '\\n' < OLD > NEW"
        )
    if found == "\ufeff":
        return JsonProblem(
            f"not JSON: a byte order mark, column {error.colno}",
            hint="where files were joined, a line end is missing before it",
        )
    if error.msg.startswith("Invalid control character"):
        return JsonProblem(
            f"not JSON: the control character U+{ord(found):04X} in a string, column {error.colno}",
            hint=f"write it as {json.dumps(found)[1:-1]}; a JSON library does",
        )
    if found == "'":
        return JsonProblem(
            f"not JSON: a single quote, column {error.colno}",
            hint="this looks like what Python prints of a dict: write it with json.dumps, or double quotes",
        )
    return JsonProblem(f"not JSON: {error.msg}, column {error.colno}", is_cut(error))


def is_cut(error: json.JSONDecodeError) -> bool:
    """Whether more text could have repaired it: a string was open, or what is wrong lies at the very end."""
    longest_token = len("\\ud800\\udc00")
    return error.msg.startswith("Unterminated string") or error.pos + longest_token >= len(error.doc.rstrip())


def name_of_json(value: object) -> str:
    """The JSON type of a decoded value, with its article: "a list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (int, float, Decimal)):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"
