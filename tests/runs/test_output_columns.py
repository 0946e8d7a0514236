"""Columns of the output: none of a row's own is ever replaced, and each field of an answer is found."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, computed_field, model_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass
from tests.libraries import library
from tests.runs.conftest import Place

from mistill import Run
from mistill.datasets.sources import open_source
from mistill.errors import InputError
from mistill.ledger import LedgerReader
from mistill.runs.export import export_run
from mistill.runs.record_lines import record_line
from mistill.runs.record_shape import shape_of
from mistill.runs.report import read_report
from mistill.simulator import Simulator

ROWS = [
    {"id": 1001, "model": "mine-7b", "text": "hello"},
    {"id": 1002, "model": "mine-13b", "text": "bye"},
]
ID_SCHEMA = {"type": "object", "properties": {"id": {"type": "integer"}}, "required": ["id"]}
ONE_AT_ONCE = {"max_concurrent_requests": 1}


def structured(schema: Any) -> dict[str, Any]:
    return {"structured_output": {"schema": schema}, **ONE_AT_ONCE}


@pytest.fixture
def plain(place: Place) -> Place:
    place.write_rows(ROWS)
    place.run().start()
    return place


@pytest.fixture
def typed(place: Place, simulator: Simulator) -> Place:
    place.write_rows(ROWS)
    simulator.script(['{"id": 1}', '{"id": 2}'])
    place.run(llm_settings=structured(ID_SCHEMA)).start()
    return place


# --- names --------------------------------------------------------------------------------------------------------

SUFFIXES = ["jsonl", "json", "csv", "tsv.gz", "parquet", "arrow"]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("change", "column", "hint"),
    [
        (
            {"extra_columns": ["model"]},
            "model",
            "leave extra_columns=['model'] out, or rename ours: columns={'model': 'new_model'}",
        ),
        ({"columns": {"generation": "text"}}, "text", "rename ours: columns={'generation': 'new_text'}"),
        ({"columns": {"error": "id"}}, "id", "rename ours: columns={'error': 'new_id'}"),
    ],
)
def test_an_export_never_replaces_a_column_of_the_rows(
    plain: Place, suffix: str, change: dict[str, Any], column: str, hint: str
) -> None:
    if suffix in ("parquet", "arrow"):
        library("pyarrow")
    to = plain.out.with_name(f"other.{suffix}")
    message = rf"row 0: it has a column '{column}', and the output adds one of that name .*{re.escape(hint)}"
    with pytest.raises(InputError, match=message):
        export_run(plain.out, to, **change)
    assert not to.exists()
    export_run(plain.out, to)
    assert [row.record["text"] for row in open_source(to)] == ["hello", "bye"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nor_does_a_field_of_an_answer(typed: Place, suffix: str) -> None:
    if suffix in ("parquet", "arrow"):
        library("pyarrow")
    to = typed.out.with_name(f"other.{suffix}")
    with pytest.raises(InputError, match=r"a column 'id'.*columns=\{'id': 'new_id'\}"):
        export_run(typed.out, to, flatten=True)
    assert not to.exists()
    export_run(typed.out, to, flatten=True, columns={"id": "new_id"})
    found = [(int(row.record["id"]), int(row.record["new_id"])) for row in open_source(to)]
    assert found == [(1001, 1), (1002, 2)]


def test_a_run_refuses_the_same_and_its_hint_works(place: Place, simulator: Simulator) -> None:
    settings: dict[str, Any] = {"llm_settings": structured(ID_SCHEMA), "flatten": True}
    with pytest.raises(InputError, match=r"a column 'id'.*columns=\{'id': 'new_id'\}"):
        place.run(ROWS, **settings).start()
    assert not simulator.requests
    simulator.script(['{"id": 1}', '{"id": 2}'])
    place.run(ROWS, columns={"id": "new_id"}, **settings).start()
    assert [(record["id"], record["new_id"]) for record in place.records()] == [(1001, 1), (1002, 2)]
    # The run's own names are those of a retry and of an export, where they still mean something.
    simulator.script(['{"id": 3}'])
    Run.retry(place.out, "row=0").start()
    assert [record["new_id"] for record in place.records()] == [3, 2]
    to = place.out.with_name("again.jsonl")
    assert export_run(place.out, to, flatten=False).records == 2
    assert "new_id" not in to.read_text()


def test_a_header_is_refused_before_anything_is_sent(place: Place, simulator: Simulator) -> None:
    source = place.input.with_suffix(".csv")
    source.write_text("id,model,text\n1,mine,a\n")
    with pytest.raises(
        InputError,
        match=r"leave extra_columns=\['model'\] out, or rename ours: columns=\{'model': 'new_model'\}",
    ):
        place.run(source, extra_columns=["model"])
    assert not simulator.requests
    place.run(source, extra_columns=["model"], columns={"model": "new_model"}).start()
    (record,) = place.records()
    assert (record["model"], record["new_model"]) == ("mine", "mistral-small-latest")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_later_row_with_a_column_of_ours_fails_and_keeps_it(place: Place, suffix: str) -> None:
    if suffix in ("parquet", "arrow"):
        library("pyarrow")
    rows = [
        {"id": 1, "text": "a"},
        {"id": 2, "text": "b", "generation": "an older one"},
        {"id": 3, "text": "c"},
    ]
    out = place.out.with_suffix(f".{suffix}")
    report = place.run(rows, out=out).start()
    assert (report.completions, report.failures) == (2, 1)
    first, second, third = (row.record for row in open_source(out))
    assert (first["generation"], third["generation"]) == ("Echo: a", "Echo: c")
    assert second["generation"] == "an older one"
    assert "a column 'generation'" in second["error"]
    if suffix == "csv":
        header = next(csv.reader([out.read_text().splitlines()[0]]))
        assert len(set(header)) == len(header)
    assert export_run(out, out.with_name("again.jsonl")).records == 3


def test_a_run_that_goes_on_with_other_columns_says_so_and_loses_nothing(
    place: Place, simulator: Simulator
) -> None:
    place.write_rows([{"text": "a"}, {"text": "b", "model": "mine"}])
    place.run().start()
    before = place.out.read_bytes()
    with pytest.raises(
        InputError, match=r"row 1: it has a column 'model'.*leave extra_columns=\['model'\] out"
    ):
        place.run(extra_columns=["model"]).start()
    assert place.out.read_bytes() == before
    assert simulator.answered == 2
    report = read_report(place.ledger)
    assert report.completions == 2
    assert [sample["text"] for sample in report.samples] == ["a"]  # a record that cannot be is no sample
    with LedgerReader(place.ledger) as reader:
        shape = shape_of(reader)
        first, second = reader.rows()
        assert json.loads(record_line(first, shape))["model"] == "mistral-small-latest"
        with pytest.raises(InputError, match="a column 'model'"):
            record_line(second, shape)
    place.run().start()
    assert place.out.read_bytes() == before


# --- fields -------------------------------------------------------------------------------------------------------


class Alias(BaseModel):
    last_name: str = Field(alias="lastName")


class Validation(BaseModel):
    last_name: str = Field(validation_alias="lastName")


class Choices(BaseModel):
    last_name: str = Field(validation_alias=AliasChoices(AliasPath("names", 1), "lastName", "surname"))


class Serialization(BaseModel):
    last_name: str = Field(serialization_alias="surname")


class Both(BaseModel):
    last_name: str = Field(validation_alias="lastName", serialization_alias="last-name")


class Swapped(BaseModel):
    """Each is dumped under the other's name."""

    last_name: str = Field(serialization_alias="first_name")
    first_name: str = Field("Jane", serialization_alias="last_name")


