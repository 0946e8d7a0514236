"""Columns of the output: none of a row's own is ever replaced, and each field of an answer is found."""

from __future__ import annotations

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypedDict

import pytest
from pydantic import AliasChoices, AliasPath, BaseModel, ConfigDict, Field, computed_field, model_serializer
from pydantic.dataclasses import dataclass as pydantic_dataclass
from tests.libraries import library
from tests.runs.conftest import Place

from mistill import Run
from mistill.datasets.sources import open_source
from mistill.errors import InputError
from mistill.ledger import LedgerReader
from mistill.runs.export import export_run, record_line
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
    assert export_run(place.out, to, flatten=False) == 2
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
    assert export_run(out, out.with_name("again.jsonl")) == 3


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
