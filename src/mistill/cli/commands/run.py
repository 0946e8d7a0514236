"""``mistill run``: a model over a dataset, durably."""

from __future__ import annotations

from typing import Any

import click

from mistill.cli.command import command as cli_command
from mistill.cli.exit_codes import Exit
from mistill.cli.options.model_options import (
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
    trace_content_option,
)
from mistill.cli.options.param_types import Named
from mistill.cli.options.run_options import (
    dry_run_option,
    options_given,
    out_option,
    report_options,
    require_out,
    run_options,
)
from mistill.cli.terminal.output import say
from mistill.cli.terminal.start import start
from mistill.kinds.chat import ChatKind
from mistill.runs.run import Run


@cli_command(
    "run",
    examples="""
mistill run prompts.jsonl --out answers.jsonl --model mistral-small-latest \\
    --prompt "Summarise: {{ text }}" --max-new-tokens 200
mistill run 'data/*.csv' --out answers.parquet --settings run.toml --limit 100
cat prompts.jsonl | mistill run - --out - --model mistral-small-latest | jq .generation
mistill run users.jsonl --out profiles.csv --model mistral-small-latest \\
    --prompt "A profile for {{ name }}" --schema models:User --flatten
mistill run prompts.jsonl --out answers.jsonl --settings run.toml --dry-run     # what will be asked?
mistill run prompts.jsonl --out answers.jsonl --settings run.toml --sample 20   # what will it cost?
""",
)
@click.argument("source", nargs=-1, required=True, type=Named())
@run_options(ChatKind, groups=("Prompt",))
@model_name_option
@connection_options
@prices_option
@trace_content_option
@out_option
@run_options(ChatKind, groups=("Output", "Input"))
@structured_options
@generation_options
@run_options(ChatKind, groups=("Generation",))
@pace_options
@run_options(ChatKind, groups=("Lane",))
@run_options(ChatKind, groups=("Budget",))
@dry_run_option
@run_options(ChatKind, groups=("Durability",))
@run_options(ChatKind, groups=("Machines",))
@report_options
@click.pass_context
def command(ctx: click.Context, **given: Any) -> Exit:
    """Answers every row of SOURCE (files, globs, or - for stdin) and writes the rows with their answers to --out.

    Every answer is on disk before it is counted. The same command again goes on where it ended, whatever ended it, and
    asks only what has no answer yet.

    Exit code: 0 all rows answered, 1 some failed, 2 usage or input, 3 stopped (key, quota, budget, ledger),
    4 jobs are at Mistral and the same command goes on, 130 interrupted.
    """
    require_out(ctx, given)
    choose_one(ctx, given, "prompt", "prompt_file")
    choose_one(ctx, given, "dry_run", "sample")
    choose_one(ctx, given, "system", "system_file")
    refuse_beside_local(ctx, given)
    with served(
        attributes_of(ctx, given), local=given["local"], offline=given["dry_run"], say=say
    ) as attributes:
        llm, sources = make_llm(ctx, attributes, given), list(given["source"])
        run = Run(sources, llm=llm, out=given["out"], **options_given(given), on_stop="return")
        return start(run, given)
