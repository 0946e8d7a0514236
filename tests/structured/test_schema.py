"""Compiling and reading: typed values, the paths of mistakes, and what is refused."""

from __future__ import annotations

import copy
import enum
import json
import pickle
import string
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal, TypedDict

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, RootModel, TypeAdapter, create_model, field_validator

from mistill.errors import InputError, InvalidOutput
from mistill.structured import OutputSchema, Parsed, compile_schema, read_answer


class User(BaseModel):
    name: str
    last_name: str
    id: int


class Colour(enum.Enum):
    RED = "red"


class Cat(BaseModel):
    pet: Literal["cat"]
    meows: int


class Dog(BaseModel):
    pet: Literal["dog"]
    barks: int


class Home(BaseModel):
    pets: list[Annotated[Cat | Dog, Field(discriminator="pet")]]
    number: int | str | None = None
    by_name: dict[str, int] = {}


class Movie(TypedDict):
    title: str


@dataclass
class Point:
    x: int


# --- values ----------------------------------------


@pytest.mark.parametrize(
    ("schema", "text", "value", "answer"),
    [
        (User, '{"name":"A","last_name":"B","id":7}', User(name="A", last_name="B", id=7), None),
        (Point, '{"x":1}', Point(1), None),
        (Movie, '{"title":"M"}', {"title": "M"}, None),
        (Colour, '{"value": "red"}', Colour.RED, '"red"'),
        (list[Point], '{"value" : [ {"x": 1.0e0} ] }', [Point(1)], '[ {"x": 1.0e0} ]'),
        (int | None, '{"value":null}', None, "null"),
        (Decimal, '{"value": 0.10}', Decimal("0.10"), "0.10"),
        (date, '{"value":"2026-08-01"}', date(2026, 8, 1), '"2026-08-01"'),
        (dict[str, int], '{"value": 3}', {"value": 3}, None),
        (
            {"type": "object"},
            ' {"a": 123456789012345678901234567890}\n',
            {"a": 123456789012345678901234567890},
            None,
        ),
        ({"type": "array"}, '{"value":[1.50]}', [1.5], "[1.50]"),
    ],
)
def test_an_answer_becomes_the_value_and_keeps_its_text(
    schema: Any, text: str, value: Any, answer: str | None
) -> None:
    parsed = compile_schema(schema).read(text)
    assert parsed.value == value
    assert type(parsed.value) is type(value)
    assert parsed.text == (text if answer is None else answer), (
        "numbers and spaces stay as the model wrote them"
    )


@pytest.mark.parametrize(
    ("schema", "text"), [(list[int], "[1]"), (Colour, '"red"'), (dict[str, int] | int, '{"a": 1}')]
)
def test_an_answer_without_its_wrapper_is_understood(schema: Any, text: str) -> None:
    parsed = compile_schema(schema).read(text)
    assert parsed.text == text
    assert parsed.value == TypeAdapter(schema).validate_json(text)


def test_a_wrapper_comes_before_a_value_that_looks_like_one() -> None:
    schema = compile_schema(dict[str, int] | int)
    assert schema.parse('{"value": 3}') == 3
    assert schema.parse('{"value": {"value": 3}}') == {"value": 3}


# --- the wrapper: what was asked for in it is read in it ----------------------------------------


class Person(BaseModel):
    """Fits every object: so the wrapper of a wrong person would fit too."""

    name: str | None = None
    age: int | None = Field(default=None, ge=0)


class Age(BaseModel):
    age: int = 0


class Years(BaseModel):
    years: float = 0.5


class Options(TypedDict, total=False):
    age: int


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    age: int = 0


AGED = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}}


