"""JSON as rows are made of it: checked, with every digit, and without lone surrogates."""

from __future__ import annotations

import codecs
import json
import math
import re
from decimal import Decimal, InvalidOperation

import msgspec

_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}"  # a pair of surrogates: one character
    rb"|(?P<lone>\\u[dD][89a-fA-F][0-9a-fA-F]{2})"
    rb"|\\.",
    re.DOTALL,
)


class _AnyObject(msgspec.Struct):
    """Decoding into a struct without fields checks a whole object and builds nothing: half the cost of a dict."""


check_object = msgspec.json.Decoder(_AnyObject).decode
"""Passes bytes that are one JSON object; others raise ``msgspec.MsgspecError`` or ``RecursionError``."""


def repair_line(line: bytes) -> bytes:
    """``line`` without what does no harm: a byte order mark at its start, and lone surrogates in escapes.

    Joined files have such marks at the start of the second file's first line. A lone surrogate, half of a character
    that was cut, has no form in UTF-8: it becomes U+FFFD, the replacement character.
    """
    return _ESCAPES.sub(_replace_lone, line.removeprefix(codecs.BOM_UTF8).lstrip())


def _replace_lone(escape: re.Match[bytes]) -> bytes:
    return rb"\ufffd" if escape["lone"] else escape[0]


def _refuse_constant(name: str) -> None:
    """ValueError for NaN and infinities, which JSON does not have."""
    raise ValueError(f"{name} is no JSON number; write null")


def _parse_integer(text: str) -> int:
    try:
        return int(text)
    except ValueError as error:  # Python's limit, against the time that huge ones take
        raise ValueError(f"the number {text[:40]}… of {len(text)} digits is out of range") from error


def _parse_fraction(text: str) -> float | Decimal:
    """A float if that reads the same, else a decimal with all digits; ValueError for 1e999, which would be infinity."""
    number = float(text)
    if repr(number) == text:
        return number
    try:
        decimal = Decimal(text)
    except InvalidOperation:  # an exponent beyond all reason
        decimal = None
    if decimal is None or math.isinf(number):
        raise ValueError(f"the number {text[:40]} is out of range")
    return decimal


def json_decoder() -> json.JSONDecoder:
    """A decoder that keeps the digits of numbers, and refuses what JSON does not have: NaN, infinities."""
    return json.JSONDecoder(
        parse_constant=_refuse_constant, parse_float=_parse_fraction, parse_int=_parse_integer
    )
