"""What the grammar holds: every kind of constraint, on the running model, at a temperature that breaks things."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date, datetime
from enum import Enum
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from mistill.api.grammar import llguidance_grammar

Post = Callable[..., tuple[int, str]]


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Patterns(BaseModel):
    code: Annotated[str, Field(pattern=r"^[A-Z]{2}-\d{3}$")]
    short: Annotated[str, Field(pattern="^[a-z]+$", max_length=4)]


class Ranges(BaseModel):
    adult: Annotated[int, Field(ge=18, lt=120)]
    large: Annotated[int, Field(ge=1000)]
    share: Annotated[float, Field(ge=0, le=1)]
    weeks: Annotated[int, Field(multiple_of=7, ge=0)]


class Inner(BaseModel):
    colour: Colour


class Middle(BaseModel):
    inners: Annotated[list[Inner], Field(min_length=1, max_length=2)]


class Nested(BaseModel):
    middle: Middle


class Tree(BaseModel):
    size: Annotated[int, Field(ge=0, le=9)]
    children: Annotated[list[Tree], Field(max_length=2)]


class Linked(BaseModel):
    value: bool
    next: Linked | None


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    good: bool


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    note: int | Literal["none"] | None


class Dates(BaseModel):
    day: date
    moment: datetime


class Open(BaseModel):
    """Nothing here says where to end."""

    count: int
    price: float
    tags: list[Colour]


CASES: list[Any] = [Colour, Patterns, Ranges, Nested, Tree, Linked, Owner, Dates, Open, list[Inner]]


@pytest.mark.parametrize("type_", CASES, ids=lambda type_: getattr(type_, "__name__", str(type_)))
def test_five_of_five_answers_fit_the_schema(post: Post, type_: Any) -> None:
    adapter = TypeAdapter[Any](type_)
    body = {
        "messages": [{"role": "user", "content": "Write one as JSON, with realistic values."}],
        "grammar": llguidance_grammar(adapter.json_schema()),
        "max_tokens": 400,
        "temperature": 1.2,
        "seed": 1,
        "n": 5,
    }
    status, text = post(body)
    assert status == 200, text
    choices = json.loads(text)["choices"]
    assert [choice["finish_reason"] for choice in choices] == ["stop"] * 5
    for choice in choices:
        adapter.validate_json(choice["message"]["content"])


def test_response_format_as_mistral_has_it_gives_json(post: Post) -> None:
    schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema, "strict": True}}
    status, text = post({"messages": [{"role": "user", "content": "Go"}], "response_format": form})
    assert status == 200
    assert json.loads(json.loads(text)["choices"][0]["message"]["content"])["a"] in {"x", "y"}


def closed(schema: dict[str, Any]) -> dict[str, Any]:
    head, start, body = llguidance_grammar(schema).partition("start: %json ")
    assert (head, start) == ("%llguidance {}\n", "start: %json ")
    found: dict[str, Any] = json.loads(body)
    assert found.pop("x-guidance") == {"lenient": True, "whitespace_flexible": False}
    return found


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": ["a", 1, None]},
        {"const": {"a": 1}},
        {"type": "string", "minLength": 2, "maxLength": 3},
        {"type": "string", "format": "date"},
        {"type": "string", "pattern": r"^\d+$", "maxLength": 4},
        {"type": "integer", "minimum": 1, "maximum": 3},
        {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 0.1},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 1, "maxItems": 20},
        {"type": "array", "prefixItems": [{"type": "boolean"}], "maxItems": 1},
        {"anyOf": [{"type": "boolean"}, {"type": "null"}]},
        {"allOf": [{"type": "string"}, {"minLength": 300}]},
        {},
    ],
)
def test_what_is_closed_already_stays_as_it_is(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


@pytest.mark.parametrize("pattern", [r"^(?!x)[a-z]+$", r"(?=a)", r"(?<=a)b", r"(?<!a)b", r"^(a)\1$"])
def test_a_pattern_that_would_cost_the_whole_constraint_is_left_to_validation(pattern: str) -> None:
    assert "pattern" not in closed({"type": "string", "pattern": pattern, "maxLength": 3})


def test_keywords_that_it_does_not_know_are_left_to_validation() -> None:
    schema = {
        "type": "array",
        "items": {"type": "boolean"},
        "maxItems": 3,
        "uniqueItems": True,
        "contains": {"const": True},
    }
    assert closed(schema) == {"type": "array", "items": {"type": "boolean"}, "maxItems": 3}


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    schema = {"type": "object", "properties": {"pattern": {"type": "boolean"}, "$ref": {"type": "null"}}}
    assert closed(schema) == {**schema, "additionalProperties": False}


def test_what_is_open_is_narrowed_within_what_the_schema_says() -> None:
    assert closed({"type": "string", "minLength": 500}) == {
        "type": "string",
        "minLength": 500,
        "maxLength": 500,
    }
    assert closed({"type": "array", "minItems": 99})["maxItems"] == 99
    lone = closed({"type": "integer", "minimum": 10**12})
    assert lone["maximum"] > lone["minimum"] == 10**12
    lone = closed({"type": "integer", "exclusiveMaximum": -(10**12)})
    assert lone["minimum"] < lone["exclusiveMaximum"]


def test_a_recursion_ends_where_the_schema_lets_it() -> None:
    linked = {
        "$ref": "#/$defs/N",
        "$defs": {
            "N": {
                "type": "object",
                "properties": {"next": {"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}},
                "required": ["next"],
            }
        },
    }
    text = json.dumps(closed(linked))
    assert "$ref" not in text
    assert text.count('"next": {') == 3
    assert '"next": {"anyOf": [{"type": "null"}]}' in text


def test_a_schema_too_wide_to_write_out_is_sent_as_it_is() -> None:
    names = [f"D{i}" for i in range(12)]
    every = {name: {"$ref": f"#/$defs/{name}"} for name in names}
    schema = {
        "$ref": "#/$defs/D0",
        "$defs": {name: {"type": "object", "properties": every} for name in names},
    }
    assert closed(schema) == schema


def test_a_reference_out_of_the_document_is_left_open() -> None:
    assert closed({"$ref": "https://example.com/x.json"}) == {}
    assert closed({"type": "object", "properties": {"a": {"$ref": "#/$defs/Missing"}}})["properties"] == {
        "a": True
    }
