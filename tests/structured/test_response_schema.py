"""What goes out is what was written: each case is a schema feature, and what of it must stand on the wire."""

from __future__ import annotations

import enum
import json
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Annotated, Any, Literal, NotRequired, TypedDict, Union
from uuid import UUID

import jsonschema
import jsonschema.validators
import msgspec
import pytest
from annotated_types import MultipleOf
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, RootModel, computed_field

from mistill.structured import compile_schema


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Address(BaseModel):
    street: str = Field(min_length=1, max_length=80, description="with the number")
    zip: str = Field(pattern=r"^\d{5}$")


class Person(BaseModel):
    """A person."""

    model_config = ConfigDict(extra="forbid")
    full_name: str = Field(alias="fullName", examples=["Ada Lovelace"])
    age: int = Field(ge=0, lt=150)
    step: float = Field(multiple_of=0.5, gt=0)
    home: Address
    others: list[Address] = Field(default_factory=list, min_length=1, max_length=3)
    born: date
    seen: datetime | None = None
    key: UUID
    colour: Colour = Colour.RED
    level: Level
    kind: Literal["a", "b"] = "a"
    choices: str = Field(validation_alias=AliasChoices("choice", "pick"))

    @computed_field
    @property
    def shout(self) -> str:
        return self.full_name.upper()


class Cat(BaseModel):
    pet: Literal["cat"]
    meows: int


class Dog(BaseModel):
    pet: Literal["dog"]
    barks: float


class Owner(BaseModel):
    animal: Annotated[Cat | Dog, Field(discriminator="pet")]


class Tree(BaseModel):
    label: str
    children: list[Tree] = []


class Husband(BaseModel):
    wife: Wife | None = None


class Wife(BaseModel):
    husband: Husband | None = None


class Movie(TypedDict):
    title: str
    year: NotRequired[Annotated[int, Field(ge=1888)]]


@dataclass
class Point:
    x: Annotated[float, Field(le=10)]
    tags: set[str] = field(default_factory=set)


def sent(schema: Any) -> dict[str, Any]:
    """The JSON schema as a server sees it: encoded and decoded."""
    body = json.loads(msgspec.json.encode(compile_schema(schema).response_format()))
    assert body["type"] == "json_schema"
    assert body["json_schema"]["strict"] is True
    schema = body["json_schema"]["schema"]
    jsonschema.Draft202012Validator.check_schema(schema)
    return schema


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("fullName", {"title": "Fullname", "type": "string", "examples": ["Ada Lovelace"]}),
        ("age", {"exclusiveMaximum": 150, "minimum": 0, "title": "Age", "type": "integer"}),
        ("step", {"exclusiveMinimum": 0, "multipleOf": 0.5, "title": "Step", "type": "number"}),
        ("home", {"$ref": "#/$defs/Address"}),
        (
            "others",
            {
                "items": {"$ref": "#/$defs/Address"},
                "maxItems": 3,
                "minItems": 1,
                "title": "Others",
                "type": "array",
            },
        ),
        ("born", {"format": "date", "title": "Born", "type": "string"}),
        (
            "seen",
            {
                "anyOf": [{"format": "date-time", "type": "string"}, {"type": "null"}],
                "default": None,
                "title": "Seen",
            },
        ),
        ("key", {"format": "uuid", "title": "Key", "type": "string"}),
        ("colour", {"$ref": "#/$defs/Colour", "default": "red"}),
        ("level", {"$ref": "#/$defs/Level"}),
        ("kind", {"default": "a", "enum": ["a", "b"], "title": "Kind", "type": "string"}),
        ("choice", {"title": "Choice", "type": "string"}),
    ],
)
def test_every_constraint_of_a_model_goes_out(place: str, expected: dict[str, Any]) -> None:
    assert sent(Person)["properties"][place] == expected


def test_what_stands_beside_the_fields_goes_out() -> None:
    schema = sent(Person)
    assert schema["required"] == ["fullName", "age", "step", "home", "born", "key", "level", "choice"]
    assert schema["additionalProperties"] is False
    assert schema["description"] == "A person."
    assert schema["$defs"]["Address"]["properties"] == {
        "street": {
            "description": "with the number",
            "maxLength": 80,
            "minLength": 1,
            "title": "Street",
            "type": "string",
        },
        "zip": {"pattern": r"^\d{5}$", "title": "Zip", "type": "string"},
    }
    assert schema["$defs"]["Colour"]["enum"] == ["red", "blue"]
    assert schema["$defs"]["Level"]["enum"] == [1, 2]
    assert "shout" not in schema["properties"], (
        "a computed field is ours to compute, not the model's to write"
    )


