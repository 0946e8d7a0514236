"""``mistill run``: a model over a dataset, durably."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from mistill.api.errors import InputError
from mistill.cli.columns import column_option, extra_column_option
from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exits import Exit
from mistill.cli.live import Watch
from mistill.cli.model_options import (
    attributes_of,
    choose_one,
    connection_options,
    generation_options,
    make_llm,
    model_name_option,
    pace_options,
    prices_option,
    refuse_beside_local,
    served,
    structured_options,
)
from mistill.cli.settings_file import settings_option
from mistill.cli.start import grace_option, json_option, quiet_option, start
from mistill.cli.values import Duration, Pair, SampleSize, read_text
from mistill.cli.wording import say
from mistill.runs.run import Run

_PROMPT, _INPUT, _OUTPUT, _DURABILITY, _BUDGET = "Prompt", "Input", "Output", "Durability", "Budget"
_SAMPLE_ROWS = 20


@cli_command(
    "run",
    short_help="Answer every row of a dataset.",
    examples="""
mistill run prompts.jsonl --out answers.jsonl --model mistral-small-latest \\
    --prompt "Summarise: {{ text }}" --max-new-tokens 200
mistill run 'data/*.csv' --out answers.parquet --settings run.toml --limit 100
cat prompts.jsonl | mistill run - --out - --model mistral-small-latest | jq .generation
mistill run users.jsonl --out profiles.csv --model mistral-small-latest \\
    --prompt "A profile for {{ name }}" --schema models:User --flatten
mistill run prompts.jsonl --out answers.jsonl --settings run.toml --dry-run     # what will it cost?
""",
)
@click.argument("source", nargs=-1, required=True)
@option(
    "--prompt",
    group=_PROMPT,
    metavar="TEMPLATE",
    help="Jinja2 over the row's columns; without it a column 'messages' or 'prompt' is sent.",
)
@option("--prompt-file", group=_PROMPT, metavar="FILE", help="The same, from a file.")
@option("--system", group=_PROMPT, metavar="TEMPLATE", help="System message, a template too.")
@option("--system-file", group=_PROMPT, metavar="FILE", help="The same, from a file.")
@option(
    "--num-generations",
    group=_PROMPT,
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="Answers for each row; more than one make 'generation' a list.  [default: 1]",
)
@model_name_option
@connection_options
@prices_option
@option(
    "--out",
    "-o",
    group=_OUTPUT,
    required=True,
    metavar="FILE",
    help="JSONL, JSON, CSV, TSV, Parquet or Arrow by suffix; - for stdout.",
)
@option(
    "--output-format",
    group=_OUTPUT,
    metavar="FORMAT",
    help="Where the suffix does not tell: jsonl, csv.gz, …",
)
@column_option
@extra_column_option
@option("--flatten", group=_OUTPUT, is_flag=True, help="Fields of a structured answer become columns.")
@option("--limit", group=_INPUT, type=click.IntRange(min=0), metavar="N", help="At most so many rows.")
@option(
    "--input-format", group=_INPUT, metavar="FORMAT", help="Where the suffix does not tell: jsonl, csv, …"
)
@option("--dedupe", group=_INPUT, is_flag=True, help="Ask identical requests once, and copy the answer.")
@structured_options
@generation_options
@option(
    "--param",
    group="Generation",
    multiple=True,
    type=Pair("NAME=COLUMN"),
    metavar="NAME=COLUMN",
    help="Each row's own value of a parameter above, from its column: temperature=temp. Where that is null or "
    "missing, the option's holds. Repeatable.",
)
@pace_options
@option(
    "--max-cost", group=_BUDGET, type=float, metavar="USD", help="What the run may cost, all starts together."
)
@option(
    "--max-tokens-total", group=_BUDGET, type=int, metavar="N", help="Tokens in and out, all starts together."
)
@option("--deadline", group=_BUDGET, type=Duration(), help="What this start may take: 90s, 30m, 2h.")
@option(
    "--dry-run",
    group=_BUDGET,
    is_flag=False,
    flag_value=str(_SAMPLE_ROWS),
    type=SampleSize(),
    metavar="[N]",
    in_settings=False,
    help=f"Ask N rows ({_SAMPLE_ROWS}), then forecast cost and time of the rest. The answers are kept.",
)
@option("--ledger", group=_DURABILITY, metavar="FILE", help="Where the run remembers.  [default: OUT.ledger]")
@option(
    "--fresh",
    group=_DURABILITY,
    is_flag=True,
    in_settings=False,
    help="Start over. An earlier ledger is kept under another name.",
)
@option("--no-retry-failed", group=_DURABILITY, is_flag=True, help="Leave rows alone that failed before.")
@option(
    "--on-unknown",
    group=_DURABILITY,
    type=click.Choice(["retry", "hold"]),
    default="retry",
    show_default=True,
    help="Rows in flight at a crash may be on the bill: ask again, or not.",
)
@grace_option
@settings_option
@json_option
@quiet_option
@click.pass_context
def command(ctx: click.Context, **given: Any) -> Exit:
    """Answers every row of SOURCE (files, globs, or - for stdin) and writes the rows with their answers to --out.

    Every answer is on disk before it is counted. The same command again goes on where it ended, whatever ended it, and
    asks only what has no answer yet.

    Exit code: 0 all rows answered, 1 some failed, 2 usage or input, 3 stopped (key, quota, budget, ledger),
    130 interrupted.
    """
    choose_one(ctx, given, "prompt", "prompt_file")
    choose_one(ctx, given, "system", "system_file")
    refuse_beside_local(ctx, given)
    with served(attributes_of(given), local=given["local"], say=say) as attributes:
        run = Run(
            list(given["source"]),
            out=given["out"],
            llm=make_llm(attributes, given),
            prompt=_template(given["prompt"], given["prompt_file"]),
            system=_template(given["system"], given["system_file"]),
            num_generations=given["num_generations"],
            row_parameters=_once_each(given["param"], "--param sets"),
            ledger=given["ledger"],
            limit=given["limit"],
            input_format=given["input_format"],
            output_format=given["output_format"],
            columns=_once_each(given["column"], "--column renames"),
            extra_columns=given["extra_column"],
            flatten=given["flatten"],
            fresh=given["fresh"],
            retry_failed=not given["no_retry_failed"],
            on_unknown=given["on_unknown"],
            dedupe=given["dedupe"],
            grace=given["grace"],
            max_cost=given["max_cost"],
            max_tokens_total=given["max_tokens_total"],
            deadline=given["deadline"],
            sample=given["dry_run"],
        )
        return start(
            run,
            out=given["out"],
            watch=Watch(run, given["source"], given["limit"]),
            grace_s=given["grace"],
            as_json=given["as_json"],
            quiet=given["quiet"],
            is_sample=given["dry_run"] is not None,
        )


def _template(text: str | None, path: str | None) -> str | None:
    """The template; the newline with which an editor ends a file is not part of it."""
    return text if path is None else read_text(path).removesuffix("\n")


def _once_each(pairs: Iterable[tuple[str, str]], does: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in pairs:
        if name in found:
            raise InputError(f"{does} {name!r} twice")
        found[name] = value
    return found
