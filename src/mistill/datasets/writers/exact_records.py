"""Records decoded so that no digit of a number is lost unseen."""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from typing import Any

import msgspec

_MAX_EXACT_CHARS = 16
"""A fraction that is no longer, point included, has at most 15 digits, and a double keeps those."""


class Inexact:
    """Stands for a number that neither a double nor a 64-bit integer keeps. It has no type in Arrow."""


INEXACT = Inexact()

_ALL_DIGITS = Context(prec=2000, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[InvalidOperation])
"""More than any double has, written out."""


def decode(line: bytes) -> dict[str, Any]:
    """A JSON object as a dict, in which a number beyond every range makes its field ``INEXACT``."""
    try:
        return _decode(line)
    except msgspec.ValidationError:
        return {name: _decode_field(field) for name, field in _decode_fields(line).items()}


def decode_exactly(line: bytes) -> dict[str, Any]:
    """As ``decode``, and every number of which Python's types would lose a digit is ``INEXACT``."""
    record = decode(line)
    # What gives the same text again has lost nothing: the usual case, at a small part of the time.
    return record if _encodes_as(record, line) else _decode_number_by_number(line)


def _encodes_as(record: dict[str, Any], line: bytes) -> bool:
    try:
        return msgspec.json.encode(record) == line.rstrip()
    except TypeError:  # something in it is INEXACT
        return True


def _decode_field(field: msgspec.Raw) -> Any:
    try:
        return _decode_value(field)
    except msgspec.ValidationError:
        return INEXACT


def _float_or_inexact(text: str) -> float | Inexact:
    number = float(text)
    is_short = len(text) <= _MAX_EXACT_CHARS and not ("e" in text or "E" in text)
    return number if is_short or repr(number) == text or _is_kept(text, number) else INEXACT


def _is_kept(text: str, number: float) -> bool:
    """Whether the text is what this double reads at so many digits: 19.90 or 0.10000000000000000555, not 1e999."""
    try:
        wanted = Decimal(text)
        return wanted == Decimal(repr(number)) or wanted == Decimal(number).quantize(
            wanted, context=_ALL_DIGITS
        )
    except InvalidOperation:  # infinity, or an exponent beyond all reason
        return False


_decode = msgspec.json.Decoder(dict[str, Any]).decode
_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_number_by_number = msgspec.json.Decoder(dict[str, Any], float_hook=_float_or_inexact).decode
_decode_value = msgspec.json.Decoder(float_hook=_float_or_inexact).decode
