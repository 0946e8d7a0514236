"""Vectors of texts, in every data type and encoding that the API has for them."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Literal, TypeAlias

from mistill.api.embeddings import Dtype

Encoding: TypeAlias = Literal["float", "base64"]

_CENTRED = tuple((byte - 127.5) / 127.5 for byte in range(256))


def vector(text: str, dimension: int) -> list[float]:
    """The unit vector of a text, the same for the same text, in digits that a float32 keeps."""
    values = [_CENTRED[byte] for byte in hashlib.shake_128(text.encode(errors="replace")).digest(dimension)]
    length = math.sqrt(sum(value * value for value in values))
    return [round(value / length, 7) for value in values]


def encoded(
    vector: list[float], dtype: Dtype | None, encoding: Encoding | None
) -> list[float] | list[int] | str:
    """A vector as an answer has it: numbers, or the base64 of their bytes (floats: 32 bits, little-endian)."""
    if dtype in (None, "float"):
        return _base64(struct.pack(f"<{len(vector)}f", *vector)) if encoding == "base64" else vector
    numbers = _whole_numbers(vector, dtype)
    return _base64(bytes(number & 0xFF for number in numbers)) if encoding == "base64" else numbers


def _whole_numbers(vector: list[float], dtype: Dtype) -> list[int]:
    """int8 and uint8: a number for each, as wide as it gets. binary and ubinary: a bit for each, eight to a number."""
    if dtype in ("int8", "uint8"):
        largest = max(map(abs, vector))
        shift = 0 if dtype == "int8" else 128
        return [round(value / largest * 127) + shift for value in vector]
    bits = "".join("1" if value > 0 else "0" for value in vector)
    octets = [int(bits[start : start + 8].ljust(8, "0"), 2) for start in range(0, len(bits), 8)]
    return octets if dtype == "ubinary" else [octet - 128 for octet in octets]


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