class Inner(BaseModel):
    model_config = ConfigDict(alias_generator=str.upper)
    last_name: str


class Recursive(BaseModel):
    last_name: str = Field(validation_alias="lastName")
    next: Recursive | None = None


class AsText(BaseModel):
    last_name: str

    @model_serializer
    def write(self) -> str:
        return self.last_name


class UnderOtherKeys(BaseModel):
    last_name: str

    @model_serializer
    def write(self) -> dict[str, str]:
        return {"surname": "not asked for"}


@pydantic_dataclass
class PydanticDataclass:
    last_name: str = Field(validation_alias="lastName", serialization_alias="surname")


@dataclass
class Dataclass:
    last_name: Annotated[str, Field(validation_alias="lastName")]


class Typed(TypedDict):
    last_name: Annotated[str, Field(validation_alias="lastName")]


@pytest.mark.parametrize(
    ("schema", "column"),
    [
        (Alias, "lastName"),
        (Validation, "lastName"),
        (Choices, "lastName"),
        (Serialization, "last_name"),
        (Both, "lastName"),
        (Swapped, "last_name"),
        (Inner, "LAST_NAME"),
        (Recursive, "lastName"),
        (AsText, "last_name"),
        (UnderOtherKeys, "last_name"),
        (PydanticDataclass, "lastName"),
        (Dataclass, "lastName"),
        (Typed, "lastName"),
        ({"type": "object", "properties": {"last_name": {"type": "string"}}}, "last_name"),
    ],
)
def test_a_field_is_found_by_whatever_name(
    place: Place, simulator: Simulator, schema: Any, column: str
) -> None:
    place.write(["a", "b"])
    answers = [json.dumps({column: "Doe"}), json.dumps({column: "Roe"})]
    if schema is Choices:
        answers = ['{"names": ["Jane", "Doe"]}', '{"surname": "Roe"}']
    simulator.script(answers)
    place.run(llm_settings=structured(schema), flatten=True).start()
    properties = [name for name in place.records()[0] if name not in ("text", "finish_reason", "error")]
    assert properties[0] in (column, "names")
    assert [record[properties[0]] for record in place.records()] == ["Doe", "Roe"]
    assert [record["error"] for record in place.records()] == [None, None]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    first: str = "x"


