"""`RunOptions` is the one list of a run's options: Python, the command line and settings files know the same ones."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mistill import MistralLLM, Run
from mistill.cli.command import Option
from mistill.cli.commands.run import command
from mistill.cli.options.settings_file import options_of
from mistill.errors import InputError
from mistill.kinds.options import RunArguments, RunOptions, Written


def written_of(name: str) -> Written | None:
    return next((one for one in RunOptions.model_fields[name].metadata if isinstance(one, Written)), None)


WRITTEN = {name: written for name in RunOptions.model_fields if (written := written_of(name)) is not None}


def option_of(name: str) -> Option:
    (found,) = [param for param in command.params if param.name == name]
    assert isinstance(found, Option)
    return found


def test_arguments_of_a_run_are_its_options() -> None:
    assert set(RunArguments.__annotations__) == set(RunOptions.model_fields)


def test_only_what_models_take_too_is_written_otherwise() -> None:
    assert set(RunOptions.model_fields) - set(WRITTEN) == {
        "parameters",
        "on_stop",
    }  # an option each: --temperature, …; Python alone


@pytest.mark.parametrize("name", WRITTEN)
def test_each_is_an_option_of_the_command_line(name: str) -> None:
    written, option = WRITTEN[name], option_of(name)
    assert option.opts == [written.flag or f"--{name.replace('_', '-')}"]
    assert option.group == written.group
    assert (option.help or "").startswith((RunOptions.model_fields[name].description or "").split("{")[0])


@pytest.mark.parametrize("name", WRITTEN)
def test_settings_files_know_each_or_say_that_they_do_not(name: str) -> None:
    key = option_of(name).opts[0].removeprefix("--")
    for spelling in (key, key.replace("-", "_")):
        if WRITTEN[name].in_settings:
            assert list(options_of({spelling: "1"}, command, "run.toml")) == [name]
        else:
            with pytest.raises(InputError, match=f"'{key}' is for the command line only"):
                options_of({spelling: "1"}, command, "run.toml")


@pytest.mark.parametrize("name", RunOptions.model_fields)
def test_none_stands_for_what_is_not_given(name: str) -> None:
    assert RunOptions.of({name: None}) == RunOptions()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"max_cost": math.nan}, "max_cost: it must be a positive number, not nan"),
        ({"max_cost": -1}, "max_cost: it must be a positive number, not -1"),
        ({"max_cost": 0}, "max_cost: it must be a positive number, not 0"),
        ({"max_tokens_total": math.nan}, "max_tokens_total: it must be a positive number"),
        ({"max_tokens_total": -1}, "max_tokens_total: it must be a positive number"),
        ({"deadline": math.nan}, "deadline: it must be a positive number"),
        ({"deadline": math.inf}, "deadline: it must be a positive number"),
        ({"deadline": -0.5}, "deadline: it must be a positive number"),
        ({"grace": math.nan}, "grace: "),
        ({"grace": math.inf}, "grace: "),
        ({"grace": -1}, "grace: "),
        ({"limit": -1}, "limit: "),
        ({"limit": 2**63}, "limit: "),
        ({"num_generations": 2**31}, "num_generations: "),
        ({"columns": {"generation": "\ud800"}}, "columns: "),
        ({"ledger": "a\0b"}, "ledger: "),
        ({"ledger": "a\ud800"}, "ledger: "),
        ({"sample": 0}, "sample: "),
        ({"sample": math.nan}, "sample: "),
        ({"num_generations": 0}, "num_generations: "),
        ({"on_unknown": "forget"}, "on_unknown: "),
        ({"columns": {"generation": 1}}, "columns.generation: "),
        ({"lane": "slow"}, "lane: "),
        ({"batch_rows": 0}, "batch_rows: "),
        ({"batch_rows": 10**7}, "batch_rows: "),
        ({"batch_bytes": 600 * 2**20}, "batch_bytes: "),
        ({"batch_timeout": 0}, "batch_timeout: "),
        (
            {"batch_timeout": 24},
            "batch_timeout: it must be whole hours, from 1 to 168, not 24 seconds; 24 hours",
        ),
        ({"batch_timeout": 169 * 3600}, "batch_timeout: "),
        ({"batch_timeout": math.nan}, "batch_timeout: "),
        ({"batch_timeout": 5400}, "batch_timeout: "),
        ({"batch_tail": -1}, "batch_tail: "),
        ({"promt": "x"}, "a run has no option 'promt'"),
        ({"max-cost": 1}, "a run has no option 'max-cost'"),
        (
            {"structured_output": {}},
            "a run has no option 'structured_output' (it is the model's: MistralLLM(structured_output=…)",
        ),
        ({"model_config": {}}, "a run has no option 'model_config'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        RunOptions.of(given)
    assert str(caught.value).startswith(message)


def test_a_wrong_name_is_answered_with_a_likely_one() -> None:
    with pytest.raises(InputError) as caught:
        RunOptions.of({"promt": "x"})
    assert caught.value.hint == "did you mean 'prompt'?"


@pytest.mark.parametrize("ledger", ["", ".", "x" * 300])
def test_a_ledger_that_can_be_no_file_is_refused(ledger: str) -> None:
    with pytest.raises(InputError, match="ledger"):
        Run([{"prompt": "x"}], llm=MistralLLM(model="m"), ledger=ledger)


@pytest.mark.parametrize("llm", ["mistral-small-latest", None, object()])
def test_what_is_no_model_is_refused(llm: Any) -> None:
    with pytest.raises(InputError, match="llm is "):
        Run([{"prompt": "x"}], llm=llm)


def test_a_sample_is_asked_live_in_either_lane() -> None:
    assert RunOptions.of({"lane": "batch"}).goes_by_jobs
    assert not RunOptions.of({"lane": "batch", "sample": 20}).goes_by_jobs
    assert not RunOptions().goes_by_jobs
    assert RunOptions.of({"lane": "cheapest"}).goes_by_price
    assert not RunOptions.of({"lane": "cheapest", "sample": 20}).goes_by_price


@pytest.mark.parametrize("name", ["deadline", "batch_timeout"])
def test_a_time_in_words_is_told_what_it_is_counted_in(name: str) -> None:
    with pytest.raises(InputError, match=f"{name}: this is a number of seconds: 7200 for two hours"):
        RunOptions.of({name: "2h"})
