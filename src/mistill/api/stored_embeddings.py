"""What a ledger keeps of an embedding: its numbers as bytes, 4 for each float and 1 for each integer.

A body is a MessagePack array of `StoredEmbedding`. Where the numbers are no such floats or integers, and in ledgers of
earlier versions, it is a JSON object with the vector as it came; the first byte tells which.
"""

from __future__ import annotations

import math
import sys
from array import array
from typing import Literal, TypeAlias

import msgspec
from msgspec import Raw, Struct

from mistill.api.embeddings import Dtype, decode_vector

NumberType: TypeAlias = Literal["f", "b", "B"]
"""Of a vector's numbers, as `array.array` calls them: float32, int8, uint8. Always little-endian in a body."""

_NUMBER_TYPES: dict[Dtype, NumberType] = {
    "float": "f",
    "int8": "b",
    "uint8": "B",
    "binary": "b",
    "ubinary": "B",
}
# The fewest digits that every float32 might do with, and the most that any needs.
_DIGITS = range(7, 10)


class StoredEmbedding(Struct, frozen=True, gc=False, array_like=True):
    """What of an answer concerns one text.

    Attributes:
        numbers: of the vector, as bytes of ``type``; or as JSON, where there is none.
    """

    numbers: bytes
    type: NumberType | None
    model: str | None = None
    id: str | None = None

    def vector(self, dtype: Dtype | None = None) -> list[float]:
        """The numbers.

        Raises:
            msgspec.DecodeError: they are no list of such numbers.
        """
        if self.type is None:
            return decode_vector(Raw(self.numbers), dtype)
        return _array_of(self.numbers, self.type).tolist()

    def as_json(self) -> Raw:
        """The numbers as a JSON list: a float32 with as few digits as give it again."""
        if self.type is None:
            return Raw(self.numbers)
        numbers = _array_of(self.numbers, self.type)
        return Raw(_float32_texts(numbers) if self.type == "f" else msgspec.json.encode(numbers.tolist()))


class _JsonEmbedding(Struct, frozen=True, gc=False, omit_defaults=True):
    embedding: Raw
    model: str | None = None
    id: str | None = None


def number_type(dtype: Dtype | None) -> NumberType:
    """What the numbers of vectors of this dtype are kept as."""
    return _NUMBER_TYPES[dtype or "float"]


def encode_stored(
    raw: Raw,
    numbers: list[float],
    dtype: Dtype | None,
    model: str | None,
    id: str | None,  # noqa: A002
) -> bytes:
    """The body of one vector.

    Args:
        raw: the vector as it came. ``numbers``: the same, read.
    """
    type_ = number_type(dtype)
    try:
        packed = array(type_, numbers)
    except (OverflowError, TypeError):
        packed = None
    # A number beyond float32 has become infinity by now, and makes one of the sum.
    if packed is None or not math.isfinite(sum(packed)):
        return _encode_json(_JsonEmbedding(raw, model, id))
    return _encode_packed(StoredEmbedding(_little_endian(packed).tobytes(), type_, model, id))


def decode_stored(body: bytes) -> StoredEmbedding:
    """What a body has, whose numbers are not read.

    Raises:
        msgspec.DecodeError: there is no vector in it.
    """
    if not body.lstrip().startswith(b"{"):
        stored = _decode_packed(body)
        if stored.type == "f" and len(stored.numbers) % 4:
            raise msgspec.DecodeError(f"{len(stored.numbers)} bytes are no whole number of floats")
        return stored
    found = _decode_json(body)
    return StoredEmbedding(bytes(found.embedding), None, found.model, found.id)


def stored_as_text(body: bytes) -> str:
    """A body as the JSON object of earlier versions, for people."""
    stored = decode_stored(body)
    return _encode_json(_JsonEmbedding(stored.as_json(), stored.model, stored.id)).decode()


def _array_of(data: bytes, type_: NumberType) -> array[float]:
    return _little_endian(array(type_, data))


def _little_endian(numbers: array[float]) -> array[float]:
    """From this machine's order of bytes to that of a body, and back."""
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _float32_texts(numbers: array[float]) -> bytes:
    """All numbers are written with few digits at once and read again; those that came back changed get one more."""
    texts: list[str] = []
    left = range(len(numbers))
    for digits in _DIGITS:
        wanted = array("f", [numbers[place] for place in left])
        joined = f"%.{digits}g," * len(wanted) % tuple(wanted)
        found = joined.split(",")[:-1]
        if texts:
            for place, text in zip(left, found, strict=True):
                texts[place] = text
        else:
            texts = found
        back = array("f", _decode_floats(f"[{joined[:-1]}]"))
        if back == wanted:
            break
        left = [place for place, one, other in zip(left, back, wanted, strict=True) if one != other]
    return f"[{','.join(texts)}]".encode()


_decode_floats = msgspec.json.Decoder(list[float]).decode
_decode_json = msgspec.json.Decoder(_JsonEmbedding).decode
_decode_packed = msgspec.msgpack.Decoder(StoredEmbedding).decode
_encode_json = msgspec.json.Encoder().encode
_encode_packed = msgspec.msgpack.Encoder().encode