class Closed(BaseModel):
    first: str = "x"

    @computed_field
    @property
    def length(self) -> int:
        return len(self.first)


OPEN_SCHEMA = {"type": "object", "properties": {"first": {"type": "string"}}}


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("schema", "is_open"),
    [
        (Open, True),
        (OPEN_SCHEMA, True),
        (OPEN_SCHEMA | {"additionalProperties": False}, False),
        (Closed, False),
    ],
)
def test_fields_that_a_schema_allows_and_does_not_name_are_columns_too(
    place: Place, simulator: Simulator, schema: Any, suffix: str, *, is_open: bool
) -> None:
    if suffix in ("parquet", "arrow"):
        library("pyarrow")
    place.write(["a", "b"], own="mine")
    further = {"later": 7, "text": "taken", "own": 0, "error": "taken"} if is_open else {}
    simulator.script(['{"first": "y"}', json.dumps({"first": "z"} | further)])
    out = place.out.with_suffix(f".{suffix}")
    place.run(out=out, llm_settings=structured(schema), flatten=True).start()
    first, second = (row.record for row in open_source(out))
    assert (first["first"], second["first"]) == ("y", "z")
    assert (first["text"], second["text"], second["own"]) == ("a", "b", "mine")
    assert not second["error"]
    assert ("later" in second) is is_open
    if is_open:
        assert int(second["later"]) == 7
        assert not first.get("later")


def test_what_the_model_wrote_keeps_its_digits(place: Place, simulator: Simulator) -> None:
    place.input.write_text('{"text": "a", "price": 19.90, "big": 12345678901234567890.12}\n')
    simulator.script(['{"a": 1.10,\n "b": [12345678901234567890.12, 100000000000000000000]}'])
    place.run(
        llm_settings=structured({"type": "object", "properties": {"a": {}, "b": {}}}), flatten=True
    ).start()
    (line,) = place.out.read_text().splitlines()
    for digits in ('"price": 19.90', '"big": 12345678901234567890.12', '"a":1.10'):
        assert digits in line
    assert '"b":[12345678901234567890.12,100000000000000000000]' in line


