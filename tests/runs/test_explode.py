"""A list in a column becomes rows: whatever the rows are kept in, and each with an identity of its own."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
from tests.libraries import library
from tests.runs.conftest import Place, sent

from mistill import Run
from mistill.errors import InputError
from mistill.simulator import Simulator

ROWS = [
    {"id": 1, "tasks": ["a", "b"], "n": 1},
    {"id": 2, "tasks": [], "n": 2},
    {"id": 3, "tasks": None, "n": 3},
    {"id": 4, "tasks": ["b"], "n": 4},
]
EXPECTED = [(1, "a", 1), (1, "b", 1), (4, "b", 4)]


def found(place: Place, name: str = "tasks") -> list[tuple[int, str, int]]:
    return [(int(record["id"]), record[name], int(record["n"])) for record in place.records()]


def source_of(kind: str, place: Place) -> Any:
    if kind == "jsonl":
        place.write_rows(ROWS)
        return place.input
    if kind == "csv":
        path = place.input.with_suffix(".csv")
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(ROWS[0])
            for row in ROWS:
                writer.writerow(
                    [row["id"], json.dumps(row["tasks"]) if row["tasks"] is not None else "", row["n"]]
                )
        return path
    if kind == "texts":
        return [row | {"tasks": json.dumps(row["tasks"])} for row in ROWS]
    if kind == "generator":
        return (row for row in ROWS)
    if kind == "pandas":
        return library("pandas").DataFrame(ROWS)
    table = library("pyarrow").Table.from_pylist(ROWS)
    if kind == "arrow":
        return table
    path = place.input.with_suffix(".parquet")
    library("pyarrow.parquet").write_table(table, path)
    return path


@pytest.mark.parametrize("kind", ["jsonl", "csv", "texts", "generator", "pandas", "arrow", "parquet"])
def test_each_item_is_a_row_with_its_parents_columns(
    place: Place, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    report = place.run(source_of(kind, place), explode="tasks", prompt="{{ tasks }}").start()
    assert found(place) == EXPECTED
    assert (report.rows, report.completions) == (3, 3)
    said = [record.message for record in caplog.records if "nothing in 'tasks'" in record.message]
    assert len(said) == 1
    assert "2 of 4 rows" in said[0]


def test_objects_keep_their_digits_and_are_reached_by_template_and_condition(
    place: Place, simulator: Simulator
) -> None:
    place.input.write_text('{"facts": [{"q": "x", "w": 1.10}, {"q": "y", "w": 2}], "id": 1}\n')
    place.run(explode="facts=fact", prompt="{{ fact.q }}", where="fact.w>1.5").start()
    assert sent(simulator) == ["y"]
    place.run(explode="facts=fact", prompt="{{ fact.q }}").start()
    assert sent(simulator) == ["y", "x"]
    assert '"fact":{"q": "x", "w": 1.10}' in place.out.read_text()
    assert "facts" not in place.records()[0]


def test_what_was_answered_is_not_asked_again_when_lists_grow(place: Place) -> None:
    rows = [{"tasks": ["a", "b"]}, {"tasks": ["c"]}]
    settings: dict[str, Any] = {"explode": "tasks", "prompt": "{{ tasks }}"}
    assert place.run(rows, **settings).start().sent == 3
    rows[0]["tasks"] = ["a", "a", "new", "b"]
    assert place.run(rows, **settings).start().sent == 2
    assert [record["tasks"] for record in place.records()] == ["a", "a", "new", "b", "c"]
    assert place.run(rows, **settings).start().sent == 0


def test_what_is_no_list_is_its_rows_failure(place: Place) -> None:
    rows = [
        {"id": 1, "tasks": ["a"]},
        {"id": 2, "tasks": 7},
        {"id": 3, "tasks": "not [json"},
        {"id": 4, "tasks": ["b"]},
    ]
    report = place.run(rows, explode="tasks", prompt="{{ tasks }}", id_column="id").start()
    assert (report.completions, report.failures) == (2, 2)
    second, third = (record["error"] for record in place.records()[1:3])
    assert "row 1 of the list (id 2): the column 'tasks' is no list" in second
    assert "is text, but not the JSON of a list" in third


def test_a_row_that_has_the_items_column_already_fails_alone(place: Place, simulator: Simulator) -> None:
    rows = [{"tasks": ["a"]}, {"tasks": ["b"], "task": 1}, {"tasks": ["c"]}]
    report = place.run(rows, explode="tasks=task", prompt="{{ task }}").start()
    assert (report.completions, report.failures) == (2, 1)
    assert sorted(sent(simulator)) == ["a", "c"]
    assert "row 1 of the list: it has a column 'task' already" in report.causes[0].error.message


@pytest.mark.parametrize("explode", [{}, {"explode": "tasks"}])
def test_what_cannot_be_asked_is_not_asked_when_lists_become_rows_or_in_a_retry(
    place: Place, simulator: Simulator, explode: dict[str, Any]
) -> None:
    """Null and base64 would stand in the prompt instead of what the row holds."""
    rows: list[dict[str, Any]] = [
        {"tasks": ["a"], "x": 1},
        {"tasks": ["b"], "x": object()},
        {"tasks": ["c"], "x": b"\x00\xff"},
    ]
    prompt = "{{ tasks[0] }} {{ x }}"
    report = place.run(rows, prompt=prompt, **explode).start()
    assert (report.completions, report.failures) == (1, 2)
    assert sent(simulator) == ["a 1"]
    causes = {cause.kind: cause.error.message for cause in report.causes}
    assert "'x' holds what JSON cannot carry" in causes["unusable_row"]
    assert "'x' holds bytes" in causes["invalid_input"]
    for _ in range(2):
        retried = Run.retry(place.out, "error=unusable_row").start()
        assert (retried.sent, retried.failures) == (0, 2)
        message = next(cause.error.message for cause in retried.causes if cause.kind == "unusable_row")
        assert message.count("row 1: ") == 1


def test_bytes_are_no_text_in_a_retry_either(place: Place, simulator: Simulator) -> None:
    table = library("pyarrow").table({"t": ["a", "b"], "x": [b"1", b"2"]})
    place.run(table, prompt="{{ t }}").start()
    report = Run.retry(place.out, "row=1", prompt="{{ x }}").start()
    assert report.sent == 0
    assert sent(simulator) == ["a", "b"]


def test_an_item_that_fails_is_named(place: Place) -> None:
    report = place.run([{"tasks": ["a", None]}], explode="tasks", prompt="{{ tasks }}").start()
    assert "row 0 of the list, tasks[1]: " in report.causes[0].error.message


@pytest.mark.parametrize(
    ("rows", "explode", "message"),
    [
        (ROWS, "task", r"explode: the list has no column 'task' .*did you mean 'tasks'"),
        (ROWS[1:3], "tasks", r"no row has anything in 'tasks', of 2"),
        (ROWS, "tasks=n", r"it has a column 'n' already"),
        ([{"tasks": 7}], "tasks", r"the column 'tasks' is no list"),
    ],
)
def test_what_cannot_be_exploded_is_refused_before_anything_is_sent(
    place: Place, simulator: Simulator, rows: Any, explode: str, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        place.run(rows, explode=explode, prompt="x {{ tasks }}").start()
    assert not simulator.requests
