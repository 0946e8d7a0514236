from __future__ import annotations

import csv
import gzip
import json
import os
import stat
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Answers, Mistill, Rows, RunOf, Spawn
from tests.conftest import Simulate
from tests.libraries import library

from mistill.simulator import Fault, Simulator

USER = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'


def bodies(simulator: Simulator) -> list[Any]:
    return [request.body for request in simulator.requests]


# --- records --------------------------------------------------------------------------------------------------------


def test_every_row_is_answered_in_order(mistill: Mistill, run_of: RunOf, answers: Answers) -> None:
    ended = mistill(*run_of(40))
    assert (ended.code, ended.stdout) == (0, "")
    assert [record["text"] for record in answers()] == [f"word {place}" for place in range(40)]
    assert answers()[0] == {
        "text": "word 0",
        "generation": "Echo: Say word 0",
        "finish_reason": "stop",
        "input_tokens": answers()[0]["input_tokens"],
        "output_tokens": answers()[0]["output_tokens"],
        "error": None,
    }
    assert "40 rows: 40 answered" in ended.stderr
    assert "output: answers.jsonl" in ended.stderr
    assert "ledger: answers.jsonl.ledger" in ended.stderr


def test_a_wrong_endpoint_is_told_after_a_few_attempts(
    mistill: Mistill, run_of: RunOf, unused_tcp_port: int
) -> None:
    endpoint = f"http://127.0.0.1:{unused_tcp_port}"
    arguments = run_of(2_000, "--json")
    arguments[arguments.index("--endpoint") + 1] = endpoint
    ended = mistill(*arguments)
    assert ended.code == 3
    report = json.loads(ended.stdout)
    assert report["stopped"]["message"].startswith(f"nothing answers at {endpoint}: ")
    assert "is the endpoint right" in report["stopped"]["hint"]
    assert (report["failures"], report["pending"] > 0) == (0, True)
    assert report["sent"] <= 80  # 64 that leave at once, and probes


def test_an_input_that_breaks_off_says_what_is_kept_and_how_to_go_on(mistill: Mistill, run_of: RunOf) -> None:
    arguments = run_of(600)
    path = Path(arguments[1])
    good = path.read_bytes()
    path.write_bytes(good + b"[]\n")
    ended = mistill(*arguments)
    assert ended.code == 2
    assert "512 answered" in ended.stderr
    assert f"stopped: {path} line 601: a list, where a row must be an object" in ended.stderr
    assert "to go on: the same command again, once that is mended; answered rows cost nothing" in ended.stderr
    quiet = mistill(*arguments, "--quiet")
    assert quiet.code == 2
    assert "512 rows answered so far, and kept: " in quiet.stderr
    assert "once that is mended, start the same command again; answered rows cost nothing" in quiet.stderr
    path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(good)[:-100])
    arguments[1] = str(path.with_suffix(".jsonl.gz"))
    ended = mistill(*arguments)
    assert ended.code == 2
    assert "the compressed data ends too early, after " in ended.stderr
    path.write_bytes(good)
    arguments[1] = str(path)
    ended = mistill(*arguments, "--json")
    assert (ended.code, ended.json["sent"]) == (0, 88)


def test_a_first_line_that_is_no_row_is_two_plain_lines(mistill: Mistill, run_of: RunOf) -> None:
    arguments = run_of(5)
    Path(arguments[1]).write_text("nothing of JSON\n")
    ended = mistill(*arguments)
    assert (ended.code, len(ended.stderr.splitlines())) == (2, 1)
    assert "line 1: not JSON" in ended.stderr


def test_columns_are_renamed_added_and_limited(mistill: Mistill, run_of: RunOf, answers: Answers) -> None:
    columns = ["--column", "generation=answer", "--column", "error=why", "--extra-column", "model"]
    assert mistill(*run_of(9, "--limit", "2", *columns)).code == 0
    expected = ["text", "answer", "finish_reason", "input_tokens", "output_tokens", "why", "model"]
    assert [list(record) for record in answers()] == [expected, expected]


