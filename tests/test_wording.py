"""What to set is told in the words of where one is: arguments in Python, options on the command line."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import mistill
from mistill.cli.options.wording import flag_of, on_the_command_line
from mistill.cli.program import program
from mistill.curation.near_duplicates import dedupe
from mistill.errors import InputError, Unauthorized
from mistill.kinds.options import RunOptions
from mistill.ledger.error_record import decode_error, encode_error
from mistill.llms import MistralEmbeddings, MistralLLM
from mistill.llms.parameters import PARAMETERS
from mistill.pages import series_colors
from mistill.runs.export import export_run
from mistill.runs.run import Run
from mistill.viewer.running import view
from mistill.wording import Phrase, Setting, in_python, worded, words

SOURCE = Path(mistill.__file__).parent
OF_ONE_PLACE = ("cli", "local", "simulator")
"""Rooms whose texts are read on the command line alone, or are the simulator's."""


COLOURS = {*series_colors.WAITS.values(), series_colors.QUOTA}
"""Variables of style sheets are written as options are."""


def test_a_setting_is_said_as_it_is_written_where_one_is() -> None:
    text = words("raise ", Setting("max_new_tokens"), ", or give ", Setting("columns", {"error": "my error"}))
    assert text == "raise max_new_tokens, or give columns={'error': 'my error'}"
    assert worded(text, on_the_command_line) == "raise --max-new-tokens, or give --column 'error=my error'"
    assert worded("plain text", on_the_command_line) == "plain text"


@pytest.mark.parametrize(
    ("setting", "option"),
    [
        (Setting("fresh", True), "--fresh"),
        (Setting("extra_columns", ["cost", "model"]), "--extra-column cost,model"),
        (Setting("retry_failed"), "--no-retry-failed"),
        (Setting("api_key"), "--api-key-env"),
        (Setting("input_format", "json"), "--input-format json"),
    ],
)
def test_an_option_may_have_another_name_than_its_argument(setting: Setting, option: str) -> None:
    assert on_the_command_line(setting) == option


def test_an_error_keeps_its_words_through_ledger_and_pickle() -> None:
    error = Unauthorized("no", status=401, hint=words("check ", Setting("api_key"), Phrase("!", ", please")))
    for twin in (decode_error(encode_error(error)).to_error(), pickle.loads(pickle.dumps(error))):
        assert twin.hint == "check api_key!"
        assert worded(twin.hint, on_the_command_line) == "check --api-key-env, please"
    record = decode_error(encode_error(error))
    assert record.worded(on_the_command_line).hint == "check --api-key-env, please"
    assert record.worded(in_python).hint == str(record.hint) == "check api_key!"


def test_an_error_of_an_earlier_version_has_its_text() -> None:
    old = decode_error('{"kind": "invalid_input", "message": "no", "hint": "give --fresh"}')
    assert isinstance(old.to_error(), InputError)
    assert old.worded(on_the_command_line).hint == "give --fresh"


def _named_settings() -> Iterator[str]:
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Setting" and node.args:
                name = node.args[0]
                if isinstance(name, ast.Constant):
                    yield str(name.value)


def _options(command: click.Command) -> Iterator[str]:
    for param in command.params:
        yield from (*param.opts, *param.secondary_opts)
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from _options(found)


def test_every_setting_that_a_text_names_is_there_in_both_places() -> None:
    arguments = {
        *RunOptions.model_fields,
        *MistralLLM.model_fields,
        *MistralEmbeddings.model_fields,
        *PARAMETERS,
    }
    for function in (
        Run.__init__, Run.retry, Run.audit, Run.mark, Run.push_to_hub, export_run, dedupe, view,
    ):  # fmt: skip
        arguments |= set(inspect.signature(function).parameters)
    options = set(_options(program))
    named = set(_named_settings())
    assert len(named) > 10
    assert named <= arguments
    assert {name for name in named if flag_of(name) not in options} == set()


def _texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """Texts that a program says: no docstrings, and nothing that is of one place by what it is."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        if isinstance(node, ast.FunctionDef) and node.name.startswith(
            "command"
        ):  # makes one of the command line
            continue
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "command":
            continue
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Written", "Phrase", "Field"):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node
        yield from _texts(node)


def test_the_library_names_no_option_of_the_command_line_but_as_a_setting() -> None:
    option = re.compile(
        r"(^|[\s`']|(?<!var)\()(?<!ray start )(--[a-z][a-z-]+|mistill (run|retry|rows|export|status|models)\b)"
    )
    found = [
        f"{path.relative_to(SOURCE)}:{text.lineno}: {text.value!r}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).parts[0] not in OF_ONE_PLACE
        for text in _texts(ast.parse(path.read_text("utf-8")))
        if option.search(str(text.value)) and text.value not in COLOURS
    ]
    assert found == []
