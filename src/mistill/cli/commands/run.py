"""``mistill run``: a model over a dataset, durably."""

from __future__ import annotations

from typing import Any

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.columns import column_option, extra_column_option
from mistill.cli.options.model import (
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
from mistill.cli.options.param_types import Pair
from mistill.cli.options.run import (
    OUTPUT,
    budget_options,
    durability_options,
    input_options,
    once_each,
    out_options,
    run_settings_of,
    start_given,
    telling_options,
    template_of,
)
from mistill.cli.terminal.formatting import say
from mistill.runs.answers import ChatReader
from mistill.runs.run import Run

_PROMPT = "Prompt"


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
@out_options
@column_option
@extra_column_option(ChatReader)
@option("--flatten", group=OUTPUT, is_flag=True, help="Fields of a structured answer become columns.")
@input_options
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
@budget_options
@durability_options
@telling_options
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
            llm=make_llm(attributes, given),
            prompt=template_of(given["prompt"], given["prompt_file"]),
            system=template_of(given["system"], given["system_file"]),
            num_generations=given["num_generations"],
            row_parameters=once_each(given["param"], "--param sets"),
            flatten=given["flatten"],
            **run_settings_of(given),
        )
        return start_given(run, given)
