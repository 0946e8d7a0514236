from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import click
import pytest
from tests.cli.conftest import Mistill

from mistill.cli.command import OTHER, Option
from mistill.cli.program import program
from mistill.llms import MistralLLM
from mistill.llms.parameters import PARAMETERS
from mistill.runs.steering import SETTINGS
from mistill.simulator import Settings

COMMANDS = [
    ("run",),
    ("embed",),
    ("status",),
    ("rows",),
    ("retry",),
    ("export",),
    ("push",),
    ("models",),
    ("chat",),
    ("simulate",),
]
COMMANDS += [("local", "serve")]

NOT_AN_OPTION = {
    "api_key",  # from an environment variable: arguments can be read by every user of the machine
    "structured_output",  # --schema, --schema-mode, --schema-retries
    "generation_kwargs",  # an option for each
}


def command_of(*names: str) -> Any:
    command: Any = program
    for name in names:
        command = command.get_command(click.Context(command), name)
    return command


def test_the_help_of_the_program_loads_nothing_heavy() -> None:
    code = (
        "import json, sys; from mistill.cli import main; main(['--help']);"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(ended.stderr))
    assert "click" in loaded
    heavy = {"rich", "pyarrow", "jinja2", "mistill.runs", "mistill.llms", "pyreqwest", "pydantic", "aiohttp"}
    assert not heavy & loaded


def test_the_help_of_the_program_names_every_command(mistill: Mistill) -> None:
    ended = mistill("--help")
    assert ended.code == 0
    for names in COMMANDS:
        assert f"  {names[0]} " in ended.stdout


def test_without_arguments_the_help_is_shown(mistill: Mistill) -> None:
    assert mistill() == mistill("--help")
    assert mistill("local") == mistill("local", "--help")


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_the_help_of_a_command_teaches_with_examples(mistill: Mistill, names: tuple[str, ...]) -> None:
    ended = mistill(*names, "--help")
    assert ended.code == 0
    assert f"Examples:\n  mistill {' '.join(names)}" in ended.stdout.replace("cat prompts.jsonl | ", "")


@pytest.mark.parametrize("names", COMMANDS, ids=" ".join)
def test_every_option_has_a_group_and_a_text(names: tuple[str, ...]) -> None:
    for param in command_of(*names).params:
        if not isinstance(param, click.Option):
            continue
        assert isinstance(param, Option), param.name
        assert param.group != OTHER or param.name in ("as_json", "quiet", "debug", "settings"), param.name
        assert param.help, param.name


def test_every_setting_of_the_simulator_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("command", ["run", "retry", "chat"])
def test_every_generation_parameter_is_an_option(command: str) -> None:
    assert set(PARAMETERS) <= {param.name for param in command_of(command).params}


def test_every_attribute_of_the_model_is_an_option() -> None:
    assert set(MistralLLM.model_fields) - NOT_AN_OPTION <= {param.name for param in command_of("run").params}


@pytest.mark.parametrize("command", ["retry", "status", "report", "cancel", "audit"])
def test_of_a_run_that_is_named_no_default_of_a_new_one_is_told(command: str) -> None:
    told = {param.name: getattr(param, "help", "") or "" for param in command_of(command).params}
    new = ("https://api.mistral.ai]", "default: 64", "default: 120", "default: 3]", "a column 'messages'")
    assert [name for name, text in told.items() if any(one in text for one in new)] == []
    assert "without it" not in " ".join(told.values())
    assert told["endpoint"] == "Base URL.  [default: as the run has it]"
    if command == "retry":
        assert told["prompt"] == "Jinja2 over the row's columns  [default: as the run has it]"
        assert told["max_concurrent_requests"].endswith("[default: as the run has it]")
        assert told["lane"].endswith("[default: live]")  # that of a start


def test_what_can_be_set_is_in_the_help(mistill: Mistill) -> None:
    told = " ".join(mistill("ctl", "--help").stdout.split())
    assert f"{', '.join(SETTINGS)}. The value none takes a limit away." in told


def test_a_wrong_name_is_answered_with_the_nearest_one(mistill: Mistill) -> None:
    ended = mistill("rum")
    assert (ended.code, ended.stdout) == (2, "")
    assert ended.stderr.splitlines() == [
        "error: there is no command 'rum': did you mean 'run'?",
        "hint: mistill --help",
    ]
    ended = mistill("run", "x.jsonl", "--modle", "m")
    assert ended.code == 2
    assert "--model" in ended.stderr
    assert ended.stderr.splitlines()[1] == "hint: mistill run --help"


def test_the_version_is_told(mistill: Mistill) -> None:
    assert mistill("--version").stdout.startswith("mistill 0.")