def test_nothing_is_added_to_a_model() -> None:
    assert sent(Cat) == Cat.model_json_schema()
    assert "additionalProperties" not in sent(Cat)


def test_a_discriminated_union_keeps_its_discriminator() -> None:
    assert sent(Owner)["properties"]["animal"] == {
        "discriminator": {"mapping": {"cat": "#/$defs/Cat", "dog": "#/$defs/Dog"}, "propertyName": "pet"},
        "oneOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}],
        "title": "Animal",
    }


@pytest.mark.parametrize(
    ("schema", "deep", "wrong"),
    [
        (
            Tree,
            {"label": "a", "children": [{"label": "b", "children": [{"label": "c"}]}]},
            {"label": "a", "children": [1]},
        ),
        (Husband, {"wife": {"husband": {"wife": None}}}, {"wife": {"husband": {"wife": 1}}}),
    ],
)
def test_recursion_is_kept_and_an_object_stands_at_the_root(schema: Any, deep: Any, wrong: Any) -> None:
    wire = sent(schema)
    assert wire["type"] == "object"
    validator = jsonschema.Draft202012Validator(wire)
    assert validator.is_valid(deep)
    assert not validator.is_valid(wrong)


def test_a_typed_dict_and_a_dataclass_are_sent_as_objects() -> None:
    assert sent(Movie)["required"] == ["title"]
    assert sent(Movie)["properties"]["year"] == {"minimum": 1888, "title": "Year", "type": "integer"}
    assert sent(Point)["properties"]["x"] == {"maximum": 10, "title": "X", "type": "number"}
    assert sent(Point)["properties"]["tags"]["uniqueItems"] is True


@pytest.mark.parametrize(
    ("schema", "inner"),
    [
        (Colour, {"enum": ["red", "blue"], "title": "Colour", "type": "string"}),
        (Literal["yes", "no"], {"enum": ["yes", "no"], "type": "string"}),
        (list[Cat], {"items": {"$ref": "#/$defs/Cat"}, "type": "array"}),
        (Union[Cat, Dog], {"anyOf": [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]}),  # noqa: UP007
        (Annotated[int, Field(ge=1, le=5)], {"maximum": 5, "minimum": 1, "type": "integer"}),
        (Annotated[int, MultipleOf(3)], {"multipleOf": 3, "type": "integer"}),
        (str | None, {"anyOf": [{"type": "string"}, {"type": "null"}]}),
        (
            RootModel[list[int]],
            {"items": {"type": "integer"}, "title": "RootModel[list[int]]", "type": "array"},
        ),
        ({"type": "string", "maxLength": 3}, {"type": "string", "maxLength": 3}),
        ({"type": ["object", "null"]}, {"type": ["object", "null"]}),
        ({"enum": [1, {"$ref": "#/x"}]}, {"enum": [1, {"$ref": "#/x"}]}),
    ],
)
def test_a_root_that_is_no_object_goes_out_as_the_value_of_one(schema: Any, inner: dict[str, Any]) -> None:
    wire = sent(schema)
    assert wire["type"] == "object"
    assert wire["properties"] == {"value": inner}
    assert wire["required"] == ["value"]
    assert wire["additionalProperties"] is False
    assert set(wire) <= {"type", "properties", "required", "additionalProperties", "$defs"}


