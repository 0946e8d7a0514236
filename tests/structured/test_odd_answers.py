"""Whatever a model writes: a value, or `InvalidOutput` with the text; never another error."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from pydantic_core import to_jsonable_python

from mistill.errors import InvalidOutput
from mistill.structured import compile_schema, read_answer
from mistill.structured.strict_json import MAX_DEPTH


class Node(BaseModel):
    name: str = ""
    amount: Decimal | None = None
    size: float = 0
    children: list[Node] = []
    more: dict[str, Any] = {}


SCHEMAS: list[Any] = [
    Node,
    Node | None,
    list[Any],
    dict[str, float],
    Decimal | str,
    Any,
    {"type": "object", "properties": {"name": {"type": "string", "pattern": "^a*b"}}},
    {
        "anyOf": [
            {"type": "object"},
            {"type": "array", "uniqueItems": True},
            {"type": "number", "multipleOf": 0.1},
        ]
    },
    {"type": "string", "format": "date-time"},
    True,
]


def misfit(error: InvalidOutput, text: str) -> InvalidOutput:
    assert error.text == text
    str(error).encode()
    return error


def outcome(schema: Any, text: str) -> Any:
    """The value, or the error; what is read can be written again, in every way that outputs are written."""
    try:
        parsed = read_answer(compile_schema(schema), text)
    except InvalidOutput as error:
        return misfit(error, text)
    json.dumps(to_jsonable_python(parsed.value), allow_nan=False).encode()
    msgspec.json.encode(to_jsonable_python(parsed.value))
    assert parsed.text in text
    return parsed.value


@pytest.mark.parametrize("schema", SCHEMAS, ids=str)
@pytest.mark.parametrize("levels", [MAX_DEPTH + 50, 1000, 100_000])
@pytest.mark.parametrize(
    "around",
    [
        ("", ""),
        ('{"value": ', "}"),
        ('{"more": {"a": ', "}}"),
        ("```json\n", "\n```"),
        ("So: ", " that is it"),
    ],
)
def test_what_is_too_deep_is_a_misfit(schema: Any, levels: int, around: tuple[str, str]) -> None:
    before, after = around
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        text = before + opening * levels + "1" * (opening != "[") + closing * levels + after
        assert isinstance(outcome(schema, text), InvalidOutput)
        assert isinstance(outcome(schema, before + opening * levels), InvalidOutput)


def test_what_is_deep_and_fits_is_read() -> None:
    text = "[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1)
    for schema in (list[Any], {"type": "array"}):
        assert json.dumps(outcome(schema, f'{{"value": {text}}}')) == text


@pytest.mark.parametrize("schema", [Node, dict[str, Any], {"type": "object"}], ids=str)
@pytest.mark.parametrize(
    "text",
    [
        r'{"name": "half \ud83d"}',
        r'{"name": "half \ude00 the other"}',
        r'{"name": "\ud83d\ud83d"}',
        r'{"more": {"\ud83d": 1}}',
        r'{"\udc00": 1}',
        '{"name": "half \ud83d"}',
        '{"\ude00": 1}',
        "\ud83d",
        'Here: {"name": "half \ud83d"}',
        r"```json" + "\n" + r'{"name": "half \ud83d"}' + "\n```",
        '{"name": "a\0b"}',
        "\0",
        '{"name": "Ann"}\0{',
    ],
    ids=ascii,
)
def test_half_characters_and_control_characters_are_a_misfit(schema: Any, text: str) -> None:
    assert isinstance(outcome(schema, text), InvalidOutput)


@pytest.mark.parametrize("schema", [Node, {"type": "object"}], ids=str)
def test_whole_characters_however_they_are_written_are_read(schema: Any) -> None:
    for written, meant in ((r"\ud83d\ude00", "😀"), (r"\u0000", "\0"), ("😀", "😀"), (r"\\ud83d", r"\ud83d")):
        value = outcome(schema, f'{{"name": "{written}"}}')
        assert (value.name if isinstance(value, Node) else value["name"]) == meant


_PIECES = st.sampled_from(
    [
        *'{}[]",:\\\n `/-.+eE0',
        '"value":', '"name":', '"amount":', '"size":', '"children":', '"more":', "null", "true", "NaN", "-Infinity",
        "1e999", "-0", "12345678901234567890.123456789", "9" * 400, '"inf"', r"\ud83d", r"\u0000", "\0", "\ud83d",
        "```json\n", "\n```", "//", "/*", "[1]", "{}", "é", "\ufeff", "\u2028",
    ]
)  # fmt: skip
_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "value", "size", "more", "a"]), inner)
    ),
    max_leaves=8,
)


@given(st.lists(_PIECES | st.text(max_size=3), max_size=20).map("".join))
def test_pieces_of_json_in_any_order(text: str) -> None:
    for schema in SCHEMAS:
        outcome(schema, text)


@given(_VALUES.map(json.dumps), st.data())
def test_json_with_something_wrong_in_it(text: str, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(text)))
    wrong = text[:place] + data.draw(_PIECES) + text[data.draw(st.integers(place, len(text))) :]
    for schema in SCHEMAS:
        outcome(schema, wrong)
        outcome(schema, f'{{"value": {wrong}}}')
