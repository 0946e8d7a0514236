"""What is wrong with a piece of JSON, in words for the person who has to repair it."""

from __future__ import annotations

import json
import math

import msgspec


class JsonProblem(msgspec.Struct):
    message: str
    cut: bool = False
    """Whether the text is right as far as it goes: it ends too early."""


def explain_json(raw: bytes) -> JsonProblem:
    """What is wrong with a line of UTF-8 that is not the JSON object it should be, in words, with the
    column."""
    try:
        value = json.loads(raw, parse_constant=_refuse_constant, parse_float=parse_finite)
    except json.JSONDecodeError as error:
        return JsonProblem(f"not JSON: {error.msg}, column {error.colno}", is_cut(error))
    except RecursionError:
        return JsonProblem("nested too deep")
    except ValueError as error:
        return JsonProblem(f"not JSON: {error}")
    if not isinstance(value, dict):
        return JsonProblem(f"{name_of_json(value)}, where a row must be an object")
    return JsonProblem("it holds a lone surrogate (such as \\ud800), which UTF-8 cannot carry")


def is_cut(error: json.JSONDecodeError) -> bool:
    """Whether more text could have repaired it: a string was open, or the trouble lies at the very end."""
    longest_token = len("\\ud800\\udc00")
    return error.msg.startswith("Unterminated string") or error.pos + longest_token >= len(error.doc.rstrip())


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number; write null")


def parse_finite(text: str) -> float:
    """A JSON number as a float. ValueError for 1e999, which would silently become infinity."""
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text[:40]} is out of range")
    return number


def json_decoder() -> json.JSONDecoder:
    """A decoder that refuses what JSON does not have: NaN, infinities."""
    return json.JSONDecoder(parse_constant=_refuse_constant, parse_float=parse_finite)


def name_of_json(value: object) -> str:
    """The JSON type of a decoded value, with its article: "a list"."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, (int, float)):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"