@pytest.mark.parametrize(
    ("schema", "wrong"),
    [
        (Person | None, {"age": "forty"}),
        (Person | None, [1]),
        (Age | Years, {"age": "forty", "years": "many"}),
        (Open | str, {"age": "forty"}),
        (Options | None, {"age": "forty"}),
        (dict[str, Any] | list[int], "no"),
        (Person | list[Person], [{"age": -1}]),
        (RootModel[Person | None], {"age": -1}),
        ({"anyOf": [AGED, {"type": "null"}]}, {"age": "forty"}),
        ({"oneOf": [AGED, {"type": "string", "minLength": 9}]}, {"age": -1}),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [AGED]}}}, {"age": -1}),
        ({"patternProperties": {"^a": {"type": "integer"}}}, {"age": "forty"}),
        ({"not": {"required": ["age"]}}, {"age": 1}),
        ({"if": AGED, "then": {"required": ["name"]}}, {"age": 1}),
        ({"enum": [{}, {"value": 1}]}, 2),
        ({"type": ["object", "null"], "additionalProperties": {"type": "object"}}, {"age": 3}),
    ],
)
def test_a_misfit_in_the_wrapper_is_never_read_as_the_value_itself(schema: Any, wrong: Any) -> None:
    compiled = compile_schema(schema)
    assert compiled.is_wrapped
    for text in (
        json.dumps({"value": wrong}),
        json.dumps({"value": wrong}, indent=2),
        f"```json\n{json.dumps({'value': wrong})}\n```",
        f"Here: {json.dumps({'value': wrong})}",
        json.dumps({"value": wrong, "why": "so"}),
        json.dumps({"why": "so", "value": wrong}),
        json.dumps({"value": wrong}).replace('"value"', '"v\\u0061lue"'),
        json.dumps({"value": wrong})[:-1],
    ):
        with pytest.raises(InvalidOutput):
            read_answer(compiled, text)


@pytest.mark.parametrize(
    ("schema", "text", "value"),
    [
        (Person | None, '{"age": 3}', Person(age=3)),
        (Person | None, "{}", Person()),
        (Person | None, "null", None),
        (Age | Years, '{"years": 3}', Years(years=3)),
        (list[int], "[1]", [1]),
        ({"anyOf": [AGED, {"type": "null"}]}, '{"age": 3}', {"age": 3}),
    ],
)
def test_a_value_without_its_wrapper_is_read_where_the_wrapper_cannot_be_meant(
    schema: Any, text: str, value: Any
) -> None:
    assert compile_schema(schema).read(text) == Parsed(value, text)
    with pytest.raises(InvalidOutput):
        compile_schema(schema).read(text, bare=False)


def test_beside_the_value_nothing_else_may_stand() -> None:
    for text in ('{"value": 3, "why": "so"}', '{"why": "so", "value": 3}'):
        with pytest.raises(InvalidOutput, match=r"\$: Object contains unknown field `why`"):
            compile_schema(dict[str, int] | int).parse(text)


@pytest.mark.parametrize(
    "text",
    ['{"items": [1', '{"items": [1] oops', '{"value": 1', '{"value": 1}}', "[1", '{"\\ud800": 1}', "{1}"],
)
def test_what_is_no_json_is_called_so_in_the_wrapper_too(text: str) -> None:
    with pytest.raises(InvalidOutput, match="JSON"):
        compile_schema(list[int]).parse(text)


# --- mistakes ----------------------------------------

HOME_SCHEMA = {
    "type": "object",
    "properties": {
        "pets": {"type": "array", "items": {"type": "object", "required": ["meows"]}},
        "born": {"type": "string", "format": "date"},
        "a key": {"type": "integer", "maximum": 3},
    },
}


@pytest.mark.parametrize(
    ("schema", "text", "path"),
    [
        (User, '{"name":"A","last_name":"B","id":"x"}', "$.id"),
        (User, '{"name":"A","last_name":"B"}', "$.id"),
        (User, '{"name":"A","last_', "$"),
        (User, "", "$"),
        (User, "[]", "$"),
        (Home, '{"pets":[{"pet":"cat","meows":1},{"pet":"dog","barks":"x"}]}', "$.pets[1].barks"),
        (Home, '{"pets":[{"pet":"cat"}]}', "$.pets[0].meows"),
        (Home, '{"pets":[{"pet":"cow"}]}', "$.pets[0]"),
        (Home, '{"pets":[],"number":[]}', "$.number"),
        (Home, '{"pets":[],"by_name":{"a b":"x"}}', '$.by_name["a b"]'),
        (list[User], '{"value":[{"name":"A","last_name":"B","id":1},{}]}', "$.value[1].name"),
        (Colour, '{"value":"green"}', "$.value"),
        (list[int], '[1,"x"]', "$[1]"),
        (list[int], '{"items":[1]}', "$"),
        (HOME_SCHEMA, '{"pets":[{"meows":1},{}]}', "$.pets[1].meows"),
        (HOME_SCHEMA, '{"born":"yesterday"}', "$.born"),
        (HOME_SCHEMA, '{"a key":4}', '$["a key"]'),
        (HOME_SCHEMA, '{"a key":NaN}', "$"),
        (HOME_SCHEMA, "[" * 100_000, "$"),
        (User, "[" * 100_000, "$"),
        (list[int], '{"value":' + "[" * 100_000, "$"),
        ({"type": "array"}, '{"value":' + "[" * 100_000, "$"),
        (list[int], '["\ud800"]', "$"),
        ({"type": "array", "items": {"type": "integer"}}, '{"value":[1,"2"]}', "$.value[1]"),
    ],
)
def test_a_mistake_has_its_place_in_the_answer(schema: Any, text: str, path: str) -> None:
    with pytest.raises(InvalidOutput) as caught:
        compile_schema(schema).parse(text)
    assert caught.value.path == path
    assert caught.value.text == text
    assert f"{path}: " in str(caught.value)


