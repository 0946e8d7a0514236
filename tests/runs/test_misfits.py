"""Paid answers of which no record can be made as it was asked: counted, named, kept, and never asked again for it."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import ANY

import msgspec
import pytest
from pydantic import BaseModel, computed_field, field_serializer, model_serializer
from tests.runs.conftest import Place
from tests.runs.odd_bodies import good_body

from mistill import MistralEmbeddings, Run
from mistill.cli.options.wording import on_the_command_line
from mistill.datasets.sources import open_source
from mistill.errors import InputError
from mistill.runs.export import export_run
from mistill.runs.report_text import start_lines
from mistill.simulator import Fault, Simulator

NAMED_OR_TEXT = {
    "anyOf": [{"type": "object", "properties": {"a": {}}, "required": ["a"]}, {"type": "string"}]
}
ANSWERS = ['{"value": {"a": 0}}', '{"value": "one"}', '{"value": "two"}', '{"value": {"a": 3}}']


def structured(schema: Any) -> dict[str, Any]:
    return {"structured_output": {"schema": schema}, "max_concurrent_requests": 1}


class ModelBreaks(BaseModel):
    a: int

    @model_serializer
    def write(self) -> dict[str, Any]:
        return {"a": 1 // self.a}


class FieldBreaks(BaseModel):
    a: int

    @field_serializer("a")
    def write(self, value: int) -> int:
        return 1 // value


class ComputedBreaks(BaseModel):
    a: int

    @computed_field
    @property
    def share(self) -> int:
        return 1 // self.a


class NoJson(BaseModel):
    a: int

    @field_serializer("a")
    def write(self, value: int) -> Any:
        return value or object()


class Exits(BaseModel):
    a: int

    @field_serializer("a")
    def write(self, value: int) -> int:
        return value or exit(1)


@pytest.mark.parametrize("schema", [ModelBreaks, FieldBreaks, ComputedBreaks, NoJson, Exits])
@pytest.mark.parametrize("has_out", [True, False])
def test_a_class_that_cannot_write_its_answer_is_counted(
    place: Place, simulator: Simulator, schema: Any, *, has_out: bool
) -> None:
    place.write(["a", "b", "c"])
    simulator.script(['{"a": 1}', '{"a": 0}', '{"a": 0}'])
    given: dict[str, Any] = {} if has_out else {"out": None, "ledger": place.ledger}
    run = place.run(llm_settings=structured(schema), flatten=True, **given)
    report = run.start()
    (misfit,) = report.misfits
    assert (misfit.kind, misfit.count, misfit.rows) == ("unwritable_answer", 2, [1, 2])
    assert (report.completions, report.failures) == (3, 0)
    assert "not written as asked: 2 records" in str(report)
    assert report.describe()["misfits"][0]["rows"] == [1, 2]
    assert [bool(record["error"]) for record in run.results()] == [False, True, True]
    assert run.start().sent == 0  # paid answers are not asked again
    assert run.report().misfits == [misfit]


def test_answers_without_fields_are_counted_and_come_out_unflattened(
    place: Place, simulator: Simulator
) -> None:
    place.write_rows([{"text": str(number), "id": f"r{number}"} for number in range(4)])
    simulator.script(ANSWERS)
    report = place.run(llm_settings=structured(NAMED_OR_TEXT), flatten=True, id_column="id").start()
    (misfit,) = report.misfits
    assert (misfit.kind, misfit.rows, misfit.row_ids) == (
        "answer_without_fields",
        [1, 2],
        ["id 'r1'", "id 'r2'"],
    )
    assert "rows id 'r1', id 'r2': the answer is no object" in str(report)
    to = place.out.with_name("whole.jsonl")
    exported = export_run(place.out, to, flatten=False)
    assert (exported.records, exported.misfits) == (4, [])
    assert json.loads(to.read_text().splitlines()[1])["generation"] == "one"
    again = place.run(llm_settings=structured(NAMED_OR_TEXT)).start()
    assert (again.sent, again.misfits) == (0, [])


def test_an_export_counts_those_of_its_own_schema_and_selection(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(["0", "1", "2", "3"])
    simulator.script(ANSWERS)
    assert place.run(llm_settings=structured(NAMED_OR_TEXT)).start().misfits == []
    to = place.out.with_name("other.csv")
    all_of_them = export_run(place.out, to, schema=list[int])
    assert [(one.kind, one.count, one.rows) for one in all_of_them.misfits] == [
        ("invalid_output", 4, [0, 1, 2])
    ]
    assert "4  invalid_output, rows 0, 1, 2, …: the answer does not fit" in caplog.text
    some = export_run(place.out, to, schema={"type": "string"}, where="row<2", overwrite=True)
    assert (some.records, [one.rows for one in some.misfits]) == (2, [[0]])
    assert Run.open(place.out).report().misfits == []  # the run's own output is as it was asked


def test_they_can_be_chosen_and_asked_again(place: Place, simulator: Simulator) -> None:
    place.write(["0", "1", "2", "3"])
    simulator.script(ANSWERS)
    place.run(llm_settings=structured(NAMED_OR_TEXT), flatten=True).start()
    simulator.script(['{"value": {"a": 1}}', '{"value": {"a": 2}}'])
    report = Run.retry(place.out, "state=completion, answer.error!=null").start()
    assert (report.sent, report.misfits) == (2, [])
    assert [record["a"] for record in place.records()] == [0, 1, 2, 3]


FURTHER = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
@pytest.mark.parametrize(
    ("earlier", "found", "why"),
    [
        (None, {"note": "row"}, "'note': the row has"),
        ("drop", {"note": "answer"}, None),
        ("first_", {"first_note": "row", "note": "answer"}, None),
        ("x_", {"note": "row", "x_note": "other"}, "'note': the row has"),
    ],
)
def test_a_further_field_with_the_name_of_a_column_does_not_vanish_silently(
    place: Place,
    simulator: Simulator,
    suffix: str,
    earlier: str | None,
    found: dict[str, str],
    why: str | None,
) -> None:
    rows = [{"text": "t", "note": "row"} | ({"x_note": "other"} if earlier == "x_" else {})]
    simulator.script(['{"a": "1", "note": "answer"}'])
    out = place.out.with_suffix(f".{suffix}")
    report = place.run(rows, out=out, llm_settings=structured(FURTHER), flatten=True, earlier=earlier).start()
    (record,) = (row.record for row in open_source(out))
    assert {name: value for name, value in record.items() if "note" in name} == found
    assert [one.message for one in report.misfits] == ([] if why is None else [ANY])
    if why is not None:
        assert f"field_left_out, row 0: of the answer is left out {why} a column of that name" in str(report)
        to = place.out.with_name("other.jsonl")
        assert not export_run(out, to, flatten="answer_").misfits
        assert json.loads(to.read_text())["answer_note"] == "answer"


@pytest.mark.parametrize("given", [{}, {"earlier": "drop"}, {"drop": ["finish_reason"]}])
def test_a_further_field_with_a_name_of_ours_is_left_out_and_counted(
    place: Place, simulator: Simulator, given: dict[str, Any]
) -> None:
    place.write(["t"])
    simulator.script(['{"a": "1", "finish_reason": "answer"}'])
    report = place.run(llm_settings=structured(FURTHER), flatten=True, **given).start()
    (record,) = place.records()
    assert (record["a"], record.get("finish_reason"), record["error"]) == (
        "1",
        None if "drop" in given else "stop",
        None,
    )
    kinds = [one.kind for one in report.misfits]
    assert kinds == ([] if "drop" in given else ["field_left_out"])


def test_two_fields_of_one_name_are_a_misfit(place: Place, simulator: Simulator) -> None:
    place.write(["t"])
    schema = {"type": "object", "properties": {"home": {"type": "object", "properties": {"city": {}}}}}
    simulator.script(['{"home": {"city": "Rome"}, "home.city": "Bern"}'])
    report = place.run(llm_settings=structured(schema), flatten="deep").start()
    assert "two fields of the answer would be called 'home.city'" in place.records()[0]["error"]
    assert [one.kind for one in report.misfits] == ["field_left_out"]


def test_an_export_never_replaces_an_earlier_column_by_another(place: Place) -> None:
    rows = [{"text": "t", "generation": "one", "first_generation": "two"}]
    place.run(rows, earlier="x_").start()
    with pytest.raises(InputError, match="'generation' would become 'first_generation', which is there"):
        export_run(place.out, place.out.with_name("other.jsonl"), earlier="first_")


def test_answers_without_content_are_counted_and_can_be_asked_again(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(["null", "empty", "call", "text"])
    call = {"id": "abcdefghi", "function": {"name": "f", "arguments": "{}"}}
    bodies = [good_body(""), good_body(""), good_body(""), good_body("fine")]
    bodies[0]["choices"][0]["message"]["content"] = None
    bodies[2]["choices"][0]["message"]["tool_calls"] = [call]
    simulator.script(Fault.status(200, body) for body in bodies)
    report = place.run(llm_settings={"max_concurrent_requests": 1}).start()
    assert (report.completions, report.empty_answers, report.describe()["empty_answers"]) == (4, 2, 2)
    assert "empty: 2 answers without content; again" in str(report)
    assert [line for line in caplog.messages if "content" in line] == [
        "mistral-small-latest gave no content; finish reason: stop"
    ]
    where = "answer.without_content=true"
    assert where in str(report)
    simulator.script(["a", "b"])
    again = Run.retry(place.out, where).start()
    assert (again.sent, again.empty_answers) == (2, 0)
    assert [record["generation"] for record in place.records()][:2] == ["a", "b"]


def test_vectors_are_not_without_content(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    embeddings = MistralEmbeddings(model="mistral-embed", endpoint=simulator.url)
    run = Run([{"text": "a"}], llm=embeddings, prompt="{{ text }}", ledger=place.ledger)
    report = run.start()
    assert (report.completions, report.empty_answers, caplog.messages) == (1, 0, [])


def test_an_empty_generation_among_several_counts(place: Place, simulator: Simulator) -> None:
    place.write(["a"])
    simulator.script(["", "b"])
    report = place.run(out=None, ledger=place.ledger, num_generations=2).start()
    assert report.empty_answers == 1
    assert place.run(num_generations=2).start().empty_answers == 1
    simulator.script(["c", "d"])
    again = Run.retry(place.out, "answer.without_content=true").start()
    assert again.sent > 0
    assert (again.completions, again.empty_answers) == (1, 0)


@pytest.mark.parametrize("generations", [1, 2])
def test_an_answer_whose_message_has_no_content_counts(
    place: Place, simulator: Simulator, generations: int
) -> None:
    place.write(["a", "b"])
    bodies = [good_body("fine") for _ in range(2 * generations)]
    del bodies[-1]["choices"][0]["message"]["content"]
    simulator.script(Fault.status(200, body) for body in bodies)
    settings = {"num_generations": generations, "llm_settings": {"max_concurrent_requests": 1}}
    assert place.run(out=None, ledger=place.ledger, **settings).start().empty_answers == 1
    assert place.run(**settings).start().empty_answers == 1


def test_a_hint_is_the_command_of_the_run_itself(place: Place, simulator: Simulator) -> None:
    place.write(["a"])
    simulator.script(['{"value": "one"}'])
    report = place.run(llm_settings=structured(NAMED_OR_TEXT), flatten=True).start()
    beside = place.out.with_name("out-again.jsonl")
    assert f"export_run({str(place.out)!r}, {str(beside)!r}, flatten=False)" in str(report)
    assert export_run(str(place.out), str(beside), flatten=False).misfits == []
    elsewhere = msgspec.structs.replace(report, out="a b.jsonl", ledger="a b.jsonl.ledger")
    lines = [str(line) for line in start_lines(elsewhere, on_the_command_line)]
    assert any(
        line.endswith("mistill export 'a b.jsonl' --to 'a b-again.jsonl' --no-flatten") for line in lines
    )


CONTENTS: list[Any] = ["", None, [], [{"type": "text", "text": ""}], "absent", '"content":""', "text"]


@pytest.mark.parametrize("has_out", [True, False])
def test_answers_without_content_are_counted_in_whatever_form_and_without_an_output_too(
    place: Place, simulator: Simulator, *, has_out: bool
) -> None:
    place.write([str(number) for number in range(len(CONTENTS))])
    bodies = [good_body() for _ in CONTENTS]
    for body, content in zip(bodies, CONTENTS, strict=True):
        body["choices"][0]["message"]["content"] = content
        if content == "absent":
            del body["choices"][0]["message"]["content"]
    simulator.script(Fault.status(200, body) for body in bodies)
    given: dict[str, Any] = {} if has_out else {"out": None, "ledger": place.ledger}
    run = place.run(llm_settings={"max_concurrent_requests": 1}, **given)
    assert [run.start().empty_answers for _ in range(2)] == [5, 5]
