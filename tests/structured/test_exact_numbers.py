"""Numbers of an answer: with all their digits where the type keeps them, refused where it cannot hold them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, field_validator

from mistill.errors import InvalidOutput
from mistill.structured import compile_schema, read_answer

LONG = "12345678901234567890.12"
MANY_DIGITS = "1" + "0" * 400


class Line(BaseModel):
    amount: Decimal
    rate: float = 0
    note: str = ""
    more: Any = None


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    amount: Decimal


@dataclass
class Point:
    x: Decimal


class Pair(TypedDict):
    x: Decimal
    y: float


class Paid(BaseModel):
    kind: Literal["paid"]
    amount: Annotated[Decimal, Field(alias="sum", decimal_places=2)]


class Free(BaseModel):
    kind: Literal["free"]


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (Decimal, '{"value": 19.90}', "19.90"),
        (Decimal, f'{{"value": {LONG}}}', LONG),
        (Decimal, LONG, LONG),
        (Decimal, f'{{"value": -{LONG}}}', f"-{LONG}"),
        (Decimal, '{"value": 1e400}', "1E+400"),
        (Decimal, f'{{"value": {MANY_DIGITS}}}', MANY_DIGITS),
        (Decimal, '{"value": "19.90"}', "19.90"),
        (Decimal | None, '{"value": 0.10}', "0.10"),
        (Annotated[Decimal, Field(max_digits=4)], '{"value": 19.90}', "19.90"),
    ],
)
def test_a_decimal_keeps_its_digits(schema: Any, text: str, value: str) -> None:
    read = compile_schema(schema).parse(text)
    assert isinstance(read, Decimal)
    assert str(read) == value


def test_decimals_keep_their_digits_wherever_they_stand() -> None:
    def parsed(schema: Any, text: str) -> Any:
        return compile_schema(schema).parse(text)

    line = parsed(
        Line, f'{{"amount": 19.90, "rate": 1.50, "note": "19.90", "more": [1.50, {{"a": {LONG}}}]}}'
    )
    assert (str(line.amount), line.rate, line.note) == ("19.90", 1.5, "19.90")
    assert line.more == [1.5, {"a": float(LONG)}]
    assert str(parsed(Strict, '{"amount": 19.90}').amount) == "19.90"
    assert str(parsed(Point, '{"x": 19.90}').x) == "19.90"
    assert parsed(Pair, f'{{"x": {LONG}, "y": {LONG}}}') == {"x": Decimal(LONG), "y": float(LONG)}
    assert list(map(str, parsed(list[Decimal], '{"value": [1.10, 2.0, 3, 4.50]}'))) == [
        "1.10",
        "2.0",
        "3",
        "4.50",
    ]
    assert str(parsed(dict[str, Decimal], '{"a.b": 1.10}')["a.b"]) == "1.10"
    assert str(parsed(tuple[float, Decimal], '{"value": [1.10, 1.10]}')[1]) == "1.10"
    assert (
        str(
            parsed(list[Paid | Free], '{"value": [{"kind": "free"}, {"kind": "paid", "sum": 1.10}]}')[
                1
            ].amount
        )
        == "1.10"
    )


def test_a_mistake_beside_a_decimal_has_its_place() -> None:
    with pytest.raises(InvalidOutput, match=r"\$\.rate: Input should be a valid number") as caught:
        compile_schema(Line).parse('{"amount": 19.90, "rate": "?"}')
    assert caught.value.path == "$.rate"
    with pytest.raises(InvalidOutput, match=r"\$\.sum: .*no more than 2 decimal places"):
        compile_schema(Paid).parse('{"kind": "paid", "sum": 1.101}')


def test_a_validator_that_does_not_expect_the_mark_loses_no_answer() -> None:
    class Positive(BaseModel):
        amount: Decimal

        @field_validator("amount", mode="before")
        @classmethod
        def _check(cls, value: Any) -> Any:
            return value if value > 0 else 1 / 0

    assert compile_schema(Positive).parse('{"amount": 19.90}').amount == Decimal("19.9")


@pytest.mark.parametrize(
    ("schema", "text", "path"),
    [
        (float, '{"value": 1e400}', "$.value"),
        (float, '{"value": -1e400}', "$.value"),
        (float, "1e400", "$"),
        (float, '{"value": "1e400"}', "$.value"),
        (float, '{"value": "NaN"}', "$.value"),
        (float, '{"value": " -inf "}', "$.value"),
        (float, f'{{"value": {MANY_DIGITS}}}', "$.value"),
        (float | None, '{"value": 1e400}', "$.value"),
        (list[float], '{"value": [1, 1e400]}', "$.value[1]"),
        (dict[str, float], '{"a b": 1e400}', '$["a b"]'),
        (Line, '{"amount": 1, "rate": 1e400}', "$.rate"),
        (Line, '{"amount": 1.10, "rate": "Infinity"}', "$.rate"),
        (Line, '{"amount": 1, "more": {"a": [1e400]}}', "$.more.a[0]"),
        (Pair, f'{{"x": 1, "y": {MANY_DIGITS}}}', "$.y"),
        (dict[str, Any], '{"a": 1e400}', "$.a"),
        ({"type": "number"}, '{"value": 1e400}', "$.value"),
        ({"type": "object"}, '{"a": 1e400}', "$"),
    ],
)
def test_a_number_that_a_float_cannot_hold_is_no_number(schema: Any, text: str, path: str) -> None:
    with pytest.raises(InvalidOutput) as caught:
        read_answer(compile_schema(schema), text)
    assert caught.value.path == path
    assert caught.value.text == text


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (str, '{"value": "1e400"}', "1e400"),
        (str, '{"value": "NaN"}', "NaN"),
        (float | str, '{"value": "inf"}', "inf"),
        (float | str, '{"value": "1.2.3e400"}', "1.2.3e400"),
        (
            Line,
            '{"amount": 1, "note": "inf", "more": ["NaN", "1e400"]}',
            Line(amount=Decimal(1), note="inf", more=["NaN", "1e400"]),
        ),
        (int, f'{{"value": {MANY_DIGITS}}}', int(MANY_DIGITS)),
        (int | float, f'{{"value": {MANY_DIGITS}}}', int(MANY_DIGITS)),
        (float, '{"value": 1e308}', 1e308),
        (float, '{"value": 1e-400}', 0.0),
        ({"type": "integer"}, '{"value": 9223372036854775808}', 2**63),
        ({"type": "integer"}, f'{{"value": -{MANY_DIGITS}}}', -int(MANY_DIGITS)),
        ({"type": "number", "multipleOf": 0.5}, f'{{"value": {2**70}.5}}', float(2**70)),
    ],
)
def test_what_only_looks_like_it_is_read(schema: Any, text: str, value: Any) -> None:
    read = compile_schema(schema).parse(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("schema", [int, float, Decimal, Any, {"type": "integer"}, {}])
def test_more_digits_than_python_reads_end_as_a_mistake_or_a_value(schema: Any) -> None:
    text = f'{{"value": {"9" * 5000}}}'
    if schema is Decimal:
        assert compile_schema(schema).parse(text) == Decimal("9" * 5000)
    else:
        with pytest.raises(InvalidOutput):
            compile_schema(schema).parse(text)


@given(st.decimals(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_whatever_is_written_is_read(amount: Decimal, rate: float) -> None:
    line = compile_schema(Line).parse(f'{{"amount": {amount}, "rate": {json.dumps(rate)}}}')
    assert str(line.amount) == str(amount)
    assert line.rate == rate
    assert math.isfinite(line.rate)