@pytest.mark.parametrize(
    ("schema", "good", "wrong"),
    [
        # Recursion through the root, a definition, a property and an anchor; a resource with an $id of its own.
        ({"type": "array", "items": {"$ref": "#"}}, [[], [[]]], [[1]]),
        ({"$defs": {"n": {"type": "array", "items": {"$ref": "#/$defs/n"}}}, "$ref": "#/$defs/n"}, [[]], [1]),
        ({"definitions": {"n": {"minimum": 3}}, "anyOf": [{"$ref": "#/definitions/n"}], "type": "integer"}, 3, 2),
        ({"prefixItems": [{"type": "integer"}, {"$ref": "#/prefixItems/0"}], "type": "array"}, [1, 2], [1, "a"]),
        ({"type": "array", "items": {"properties": {"$ref": {"$ref": "#/items/properties/b"}, "b": {"const": 1}}}},
         [{"$ref": 1}], [{"$ref": 2}]),
        ({"type": "array", "$anchor": "me", "items": {"$ref": "#me"}}, [[]], [1]),
        ({"$id": "urn:nested", "type": "array", "items": {"$ref": "#"}}, [[]], [1]),
        ({"type": "array", "items": {"not": {"$ref": "#/$defs/s"}}, "$defs": {"s": {"type": "string"}}}, [1], ["a"]),
        ({"type": "integer", "if": {"minimum": 5}, "then": {"$ref": "#/$defs/even"},
          "$defs": {"even": {"multipleOf": 2}}}, 6, 7),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "array", "items": [{"$ref": "#/definitions/a"}],
          "definitions": {"a": {"const": "#/definitions/a"}}}, ["#/definitions/a"], ["b"]),
    ],
)  # fmt: skip
def test_references_still_resolve_in_a_wrapped_schema(schema: Any, good: Any, wrong: Any) -> None:
    wire = sent_any_draft(schema)
    validator = jsonschema.validators.validator_for(wire)(wire)
    assert validator.is_valid({"value": good})
    assert not validator.is_valid({"value": wrong})
    assert not validator.is_valid(good)
    assert compile_schema(schema).parse(json.dumps({"value": good})) == good


def sent_any_draft(schema: Any) -> dict[str, Any]:
    return json.loads(msgspec.json.encode(compile_schema(schema).wire_schema))


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"enum": [1, "x", None]}}, "required": ["a"]},
        {"properties": {"a": {}}, "x-mine": {"kept": [True]}},
        {"type": "object", "patternProperties": {"^s_": {"type": "string"}}, "propertyNames": {"maxLength": 9}},
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "properties": {"me": {"$ref": "#/$defs/a"}}}}},
        {"allOf": [{"type": "object"}, {"required": ["a"]}]},
        {"type": "object", "properties": {"d": {"type": "string", "format": "date"}, "$ref": {"const": 1}}},
        {"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}, "unevaluatedProperties": False},
    ],
)  # fmt: skip
def test_a_json_schema_with_an_object_root_goes_out_as_it_is(schema: dict[str, Any]) -> None:
    assert sent(schema) == schema
    assert sent(json.dumps(schema)) == schema
    assert list(sent(schema)) == list(schema), "the order of keys is the order in which a model writes"


@pytest.mark.parametrize(
    ("schema", "name"),
    [
        (Person, "Person"),
        (RootModel[list[int]], "RootModel_list_int"),
        ({"title": "Ein Tier, groß"}, "Ein_Tier_gro"),
        ({"title": "x" * 99}, "x" * 64),
        ({"title": "…"}, "output"),
        (list[int], "output"),
    ],
)
def test_the_name_is_one_that_the_api_takes(schema: Any, name: str) -> None:
    format_ = compile_schema(schema).response_format().json_schema
    assert format_ is not None
    assert format_.name == name


A = {"$ref": "#/$defs/a"}
B = {"$ref": "#/$defs/b"}
OBJECT = {"type": "object", "properties": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "is_object"),
    [
        ({"allOf": [A], "$defs": {"a": {"allOf": [A]}}}, False),
        ({"allOf": [A], "$defs": {"a": {"allOf": [B]}, "b": {"allOf": [A, B]}}}, False),
        ({**A, "$defs": {"a": A}}, False),
        ({**A, "$defs": {"a": {"allOf": [A, OBJECT]}}}, True),
        ({"allOf": [A, B], "$defs": {"a": {"allOf": [B]}, "b": {"allOf": [A, OBJECT]}}}, True),
        ({"allOf": [{"$ref": "#"}], "$defs": {}}, False),
        ({"allOf": [{"allOf": [A]}], "definitions": {}, "$defs": {"a": OBJECT}}, True),
        ({"allOf": [{"allOf": [A]}], "$defs": {"a": {"type": "string"}}}, False),
    ],
)
def test_a_schema_that_refers_to_itself_has_a_root_or_none(schema: dict[str, Any], is_object: bool) -> None:
    assert compile_schema(schema).is_wrapped is not is_object
