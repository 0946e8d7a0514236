from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Answers, Ended, Mistill, Rows

from mistill.simulator import Simulator

TOML = """
model = "mistral-small-latest"
prompt = "From TOML: {{ text }}"
max-new-tokens = 3
temperature = 1
stop = ["x", "y"]
safe-prompt = true
metadata = { job = "nightly" }
column = { generation = "answer" }
"""

YAML = """
model: mistral-small-latest
prompt: "From YAML: {{ text }}"
max_new_tokens: 3
stop: x
random-seed:
"""


@pytest.fixture
def settled(mistill: Mistill, rows: Rows, simulator: Simulator) -> Mistill:
    """Runs two rows with a settings file: ``settled("run.toml", text, …)``."""

    def run(name: str, text: str, *more: str) -> Ended:
        Path(name).write_text(text)
        return mistill(
            "run", rows(2), "--out", "answers.jsonl", "--endpoint", simulator.url, "--settings", name, *more
        )

    return run


def test_toml_holds_any_option(settled: Mistill, simulator: Simulator, answers: Answers) -> None:
    assert settled("run.toml", TOML).code == 0
    body = simulator.requests[0].body
    assert body["messages"][0]["content"] == "From TOML: word 0"
    assert (body["max_tokens"], body["temperature"], body["stop"]) == (3, 1, ["x", "y"])
    assert (body["safe_prompt"], body["metadata"]) == (True, {"job": "nightly"})
    assert "answer" in answers()[0]


def test_yaml_does_too_and_null_means_not_given(settled: Mistill, simulator: Simulator) -> None:
    assert settled("run.yaml", YAML).code == 0
    body = simulator.requests[0].body
    assert (body["max_tokens"], body["stop"]) == (3, ["x"])
    assert "random_seed" not in body


def test_the_command_line_goes_before_it(settled: Mistill, simulator: Simulator) -> None:
    Path("p.txt").write_text("From the file: {{ text }}")
    assert (
        settled("run.toml", TOML, "--max-new-tokens", "4", "--prompt-file", "p.txt", "--no-safe-prompt").code
        == 0
    )
    body = simulator.requests[0].body
    assert body["max_tokens"] == 4
    assert body["messages"][0]["content"].startswith("From the file: word ")
    assert body["safe_prompt"] is False


def test_source_and_out_can_be_in_it(
    mistill: Mistill, rows: Rows, simulator: Simulator, answers: Answers
) -> None:
    Path("run.toml").write_text(
        f'source = ["{rows(1)}"]\nout = "answers.jsonl"\nmodel = "mistral-small-latest"\n'
        f'endpoint = "{simulator.url}"\nprompt = "{{{{ text }}}}"\n'
    )
    assert mistill("run", "--settings", "run.toml").code == 0
    assert len(answers()) == 1


def test_a_schema_can_be_written_out(settled: Mistill, answers: Answers) -> None:
    text = """
model = "mistral-small-latest"
prompt = "A profile for {{ text }}"
flatten = true
[schema]
type = "object"
required = ["name"]
properties = { name = { type = "string" } }
"""
    assert settled("run.toml", text).code == 0
    assert isinstance(answers()[0]["name"], str)


@pytest.mark.parametrize(
    "command", [("run", "in.jsonl", "--out", "-"), ("embed", "in.jsonl", "--out", "-"), ("chat", "Hi")]
)
def test_a_settings_file_does_not_say_where_the_key_goes(mistill: Mistill, command: tuple[str, ...]) -> None:
    Path("in.jsonl").write_text('{"text": "a", "prompt": "a"}\n')
    Path("run.toml").write_text('model = "m"\nendpoint = "https://collector.invalid"\nmax-retries = 0\n')
    ended = mistill(*command, "--settings", "run.toml")
    assert ended.code == 2
    assert "the settings file names the endpoint https://collector.invalid" in ended.stderr
    assert "name it yourself: --endpoint, or say that what names it is yours: --trust" in ended.stderr
    for leave in (["--trust"], ["--endpoint", "https://elsewhere.invalid"]):
        told = mistill(*command, "--settings", "run.toml", *leave).stderr
        assert "nothing answers at" in told or "cannot connect to" in told


def test_a_settings_file_imports_no_module_unless_it_is_trusted(settled: Mistill) -> None:
    Path("foreign_schemas.py").write_text(
        "from pathlib import Path\nfrom pydantic import BaseModel\nPath('imported').touch()\n"
        "class User(BaseModel):\n    name: str\n"
    )
    text = 'model = "mistral-small-latest"\nprompt = "{{ text }}"\nschema = "foreign_schemas:User"\n'
    ended = settled("run.toml", text)
    assert ended.code == 2
    assert "the settings file names the schema 'foreign_schemas:User'" in ended.stderr
    assert not Path("imported").exists()
    assert settled("run.toml", text, "--trust").code == 0


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.toml", 'api-key-env = "GITHUB_TOKEN"', "'api-key-env' is for the command line only"),
        ("run.toml", "allow-http = true", "'allow-http' is for the command line only"),
        ("run.yaml", "trust: true", "'trust' is for the command line only"),
        ("run.toml", "temprature = 1", "did you mean 'temperature'?"),
        ("run.toml", "fresh = true", "'fresh' is for the command line only"),
        ("run.toml", "max-new-tokens = 3.5", "'3.5' is not a valid int"),
        ("run.toml", "model = ['a', 'b']", "model takes one value, not a list"),
        ("run.toml", "model =", "run.toml is not TOML"),
        ("run.yaml", "a: b: c", "run.yaml is not YAML"),
        (
            "run.yaml",
            "model: m\nx: sk-0123: [",
            "not YAML: mapping values are not allowed here (line 2, column 11)",
        ),
        ("run.yaml", "- a", "run.yaml holds no settings"),
        ("run.toml", f"guardrails = {'[' * 9000}", "run.toml is nested too deep"),
        ("run.yaml", f"guardrails: {'[' * 9000}", "run.yaml is nested too deep"),
        ("run.yaml", "random-seed: " + "9" * 5000, "run.yaml is not YAML"),
        ("run.toml", "random-seed = " + "9" * 5000, "run.toml is not TOML"),
        ("run.yaml", "model: 2001-99-99", "run.yaml is not YAML"),
        ("run.toml", "schema = {a = 2001-01-01}", "schema has what JSON has not"),
        ("run.ini", "", "settings are TOML or YAML"),
    ],
)
def test_what_is_wrong_with_it_is_told(
    settled: Mistill, simulator: Simulator, name: str, text: str, message: str
) -> None:
    ended = settled(name, text)
    assert ended.code == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) <= 2
    assert simulator.requests == []


def test_it_must_be_there(mistill: Mistill, rows: Rows) -> None:
    ended = mistill("run", rows(1), "--out", "-", "--settings", "missing.toml")
    assert ended.code == 2
    assert "missing.toml cannot be read" in ended.stderr