def test_a_column_of_the_input_is_not_overwritten(mistill: Mistill, run_of: RunOf) -> None:
    Path("taken.jsonl").write_text('{"text": "a", "error": 1}\n')
    arguments = run_of(1)
    arguments[1] = "taken.jsonl"
    ended = mistill(*arguments)
    assert ended.code == 2
    assert "--column error=new_error" in ended.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--requests-per-minute", "inf"),
        ("--tokens-per-minute", "nan"),
        ("--guardrails", "[" * 100_000),
        ("--guardrails", "9" * 5000),
        ("--schema", '{"a":' * 3000),
        ("--sample", "9" * 5000),
        ("--deadline", "9" * 5000),
        ("--prices", "deep.toml"),
        ("--schema", "deep.json"),
        ("--schema", "raises_schemas:Answer"),
        ("--schema", "exits_schemas:Answer"),
    ],
)
def test_a_value_that_cannot_be_is_a_wrong_option(
    mistill: Mistill, run_of: RunOf, simulator: Simulator, option: str, value: str
) -> None:
    Path("deep.toml").write_text(f"models = {'[' * 9000}")
    Path("deep.json").write_text("[" * 100_000)
    Path("raises_schemas.py").write_text("1 / 0")
    Path("exits_schemas.py").write_text("raise SystemExit('no more')")
    ended = mistill(*run_of(1, option, value))
    assert ended.code == 2
    assert "internal error" not in ended.stderr
    assert simulator.requests == []


