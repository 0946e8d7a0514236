"""Options that every run over a dataset has, whatever it asks of its rows, and the arguments of `Run` that they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import click

from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.model import all_of
from mistill.cli.options.param_types import Duration, SampleSize, read_text
from mistill.cli.options.settings_file import settings_option
from mistill.cli.terminal.live import Watch
from mistill.cli.terminal.start import grace_option, json_option, quiet_option, start
from mistill.errors import InputError
from mistill.runs.run import Run

F = TypeVar("F", bound=Callable[..., Any])

INPUT, OUTPUT, DURABILITY, BUDGET = "Input", "Output", "Durability", "Budget"
_SAMPLE_ROWS = 20

out_options = all_of(
    option(
        "--out",
        "-o",
        group=OUTPUT,
        required=True,
        metavar="FILE",
        help="JSONL, JSON, CSV, TSV, Parquet or Arrow by suffix; - for stdout.",
    ),
    option(
        "--output-format",
        group=OUTPUT,
        metavar="FORMAT",
        help="Where the suffix does not tell: jsonl, csv.gz, …",
    ),
)

input_options = all_of(
    option("--limit", group=INPUT, type=click.IntRange(min=0), metavar="N", help="At most so many rows."),
    option(
        "--input-format", group=INPUT, metavar="FORMAT", help="Where the suffix does not tell: jsonl, csv, …"
    ),
    option("--dedupe", group=INPUT, is_flag=True, help="Ask identical requests once, and copy the answer."),
)

budget_options = all_of(
    option(
        "--max-cost",
        group=BUDGET,
        type=float,
        metavar="USD",
        help="What the run may cost, all starts together.",
    ),
    option(
        "--max-tokens-total",
        group=BUDGET,
        type=int,
        metavar="N",
        help="Tokens in and out, all starts together.",
    ),
    option("--deadline", group=BUDGET, type=Duration(), help="What this start may take: 90s, 30m, 2h."),
    option(
        "--dry-run",
        group=BUDGET,
        is_flag=False,
        flag_value=str(_SAMPLE_ROWS),
        type=SampleSize(),
        metavar="[N]",
        in_settings=False,
        help=f"Ask N rows ({_SAMPLE_ROWS}), then forecast cost and time of the rest. The answers are kept.",
    ),
)

durability_options = all_of(
    option(
        "--ledger", group=DURABILITY, metavar="FILE", help="Where the run remembers.  [default: OUT.ledger]"
    ),
    option(
        "--fresh",
        group=DURABILITY,
        is_flag=True,
        in_settings=False,
        help="Start over. An earlier ledger is kept under another name.",
    ),
    option("--no-retry-failed", group=DURABILITY, is_flag=True, help="Leave rows alone that failed before."),
    option(
        "--on-unknown",
        group=DURABILITY,
        type=click.Choice(["retry", "hold"]),
        default="retry",
        show_default=True,
        help="Rows in flight at a crash may be on the bill: ask again, or not.",
    ),
    grace_option,
)


telling_options = all_of(settings_option, json_option, quiet_option)


def run_settings_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """What these options and those of columns say, as arguments of `Run`.

    Raises:
        InputError: a column is renamed twice.
    """
    return {
        "out": given["out"],
        "ledger": given["ledger"],
        "limit": given["limit"],
        "input_format": given["input_format"],
        "output_format": given["output_format"],
        "columns": once_each(given["column"], "--column renames"),
        "extra_columns": given["extra_column"],
        "fresh": given["fresh"],
        "retry_failed": not given["no_retry_failed"],
        "on_unknown": given["on_unknown"],
        "dedupe": given["dedupe"],
        "grace": given["grace"],
        "max_cost": given["max_cost"],
        "max_tokens_total": given["max_tokens_total"],
        "deadline": given["deadline"],
        "sample": given["dry_run"],
    }


def start_given(run: Run, given: Mapping[str, Any]) -> Exit:
    """Starts the run, and shows it as these options say."""
    return start(
        run,
        out=given["out"],
        watch=Watch(run, given["source"], given["limit"]),
        grace_s=given["grace"],
        as_json=given["as_json"],
        quiet=given["quiet"],
        is_sample=given["dry_run"] is not None,
    )


def once_each(pairs: Iterable[tuple[str, str]], does: str) -> dict[str, str]:
    """The pairs as a dict.

    Raises:
        InputError: a name is there twice.
    """
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise InputError(f"{does} {name!r} twice")
        found[name] = value
    return found


def template_of(text: str | None, path: str | None) -> str | None:
    """The template; the newline with which an editor ends a file is not part of it."""
    return text if path is None else read_text(path).removesuffix("\n")
