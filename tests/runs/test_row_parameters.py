"""Generation parameters that rows bring themselves, and parameters that are code."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library
from tests.runs.conftest import MODEL, Place, sent

from mistill import MistralLLM, Run
from mistill.errors import InputError, ManifestChanged
from mistill.ledger import LedgerReader
from mistill.simulator import Simulator


def fields(simulator: Simulator, *names: str) -> dict[str, tuple[Any, ...]]:
    """What was asked → the fields that it was asked with."""
    bodies = [request.body for request in simulator.requests]
    return {body["messages"][-1]["content"]: tuple(body.get(name) for name in names) for body in bodies}


def weather(town: str) -> str:
    """The weather in a town."""
    raise AssertionError("never called")


def test_a_row_is_asked_with_its_own_values(place: Place, simulator: Simulator) -> None:
    place.write_rows(
        [
            {"text": "a", "temp": 0.2, "budget": 5},
            {"text": "b", "temp": None, "budget": 6},
            {"text": "c"},
            {"text": "d", "temp": 1},
        ]
    )
    run = place.run(
        parameters={"temperature": 0.7, "random_seed": 3},
        row_parameters={"temperature": "temp", "max_new_tokens": "budget"},
    )
    assert run.start().completions == 4
    assert fields(simulator, "temperature", "max_tokens", "random_seed") == {
        "a": (0.2, 5, 3),
        "b": (0.7, 6, 3),
        "c": (0.7, None, 3),
        "d": (1.0, None, 3),
    }


def test_tables_of_text_and_of_floats_will_do(place: Place, tmp_path: Path, simulator: Simulator) -> None:
    table = tmp_path / "in.csv"
    table.write_text(
        'text,temp,most,end,safe,tag\na,0.5,7,END,true,"{""job"": ""x""}"\nb,,,,,\nc, ,7.0,"[""x"", ""y""]",false,\n'
    )
    names = {
        "temperature": "temp",
        "max_new_tokens": "most",
        "stop": "end",
        "safe_prompt": "safe",
        "metadata": "tag",
    }
    assert place.run(str(table), row_parameters=names).start().completions == 3
    assert fields(simulator, "temperature", "max_tokens", "stop", "safe_prompt", "metadata") == {
        "a": (0.5, 7, "END", True, {"job": "x"}),
        "b": (None, None, None, None, None),
        "c": (None, 7, ["x", "y"], False, None),
    }


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (2, "temperature=2: expected `float` <= 1.5"),
        ("warm", "temperature='warm': expected `float | null`, got `str`"),
        ([0.1], "temperature=[0.1]: expected `float | null`, got `array`"),
        (True, "temperature=True: expected `float | null`, got `bool`"),
    ],
)
@pytest.mark.parametrize("bad_row", [0, 1])
def test_a_wrong_value_fails_its_row_alone(
    place: Place, simulator: Simulator, value: Any, reason: str, bad_row: int
) -> None:
    rows: list[dict[str, Any]] = [{"text": "good", "temp": 0.5}, {"text": "better", "temp": None}]
    rows.insert(bad_row, {"text": "bad", "temp": value})
    place.write_rows(rows)
    summary = place.run(row_parameters={"temperature": "temp"}).start()
    assert (summary.completions, summary.failures, summary.sent) == (2, 1, 2)
    assert sorted(sent(simulator)) == ["better", "good"]
    error = place.records()[bad_row]["error"]
    assert error.startswith("invalid_input: ")
    assert f"line {bad_row + 1}: the column 'temp': {reason}" in error


def test_a_value_counts_as_part_of_the_request(place: Place, simulator: Simulator) -> None:
    rows: list[dict[str, Any]] = [
        {"text": "same", "temp": 0.1},
        {"text": "same", "temp": 0.9},
        {"text": "same", "temp": 0.1, "note": "another row"},
    ]
    place.write_rows(rows)
    settings: dict[str, Any] = {"row_parameters": {"temperature": "temp"}, "dedupe": True}
    assert place.run(**settings).start().sent == 2
    assert place.run(**settings).start().sent == 0
    rows[1]["temp"] = 0.8
    place.write_rows(rows)
    assert place.run(**settings).start().sent == 1
    assert [request.body["temperature"] for request in simulator.requests[2:]] == [0.8]


def test_which_columns_they_are_is_part_of_the_run(place: Place) -> None:
    place.write(["a"], temp=0.1, other=0.2)
    place.run(row_parameters={"temperature": "temp"}).start()
    with pytest.raises(ManifestChanged, match="row_parameters"):
        place.run(row_parameters={"temperature": "other"}).start()


def test_asking_again_starts_from_the_values_of_the_row(place: Place, simulator: Simulator) -> None:
    place.write_rows([{"text": "a", "temp": 0.1}, {"text": "b", "temp": 0.2}])
    place.run(row_parameters={"temperature": "temp"}, parameters={"random_seed": 1}).start()
    assert Run.retry(place.out, "row=1", parameters={"random_seed": 2}).start().sent == 1
    assert fields(simulator, "temperature", "random_seed") == {"a": (0.1, 1), "b": (0.2, 2)}


def test_a_wrong_mapping_is_refused_at_once(place: Place, tmp_path: Path, simulator: Simulator) -> None:
    place.write(["a"])
    with pytest.raises(InputError, match="did you mean 'temperature'"):
        place.run(row_parameters={"temprature": "temp"})
    with pytest.raises(InputError, match=r"temperature is to come from 0\.5, which names no column"):
        place.run(row_parameters={"temperature": 0.5})
    table = tmp_path / "in.csv"
    table.write_text("text,temp\na,0.5\n")
    with pytest.raises(InputError, match=r"a column 'tmp', which the input has not .*'temp'"):
        place.run(str(table), row_parameters={"temperature": "tmp"})
    assert simulator.requests == []


@pytest.mark.parametrize("given", ["parameters", "generation_kwargs"])
def test_tools_may_be_code(place: Place, simulator: Simulator, given: str) -> None:
    place.write_rows([{"text": "a", "choice": "none"}, {"text": "b", "choice": "weather"}, {"text": "c"}])
    arguments = {"tools": [weather, {"type": "web_search"}], "tool_choice": weather}
    settings: dict[str, Any] = {"row_parameters": {"tool_choice": "choice"}, "extra_columns": ["tool_calls"]}
    settings |= (
        {"parameters": arguments}
        if given == "parameters"
        else {"llm_settings": {"generation_kwargs": arguments}}
    )
    assert place.run(**settings).start().completions == 3
    named = {"type": "function", "function": {"name": "weather"}}
    assert fields(simulator, "tool_choice") == {"a": ("none",), "b": (named,), "c": (named,)}
    assert [bool(record["tool_calls"]) for record in place.records()] == [False, True, True]
    assert place.run(**settings).start().sent == 0
    with LedgerReader(place.ledger) as reader:
        assert json.loads(reader.manifest())["parameters"]["tool_choice"] == named


def test_tools_that_are_code_survive_a_retry(place: Place, simulator: Simulator) -> None:
    place.write(["a", "b"])
    place.run(parameters={"tools": [weather], "tool_choice": "none"}).start()
    assert Run.retry(place.out, "row=0", parameters={"tool_choice": weather}).start().sent == 1
    assert simulator.requests[-1].body["tools"] == simulator.requests[0].body["tools"]
    assert simulator.requests[-1].body["tool_choice"]["function"] == {"name": "weather"}
    assert Run.retry(place.out, "row=1", parameters={"tools": [weather]}).start().sent == 1


def test_tools_may_come_from_a_columnar_file(place: Place, tmp_path: Path, simulator: Simulator) -> None:
    parameters = {"type": "object", "properties": {"town": {"type": "string"}}}
    function = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    books = {"type": "document_library", "library_ids": ["7"]}
    rows = [{"text": "a", "tools": [function, books]}, {"text": "b", "tools": [books]}, {"text": "c"}]
    path = tmp_path / "in.parquet"
    library("pyarrow.parquet").write_table(library("pyarrow").Table.from_pylist(rows), path)
    assert place.run(str(path), row_parameters={"tools": "tools"}).start().completions == 3
    assert fields(simulator, "tools") == {"a": ([function, books],), "b": ([books],), "c": (None,)}


def test_a_servers_dialect_can_refuse_a_row(place: Place, simulator: Simulator) -> None:
    place.write_rows([{"text": "a"}, {"text": "b", "tools": [{"type": "web_search"}]}])
    llm = MistralLLM(model=MODEL, endpoint=place.endpoint, dialect="openai")
    summary = place.run(llm=llm, row_parameters={"tools": "tools"}).start()
    assert (summary.completions, summary.failures, summary.sent) == (1, 1, 1)
    assert "no tool 'web_search' of its own" in place.records()[1]["error"]