def mode_of(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


def test_whoever_may_not_read_the_input_may_not_read_what_is_made_of_it(
    mistill: Mistill, run_of: RunOf
) -> None:
    arguments = run_of(2)
    Path("prompts.jsonl").chmod(0o600)
    assert mistill(*arguments).code == 0
    assert [mode_of(name) for name in ("answers.jsonl", "answers.jsonl.ledger")] == [0o600, 0o600]
    assert mistill("export", "answers.jsonl", "--to", "more.csv").code == 0
    assert mode_of("more.csv") == 0o600
    Path("more.csv").chmod(0o644)  # by whoever wants to give it away
    assert mistill("export", "answers.jsonl", "--to", "more.csv", "--overwrite").code == 0
    assert mode_of("more.csv") == 0o644
    Path("answers.jsonl").unlink()
    assert mistill("retry", "answers.jsonl", "--where", "row=1").code == 0
    assert mode_of("answers.jsonl") == 0o600


@pytest.mark.parametrize("kind", ["sqlite", "duckdb"])
def test_nor_may_he_read_the_tables_that_are_made_of_it(mistill: Mistill, run_of: RunOf, kind: str) -> None:
    library("pyarrow")
    if kind == "duckdb":
        library("duckdb")
    out = f"{kind}:///answers.db?table=t"
    arguments = run_of(2, out=out)
    Path("prompts.jsonl").chmod(0o600)
    assert mistill(*arguments).code == 0
    assert mistill("export", out, "--to", f"{kind}:///more.db?table=t").code == 0
    assert [mode_of(name) for name in ("answers.db", "more.db")] == [0o600, 0o600]


def test_several_generations_make_a_list(mistill: Mistill, run_of: RunOf, answers: Answers) -> None:
    assert mistill(*run_of(1, "--num-generations", "3")).code == 0
    assert len(answers()[0]["generation"]) == 3


def test_csv_goes_in_and_out(mistill: Mistill, run_of: RunOf) -> None:
    Path("in.csv").write_text("text,n\na,1\n")
    arguments = run_of(1, out="out.csv")
    arguments[1] = "in.csv"
    assert mistill(*arguments).code == 0
    with Path("out.csv").open(newline="") as file:
        [record] = csv.DictReader(file)
    assert (record["n"], record["generation"]) == ("1", "Echo: Say a")


def test_formats_can_be_named(mistill: Mistill, run_of: RunOf) -> None:
    arguments = run_of(1, "--input-format", "jsonl", "--output-format", "csv", out="answers.data")
    Path("prompts.jsonl").rename("prompts.data")
    arguments[1] = "prompts.data"
    assert mistill(*arguments).code == 0
    assert Path("answers.data").read_text().startswith("text,generation,")


def test_stdin_and_stdout_are_pipes(spawn: Spawn, run_of: RunOf) -> None:
    arguments = run_of(3, out="-")
    arguments[1] = "-"
    process = spawn(*arguments)
    out, err = process.communicate(Path("prompts.jsonl").read_text())
    assert process.returncode == 0
    assert [json.loads(line)["generation"] for line in out.splitlines()] == [
        f"Echo: Say word {place}" for place in range(3)
    ]
    assert "3 rows: 3 answered" in err


@pytest.mark.parametrize("command", [["rows", "answers.jsonl"], ["export", "answers.jsonl", "--to", "-"]])
def test_a_reader_who_leaves_is_no_error(
    mistill: Mistill, run_of: RunOf, spawn: Spawn, command: list[str]
) -> None:
    mistill(*run_of(3, "--quiet"))
    reader, writer = os.pipe()
    process = spawn(*command, stdout=writer)
    os.close(writer)
    os.close(reader)
    _, err = process.communicate()
    assert (process.returncode, err) == (141, "")  # as SIGPIPE ends other programs


# --- the prompt -----------------------------------------------------------------------------------------------------


def test_prompt_and_system_come_from_files(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    Path("p.txt").write_text("From a file: {{ text }}\n")
    Path("s.txt").write_text("Be brief.")
    arguments = run_of(1, "--prompt-file", "p.txt", "--system-file", "s.txt")
    place = arguments.index("--prompt")
    del arguments[place : place + 2]
    assert mistill(*arguments).code == 0
    assert bodies(simulator)[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "From a file: word 0"},
    ]


def test_options_that_exclude_each_other_are_refused(mistill: Mistill, run_of: RunOf) -> None:
    Path("p.txt").write_text("{{ text }}")
    ended = mistill(*run_of(1, "--prompt-file", "p.txt"))
    assert ended.code == 2
    assert "--prompt and --prompt-file exclude each other" in ended.stderr
    ended = mistill(*run_of(1, "--local"))
    assert ended.code == 2
    assert "--local and --model exclude each other" in ended.stderr


def test_a_column_that_is_not_there_is_named_before_anything_is_sent(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    arguments = run_of(3)
    arguments[arguments.index("Say {{ text }}")] = "Say {{ txt }}"
    ended = mistill(*arguments)
    assert ended.code == 2
    assert "'txt'" in ended.stderr
    assert "did you mean 'text'?" in ended.stderr
    assert simulator.requests == []


# --- the request ----------------------------------------------------------------------------------------------------


def test_generation_parameters_arrive_as_they_were_given(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    tools = [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    ]
    Path("tools.json").write_text(json.dumps(tools))
    given = [
        "--max-new-tokens",
        "7",
        "--temperature",
        "0.5",
        "--stop",
        "a",
        "--stop",
        "b",
        "--random-seed",
        "3",
    ]
    given += ["--tools", "tools.json", "--tool-choice", "none", "--no-parallel-tool-calls", "--safe-prompt"]
    given += ["--metadata", '{"job": "x"}', "--extra-body", '{"novel": true}']
    mistill(*run_of(1, *given))
    body = bodies(simulator)[0]
    assert body["tools"][0]["function"]["name"] == "f"
    wanted = {
        "max_tokens": 7,
        "temperature": 0.5,
        "stop": ["a", "b"],
        "random_seed": 3,
        "tool_choice": "none",
        "parallel_tool_calls": False,
        "safe_prompt": True,
        "metadata": {"job": "x"},
        "novel": True,
    }
    assert {name: body.get(name) for name in wanted} == wanted


def test_a_column_can_hold_a_parameter_of_each_row(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    arguments = run_of(
        1, "--temperature", "0.5", "--param", "temperature=temp", "--param", "max_new_tokens=most"
    )
    Path("prompts.jsonl").write_text('{"text": "a", "temp": 0.1, "most": 3}\n{"text": "b"}\n')
    assert mistill(*arguments).code == 0
    asked = {body["messages"][0]["content"]: body for body in bodies(simulator)}
    assert [asked["Say a"][name] for name in ("temperature", "max_tokens")] == [0.1, 3]
    assert asked["Say b"]["temperature"] == 0.5
    assert "max_tokens" not in asked["Say b"]


def test_columns_of_parameters_can_stand_in_a_settings_file(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    Path("run.toml").write_text('[param]\ntemperature = "temp"\n')
    arguments = run_of(1, "--settings", "run.toml")
    Path("prompts.jsonl").write_text('{"text": "a", "temp": 0.1}\n')
    assert mistill(*arguments).code == 0
    assert bodies(simulator)[0]["temperature"] == 0.1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--temperature", "9"], "temperature=9.0"),
        (["--param", "temp=temperature"], "did you mean 'temperature'?"),
        (["--param", "temperature"], "not of the form NAME=COLUMN"),
        (["--param", "temperature=a", "--param", "temperature=b"], "--param sets 'temperature' twice"),
        (["--temperature", "warm"], "'warm' is not a valid float"),
        (["--tools", "[1"], "not JSON"),
        (["--metadata", "missing.json"], "missing.json cannot be read"),
        (["--timeout", "-1"], "--timeout: input should be greater than 0"),
        (["--endpoint", "ftp://x"], "not an http(s) URL"),
        (["--deadline", "soon"], "write 90, 90s, 30m, 2h or 1d"),
        (["--column", "generation"], "not of the form OURS=NAME"),
        (["--column", "generation=a", "--column", "generation=b"], "renames 'generation' twice"),
        (["--schema", "missing.json"], "missing.json cannot be read"),
        (["--schema-retries", "2"], "give one with --schema"),
        (["--flatten"], "can be flattened"),
        (["--max-cost", "-1"], "--max-cost: it must be"),
        (["--sample", "more.jsonl"], "'more.jsonl' is not a valid integer"),
        (["--sample-seed", "7"], "--sample-seed: it chooses the rows of a sample, and none is wanted"),
        (["--api-key-env", "NO_SUCH_KEY"], "the environment variable NO_SUCH_KEY is not set"),
        (
            ["--api-key-env", "sk-0123456789abcdef"],
            "the environment variable that --api-key-env names is not set",
        ),
        (
            ["--api-key-env", "AbCdEf0123456789AbCdEf0123456789"],
            "variable that --api-key-env names is not set",
        ),
        (
            ["--api-key-env", "ABCDEF0123456789ABCDEF0123456789"],
            "variable that --api-key-env names is not set",
        ),
    ],
)
def test_a_wrong_setting_is_told_in_one_or_two_lines_and_nothing_is_sent(
    mistill: Mistill, run_of: RunOf, simulator: Simulator, given: list[str], message: str
) -> None:
    ended = mistill(*run_of(1, *given))
    assert ended.code == 2
    assert message in ended.stderr
    assert ended.stderr.startswith("error: ")
    assert len(ended.stderr.splitlines()) <= 2
    assert simulator.requests == []


def test_a_model_must_be_named(mistill: Mistill, run_of: RunOf) -> None:
    arguments = run_of(1)
    place = arguments.index("--model")
    del arguments[place : place + 2]
    ended = mistill(*arguments)
    assert ended.code == 2
    assert "--model mistral-small-latest" in ended.stderr


def test_the_key_can_be_in_another_variable(
    mistill: Mistill, run_of: RunOf, simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = simulate(api_keys={"the-other-key"})
    monkeypatch.setenv("TEAM_KEY", "the-other-key")
    assert mistill(*run_of(2, "--api-key-env", "TEAM_KEY", at=guarded)).code == 0
    assert guarded.answered == 2


# --- structured output ----------------------------------------------------------------------------------------------


def test_answers_fit_the_schema_and_are_flattened(
    mistill: Mistill, run_of: RunOf, answers: Answers, simulator: Simulator
) -> None:
    Path("user.json").write_text(USER)
    assert mistill(*run_of(3, "--schema", "user.json", "--flatten")).code == 0
    assert all(isinstance(record["name"], str) for record in answers())
    assert "generation" not in answers()[0]
    assert bodies(simulator)[0]["response_format"]["type"] == "json_schema"


def test_a_schema_is_found_in_the_working_directory(
    mistill: Mistill, run_of: RunOf, answers: Answers
) -> None:
    source = "from pydantic import BaseModel\nclass User(BaseModel):\n    age: int\n"
    Path("shapes_of_this_test.py").write_text(source)
    assert mistill(*run_of(2, "--schema", "shapes_of_this_test:User", "--flatten")).code == 0
    assert all(isinstance(record["age"], int) for record in answers())


def test_how_the_schema_is_told_and_asked_again_can_be_chosen(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    simulator.script(["no JSON", "still none", '{"name": "x"}'])
    given = ["--schema", USER, "--schema-mode", "json_object", "--schema-retries", "2"]
    assert mistill(*run_of(1, *given)).code == 0
    assert bodies(simulator)[0]["response_format"] == {"type": "json_object"}
    assert len(bodies(simulator)) == 3


# --- exit codes -----------------------------------------------------------------------------------------------------


def test_failed_rows_are_counted_by_cause_and_asked_again(
    mistill: Mistill, run_of: RunOf, simulate: Simulate, answers: Answers
) -> None:
    picky = simulate(poison="word 3")
    ended = mistill(*run_of(5, at=picky))
    assert ended.code == 1
    assert "5 rows: 4 answered, 1 failed" in ended.stderr
    assert "1  bad_request, for example row 3: " in ended.stderr
    assert answers()[3]["error"].startswith("bad_request: ")
    left = mistill(*run_of(5, "--no-retry-failed", at=picky))
    assert (left.code, len(picky.requests)) == (1, 5)
    picky.change(poison=None)
    assert mistill(*run_of(5, at=picky)).code == 0
    assert len(picky.requests) == 6


def test_a_refused_key_stops_and_the_same_command_goes_on(
    mistill: Mistill, run_of: RunOf, simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    guarded = simulate(api_keys={"right"})
    ended = mistill(*run_of(5, at=guarded))
    assert ended.code == 3
    assert "stopped: " in ended.stderr
    assert "MISTRAL_API_KEY" in ended.stderr
    assert "to go on: the same command again" in ended.stderr
    assert not Path("answers.jsonl").exists()
    monkeypatch.setenv("MISTRAL_API_KEY", "right")
    assert mistill(*run_of(5, at=guarded)).code == 0


def test_without_a_key_nothing_is_sent(
    mistill: Mistill, run_of: RunOf, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    ended = mistill(*run_of(1))
    assert ended.code == 2
    assert "MISTRAL_API_KEY" in ended.stderr
    assert simulator.requests == []


def test_an_input_that_is_not_there_is_an_input_error(mistill: Mistill, run_of: RunOf) -> None:
    arguments = run_of(1)
    arguments[1] = "nothing.jsonl"
    ended = mistill(*arguments)
    assert ended.code == 2
    assert "nothing.jsonl" in ended.stderr


def test_a_traceback_is_shown_only_when_asked_for(mistill: Mistill, run_of: RunOf) -> None:
    assert "Traceback" not in mistill(*run_of(1, "--endpoint", "x")).stderr
    assert "Traceback" in mistill(*run_of(1, "--endpoint", "x", "--debug")).stderr


def test_no_secret_is_told(
    mistill: Mistill, run_of: RunOf, simulate: Simulate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRAL_API_KEY", "sk-very-secret")
    ended = mistill(*run_of(2, "--json", "--debug", at=simulate(api_keys={"other"})))
    assert ended.code == 3
    assert "sk-very-secret" not in ended.stdout + ended.stderr
    assert b"sk-very-secret" not in Path("answers.jsonl.ledger").read_bytes()


# --- durability -----------------------------------------------------------------------------------------------------


def test_the_same_command_again_sends_nothing(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    mistill(*run_of(5))
    again = mistill(*run_of(5, "--json"))
    assert again.code == 0
    assert again.json["sent"] == 0
    assert len(simulator.requests) == 5


def test_another_prompt_is_another_run(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    mistill(*run_of(2))
    ended = mistill(*run_of(2, "--temperature", "0.1"))
    assert ended.code == 2
    assert "temperature" in ended.stderr
    assert "--fresh" in ended.stderr
    assert len(simulator.requests) == 2
    assert mistill(*run_of(2, "--temperature", "0.1", "--fresh")).code == 0
    assert len(simulator.requests) == 4


def test_the_ledger_can_be_elsewhere(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    mistill(*run_of(2, "--ledger", "memory.db", out="-"))
    ended = mistill(*run_of(2, "--ledger", "memory.db", out="-"))
    assert len(ended.records) == 2
    assert len(simulator.requests) == 2
    assert Path("memory.db").is_file()


def test_identical_rows_are_asked_once_if_wanted(
    mistill: Mistill, run_of: RunOf, simulator: Simulator, answers: Answers
) -> None:
    Path("same.jsonl").write_text('{"text": "a"}\n' * 5)
    arguments = run_of(1, "--dedupe")
    arguments[1] = "same.jsonl"
    assert mistill(*arguments).code == 0
    assert len(answers()) == 5
    assert len(simulator.requests) == 1


# --- budgets --------------------------------------------------------------------------------------------------------


def test_a_budget_is_a_clean_stop(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    bounded = ["--max-concurrent-requests", "1", "--max-new-tokens", "5"]
    ended = mistill(*run_of(20, *bounded, "--max-tokens-total", "40", "--json"))
    assert ended.code == 3
    assert 0 < ended.json["completions"] < 20
    assert ended.json["exit_code"] == 3
    assert "--max-tokens-total of 40 are used" in ended.json["stopped"]["message"]
    assert mistill(*run_of(20, *bounded)).code == 0
    assert len(simulator.requests) == 20


def test_a_sample_forecasts_the_rest_and_is_kept(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    ended = mistill(*run_of(50, "--sample", "10"))
    assert ended.code == 0
    assert "the 40 rows left, forecast from 10 answered" in ended.stderr
    assert "  > live with the cache   $" in ended.stderr
    assert "to go on: the same command without --sample" in ended.stderr
    assert not Path("answers.jsonl").exists()
    assert mistill(*run_of(50, "--sample", "10", "--json")).json["sent"] == 0
    assert mistill(*run_of(50, "--sample", "10", "--sample-seed", "1", "--json")).json["sent"] > 0
    assert mistill(*run_of(50)).code == 0
    assert len(simulator.requests) == 50


def test_a_dry_run_sends_nothing(
    mistill: Mistill, run_of: RunOf, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    ended = mistill(*run_of(50, "--dry-run", "--max-new-tokens", "7"))
    assert ended.code == 0, ended.stderr
    assert "  user: Say word 2\n" in ended.stdout
    assert "50 rows: 50 to ask in 50 requests" in ended.stdout
    assert "tokens out: at most 350" in ended.stdout
    assert "--sample 20" in ended.stdout
    assert simulator.requests == []
    assert [path.name for path in Path().iterdir()] == ["prompts.jsonl"]


def test_a_dry_run_says_by_its_exit_code_what_the_run_would_come_to(mistill: Mistill, run_of: RunOf) -> None:
    arguments = run_of(2, "--dry-run", "--json")
    Path("prompts.jsonl").write_text('{"text": "fine"}\n{"txt": 1}\n')
    refused = mistill(*arguments)
    assert (refused.code, refused.json["exit_code"], refused.json["refused"]) == (1, 1, 1)
    Path("prompts.jsonl").write_text('{"txt": 1}\n')
    assert mistill(*arguments).code == 2


def test_a_dry_run_starts_no_demo_model(mistill: Mistill, rows: Rows) -> None:
    ended = mistill(
        "run", rows(2), "--out", "a.jsonl", "--local", "--prompt", "{{ text }}", "--dry-run", "--json"
    )
    assert ended.code == 0, ended.stderr
    assert ended.json["model"].startswith("smollm2")


def test_a_dry_run_is_no_sample(mistill: Mistill, run_of: RunOf) -> None:
    ended = mistill(*run_of(2, "--dry-run", "--sample", "1"))
    assert ended.code == 2
    assert "--dry-run and --sample exclude each other" in ended.stderr


def test_money_is_counted_by_ones_own_prices(mistill: Mistill, run_of: RunOf) -> None:
    Path("prices.toml").write_text('[models."mistral-small-latest"]\ninput = 1000000\noutput = 0\n')
    ended = mistill(*run_of(3, "--prices", "prices.toml", "--json"))
    assert ended.json["cost"] == pytest.approx(ended.json["input_tokens"])


# --- telling --------------------------------------------------------------------------------------------------------


def test_the_summary_is_json_where_it_is_wanted(mistill: Mistill, run_of: RunOf) -> None:
    ended = mistill(*run_of(3, "--json"))
    summary = ended.json
    assert (summary["rows"], summary["completions"], summary["failures"], summary["exit_code"]) == (
        3,
        3,
        0,
        0,
    )
    assert summary["output"] == "answers.jsonl"
    assert "rows:" not in ended.stderr


def test_the_summary_gives_way_to_records(mistill: Mistill, run_of: RunOf) -> None:
    ended = mistill(*run_of(3, "--json", out="-"))
    assert [record["text"] for record in ended.records] == ["word 0", "word 1", "word 2"]
    assert json.loads(ended.stderr)["rows"] == 3


def test_quiet_tells_nothing_but_errors(mistill: Mistill, run_of: RunOf, simulate: Simulate) -> None:
    assert mistill(*run_of(3, "--quiet")) == (0, "", "")
    stopped = mistill(*run_of(3, "-q", at=simulate(api_keys={"other"}), out="other.jsonl"))
    assert stopped.code == 3
    assert stopped.stderr.startswith("error: ")


def test_a_warning_is_told_once(spawn: Spawn, run_of: RunOf, simulate: Simulate) -> None:
    process = spawn(*run_of(20, at=simulate(faults={"null_content": 1})))
    _, err = process.communicate()
    assert process.returncode == 0
    assert err.count("gave no content") == 1
    assert "20 answers without content" in err


def test_what_was_cut_off_and_never_answered_is_told(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    simulator.script([Fault.disconnect()])
    ended = mistill(*run_of(1))
    assert ended.code == 0
    assert "maybe billed: 1 attempt whose answers never came" in ended.stderr


# --- the demo model -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    find_spec("xllamacpp") is None, reason="the local model needs pip install 'mistill[local]'"
)
def test_the_demo_model_needs_no_key(
    mistill: Mistill, rows: Rows, answers: Answers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    arguments = ["--out", "answers.jsonl", "--local", "--prompt", "Say {{ text }}", "--max-new-tokens", "4"]
    ended = mistill("run", rows(2), *arguments)
    assert ended.code == 0, ended.stderr
    assert all(record["output_tokens"] for record in answers())
    retried = mistill("retry", "answers.jsonl", "--local", "--where", "row=0", "--max-new-tokens", "2")
    assert retried.code == 0, retried.stderr
    assert mistill("show", "answers.jsonl", "0", "--json").json["attempts"][-1]["output_tokens"] <= 3


# --- columns and rows -------------------------------------------------------------------------------------------------


def test_flatten_stands_alone_or_has_its_value_after_an_equals_sign(
    mistill: Mistill, run_of: RunOf, answers: Answers
) -> None:
    arguments = run_of(1, "--schema", USER)
    # What follows it is never its value: here the source.
    assert mistill(arguments[0], "--flatten", *arguments[1:]).code == 0
    assert "name" in answers()[0]
    assert mistill("export", "answers.jsonl", "--to", "b.jsonl", "--flatten=deep,a_").code == 0
    assert "a_name" in answers("b.jsonl")[0]
    assert mistill("export", "answers.jsonl", "--to", "c.jsonl", "--no-flatten").code == 0
    both = mistill("export", "answers.jsonl", "--to", "d.jsonl", "--flatten", "--no-flatten")
    assert both.code == 2
    assert "--flatten and --no-flatten say the opposite" in both.stderr
    assert "generation" in answers("c.jsonl")[0]


def test_lists_of_columns_are_written_with_commas(mistill: Mistill, run_of: RunOf, answers: Answers) -> None:
    keep = ["--extra-column", "model,cost", "--keep", "text,model", "--keep", "cost"]
    assert mistill(*run_of(1, *keep)).code == 0
    assert list(answers()[0]) == ["text", "model", "cost"]


def test_rows_are_filtered_and_settings_files_know_it(
    mistill: Mistill, run_of: RunOf, answers: Answers
) -> None:
    Path("run.toml").write_text(
        'where = "text!=\'word 1\'"\nid-column = "text"\ndrop = ["error", "input_tokens"]\n'
    )
    assert mistill(*run_of(3, "--settings", "run.toml")).code == 0
    assert [record["text"] for record in answers()] == ["word 0", "word 2"]
    ended = mistill("rows", "answers.jsonl", "--where", "text=word")
    assert (ended.code, ended.stdout) == (0, "")
    assert "no row of answers.jsonl matches 'text=word', of 2 rows (text is word 0, word 2)" in ended.stderr
    ended = mistill(*run_of(3, "--where", "txt=1", out="b.jsonl"))
    assert ended.code == 2
    assert "--where: prompts.jsonl has no column 'txt'" in ended.stderr
    ended = mistill(*run_of(3, "--flatten=a_,b_", out="b.jsonl"))
    assert ended.code == 2
    assert "--flatten=deep,answer_" in ended.stderr


# --- images ---------------------------------------------------------------------------------------------------------


def test_images_go_along_by_their_column(mistill: Mistill, run_of: RunOf, simulator: Simulator) -> None:
    arguments = run_of(2, "--image", "photo", "--image", "more")
    Path("a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(20))
    rows = [
        {"text": "x", "photo": "a.png", "more": None},
        {"text": "y", "photo": None, "more": ["a.png", "a.png"]},
    ]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert mistill(*arguments).code == 0
    contents = [request.body["messages"][0]["content"] for request in simulator.requests]
    assert sorted(len(content) for content in contents) == [2, 3]


def test_the_name_of_an_image_as_text_is_warned_about_in_the_words_of_the_place(
    mistill: Mistill, run_of: RunOf
) -> None:
    arguments = run_of(1)
    Path("prompts.jsonl").write_text('{"text": "cat.png"}\n')
    ended = mistill(*arguments)
    assert ended.code == 0
    assert "from the column 'text'; to send the file itself: --image text\n" in ended.stderr


@pytest.mark.parametrize("command", ["run", "embed"])
def test_a_dry_run_needs_no_place_for_answers(mistill: Mistill, command: str) -> None:
    Path("in.jsonl").write_text('{"text": "a"}\n')
    given = [command, "in.jsonl", "--prompt", "{{ text }}", "--model", "mistral-small-latest"]
    dry = mistill(*given, "--dry-run")
    assert (dry.code, "1 row: 1 to ask" in dry.stdout) == (0, True)
    missing = mistill(*given)
    assert (missing.code, "Missing option '--out' / '-o'" in missing.stderr) == (2, True)
