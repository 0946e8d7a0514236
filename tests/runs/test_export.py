"""The output is derived: made again in any format, by any schema, for free, whole or not at all."""

from __future__ import annotations

import csv
import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from tests.libraries import library
from tests.runs.conftest import Place, echoes

from mistill.datasets.sources import open_source
from mistill.errors import InputError, LedgerError
from mistill.kinds.chat import ChatKind, ChatReader
from mistill.kinds.options import RunOptions
from mistill.ledger import LedgerReader, LedgerRow
from mistill.runs.export import export, export_run, write_records
from mistill.runs.record_shape import record_shape
from mistill.runs.row_settings import RowSettings
from mistill.runs.where import RunFilter
from mistill.simulator import Simulator
from mistill.structured.schema import compile_schema

TEXTS = [f"row {number}" for number in range(8)]


class User(BaseModel):
    name: str
    age: int


class Aged(BaseModel):
    age: float


@pytest.fixture
def finished(place: Place) -> Place:
    place.write(TEXTS, tags=["a", "b"])
    place.run().start()
    return place


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "tsv.gz", "parquet", "arrow", "jsonl.zst"])
def test_every_format_holds_the_same_records(finished: Place, simulator: Simulator, suffix: str) -> None:
    out = finished.out.with_name(f"other.{suffix}")
    assert export(finished.ledger, out, record_shape()).records == 8
    records = [row.record for row in open_source(out)]
    assert [record["generation"] for record in records] == echoes(TEXTS)
    assert [int(record["input_tokens"]) for record in records] == [6] * 8
    assert simulator.answered == 8


def test_an_unfinished_run_is_exported_only_if_one_says_so(place: Place) -> None:
    place.write(TEXTS)
    place.run(sample=3).start()
    with pytest.raises(LedgerError, match="5 rows have no outcome"):
        export(place.ledger, place.out, record_shape())
    assert not place.out.exists()
    assert export(place.ledger, place.out, record_shape(), partial=True).records == 3
    assert set(place.answers()) < set(echoes(TEXTS))


