"""``--loop-guard`` and ``--no-loop-guard``, on the command line and in a settings file."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.conftest import Mistill, RunOf

from mistill.simulator import Simulator

USER = '{"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}'


@pytest.mark.parametrize(
    ("given", "settings", "streamed"),
    [
        ([], "", True),
        (["--no-loop-guard"], "", False),
        (["--max-new-tokens", "50"], "", False),
        (["--max-new-tokens", "50", "--loop-guard"], "", True),
        ([], "loop-guard = false", False),
        (["--loop-guard"], "loop-guard = false", True),
    ],
)
def test_requests_are_streamed_where_they_are_watched(
    mistill: Mistill,
    run_of: RunOf,
    simulator: Simulator,
    tmp_path: Path,
    given: list[str],
    settings: str,
    streamed: bool,
) -> None:
    schema, file = tmp_path / "user.json", tmp_path / "settings.toml"
    schema.write_text(USER)
    file.write_text(settings)
    ended = mistill(*run_of(1, "--schema", str(schema), "--settings", str(file), *given))
    assert ended.code == 0, ended.stderr
    assert simulator.requests[-1].body.get("stream", False) is streamed


def test_a_guard_with_nothing_to_watch_is_refused_in_the_words_of_the_command_line(
    mistill: Mistill, run_of: RunOf, simulator: Simulator
) -> None:
    ended = mistill(*run_of(1, "--loop-guard"))
    assert ended.code == 2
    assert "--loop-guard watches answers that are to be JSON, and this run asks for none" in ended.stderr
    assert "give a schema with --schema, or leave it out" in ended.stderr
    assert not simulator.requests


def test_a_row_that_fails_by_it_is_told_what_leaves_it_off(
    mistill: Mistill, run_of: RunOf, simulator: Simulator, tmp_path: Path
) -> None:
    schema = tmp_path / "user.json"
    schema.write_text(USER)
    simulator.script(['{"name": 0.' + "3" * 20_000] * 2)
    ended = mistill(*run_of(1, "--schema", str(schema)))
    assert ended.code == 1
    assert "repeated_answer" in ended.stderr
    assert "the answer repeats itself: cut after" in ended.stderr
    assert "--no-loop-guard" in ended.stderr
