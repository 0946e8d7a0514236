"""Values as they are written on the command line and in settings files."""

from __future__ import annotations

from typing import Any

import click
import pytest
from tests.cli.conftest import Mistill, Rows, RunOf

from mistill.cli.options.param_types import Bytes
from mistill.cli.options.wording import on_the_command_line
from mistill.wording import Setting


def read(kind: Any, text: str) -> Any:
    return kind.convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("200MB", 200_000_000),
        ("512MiB", 2**29),
        ("1.5 kb", 1500),
        ("1g", 10**9),
        ("4096", 4096),
        ("MB", None),
    ],
)
def test_sizes_have_units(text: str, size: int | None) -> None:
    if size is not None:
        assert read(Bytes(), text) == size
        return
    with pytest.raises(click.BadParameter, match="write 50MB or 512MiB"):
        read(Bytes(), text)


def test_settings_of_the_lane_are_said_as_they_are_written() -> None:
    settings = [Setting("lane", "batch"), Setting("wait", False), Setting("batch_timeout", 86400.0)]
    said = [
        on_the_command_line(one) for one in (*settings, Setting("batch_bytes", 50_000_000), Setting("wait"))
    ]
    assert said == ["--lane batch", "--no-wait", "--batch-timeout 24h", "--batch-bytes 50MB", "--no-wait"]


def test_what_the_lane_cannot_have_is_refused_by_the_name_of_its_option(
    mistill: Mistill, run_of: RunOf
) -> None:
    for given in (("--batch-timeout", "8d"), ("--batch-bytes", "1GB"), ("--batch-rows", "0")):
        ended = mistill(*run_of(1, *given))
        assert ended.code == 2
        assert given[0] in ended.stderr


@pytest.mark.parametrize(
    "given",
    [
        ("run", "--max-cost", "٣"),
        ("run", "--limit", "３"),
        ("run", "--temperature", "٠.5"),
        ("run", "--deadline", "٣h"),
        ("run", "--batch-bytes", "٣MB"),
        ("run", "--on", "processes:٣"),
        ("simulate", "--latency-s", "３"),
        ("simulate", "--fault", "503=٠.٥"),
        ("view", "--port", "٨٠٨٠"),
        ("rows", "--where", "row<٣"),
        ("rows", "--where", "output_tokens>=３"),
        ("show", "١"),
    ],
    ids=" ".join,
)
def test_numbers_are_written_in_the_digits_0_to_9(
    mistill: Mistill, run_of: RunOf, given: tuple[str, ...]
) -> None:
    command, *options = given
    run = run_of(5)
    if command in ("rows", "show"):
        assert mistill(*run).code == 0
    named = {"run": run[1:], "simulate": [], "view": []}.get(command, ["answers.jsonl"])
    ended = mistill(command, *named, *options)
    assert (ended.code, ended.stdout) == (2, "")
    assert (
        options[-1].removeprefix("row<").removeprefix("output_tokens>=").removeprefix("503=")
        in ended.stderr.splitlines()[0]
    )


def test_a_word_that_is_none_of_an_options_is_told_with_the_nearest(mistill: Mistill, rows: Rows) -> None:
    told = mistill("run", str(rows(1)), "--local", "--prompt", "x", "--out", "o.jsonl", "--lane", "bach")
    assert "'bach' is not one of 'live', 'batch', 'cheapest'. Did you mean 'batch'?" in told.stderr
