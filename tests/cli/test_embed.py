"""``mistill embed``: vectors of a dataset from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Answers, Mistill, Rows
from tests.libraries import library

from mistill.simulator import Simulator
from mistill.simulator.catalogue import vector


@pytest.fixture(autouse=True)
def _short_vectors(simulator: Simulator) -> None:
    simulator.change(embedding_dimension=4)


def test_a_dataset_is_embedded_and_the_same_command_goes_on(
    mistill: Mistill, rows: Rows, simulator: Simulator, answers: Answers
) -> None:
    command = ["embed", rows(30), "--out", "vectors.jsonl", "--endpoint", simulator.url]
    ended = mistill(*command)
    assert ended.code == 0
    assert "30 rows: 30 answered" in ended.stderr
    assert "sent now: 1 request" in ended.stderr
    assert [record["embedding"] for record in answers("vectors.jsonl")] == [
        vector(f"word {place}", 4) for place in range(30)
    ]
    rows(31)
    assert "sent now: 1 request" in mistill(*command).stderr
    assert simulator.requests[1].body == {"model": "mistral-embed", "input": ["word 30"]}


def test_its_options_reach_the_request(mistill: Mistill, rows: Rows, simulator: Simulator) -> None:
    Path("run.toml").write_text('model = "codestral-embed"\nprompt = "code: {{ text }}"\n')
    options = ["--output-dimension", "3", "--max-batch-tokens", "10", "--settings", "run.toml"]
    ended = mistill("embed", rows(4), "-o", "v.jsonl", "--endpoint", simulator.url, *options)
    assert ended.code == 0
    assert sorted(request.body["input"] for request in simulator.requests) == [
        ["code: word 0", "code: word 1"],
        ["code: word 2", "code: word 3"],
    ]
    assert {request.body["model"] for request in simulator.requests} == {"codestral-embed"}
    assert {request.body["output_dimension"] for request in simulator.requests} == {3}


def test_the_other_commands_know_its_runs(
    mistill: Mistill, rows: Rows, simulator: Simulator, answers: Answers
) -> None:
    simulator.change(poison="word 2")
    assert mistill("embed", rows(4), "-o", "v.jsonl", "--endpoint", simulator.url).code == 1
    status = mistill("status", "v.jsonl")
    assert "v.jsonl by mistral-embed: 4 rows" in status.stdout
    assert "3 answered (75%), 1 failed" in status.stdout
    (failed,) = mistill("rows", "v.jsonl", "--failed").records
    assert (failed["text"], failed["embedding"]) == ("word 2", None)
    assert mistill("export", "v.jsonl", "--to", "v.parquet", "--where", "state=completion").code == 0
    simulator.change(poison=None)
    assert mistill("retry", "v.jsonl", "--where", "state=failure").code == 0
    assert answers("v.jsonl")[2]["embedding"] == vector("word 2", 4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--prompt", "{{ missing }}"], "needs a column 'missing'"),
        (["--output-dimension", "0"], "output-dimension"),
        (["--output-dtype", "int7"], "int8"),
        (["--max-cost", "1", "--model", "mistral-embd"], "did you mean 'mistral-embed'"),
        (["--extra-column", "thinking"], "no extra column 'thinking'"),
    ],
)
def test_mistakes_are_told_and_nothing_is_sent(
    mistill: Mistill, rows: Rows, simulator: Simulator, options: list[str], message: str
) -> None:
    ended = mistill("embed", rows(3), "-o", "v.jsonl", "--endpoint", simulator.url, *options)
    assert ended.code == 2
    assert message in ended.stderr
    assert simulator.requests == []


def test_a_table_as_a_spreadsheet_saves_it_is_embedded(mistill: Mistill, simulator: Simulator) -> None:
    Path("in.csv").write_bytes("id;text\n1;café\n".encode("cp1252"))
    command = ["embed", "in.csv", "--out", "v.jsonl", "--endpoint", simulator.url]
    ended = mistill(*command)
    assert (ended.code, "--encoding cp1252" in ended.stderr) == (2, True)
    ended = mistill(*command, "--encoding", "cp1252")
    assert (ended.code, "--delimiter ';'" in ended.stderr) == (2, True)
    assert mistill(*command, "--encoding", "cp1252", "--delimiter", ";").code == 0
    assert [request.body["input"] for request in simulator.requests] == [["café"]]


def test_csv_for_a_spreadsheet(mistill: Mistill, simulator: Simulator) -> None:
    Path("in.jsonl").write_text('{"text": "=1+1"}\n')
    Path("run.toml").write_text('csv-dialect = "excel"\n')
    embed = ["embed", "in.jsonl", "--endpoint", simulator.url, "--settings", "run.toml"]
    assert mistill(*embed, "--out", "v.csv").code == 0
    assert mistill("export", "v.csv", "--to", "w.csv", "--csv-dialect", "excel").code == 0
    assert mistill("export", "v.csv", "--to", "plain.csv").code == 0
    assert b"\r\n'=1+1," in Path("v.csv").read_bytes()
    assert Path("w.csv").read_bytes() == Path("v.csv").read_bytes()
    assert b"\n=1+1," in Path("plain.csv").read_bytes()
    refused = mistill("export", "v.csv", "--to", "v.jsonl", "--csv-dialect", "excel")
    assert (refused.code, "--csv-dialect excel: v.jsonl is jsonl" in refused.stderr) == (2, True)


def test_a_workbook_in_and_out(mistill: Mistill, simulator: Simulator) -> None:
    openpyxl = library("openpyxl")
    book = openpyxl.Workbook()
    for row in (["id", "text"], [1, "=SUM(A1)"], [2, "two"]):
        book.active.append(row)
    book.active["B2"].data_type = "s"
    book.save("in.xlsx")
    ended = mistill("embed", "in.xlsx", "--out", "v.xlsx", "--endpoint", simulator.url)
    assert ended.code == 0
    (header, first, _) = openpyxl.load_workbook("v.xlsx").active.iter_rows()
    assert [cell.value for cell in header] == ["id", "text", "embedding", "input_tokens", "error"]
    assert [first[0].value, first[1].value, first[1].data_type] == [1, "=SUM(A1)", "s"]
