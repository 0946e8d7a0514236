"""What columns a schema has: whatever way it says what its objects are."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NotRequired, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import AliasChoices, AliasPath, BaseModel, Field, RootModel, computed_field, model_serializer

from mistill.errors import AnswerWithoutFields, InputError
from mistill.records.flattening import FlatFields
from mistill.structured.object_fields import SchemaFields
from mistill.structured.schema import compile_schema

NAME = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
SIZE = {"type": "object", "properties": {"size": {"type": "integer"}}, "required": ["size"]}


def columns_of(schema: Any, answer: Any, *, deep: bool = False) -> dict[str, Any]:
    compiled = compile_schema(schema)
    parsed = compiled.read(json.dumps(answer))
    fields = FlatFields(compiled, deep=deep).read(parsed.value, parsed.text)
    return json.loads(msgspec.json.encode(fields))


@pytest.mark.parametrize(
    ("schema", "answer", "columns"),
    [
        ({"$ref": "#/$defs/N", "$defs": {"N": NAME}}, {"name": "a"}, {"name": "a"}),
        ({"$ref": "#/$defs/a%20b", "$defs": {"a b": NAME}}, {"name": "a"}, {"name": "a"}),
        ({"$ref": "#/allOf/0", "allOf": [NAME]}, {"name": "a"}, {"name": "a"}),
        ({"allOf": [NAME, SIZE]}, {"name": "a", "size": 1}, {"name": "a", "size": 1}),
        ({"allOf": [{"$ref": "#"}, SIZE]}, {"size": 1}, {"size": 1}),
        ({"anyOf": [NAME, SIZE]}, {"size": 1}, {"name": None, "size": 1}),
        ({"$ref": "#n", "$defs": {"N": {**NAME, "$anchor": "n"}}}, {"name": "a"}, {"name": "a"}),
        (
            {"$dynamicRef": "#n", "$defs": {"N": {**NAME, "$dynamicAnchor": "n"}}},
            {"name": "a"},
            {"name": "a"},
        ),
        (
            {
                "$schema": "http://json-schema.org/draft-07/schema#",
                "allOf": [{"$ref": "#n"}],
                "definitions": {"N": {**NAME, "$id": "#n"}},
            },
            {"name": "a"},
            {"name": "a"},
        ),
        (
            {
                "$id": "https://x.example/a",
                "$ref": "n#/$defs/s",
                "$defs": {"N": {"$id": "n", "$defs": {"s": {"$ref": "#/$defs/t"}, "t": SIZE}}},
            },
            {"size": 1},
            {"size": 1},
        ),
        ({"oneOf": [NAME, SIZE, {"type": "null"}]}, {"name": "a"}, {"name": "a", "size": None}),
        ({"oneOf": [NAME, {"type": "null"}]}, None, {"name": None}),
        ({"anyOf": [NAME, {"type": "string"}]}, {"name": "a"}, {"name": "a"}),
        (
            {**NAME, "if": {"required": ["size"]}, "then": SIZE, "else": {"properties": {"why": {}}}},
            {"name": "a", "why": 1},
            {"name": "a", "size": None, "why": 1},
        ),
        ({**NAME, "dependentSchemas": {"name": SIZE}}, {"name": "a", "size": 1}, {"name": "a", "size": 1}),
        ({**NAME, "additionalProperties": {}}, {"name": "a", "more": 1}, {"name": "a", "more": 1}),
        (
            {**NAME, "patternProperties": {"^x": {}}, "additionalProperties": False},
            {"name": "a", "x": 1},
            {"name": "a", "x": 1},
        ),
    ],
)
def test_a_json_schema_has_the_columns_of_all_its_objects(
    schema: Any, answer: Any, columns: dict[str, Any]
) -> None:
    assert columns_of(schema, answer) == columns


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "array"},
        {"type": "object", "additionalProperties": {"type": "integer"}},
        {"$ref": "#"},
        {"anyOf": [{"type": "string"}, {"type": "array", "items": NAME}]},
        list[int],
        dict[str, int],
    ],
)
def test_what_has_no_known_fields_is_refused(schema: Any) -> None:
    with pytest.raises(InputError, match="objects with known fields"):
        FlatFields(compile_schema(schema))


class Box(BaseModel):
    width: int
    height: int

    @computed_field
    @property
    def area(self) -> int:
        return self.width * self.height

    @computed_field(alias="Edge")
    @property
    def edge(self) -> int:
        return 2 * (self.width + self.height)


class Ways(BaseModel):
    first: int = Field(validation_alias=AliasPath("all", 0))
    last: int = Field(
        9, validation_alias=AliasChoices("end", AliasPath("all", 1)), serialization_alias="Last"
    )


class Circle(BaseModel):
    kind: Literal["circle"] = "circle"
    radius: int = Field(serialization_alias="Size")


class Text(BaseModel):
    kind: Literal["text"] = "text"
    Size: str


class AsText(Circle):
    @model_serializer
    def write(self) -> str:
        return "a circle"


class Shape(RootModel[Annotated[Circle | Text, Field(discriminator="kind")]]):
    pass


class Named(TypedDict):
    name: str


class Sized(TypedDict):
    size: NotRequired[int]


@dataclass
class Pair:
    a: int
    b: int = 2


class Holder(BaseModel):
    box: Box
    shape: Circle | Text


@pytest.mark.parametrize(
    ("schema", "answer", "columns"),
    [
        (Box, {"width": 2, "height": 3}, {"width": 2, "height": 3, "area": 6, "Edge": 10}),
        (Ways, {"all": [4]}, {"first": 4, "end": 9}),
        (Ways, {"all": [4, 5]}, {"first": 4, "end": 5}),
        (Ways, {"all": [4], "end": 6}, {"first": 4, "end": 6}),
        # One field is dumped under the name of the other class's.
        (Circle | Text, {"kind": "circle", "radius": 1}, {"kind": "circle", "radius": 1, "Size": None}),
        (Circle | Text, {"kind": "text", "Size": "s"}, {"kind": "text", "radius": None, "Size": "s"}),
        (Shape, {"kind": "text", "Size": "s"}, {"kind": "text", "radius": None, "Size": "s"}),
        (RootModel[Circle], {"radius": 1}, {"kind": "circle", "radius": 1}),
        (AsText, {"radius": 1}, {"kind": "circle", "radius": 1}),
        (Pair | None, {"a": 1}, {"a": 1, "b": 2}),
        (Pair | None, None, {"a": None, "b": None}),
        (Named | Sized, {"name": "a"}, {"name": "a", "size": None}),
        (Named | Sized, {"size": 1}, {"name": None, "size": 1}),
    ],
)
def test_a_python_type_has_the_columns_of_all_its_classes(
    schema: Any, answer: Any, columns: dict[str, Any]
) -> None:
    assert columns_of(schema, answer) == columns


def test_deep_knows_the_same_of_inner_objects() -> None:
    answer = {"box": {"width": 1, "height": 2}, "shape": {"kind": "circle", "radius": 1}}
    assert columns_of(Holder, answer, deep=True) == {
        "box.width": 1, "box.height": 2, "box.area": 2, "box.Edge": 6, "shape.kind": "circle", "shape.Size": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("schema", "answer"),
    [
        ({"anyOf": [NAME, {"type": "string"}]}, "x"),
        (Box | int, 5),
        ({**NAME, "type": ["object", "array"]}, []),
    ],
)
def test_an_answer_that_is_no_object_has_no_fields(schema: Any, answer: Any) -> None:
    with pytest.raises(AnswerWithoutFields):
        columns_of(schema, answer)


WRAPPERS = st.lists(st.sampled_from(["$ref", "allOf", "anyOf", "oneOf", "null"]), max_size=5)


@given(WRAPPERS)
def test_no_way_of_saying_it_changes_the_columns(wrappers: list[str]) -> None:
    schema: dict[str, Any] = NAME
    for level, wrapper in enumerate(wrappers):
        if wrapper == "$ref":
            schema = {"$ref": f"#/$defs/{level}", "$defs": {**schema.get("$defs", {}), str(level): schema}}
        elif wrapper == "null":
            schema = {"anyOf": [{"type": "null"}, schema], "$defs": schema.get("$defs", {})}
        else:
            schema = {wrapper: [schema], "$defs": schema.get("$defs", {})}
    assert columns_of(schema, {"name": "a"}) == {"name": "a"}


def chained(levels: int, link: Callable[[dict[str, Any]], dict[str, Any]]) -> dict[str, Any]:
    definitions: dict[str, Any] = {f"d{n}": link({"$ref": f"#/$defs/d{n + 1}"}) for n in range(levels)}
    return {"$ref": "#/$defs/d0", "$defs": definitions | {f"d{levels}": NAME}}


@pytest.mark.parametrize(
    "schema",
    [
        chained(2_000, lambda link: link),
        chained(300, lambda link: {"anyOf": [link, link]}),
        chained(
            300, lambda link: {"oneOf": [link, {"allOf": [link, link]}], "anyOf": [link, {"type": "null"}]}
        ),
    ],
)
def test_a_part_is_read_once_however_many_ways_lead_to_it(schema: dict[str, Any]) -> None:
    fields = SchemaFields(schema).fields()
    assert (list(fields.schemas), fields.always) == (["name"], True)


def clique(size: int) -> dict[str, Any]:
    """Objects that each have a field for each of the others."""
    definitions = {
        f"c{n}": {"type": "object", "properties": {f"f{m}": {"$ref": f"#/$defs/c{m}"} for m in range(size)}}
        for n in range(size)
    }
    return {"$ref": "#/$defs/c0", "$defs": definitions}


def test_deep_has_a_bound() -> None:
    nested = chained(100, lambda link: {"type": "object", "properties": {"in": link}})
    with pytest.raises(InputError, match="'in' has objects in objects, more than 50 deep"):
        SchemaFields(nested).names()
    with pytest.raises(InputError, match=r"'f1' and other objects .* more than 2,000 columns"):
        FlatFields(compile_schema(clique(8)), deep=True)
    assert len(FlatFields(compile_schema(clique(4)), deep=True).names) < 100
