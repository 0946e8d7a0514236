"""What a ledger keeps of an embedding: small, and the same numbers again."""

from __future__ import annotations

import json
import math
from array import array

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from mistill.api.stored_embeddings import decode_stored, encode_stored, stored_as_text

float32s = st.floats(width=32, allow_nan=False, allow_infinity=False)


def stored(numbers: list[float], dtype: str | None = None) -> bytes:
    return encode_stored(Raw(msgspec.json.encode(numbers)), numbers, dtype, "m", "i")  # pyright: ignore[reportArgumentType]


@given(st.lists(float32s, min_size=1, max_size=40))
def test_the_numbers_read_back_are_the_same_float32(numbers: list[float]) -> None:
    found = decode_stored(stored(numbers))
    assert found.vector() == numbers
    assert array("f", json.loads(bytes(found.as_json()))) == array("f", numbers)


@given(st.floats(min_value=2.0**-100, max_value=2.0**100, width=32))
def test_a_number_has_no_digit_more_than_it_needs(number: float) -> None:
    text = bytes(decode_stored(stored([number])).as_json()).decode()[1:-1]
    digits = len(text.partition("e")[0].replace(".", "").strip("0"))
    if digits > 7:
        fewer = float(f"%.{digits - 1}g" % number)
        assert array("f", [fewer])[0] != number


def test_digits_that_a_float32_keeps_are_written_as_they_came() -> None:
    numbers = [0.1, -0.0123457, 1.0, 0.0, 3e-9, -0.893202]
    assert json.loads(bytes(decode_stored(stored(numbers)).as_json())) == numbers


@pytest.mark.parametrize(
    ("dtype", "numbers"),
    [("int8", [-128, 127]), ("uint8", [0, 255]), ("binary", [-1, 0]), ("ubinary", [255, 1])],
)
def test_integers_take_a_byte_each(dtype: str, numbers: list[float]) -> None:
    body = stored(numbers, dtype)
    found = decode_stored(body)
    assert (found.numbers, json.loads(bytes(found.as_json()))) == (
        bytes(n & 255 for n in map(int, numbers)),
        numbers,
    )
    assert found.vector() == numbers


@pytest.mark.parametrize(("dtype", "numbers"), [("int8", [300]), (None, [1e300])])
def test_what_the_type_does_not_hold_is_kept_as_it_came(dtype: str | None, numbers: list[float]) -> None:
    body = stored(numbers, dtype)
    assert json.loads(body) == {"embedding": numbers, "model": "m", "id": "i"}
    assert decode_stored(body).vector(None) == numbers


def test_bodies_of_earlier_versions_are_read() -> None:
    found = decode_stored(b'{"embedding":[0.12345678901,1],"model":"m"}')
    assert (bytes(found.as_json()), found.vector(), found.model) == (
        b"[0.12345678901,1]",
        [0.12345678901, 1.0],
        "m",
    )


def test_a_body_can_be_read_by_people() -> None:
    assert stored_as_text(stored([0.5, 1.0])) == '{"embedding":[0.5,1],"model":"m","id":"i"}'


@pytest.mark.parametrize("cut", [1, 3, 10])
def test_a_body_that_is_none_is_refused(cut: int) -> None:
    body = stored([0.5, math.pi])
    for damaged in (body[:-cut], b"", b"[1]", b"\x94\xc4\x03abc\xa1f\xc0\xc0"):
        with pytest.raises(msgspec.DecodeError):
            decode_stored(damaged)
