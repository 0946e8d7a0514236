"""Numbers of a row with the digits that they were written with, for what is sent of it.

A double keeps the value of ``19.90`` and not its zero, and of ``12345678901234567890.12`` not even the value. In a
prompt the digits count.
"""

from __future__ import annotations

from typing import Any, Self

import msgspec

from mistill.datasets.sources import Row

WITHOUT_FRACTIONS = frozenset((str, int, bool, type(None)))
"""Types of values that print as they were written."""


class WrittenNumber(float):
    """A double that prints as it was written. What is computed with it is a plain double."""

    __slots__ = ("text",)

    text: str

    def __new__(cls, text: str) -> Self:
        number = super().__new__(cls, text)
        number.text = text
        return number

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def written_record(row: Row) -> dict[str, Any]:
    """The record of a row, in which each number prints as it stands in the row. Read-only, as ``row.record`` is.

    Raises:
        InputError: as ``row.record``.
    """
    record = row.record
    if WITHOUT_FRACTIONS.issuperset(map(type, record.values())):
        return record  # most rows, which need not be read again
    return _decode_record(row.raw)


def _number(text: str) -> float:
    number = float(text)
    return number if repr(number) == text else WrittenNumber(text)


_decode_record = msgspec.json.Decoder(dict[str, Any], float_hook=_number).decode
decode_written = msgspec.json.Decoder(float_hook=_number).decode
"""Any JSON, its numbers as `written_record` has them."""


def _as_written(value: object) -> msgspec.Raw:
    if isinstance(value, WrittenNumber):
        return msgspec.Raw(value.text.encode())
    raise TypeError(f"{type(value).__name__} has no form in JSON")


encode_written = msgspec.json.Encoder(enc_hook=_as_written).encode
"""JSON with the digits of every `WrittenNumber`."""


def holds_written(value: Any) -> bool:
    """Whether a JSON value has a `WrittenNumber` in it. (What is no JSON value counts as one that has.)"""
    try:
        msgspec.json.encode(value)  # by far quicker than looking
    except TypeError:
        return True
    return False