def test_a_selection_is_exported_in_order(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(poison="row 4")
    place.run().start()
    out = place.out.with_name("failed.jsonl")
    assert export_run(place.out, out, where="state=failure").records == 1
    assert json.loads(out.read_text())["text"] == "row 4"


def test_columns_are_renamed_and_added(finished: Place) -> None:
    shape = record_shape(RunOptions(columns={"generation": "answer"}, extra_columns=ChatKind.extra_columns))
    export(finished.ledger, finished.out, shape)
    record = finished.records()[0]
    assert (record["answer"], record["model"], record["thinking"]) == (
        "Echo: row 0",
        "mistral-small-latest",
        None,
    )
    assert record["cost"] == pytest.approx((6 * 0.15 + 3 * 0.60) / 1e6)
    assert "generation" not in record


def test_csv_has_every_column_that_any_row_has(place: Place) -> None:
    place.write_rows([{"text": "a"}, {"text": "b", "late": 1}])
    place.run(out=place.out.with_suffix(".csv")).start()
    with place.out.with_suffix(".csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["late"], row["generation"]) for row in rows] == [("", "Echo: a"), ("1", "Echo: b")]


def header_of(path: Path) -> list[str]:
    return path.read_text().splitlines()[0].split(",")


def test_a_header_is_that_of_the_rows_that_are_exported(place: Place) -> None:
    place.write_rows([{"text": "a", "x": 1}, {"text": "b", "y": 2}, {"text": "c", "z": 3}])
    place.run(limit=2).start()
    out = place.out.with_name("some.csv")
    assert export_run(place.out, out, where="row=0").records == 1
    assert header_of(out)[:2] == ["text", "x"]
    assert not {"y", "z"} & set(header_of(out))
    assert export_run(place.out, out, where="state=failure", overwrite=True).records == 0
    assert header_of(out)[:3] == ["text", "x", "y"]
    assert "z" not in header_of(out)


def test_an_export_while_the_run_goes_on_is_of_one_moment(place: Place) -> None:
    place.write_rows([{"text": "a", "x": 1}, {"text": "b", "y": 2}])
    place.run(limit=1).start()
    out = place.out.with_name("some.csv")

    class Meanwhile(RunFilter):
        def rows(self, reader: LedgerReader, first: int = 0, until: int | None = None) -> Iterator[LedgerRow]:
            yield from super().rows(reader, first, until)
            place.run().start()

    with closing(sqlite3.connect(place.ledger)) as connection, LedgerReader(place.ledger) as reader:
        connection.execute("PRAGMA journal_mode = WAL")  # as while a run goes on
        chosen = Meanwhile(None, reader, record_shape())
        assert write_records(place.ledger, out, record_shape(), chosen=chosen).records == 1
    assert "y" not in header_of(out)
    assert export_run(place.out, out, overwrite=True).records == 2
    assert header_of(out)[:3] == ["text", "x", "y"]


def test_parquet_has_types(place: Place) -> None:
    place.write(TEXTS)
    out = place.out.with_suffix(".parquet")
    place.run(out=out).start()
    table = library("pyarrow.parquet").read_table(out)
    assert table.schema.field("input_tokens").type == "int64"
    assert library("pandas").read_parquet(out)["generation"].tolist() == echoes(TEXTS)


# --- structured answers ---------------------------------------------------------------------------------------------


@pytest.fixture
def structured(place: Place, simulator: Simulator) -> Place:
    place.write(TEXTS[:3])
    simulator.script([f'{{"name": "user {number}", "age": {number}}}' for number in range(3)])
    settings = {"structured_output": {"schema": User}, "max_concurrent_requests": 1}
    place.run(llm_settings=settings).start()
    return place


def test_fields_become_columns(structured: Place) -> None:
    export(
        structured.ledger,
        structured.out,
        record_shape(RunOptions(flatten=True), own=RowSettings.of_chat(ChatReader(compile_schema(User)))),
    )
    assert structured.records()[2] == {
        "text": "row 2",
        "name": "user 2",
        "age": 2,
        "finish_reason": "stop",
        "input_tokens": 6,
        "output_tokens": 7,
        "error": None,
    }


def test_another_schema_reads_paid_answers_again(structured: Place, simulator: Simulator) -> None:
    answered = simulator.answered
    export(
        structured.ledger,
        structured.out,
        record_shape(RunOptions(flatten=True), own=RowSettings.of_chat(ChatReader(compile_schema(Aged)))),
    )
    assert [record["age"] for record in structured.records()] == [0, 1, 2]
    assert "name" not in structured.records()[0]
    strict = compile_schema({"type": "object", "properties": {"age": {"minimum": 1}}, "required": ["age"]})
    export(structured.ledger, structured.out, record_shape(own=RowSettings.of_chat(ChatReader(strict))))
    errors = [record["error"] for record in structured.records()]
    assert errors[0].startswith("invalid_output: ")
    assert errors[1:] == [None, None]
    assert simulator.answered == answered


def test_a_run_is_exported_in_its_own_shape_unless_told_and_without_a_key(
    structured: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    own = [record["generation"] for record in structured.records()]
    to = tmp_path / "again.jsonl"

    def exported(**settings: Any) -> list[dict[str, Any]]:
        count = export_run(structured.out, to, overwrite=True, **settings)
        records = [json.loads(line) for line in to.read_text().splitlines()]
        assert count.records == len(records)
        return records

    assert [record["generation"] for record in exported()] == own
    assert exported(where="row=1", columns={"generation": "answer"})[0]["answer"] == own[1]
    assert exported(flatten=True)[0]["name"] == json.loads(own[0])["name"]
    aged = exported(schema=Aged, flatten=True, extra_columns=["model"])[0]
    assert aged["age"] == json.loads(own[0])["age"]
    assert "name" not in aged
    assert aged["model"]
    structured.out.unlink()
    assert len(exported(ledger=structured.ledger)) == len(own)
    with pytest.raises(InputError, match=r"other\.jsonl\.ledger"):
        export_run(structured.out.with_name("other.jsonl"), to)


def test_a_failed_row_has_empty_columns(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:2])
    simulator.change(poison="row 1")
    place.run(llm_settings={"structured_output": {"schema": User}}, flatten=True).start()
    record = place.records()[1]
    assert (record["name"], record["age"]) == (None, None)
    assert record["error"].startswith("bad_request: ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"flatten": True}, "known fields"),
        (
            {"own": RowSettings.of_chat(ChatReader(compile_schema(list[int]))), "flatten": True},
            "known fields",
        ),
        (
            {
                "own": RowSettings.of_chat(ChatReader(compile_schema(User))),
                "flatten": True,
                "num_generations": 2,
            },
            "several generations",
        ),
        ({"extra_columns": ["thoughts"]}, "no extra column 'thoughts'"),
        ({"columns": {"generation": "error"}}, "two output columns"),
        ({"columns": {"generation": " "}}, "cannot rename"),
        (
            {
                "own": RowSettings.of_chat(ChatReader(compile_schema(User))),
                "flatten": True,
                "columns": {"error": "name"},
            },
            "'name'",
        ),
    ],
)
def test_a_shape_that_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    options = RunOptions.of({name: value for name, value in arguments.items() if name != "own"})
    with pytest.raises(InputError, match=message):
        record_shape(options, own=arguments.get("own"))


def test_an_output_is_replaced_whole(finished: Place) -> None:
    before = finished.out.read_bytes()
    link = finished.out.with_name("link.jsonl")
    link.symlink_to(finished.out)
    export(finished.ledger, link, record_shape())
    assert link.is_symlink()
    assert finished.out.read_bytes() == before
    assert not list(finished.out.parent.glob("*.partial"))
    with pytest.raises(InputError, match="is a directory"):
        export(finished.ledger, Path(finished.out.parent), record_shape(), format="jsonl")


def test_flattened_fields_are_as_validated(place: Place, simulator: Simulator) -> None:
    class Part(BaseModel):
        a: int
        b: str = "none"

    place.write(["x"])
    simulator.script(['{"a": "1"}'])
    llm = place.llm(structured_output={"schema": Part})
    place.run(llm=llm, flatten=True).start()
    (record,) = place.records()
    assert (record["a"], record["b"]) == (1, "none")


def test_a_cut_answer_says_so_in_its_record(place: Place, simulator: Simulator) -> None:
    place.write(["x"])
    simulator.script(['{"name": "a long name'])
    llm = place.llm(structured_output={"schema": {"type": "object", "required": ["name"]}})
    place.run(llm=llm, parameters={"max_new_tokens": 3}).start()
    (record,) = place.records()
    assert record["finish_reason"] == "length"
    assert record["error"].startswith("invalid_output: the answer was cut short")


def test_an_output_that_is_no_runs_is_not_replaced(place: Place, simulator: Simulator) -> None:
    place.write(["x"])
    place.out.write_text("dear to somebody\n")
    with pytest.raises(InputError, match="is no output of this run"):
        place.run().start()
    assert place.out.read_text() == "dear to somebody\n"
    assert not simulator.requests
    place.run(fresh=True).start()
    assert place.answers() == ["Echo: x"]