def test_a_model_that_forgets_the_wrapper_gets_to_know_it() -> None:
    with pytest.raises(InvalidOutput, match=r"\$: Object missing required field `value`"):
        compile_schema(list[int]).parse("{}")


@pytest.mark.parametrize("text", ['{"value": NaN}', '{"value": -Infinity}', "NaN"])
def test_a_number_that_is_not_json_is_not_accepted(text: str) -> None:
    with pytest.raises(InvalidOutput, match="not JSON"):
        compile_schema(float).parse(text)
    assert compile_schema(str).parse('{"value": "NaN"}') == "NaN"


def test_many_mistakes_make_a_message_of_bounded_length() -> None:
    with pytest.raises(InvalidOutput) as caught:
        compile_schema(list[int]).parse(json.dumps({"value": ["x" * 5000] * 5000}))
    assert "$.value[7]: " in str(caught.value)
    assert "$.value[8]: " not in str(caught.value)
    assert caught.value.message.endswith("; and more")
    assert len(str(caught.value)) < 2000


def test_a_validator_that_breaks_does_not_lose_the_answer() -> None:
    class Broken(BaseModel):
        a: int

        @field_validator("a")
        @classmethod
        def _check(cls, value: int) -> float:
            return 1 / value

    with pytest.raises(InvalidOutput, match="its validator raised ZeroDivisionError") as caught:
        compile_schema(Broken).parse('{"a": 0}')
    assert caught.value.text == '{"a": 0}'


# --- what is refused ----------------------------------------


@dataclass
class Inner:
    call: Callable[[int], int]


@dataclass
class Outer:
    number: int
    inner: Inner


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({"type": "objekt"}, r"\$\.type: .*objekt"),
        ({"properties": {"age": {"type": "integer", "minimum": "0"}}}, r"\$\.properties\.age\.minimum: "),
        ({"properties": {"a": {"pattern": "["}}}, r"\$\.properties\.a\.pattern: "),
        ({"properties": {"a": {"$ref": "#/$defs/gone"}}}, r'\$\.properties\.a\["\$ref"\]: .*/\$defs/gone'),
        ({"$ref": "file:///etc/passwd"}, "another document"),
        ({"$ref": "https://example.com/schema.json"}, "another document"),
        ({"a": {1}}, "not JSON"),
        ({"a": float("nan")}, "not JSON"),
        ('{"type": ', "not a JSON schema: .*line 1 column 10"),
        ("User", "not a JSON schema"),
        ("[]", "an object is needed, not list"),
        (User(name="A", last_name="B", id=1), "pass the class: User"),
        (None, "not a schema: None"),
        (5, "not a schema"),
        (len, "not a schema"),
        (lambda x: x, "not a schema"),
        (Literal["\ud800"], "not a schema"),
        (Outer, r"Outer\.inner\.call: .*CallableSchema"),
        (list["Nowhere"], "Nowhere"),  # noqa: F821 # pyright: ignore[reportUndefinedVariable]  undefined on purpose
    ],
)
def test_what_is_no_schema_is_refused_with_the_place_of_the_mistake(schema: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        compile_schema(schema)


# --- compiled once, shared by all ----------------------------------------


def test_the_same_schema_is_compiled_once() -> None:
    assert compile_schema(User) is compile_schema(User)
    assert compile_schema(list[User]) is compile_schema(list[User])
    assert compile_schema({"type": "object"}) is compile_schema({"type": "object"})
    compiled = compile_schema(User)
    assert compile_schema(compiled) is compiled
    assert compiled.response_format() is compiled.response_format()


def test_types_that_only_look_alike_are_not_mixed_up() -> None:
    def local(annotation: Any) -> Any:
        return create_model("Same", a=(annotation, ...))

    one, other = local(int), local(str)
    assert compile_schema(one).wire_schema != compile_schema(other).wire_schema
    assert compile_schema(list[one]).wire_schema != compile_schema(list[other]).wire_schema
    # Equal for Python, yet a model sees them in another order.
    assert compile_schema(int | str).fingerprint() != compile_schema(str | int).fingerprint()
    assert compile_schema(Literal[1]).fingerprint() != compile_schema(Literal[True]).fingerprint()


def test_a_dict_that_is_changed_afterwards_changes_nothing_that_was_compiled() -> None:
    written: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
    before = compile_schema(written)
    written["properties"]["a"]["type"] = "string"
    assert before.parse('{"a": 1}') == {"a": 1}
    assert compile_schema(written).parse('{"a": "b"}') == {"a": "b"}
    assert before.fingerprint() != compile_schema(written).fingerprint()


@pytest.mark.parametrize("schema", [User, {"type": "array"}])
def test_a_compiled_schema_survives_copy_and_pickle(schema: Any) -> None:
    compiled = compile_schema(schema)
    for again in (copy.deepcopy(compiled), copy.copy(compiled)):
        assert again.fingerprint() == compiled.fingerprint()
    again = pickle.loads(pickle.dumps(compile_schema({"type": "array"})))
    assert isinstance(again, OutputSchema)
    assert again.parse('{"value":[1]}') == [1]


def test_a_fingerprint_does_not_depend_on_the_process() -> None:
    schema = {"title": "T", "type": "object"}
    assert (
        compile_schema(schema).fingerprint()
        == "aac6a632d768cf07d32931f60f65f51f59421fd3fcd5790800aa62a49a126b89"
    )


def test_threads_share_a_schema() -> None:
    schemas = [
        compile_schema(User),
        compile_schema(compile_schema(User).json_schema),
        compile_schema(list[int]),
    ]
    texts = ['{"name":"A","last_name":"B","id":%d}', '{"name":"A","last_name":"B","id":%d}', '{"value":[%d]}']

    def read(index: int) -> Any:
        value = schemas[index % 3].parse(texts[index % 3] % index)
        return value[0] if isinstance(value, list) else value["id"] if isinstance(value, dict) else value.id

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(read, range(3000))) == list(range(3000))