def test_an_answer_that_is_no_object_is_its_rows_error(place: Place, simulator: Simulator) -> None:
    place.write(["a"])
    simulator.script(["[1]", "[1]"])
    schema = {"properties": {"a": {}}, "type": ["object", "array"]}
    place.run(llm_settings=structured(schema), flatten=True).start()
    (record,) = place.records()
    assert record["a"] is None
    assert "no object" in record["error"] or "invalid_output" in record["error"]


def test_a_field_with_an_equals_sign_is_renamed(place: Place, simulator: Simulator) -> None:
    place.write(["a"])
    simulator.script(['{"x=y": 1}'])
    schema = {"type": "object", "properties": {"x=y": {"type": "integer"}}}
    place.run(llm_settings=structured(schema), flatten=True, columns={"x=y": "z"}).start()
    assert place.records()[0]["z"] == 1


@pytest.mark.parametrize("name", ["error", "generation", "finish_reason"])
def test_a_field_may_have_a_name_of_ours_that_is_renamed(
    place: Place, simulator: Simulator, name: str
) -> None:
    place.write(["a"])
    schema = {"type": "object", "properties": {name: {"type": "string"}}, "required": [name]}
    settings: dict[str, Any] = {"llm_settings": structured(schema), "flatten": True}
    if name != "generation":
        with pytest.raises(InputError, match=rf"columns=\{{'{name}': 'NEW_NAME'\}}"):
            place.run(**settings)
        settings["columns"] = {name: "ours"}
    simulator.script([json.dumps({name: "theirs"})])
    place.run(**settings).start()
    (record,) = place.records()
    assert record[name] == "theirs"
    assert Path(place.out).exists()


# --- an output as the next input ------------------------------------------------------------------------------------

FORMATS = ["jsonl", "csv", "parquet"]


@pytest.fixture(params=FORMATS)
def first_out(request: pytest.FixtureRequest, place: Place) -> Path:
    """The output of an earlier run, in some format."""
    if request.param == "parquet":
        library("pyarrow")
    out = place.out.with_name(f"first.{request.param}")
    place.run(ROWS, out=out).start()
    return out


def test_an_output_as_input_is_refused_in_one_message_that_settles_all(
    place: Place, simulator: Simulator, first_out: Path
) -> None:
    with pytest.raises(InputError) as refused:
        place.run(first_out, prompt="Judge {{ generation }}")
    message = str(refused.value)
    assert "columns of an earlier run" in message
    for name in ("generation", "finish_reason", "input_tokens", "output_tokens", "error"):
        assert f"'{name}'" in message
    assert "earlier='drop' leaves the row's out" in message
    assert len(simulator.requests) == len(ROWS)


def test_earlier_columns_are_dropped_or_renamed_and_prompts_see_them(place: Place, first_out: Path) -> None:
    settings: dict[str, Any] = {"prompt": "Judge {{ generation }}"}
    place.run(first_out, earlier="drop", **settings).start()
    assert [record["generation"] for record in place.records()] == [
        "Echo: Judge Echo: hello",
        "Echo: Judge Echo: bye",
    ]
    assert list(place.records()[0]) == [
        "id", "model", "text", "generation", "finish_reason", "input_tokens", "output_tokens", "error",
    ]  # fmt: skip
    # How the output looks may change between two starts.
    assert place.run(first_out, earlier="first_", **settings).start().sent == 0
    record = place.records()[0]
    assert (record["first_generation"], record["generation"]) == ("Echo: hello", "Echo: Judge Echo: hello")
    assert "first_error" in record
    # A third run in the chain.
    third = place.out.with_name("third.jsonl")
    with pytest.raises(
        InputError, match=r"its column 'generation' would become 'first_generation'.*another prefix"
    ):
        place.run(place.out, out=third, earlier="first_", **settings)
    place.run(place.out, out=third, earlier="second_", **settings).start()
    assert {"first_generation", "second_generation", "generation"} <= json.loads(
        third.read_text().splitlines()[0]
    ).keys()


