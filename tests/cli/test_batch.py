"""Runs by batch jobs as a person meets them: sent on one day, looked at on another, cancelled on a third."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.conftest import Answers, Mistill, RunOf, Spawn

from mistill.simulator import Simulator
from mistill.testing import without_waiting


@pytest.fixture(autouse=True)
def _quick() -> Iterator[None]:
    with without_waiting():
        yield


@pytest.fixture
def sent(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> Simulator:
    """A job of six rows is at the simulator, and takes its time."""
    simulator.change(batch_queue_s=0.2, batch_line_s=0.01)
    ended = mistill(*run_of(6, "--lane", "batch", "--no-wait"))
    assert ended.code == 4
    assert (
        ended.stderr.splitlines()[-1] == "1 job is at Mistral; the same command goes on, on another day too"
    )
    return simulator


def ends(simulator: Simulator) -> None:
    simulator.wait_until(lambda: simulator.stats().batch.jobs.get("SUCCESS") == 1)


def test_the_same_command_goes_on(mistill: Mistill, sent: Simulator, run_of: RunOf, answers: Answers) -> None:
    ended = mistill(*run_of(6, "--lane", "batch"), "--json")
    assert (ended.code, ended.json["completions"], ended.json["jobs"][0]["state"]) == (0, 6, "read")
    assert answers()[0]["generation"] == "Echo: Say word 0"
    assert sent.stats().batch.jobs == {"SUCCESS": 1}


def test_status_lists_jobs(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    simulator.change(batch_queue_s=60)
    assert mistill(*run_of(6, "--lane", "batch", "--no-wait")).code == 4
    looked = mistill("status", "answers.jsonl")
    assert looked.code == 4
    job = r"1 job at Mistral: 0 of 6 requests done\n  QUEUED: 6 rows, 0 done, \d s of 24 h, "
    assert re.search(job, looked.stdout)


def test_status_takes_over_what_has_ended(mistill: Mistill, sent: Simulator) -> None:
    ends(sent)
    without = mistill("status", "answers.jsonl", "--no-fetch")
    assert (without.code, ": 6 rows, " in without.stdout) == (4, True)
    looked = mistill("status", "answers.jsonl", "--json")
    assert (looked.code, looked.stderr) == (0, "")
    assert (looked.json["completions"], looked.json["exit_code"], looked.json["with_server"]) == (6, 0, 0)
    assert Path("answers.jsonl").exists()


@pytest.mark.parametrize(
    "command",
    [["show", "3", "--json"], ["retry", "--failed"]],
)
def test_every_command_that_looks_takes_over_what_has_ended(
    mistill: Mistill, sent: Simulator, command: list[str]
) -> None:
    ends(sent)
    ended = mistill(command[0], "answers.jsonl", *command[1:])
    assert ended.code == 0
    if command[0] != "retry":
        assert "Echo: Say word 3" in ended.stdout
    assert (
        mistill("status", "answers.jsonl", "--no-fetch")
        .stdout.splitlines()[1]
        .startswith("6 answered (100%)")
    )


def test_without_a_key_or_a_server_it_says_so_in_one_line_and_goes_on(
    mistill: Mistill, sent: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    for command in ("status", "rows"):
        ended = mistill(command, "answers.jsonl")
        assert ended.stderr.count("\n") == 1
        assert ended.stderr.startswith("batch jobs were not looked at: MistralLLM has no api_key")
        assert ended.code == (4 if command == "status" else 0)
    monkeypatch.setenv("MISTRAL_API_KEY", "any")
    sent.change(outage="drop")
    ended = mistill("status", "answers.jsonl")
    assert (ended.code, ended.stderr.count("\n")) == (4, 1)
    assert "1 job at Mistral" in ended.stdout


def test_whatever_prevents_a_look_the_rest_is_told(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    simulator.change(batch_queue_s=0.2)
    Path("own.toml").write_text('[models."mistral-small-latest"]\ninput = 1000\noutput = 0\n')
    assert mistill(*run_of(2, "--lane", "batch", "--no-wait", "--prices", "own.toml")).code == 4
    Path("own.toml").unlink()
    elsewhere = mistill("status", "answers.jsonl", "--endpoint", "http://127.0.0.1:9")
    assert (elsewhere.code, elsewhere.stderr.count("\n")) == (4, 1)
    assert f"batch jobs of this run are at {simulator.url}" in elsewhere.stderr
    ends(simulator)
    looked = mistill("status", "answers.jsonl", "--json").json
    assert looked["cost"] == pytest.approx(looked["input_tokens"] * 500 / 1e6)
    assert looked["saved"] == looked["cost"]


def test_jobs_are_cancelled(mistill: Mistill, sent: Simulator, run_of: RunOf) -> None:
    ended = mistill("cancel", "answers.jsonl", "--json")
    assert ended.json["jobs"][0]["is_cancelled"]
    assert (ended.json["with_server"], ended.json["exit_code"]) == (0, ended.code)
    assert sent.stats().batch.jobs in ({"CANCELLED": 1}, {"SUCCESS": 1})
    again = mistill("cancel", "answers.jsonl")
    assert (again.code, again.stderr.startswith("answers.jsonl has no batch jobs under way")) == (0, True)
    assert mistill(*run_of(6)).code == 0


def test_answers_that_need_a_class_wait_and_each_look_says_so(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    Path("shapes.py").write_text("import pydantic\nclass Shape(pydantic.BaseModel):\n    name: str\n")
    simulator.change(batch_queue_s=0.2)
    assert mistill(*run_of(2, "--lane", "batch", "--no-wait", "--schema", "shapes:Shape")).code == 4
    ends(simulator)
    for _ in range(2):
        looked = mistill("status", "answers.jsonl")
        assert looked.code == 4
        assert "answers of batch jobs wait in the ledger" in looked.stderr
        assert "--trust" in looked.stderr
    trusted = mistill("status", "answers.jsonl", "--trust")
    assert (trusted.code, trusted.stderr) == (0, "")
    assert "2 answered (100%)" in trusted.stdout


def test_what_was_cancelled_is_told(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    simulator.change(batch_queue_s=60)
    assert mistill(*run_of(2, "--lane", "batch", "--no-wait")).code == 4
    ended = mistill("cancel", "answers.jsonl")
    assert ended.code == 0
    assert "1 job cancelled, and read as far as it came" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("to go on: the run itself again")
    assert mistill("status", "answers.jsonl").code == 4  # the same command sends new ones


def test_a_sample_waits_for_no_job(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    simulator.change(batch_queue_s=60)
    assert mistill(*run_of(4, "--lane", "batch", "--no-wait", "--limit", "2")).code == 4
    ended = mistill(*run_of(4, "--lane", "batch", "--sample", "4"))
    assert (ended.code, "2 answered" in ended.stderr) == (4, True)


def test_options_of_jobs_say_that_none_is_made(mistill: Mistill, run_of: RunOf) -> None:
    ended = mistill(*run_of(1, "--no-wait"))
    assert ended.code == 0
    assert "--no-wait is about jobs that are made, and none is without --lane batch" in ended.stderr


def test_ctrl_c_leaves_the_jobs_and_says_so(
    spawn: Spawn, run_of: RunOf, simulator: Simulator, mistill: Mistill
) -> None:
    simulator.change(batch_queue_s=60)
    process = spawn(*run_of(3, "--lane", "batch"))
    simulator.wait_until(lambda: simulator.stats().batch.jobs == {"QUEUED": 1}, timeout_s=60)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert process.returncode == 4
    lines = told.splitlines()
    assert lines[-2:] == [
        "stopped: interrupted",
        "1 job is at Mistral; the same command goes on, on another day too",
    ]
    assert simulator.stats().batch.jobs == {"QUEUED": 1}


def test_quiet_waiting_says_nothing(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    simulator.change(batch_queue_s=60)
    ended = mistill(*run_of(2, "--lane", "batch", "--no-wait", "--quiet"))
    assert (ended.code, ended.stderr, ended.stdout) == (4, "", "")


def test_the_demo_model_has_no_jobs(mistill: Mistill) -> None:
    Path("in.jsonl").write_text(json.dumps({"prompt": "x"}) + "\n")
    ended = mistill("run", "in.jsonl", "--out", "out.jsonl", "--local", "--lane", "batch")
    assert ended.code == 2
    assert "--local and --lane exclude each other" in ended.stderr


def test_a_settings_file_may_choose_the_lane(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    Path("run.yaml").write_text("lane: batch\nbatch-timeout: 48h\nbatch-bytes: 1MB\nno-wait: true\n")
    simulator.change(batch_queue_s=60)
    assert mistill(*run_of(2, "--settings", "run.yaml")).code == 4
    status = mistill("status", "answers.jsonl", "--json").json
    assert status["jobs"][0]["timeout_s"] == 48 * 3600
    assert status["options"]["batch_bytes"] == 1_000_000


def test_who_gets_no_jobs_goes_on_live(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    simulator.change(batch_needs_billing=True)
    ended = mistill(*run_of(3, "--lane", "batch"))
    assert ended.code == 3
    assert "or go on with --lane live" in ended.stderr
    looked = mistill("status", "answers.jsonl")
    assert (looked.code, looked.stderr) == (4, "")
    assert "1 job not sent yet\n  planned: 3 rows, 0 s of 24 h, " in looked.stdout
    ended = mistill(*run_of(3), "--json")
    assert (ended.code, ended.json["completions"], ended.json["jobs"][0]["state"]) == (0, 3, "dropped")


def test_a_look_takes_failures_over_as_it_does_answers(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    simulator.change(batch_queue_s=0.2, poison="word")
    assert mistill(*run_of(25, "--lane", "batch", "--no-wait")).code == 4
    ends(simulator)
    looked = mistill("status", "answers.jsonl")
    assert (looked.code, looked.stderr) == (1, "")
    assert looked.stdout.splitlines()[1] == "0 answered (0%), 25 failed, 0 to go"


def test_a_job_that_failed_is_told_in_the_words_of_the_server(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    simulator.change(batch_queue_s=0.2, batch_failed=1.0)
    assert mistill(*run_of(2, "--lane", "batch", "--no-wait")).code == 4
    simulator.wait_until(lambda: simulator.stats().batch.jobs == {"FAILED": 1})
    looked = mistill("status", "answers.jsonl")
    assert (looked.code, looked.stderr) == (4, "")
    assert "  reason: Internal error while the batch was run (1)" in looked.stdout
    assert "1 job read: 2 requests, 2 without a line in the results" in looked.stdout


def test_a_look_writes_no_records_of_a_run_to_stdout(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    simulator.change(batch_queue_s=0.2)
    given = run_of(2, "--lane", "batch", "--no-wait", "--ledger", "kept.ledger", out="-")
    assert mistill(*given).code == 4
    ends(simulator)
    looked = mistill("status", "-", "--ledger", "kept.ledger")
    assert looked.code == 0
    assert looked.stdout.splitlines()[1].startswith("2 answered (100%)")
    assert len(mistill(*[one for one in given if one != "--no-wait"]).records) == 2


def test_rows_go_by_the_cheaper_lane_and_that_is_told(mistill: Mistill, simulator: Simulator) -> None:
    simulator.change(answer_tokens=500)
    Path("rows.jsonl").write_text("".join(f'{{"text": "mail {number}"}}\n' for number in range(300)))
    settings = f'lane = "cheapest"\nmodel = "mistral-small-latest"\nendpoint = "{simulator.url}"\n'
    Path("settings.toml").write_text(settings + 'prompt = "{{ text }}"\n')
    ended = mistill("run", "rows.jsonl", "--out", "answers.jsonl", "--settings", "settings.toml")
    assert ended.code == 0
    lines = ended.stderr.splitlines()
    assert (
        lines[0] == "by 5 rows answered live, 0% of their input cached: what the 295 rows left cost, by lane"
    )
    assert [line[:24].rstrip() for line in lines[1:4]] == [
        "    live with the cache",
        "    in batch jobs",
        "  > cheapest",
    ]
    told = "lanes: 5 rows live; 295 rows in jobs, about 50% cheaper than live"
    assert told in lines
    assert told in mistill("status", "answers.jsonl").stdout
    report = mistill("status", "answers.jsonl", "--json").json
    assert (report["lanes"]["live"], report["lanes"]["in_jobs"]) == (5, 295)
    again = mistill(
        "retry", "answers.jsonl", "--where", "row<10", "--lane", "cheapest", "--endpoint", simulator.url
    )
    assert again.code == 0
    assert "10 answered" not in again.stderr
    quoted = mistill("run", "rows.jsonl", "--dry-run", "--settings", "settings.toml").stdout
    assert "cost and time, by lane:" in quoted
    assert "  > cheapest" in quoted