# --- whatever a model may be ----------------------------------------

_JSON_SAFE_TEXT = st.text(st.characters(codec="utf-8"))
_SCALARS = [
    (int, st.integers(-(2**70), 2**70)),
    (str, _JSON_SAFE_TEXT),
    (bool, st.booleans()),
    (float, st.floats(allow_nan=False, allow_infinity=False)),
    (date, st.dates()),
    (Colour, st.sampled_from(Colour)),
    (Literal["x", 2], st.sampled_from(["x", 2])),
    (Annotated[int, Field(ge=0, le=9)], st.integers(0, 9)),
    (Annotated[str, Field(pattern="^a+$")], st.text("a", min_size=1)),
    (User, st.builds(User, name=_JSON_SAFE_TEXT, last_name=_JSON_SAFE_TEXT, id=st.integers())),
]


def _wider(fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(
        fields.map(lambda f: (list[f[0]], st.lists(f[1], max_size=3))),
        fields.map(lambda f: (f[0] | None, st.none() | f[1])),
        fields.map(lambda f: (dict[str, f[0]], st.dictionaries(_JSON_SAFE_TEXT, f[1], max_size=3))),
    )


_FIELDS = st.recursive(st.sampled_from(_SCALARS), _wider, max_leaves=3)
_NAMES = st.text(string.ascii_lowercase, min_size=1, max_size=5).map(lambda name: f"f_{name}")


@given(
    st.dictionaries(_NAMES, st.tuples(_FIELDS, st.none() | _JSON_SAFE_TEXT), min_size=1, max_size=4),
    st.data(),
)
@settings(max_examples=60)
def test_an_instance_written_as_json_is_read_back_equal(fields: dict[str, Any], data: st.DataObject) -> None:
    defined: dict[str, Any] = {
        name: (type_, Field(alias=f"{alias}-{name}" if alias is not None else None))
        for name, ((type_, _), alias) in fields.items()
    }
    model = create_model("Made", __config__={"populate_by_name": True}, **defined)
    instance = model(**{name: data.draw(values) for name, ((_, values), _) in fields.items()})
    text = instance.model_dump_json(by_alias=True)
    compiled = compile_schema(model)
    assert compiled.parse(text) == instance
    jsonschema.Draft202012Validator(compiled.wire_schema).validate(json.loads(text))
    # The same model as a JSON schema, and as the item of a list, reads it too.
    assert compile_schema(compiled.json_schema).parse(text) == json.loads(text)
    assert compile_schema(list[model]).parse(f'{{"value": [{text}]}}') == [instance]