@pytest.mark.parametrize("suffix", FORMATS)
def test_columns_are_kept_in_their_order_and_dropped(place: Place, suffix: str) -> None:
    if suffix == "parquet":
        library("pyarrow")
    out = place.out.with_suffix(f".{suffix}")
    place.run(ROWS, out=out, keep=["generation", "id"]).start()
    assert [list(row.record) for row in open_source(out)] == [["generation", "id"]] * 2
    export_run(out, place.out.with_name(f"other.{suffix}"), drop=["id", "error", "model"])
    (first, _) = (row.record for row in open_source(place.out.with_name(f"other.{suffix}")))
    assert list(first) == ["text", "generation", "finish_reason", "input_tokens", "output_tokens"]


def test_a_column_of_ours_that_is_dropped_is_in_nobodys_way(place: Place) -> None:
    place.run([{"text": "a", "input_tokens": 5}], drop=["input_tokens"]).start()
    assert "input_tokens" not in place.records()[0]


@pytest.mark.parametrize("option", ["keep", "drop"])
def test_a_column_that_no_record_has_is_refused(place: Place, simulator: Simulator, option: str) -> None:
    given: dict[str, Any] = {option: ["generatoin"]}
    with pytest.raises(
        InputError, match=rf"{option}: .*no output column 'generatoin' .*did you mean 'generation'"
    ):
        place.run(ROWS, **given)
    assert not simulator.requests
    place.run(ROWS).start()
    with pytest.raises(InputError, match=r"there are id, model, text, generation"):
        export_run(place.out, place.out.with_name("other.csv"), **given)


# --- flattening -----------------------------------------------------------------------------------------------------

NESTED = {
    "type": "object",
    "properties": {
        "id": {"type": "integer"},
        "home": {"anyOf": [{"$ref": "#/$defs/Home"}, {"type": "null"}]},
        "tags": {"type": "array", "items": {"type": "object", "properties": {"a": {}}}},
    },
    "$defs": {
        "Home": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "size": {"$ref": "#/$defs/Size"}},
        },
        "Size": {"type": "object", "properties": {"m2": {"type": "number"}}},
    },
}


class Size(BaseModel):
    m2: float = Field(serialization_alias="m2")


class Home(BaseModel):
    city: str = Field(validation_alias="City", serialization_alias="city")
    size: Size | None = None


class Person(BaseModel):
    id: int
    home: Home | None = None
    tags: list[dict[str, int]] = []
    boss: Person | None = None


def test_a_prefix_stands_before_every_field(typed: Place) -> None:
    to = typed.out.with_name("other.jsonl")
    export_run(typed.out, to, flatten="answer_")
    first = json.loads(to.read_text().splitlines()[0])
    assert (first["id"], first["answer_id"]) == (1001, 1)
    export_run(typed.out, to, flatten="answer_", columns={"id": "number"}, overwrite=True)
    assert json.loads(to.read_text().splitlines()[0])["number"] == 1


