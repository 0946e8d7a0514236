from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from tests.cli.conftest import Answers, Mistill, RunOf, Spawn
from tests.conftest import Simulate

from mistill.progress.formatting import money
from mistill.simulator import Simulator
from mistill.simulator.faults import Fault


@pytest.fixture
def failed_run(mistill: Mistill, run_of: RunOf, simulate: Simulate) -> Simulator:
    """Six rows, of which one was refused; its simulator."""
    picky = simulate(poison="word 4")
    assert mistill(*run_of(6, at=picky)).code == 1
    return picky


def test_status_tells_counts_and_causes(mistill: Mistill, failed_run: Simulator) -> None:
    ended = mistill("status", "answers.jsonl")
    assert ended.code == 1
    lines = ended.stdout.splitlines()
    assert lines[0] == "answers.jsonl by mistral-small-latest: 6 rows"
    assert lines[1] == "5 answered (83%), 1 failed, 0 to go"
    assert "1  bad_request, for example row 4: " in ended.stdout
    assert mistill("status", "answers.jsonl.ledger") == ended


def test_the_hint_of_a_group_is_that_of_the_most_and_says_of_how_many(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    for number, status in enumerate((400, 413, 413)):
        simulator.script([Fault.status(status)], when=lambda body, n=number: f"word {n}" in str(body))
    mistill(*run_of(4))
    shown = mistill("status", "answers.jsonl").stdout
    assert "3  bad_request, for example row 1: " in shown
    assert "hint for 2 of them: the request is too large for this server" in shown
    mistill("report", "answers.jsonl")
    assert "what to do with 2 of them:" in Path("answers.report.html").read_text()


def test_what_a_start_cost_is_told_beside_what_all_did(mistill: Mistill, run_of: RunOf) -> None:
    first = mistill(*run_of(6, "--limit", "2"))
    assert "of it now" not in first.stderr  # it was the only one
    once = mistill("status", "answers.jsonl", "--json").json
    assert (once["start_cost"], len(once["starts"])) == (once["cost"], 1)
    second = mistill(*run_of(6))
    report = mistill("status", "answers.jsonl", "--json").json
    both = [start["start_cost"] for start in report["starts"]]
    assert both[0] == once["cost"]
    assert sum(both) == pytest.approx(report["cost"])
    assert f", {money(report['cost'])} ({money(both[1])} of it now)" in second.stderr
    shown = mistill("status", "answers.jsonl").stdout
    assert "in all: " in shown
    assert f", {money(report['cost'])} ({money(both[1])} of it in the last start), 6 attempts" in shown
    mistill("report", "answers.jsonl")
    page = Path("answers.report.html").read_text()
    assert all(f">{money(cost)}<" in page for cost in both)


def test_status_is_json_where_it_is_wanted(mistill: Mistill, failed_run: Simulator) -> None:
    status = mistill("status", "answers.jsonl", "--json").json
    assert (status["rows"], status["completions"], status["failures"], status["pending"]) == (6, 5, 1, 0)
    assert status["model"] == "mistral-small-latest"
    assert [(cause["kind"], cause["count"], cause["row"]) for cause in status["causes"]] == [
        ("bad_request", 1, 4)
    ]


def test_status_counts_answers_by_model_and_pin_ends_a_run_whose_model_moved(
    mistill: Mistill, run_of: RunOf, simulate: Simulate
) -> None:
    moving = simulate(answered_by={"mistral-small-latest": "mistral-small-2603"})
    assert mistill(*run_of(6, "--limit", "4", at=moving)).code == 0
    moving.change(answered_by={"mistral-small-latest": "mistral-medium-3-5"})
    gone_on = mistill(*run_of(6, at=moving))
    assert gone_on.code == 0
    assert "mistral-small-latest is answered by mistral-medium-3-5 now" in gone_on.stderr
    assert "--where model=mistral-medium-3-5 --model mistral-small-2603; --pin ends" in gone_on.stderr
    told = mistill("status", "answers.jsonl").stdout
    assert "answers by model: 4 mistral-small-2603, 2 mistral-medium-3-5" in told
    pinned = mistill(*run_of(9, "--pin", at=moving))
    assert pinned.code == 3
    assert "--pin: mistral-small-latest is answered by mistral-medium-3-5 now" in pinned.stderr
    assert (
        "mistill retry … --where state=pending --model mistral-small-2603; or go on without --pin"
        in pinned.stderr
    )


def test_a_run_is_seen_while_it_goes_on(
    mistill: Mistill, spawn: Spawn, run_of: RunOf, simulate: Simulate
) -> None:
    quick, holding = simulate(), simulate(latency_s=60)
    assert mistill(*run_of(3, "--limit", "2", at=quick)).code == 0
    arguments = run_of(3, "--grace", "0", at=holding)
    process = spawn(*arguments)
    holding.wait_until(lambda: holding.in_flight == 1, timeout_s=60)
    status = mistill("status", "answers.jsonl", "--json").json
    assert (status["completions"], status["pending"], status["process"]) == (2, 1, process.pid)
    assert f", running (process {process.pid})" in mistill("status", "answers.jsonl").stdout
    assert [record["text"] for record in mistill("rows", "answers.jsonl").records] == ["word 0", "word 1"]
    pending = mistill("rows", "answers.jsonl", "--where", "state=pending").records
    assert [record["text"] for record in pending] == ["word 2"]
    second = mistill(*arguments)
    assert second.code == 3
    assert f"in use by process {process.pid}" in second.stderr


def test_rows_are_chosen(mistill: Mistill, failed_run: Simulator) -> None:
    def texts(*chosen: str) -> list[str]:
        return [record["text"] for record in mistill("rows", "answers.jsonl", *chosen).records]

    assert texts() == [f"word {place}" for place in range(6)]
    assert texts("--failed") == ["word 4"]
    assert texts("--where", "row>=2, state=completion") == ["word 2", "word 3", "word 5"]
    assert texts("--failed", "--where", "row<3") == []
    assert texts("--limit", "2") == ["word 0", "word 1"]
    ended = mistill("rows", "answers.jsonl", "--where", "finish_raeson=length")
    assert ended.code == 2
    assert "did you mean 'finish_reason'" in ended.stderr


@pytest.mark.parametrize(
    "command", [["status"], ["rows"], ["export", "--to", "-"], ["retry", "--where", "row=0"]]
)
def test_a_run_that_is_not_there_is_told(mistill: Mistill, command: list[str]) -> None:
    ended = mistill(command[0], "nothing.jsonl", *command[1:])
    assert ended.code == 2
    assert "nothing.jsonl.ledger" in ended.stderr


def test_records_are_exported_for_free(mistill: Mistill, failed_run: Simulator) -> None:
    chosen = ["--column", "generation=answer", "--extra-column", "model", "--where", "state=completion"]
    ended = mistill("export", "answers.jsonl", "--to", "answers.csv", *chosen)
    assert ended.code == 0
    assert "5 records to answers.csv" in ended.stderr
    with Path("answers.csv").open(newline="") as file:
        records = list(csv.DictReader(file))
    assert records[4]["answer"] == "Echo: Say word 5"
    assert records[0]["model"] == "mistral-small-latest"
    assert len(failed_run.requests) == 6


def test_another_schema_reads_paid_answers(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    wide = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}},
        "required": ["a"],
    }
    simulator.script(['{"a": 1, "b": 2}', '{"a": 3}'])
    Path("wide.json").write_text(json.dumps(wide))
    Path("narrow.json").write_text(json.dumps(wide | {"required": ["a", "b"]}))
    assert mistill(*run_of(2, "--schema", "wide.json", "--max-concurrent-requests", "1")).code == 0
    ended = mistill("export", "answers.jsonl", "--to", "-", "--schema", "narrow.json", "--flatten")
    assert ended.code == 1  # it is not all as asked
    first, second = ended.records
    assert (first["a"], first["b"], first["error"]) == (1, 2, None)
    assert second["error"].startswith("invalid_output: ")
    assert "1  invalid_output, row 1: " in ended.stderr
    assert "mistill export answers.jsonl --to answers-again.jsonl --schema …" in ended.stderr
    assert ended.stderr.endswith("2 records to stdout, 1 of them not as asked\n")
    assert mistill("export", "answers.jsonl", "--to", "-", "--flatten").code == 0
    assert len(simulator.requests) == 2


