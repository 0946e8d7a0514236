"""Sampled instances fit their schemas, as an independent validator sees it."""

from __future__ import annotations

import datetime
import enum
import ipaddress
import json
import random
import re
import uuid
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from annotated_types import Len
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AnyUrl, BaseModel, ConfigDict, Field

from mistill.simulator.patterns import NoMatch, sample_match
from mistill.simulator.sampler import MAX_ITEMS, MAX_LENGTH, sample
from mistill.simulator.schema_merge import Unsatisfiable

_Validator = jsonschema.Draft202012Validator

SCHEMAS: dict[str, Any] = {
    "anything": True,
    "empty": {},
    "const": {"const": {"a": [1, None]}},
    "enum": {"enum": ["a", 1, None, True]},
    "enum of a type": {"type": "integer", "enum": ["a", 1, True]},
    "nullable": {"type": ["string", "null"]},
    "range": {"type": "integer", "minimum": 3, "maximum": 5},
    "exclusive range": {"type": "integer", "exclusiveMinimum": 3, "exclusiveMaximum": 5},
    "narrow number": {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-9},
    "only a maximum": {"type": "integer", "maximum": -5},
    "float bounds of an integer": {"type": "integer", "minimum": 0.5, "maximum": 1.5},
    "multiple": {"type": "integer", "multipleOf": 7, "minimum": 8},
    "float multiple": {"type": "number", "multipleOf": 0.01, "minimum": 0, "maximum": 1},
    "lengths": {"type": "string", "minLength": 40, "maxLength": 41},
    "one character": {"type": "string", "maxLength": 1},
    "no character": {"type": "string", "maxLength": 0},
    "pattern": {"type": "string", "pattern": "^[A-Z]{2}-\\d{3}(?:-[a-f]+)?$"},
    "pattern in between": {"type": "string", "pattern": "[0-9]x", "minLength": 12, "maxLength": 14},
    "array": {"type": "array", "items": {"type": "boolean"}, "minItems": 4, "maxItems": 4},
    "no items": {"type": "array", "maxItems": 0},
    "unique": {
        "type": "array",
        "items": {"type": "integer", "minimum": 1, "maximum": 4},
        "uniqueItems": True,
        "minItems": 4,
    },
    "tuple": {
        "type": "array",
        "prefixItems": [{"type": "string"}, {"type": "null"}],
        "items": False,
        "minItems": 2,
    },
    "closed object": {"type": "object", "properties": {"a": {"type": "null"}}, "additionalProperties": False},
    "required without a schema": {"type": "object", "required": ["a", "b"], "properties": {"a": {}}},
    "mapping": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 4},
    "named mapping": {
        "type": "object",
        "patternProperties": {"^x-": {"type": "null"}},
        "additionalProperties": False,
        "minProperties": 2,
    },
    "property names": {"type": "object", "propertyNames": {"pattern": "^[a-z]{3}$"}, "minProperties": 2},
    "allOf": {"allOf": [{"type": "number", "minimum": 3}, {"type": "integer", "maximum": 4}]},
    "allOf objects": {
        "allOf": [
            {"type": "object", "properties": {"a": {"type": "integer", "minimum": 2}}, "required": ["a"]},
            {"properties": {"a": {"maximum": 3}, "b": {"const": 1}}, "required": ["b"]},
        ]
    },
    "anyOf beside keywords": {"type": "integer", "anyOf": [{"minimum": 5, "maximum": 6}, {"type": "string"}]},
    "oneOf": {"oneOf": [{"type": "string", "maxLength": 3}, {"type": "object", "required": ["a"]}]},
    "nested choice": {"anyOf": [{"oneOf": [{"const": 1}, {"const": 2}]}, {"anyOf": [{"const": 3}]}]},
    "reference": {"$ref": "#/$defs/a~1b", "$defs": {"a/b": {"type": "integer", "maximum": 0}}},
    "reference with company": {
        "$ref": "#/$defs/a",
        "minimum": 9,
        "$defs": {"a": {"type": "integer", "maximum": 9}},
    },
    "recursion to the root": {
        "type": "object",
        "properties": {"next": {"$ref": "#"}, "id": {"type": "integer"}},
        "required": ["id"],
    },
    "recursion with a way out": {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "left": {"anyOf": [{"$ref": "#/$defs/tree"}, {"type": "null"}]},
                    "right": {"anyOf": [{"$ref": "#/$defs/tree"}, {"const": "leaf"}]},
                },
                "required": ["left", "right"],
                "additionalProperties": False,
            }
        },
    },
    **{
        f"format {name}": {"type": "string", "format": name}
        for name in (
            "date",
            "date-time",
            "time",
            "duration",
            "email",
            "uuid",
            "uri",
            "hostname",
            "ipv4",
            "ipv6",
            "regex",
        )
    },
}