def test_deep_makes_columns_of_the_fields_of_objects(place: Place, simulator: Simulator) -> None:
    place.write(["a", "b", "c"])
    simulator.script([
        '{"id": 1, "home": {"city": "Rome", "size": {"m2": 40.10}, "zip": 7}, "tags": [{"a": 1}]}',
        '{"id": 2, "home": null, "tags": []}',
        '{"id": 3, "tags": [], "home": {"city": "Bern"}}',
    ])  # fmt: skip
    place.run(llm_settings=structured(NESTED), flatten="deep", columns={"home.city": "city"}).start()
    first, second, third = place.records()
    assert list(first)[1:6] == ["id", "city", "home.size.m2", "tags", "finish_reason"]
    assert (first["city"], first["home.zip"], first["tags"]) == ("Rome", 7, [{"a": 1}])
    assert '"home.size.m2":40.10' in place.out.read_text()
    assert (second["city"], second["home.size.m2"]) == (None, None)
    assert (third["city"], third["home.size.m2"]) == ("Bern", None)
    to = place.out.with_name("other.csv")
    export_run(place.out, to, flatten="deep,x_", columns={"home.city": "home.city"})
    assert (
        to.read_text().splitlines()[0].startswith("text,x_id,x_home.city,x_home.size.m2,x_tags,finish_reason")
    )


def test_deep_of_a_class_goes_by_what_it_is_dumped_as(place: Place, simulator: Simulator) -> None:
    place.write(["a"])
    simulator.script(['{"id": 1, "home": {"City": "Rome", "size": {"m2": 4}}, "boss": {"id": 2}}'])
    place.run(llm_settings=structured(Person), flatten="deep").start()
    (record,) = place.records()
    assert (record["id"], record["home.city"], record["home.size.m2"], record["tags"]) == (1, "Rome", 4.0, [])
    assert (record["boss"]["id"], record["boss"]["boss"]) == (2, None)  # a type in itself has no end
    assert record["error"] is None


def test_two_prefixes_are_a_mistake(place: Place) -> None:
    with pytest.raises(InputError, match="two prefixes, 'a_' and 'b_'"):
        place.run(ROWS, llm_settings=structured(ID_SCHEMA), flatten="a_,b_")


# --- answers that are one value -------------------------------------------------------------------------------------


class Mood(Enum):
    POS = "positive"
    NEG = "negative"


@pytest.mark.parametrize(
    ("schema", "answers", "values"),
    [
        (Literal["neg", "mixed"], ['"neg"', ' "mixed"\n'], ["neg", "mixed"]),
        (Mood, ['"positive"', '"negative"'], ["positive", "negative"]),
        ({"type": "string"}, ['"a \\"b\\""', '"{}"'], ['a "b"', "{}"]),
        (int, ["4", "0"], [4, 0]),
        (float, ["4.5", "1e3"], [4.5, 1000.0]),
        (bool, ["true", "false"], [True, False]),
        (int | None, ["4", "null"], [4, None]),
        (list[str], ['["a"]', "[]"], ['["a"]', "[]"]),
        (dict[str, int], ['{"a": 1}', "{}"], ['{"a": 1}', "{}"]),
    ],
)
def test_an_answer_that_is_one_value_is_that_value_in_its_record(
    place: Place, simulator: Simulator, schema: Any, answers: list[str], values: list[Any]
) -> None:
    simulator.script(answers)
    place.write(["a", "b"])
    llm = place.llm(structured_output={"schema": schema}, max_concurrent_requests=1)
    run = place.run(llm=llm)
    report = run.start()
    assert place.answers() == values
    assert (report.empty_answers, report.misfits) == (0, [])
    assert run.to_arrow().column("generation").to_pylist() == values
    to = place.out.with_name("chosen.jsonl")
    if isinstance(values[0], str | int) and values[0] is not True and "[" not in str(values[0]):
        export_run(place.out, to, where=f"generation={json.dumps(values[0])}")
        assert [json.loads(line)["generation"] for line in to.read_text().splitlines()] == values[:1]


def test_several_answers_of_one_value_are_a_list_of_them(place: Place, simulator: Simulator) -> None:
    simulator.script(['"neg"', '"pos"'])
    place.write(["a"])
    llm = place.llm(structured_output={"schema": Literal["neg", "pos"]}, max_concurrent_requests=1)
    place.run(llm=llm, num_generations=2).start()
    assert place.answers() == [["neg", "pos"]]