def test_answers_that_are_no_record_as_asked_are_told_by_every_command(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    simulator.script(['{"value": {"a": 1}}', '{"value": "b"}'])
    a = {"type": "object", "properties": {"a": {}}}
    given = run_of(2, "--schema", json.dumps({"anyOf": [a, {"type": "string"}]}), "--flatten")
    ran = mistill(*given, "--max-concurrent-requests", "1")
    looked = mistill("status", "answers.jsonl")
    rows = mistill("rows", "answers.jsonl")
    assert (ran.code, looked.code, rows.code) == (1, 1, 1)
    for told in (ran.stderr, looked.stdout, rows.stderr):
        assert "not written as asked: 1 record; the answers are kept" in told
        assert "1  answer_without_fields, row 1: the answer is no object" in told
        assert "--flatten" in told
    told = mistill("status", "answers.jsonl", "--json").json
    assert (told["exit_code"], told["misfits"][0]["rows"]) == (1, [1])
    assert mistill("rows", "answers.jsonl", "--where", "row=0").code == 0


def test_an_unfinished_run_is_exported_in_part_only_if_wanted(mistill: Mistill, run_of: RunOf) -> None:
    assert mistill(*run_of(9, "--sample", "4")).code == 0
    refused = mistill("export", "answers.jsonl", "--to", "part.jsonl")
    assert refused.code == 3
    assert "--partial" in refused.stderr
    assert not Path("part.jsonl").exists()
    assert mistill("export", "answers.jsonl", "--to", "part.jsonl", "--partial").code == 0
    assert len(Path("part.jsonl").read_text().splitlines()) == 4


def test_a_selection_is_asked_again_with_other_parameters(
    mistill: Mistill, run_of: RunOf, simulator: Simulator, answers: Answers
) -> None:
    assert mistill(*run_of(4, "--max-new-tokens", "1")).code == 0
    chosen = ["--where", "finish_reason=length, row<2", "--max-new-tokens", "50"]
    ended = mistill("retry", "answers.jsonl", *chosen, "--json")
    assert ended.code == 0
    assert ended.json["sent"] == 2
    assert [record["finish_reason"] for record in answers()] == ["stop", "stop", "length", "length"]
    assert simulator.requests[-1].body["max_tokens"] == 50


def test_a_retry_that_could_not_work_sends_nothing(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    mistill(*run_of(2))
    assert mistill("retry", "answers.jsonl", "--where", "row=0", "--temperature", "7").code == 2
    assert mistill("retry", "answers.jsonl", "--where", "nonsense", "--temperature", "1").code == 2
    assert len(simulator.requests) == 2