OF_DRAFT_7: dict[str, Any] = {
    "tuple": {"type": "array", "items": [{"type": "string"}, {"type": "null"}], "minItems": 2},
    "closed tuple": {"items": [{"type": "integer"}], "additionalItems": False, "minItems": 1},
    "tuple and more": {"items": [{"const": 1}], "additionalItems": {"const": 2}, "minItems": 4},
    "whole numbers as floats": {"type": "string", "minLength": 1.0, "maxLength": 2.0},
    "so many items as floats": {"type": "array", "minItems": 2.0, "maxItems": 3.0},
    "definitions": {
        "definitions": {"a": {"type": "null"}},
        "type": "array",
        "items": {"$ref": "#/definitions/a"},
    },
}


@pytest.mark.parametrize("schema", OF_DRAFT_7.values(), ids=OF_DRAFT_7.keys())
def test_instances_fit_schemas_of_draft_7(schema: Any) -> None:
    for seed in range(40):
        jsonschema.Draft7Validator(schema).validate(sample(schema, random.Random(seed)))


@pytest.mark.parametrize("schema", SCHEMAS.values(), ids=SCHEMAS.keys())
def test_instances_fit_the_schema(schema: Any) -> None:
    validator = _Validator(schema, format_checker=_Validator.FORMAT_CHECKER)
    for seed in range(40):
        validator.validate(sample(schema, random.Random(seed)))


@pytest.mark.parametrize(
    "schema",
    [
        False,
        {"type": "integer", "minimum": 3, "maximum": 2},
        {"type": "string", "minLength": 3, "maxLength": 2},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"allOf": [{"const": 1}, {"const": 2}]},
        {"type": "string", "enum": [1, 2]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "array", "items": {"const": 1}, "uniqueItems": True, "minItems": 2},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]},
        {"$ref": "#/$defs/missing"},
        {"$ref": "https://example.com/schema"},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "a(?!a)a"},
        {"type": "thing"},
        {"anyOf": []},
    ],
)
def test_what_has_no_instance_is_said_to_have_none(schema: Any) -> None:
    with pytest.raises(Unsatisfiable):
        sample(schema, random.Random(0))


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=1, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: str


class Node(BaseModel):
    model_config = ConfigDict(extra="forbid")
    value: int
    children: list[Node] = []
    parent: Node | None = None


class Everything(BaseModel):
    colour: Colour
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    tree: Node
    code: str = Field(pattern=r"^[A-Z]{3}-\d{4}$")
    postcode: Annotated[str, Field(pattern=r"^\d{5}(-\d{4})?$", max_length=5)]
    share: float = Field(gt=0, lt=1)
    four: int = Field(gt=3, lt=5)
    day: datetime.date
    moment: datetime.datetime
    time: datetime.time
    id: uuid.UUID
    address: ipaddress.IPv4Address
    took: datetime.timedelta
    triple: tuple[int, str, bool]
    numbers: set[int]
    counts: dict[str, int]
    note: str | None
    few: Annotated[list[str], Len(2, 4)]
    long: str = Field(min_length=30, max_length=40)
    site: AnyUrl
    literal: Literal[1, "a", True] | None


