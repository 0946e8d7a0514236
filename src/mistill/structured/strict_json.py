"""JSON text → value, by the letter: no NaN, no half characters, no number beyond a float, and not too deep."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pydantic_core

MAX_DEPTH = 200
"""Levels of nesting: pydantic's own limit in reading; what is deeper could not be written again either."""
TOO_DEEP = f"it is nested more than {MAX_DEPTH} levels deep"

_BRACKETS_AND_TEXTS = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]')

_decode = msgspec.json.Decoder().decode


def decode_json(text: str) -> Any:
    """The value of ``text``.

    Raises:
        ValueError: it is no JSON, or JSON that no value holds without loss. The message says which, and where.
    """
    try:
        value = _decode(text)
    except UnicodeError as error:
        raise ValueError("it is not JSON: it holds half of a character (a lone surrogate)") from error
    except (msgspec.DecodeError, RecursionError) as error:
        _refuse_by_pydantic(text)  # says the line and the column
        raise ValueError("a number in it is more than a float can hold") from error
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _refuse_by_pydantic(text)  # counts the levels
    return value


def _is_too_deep(text: str) -> bool:
    """Whether JSON has more levels than anything here reads."""
    depth = 0
    for bracket in _BRACKETS_AND_TEXTS.findall(text):
        depth += (bracket in "[{") - (bracket in "]}")
        if depth > MAX_DEPTH:
            return True
    return False


def _refuse_by_pydantic(text: str) -> None:
    if _is_too_deep(text):
        raise ValueError(TOO_DEEP)
    try:
        pydantic_core.from_json(text, allow_inf_nan=False)
    except ValueError as error:
        raise ValueError(f"it is not JSON: {error}") from error