@given(st.integers())
def test_pydantic_takes_what_is_sampled_from_its_schema(seed: int) -> None:
    Everything.model_validate_json(json.dumps(sample(Everything.model_json_schema(), random.Random(seed))))


scalars = st.sampled_from(
    [
        {"type": "boolean"},
        {"type": "null"},
        {"type": "string", "minLength": 2},
        {"type": "integer", "minimum": -2, "maximum": 2},
        {"type": "number", "exclusiveMinimum": 0},
        {"enum": ["a", 2]},
        {"type": "string", "pattern": "^[a-z]+\\.[a-z]{2,3}$"},
    ]
)


def _containers(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    properties = st.dictionaries(st.sampled_from("abcd"), inner, max_size=3)
    return st.one_of(
        st.builds(
            lambda items, low: {"type": "array", "items": items, "minItems": low}, inner, st.integers(0, 2)
        ),
        st.builds(lambda first, second: {"anyOf": [first, second]}, inner, inner),
        st.builds(
            lambda fields, closed: {
                "type": "object",
                "properties": fields,
                "required": sorted(fields)[:2],
                "additionalProperties": not closed,
            },
            properties,
            st.booleans(),
        ),
    )


@given(st.recursive(scalars, _containers, max_leaves=8), st.integers(0, 2**32))
def test_instances_fit_generated_schemas(schema: Any, seed: int) -> None:
    _Validator(schema).validate(sample(schema, random.Random(seed)))


@pytest.mark.parametrize(
    "pattern",
    [
        r"^a+b*c?$",
        r"^(foo|bar)\1$",
        r"[^\w\s]{3}",
        r"^.{5}$",
        r"^\S+@\S+\.[a-z]{2,}$",
        r"^(?=.*\d)[a-z\d]{4}$",
        r"^(?!0)\d{3}$",
        r"^[^a-z]$",
        r"^\u0041\.\-$",
        r"^(?:[0-9a-f]{2}:){5}[0-9a-f]{2}$",
        r"",
    ],
)
def test_sampled_strings_match_their_pattern(pattern: str) -> None:
    for seed in range(30):
        assert re.search(pattern, sample_match(pattern, random.Random(seed)))


def test_a_pattern_that_nothing_matches_is_an_error() -> None:
    with pytest.raises(NoMatch):
        sample_match(r"^a\bb$", random.Random(0))


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": []},
        {"type": "object", "required": 5},
        {"enum": 5},
        {"type": "integer", "multipleOf": 0},
        {"type": "integer", "minimum": "x"},
        {"type": "integer", "minimum": float("inf")},
        {"type": "string", "minLength": "a"},
        {"type": "string", "pattern": 5},
        {"$ref": 5},
        {"allOf": 5},
        {"anyOf": {}},
        {"type": "array", "items": 5, "minItems": 1},
    ],
)
def test_what_is_no_schema_has_no_instance(schema: Any) -> None:
    with pytest.raises(Unsatisfiable):
        sample(schema, random.Random(0))


LISTS_OF_900 = {"type": "array", "minItems": 900}


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "string", "minLength": 10**9},
        {"type": "string", "minLength": 1e300},
        {"type": "string", "pattern": "a{999999999}"},
        {"type": "string", "pattern": "(a{5000}){5000}"},
        {"type": "array", "minItems": 10**9},
        {"type": "object", "minProperties": 10**9},
        LISTS_OF_900 | {"items": LISTS_OF_900 | {"items": LISTS_OF_900}},
    ],
)
def test_what_no_answer_could_hold_is_not_made_up(schema: Any) -> None:
    with pytest.raises(Unsatisfiable):
        sample(schema, random.Random(0))


def test_long_strings_and_open_lists_have_a_bound() -> None:
    assert len(sample({"type": "string", "minLength": MAX_LENGTH}, random.Random(0))) >= MAX_LENGTH
    assert len(sample({"type": "array", "maxItems": 10**9}, random.Random(0))) <= MAX_ITEMS
