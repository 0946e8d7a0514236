"""``mistill embed``: vectors of a dataset, durably."""

from __future__ import annotations

from typing import Any, get_args

import click

from mistill.api.embeddings import MOST_TOKENS, Dtype
from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.columns import column_option, extra_column_option
from mistill.cli.options.model import attributes_of, choose_one, endpoint_options, pace_options, prices_option
from mistill.cli.options.run import (
    budget_options,
    durability_options,
    input_options,
    out_options,
    run_settings_of,
    start_given,
    telling_options,
    template_of,
)
from mistill.llms import MistralEmbeddings
from mistill.runs.answers import EmbeddingReader
from mistill.runs.run import Run

_TEXT, _VECTORS = "Text", "Vectors"
_DEFAULT_MODEL = MistralEmbeddings.model_fields["model"].default
_ATTRIBUTES = ("output_dimension", "output_dtype", "max_batch_tokens")


@cli_command(
    "embed",
    short_help="The vector of every row of a dataset.",
    examples="""
mistill embed articles.jsonl --out vectors.parquet
mistill embed 'data/*.csv' --out vectors.jsonl --prompt "{{ title }}: {{ body }}"
mistill embed code.jsonl --out vectors.parquet --model codestral-embed --output-dimension 256 --output-dtype int8
""",
)
@click.argument("source", nargs=-1, required=True)
@option(
    "--prompt",
    group=_TEXT,
    metavar="TEMPLATE",
    help="Jinja2 over the row's columns; without it a column 'text' is embedded.",
)
@option("--prompt-file", group=_TEXT, metavar="FILE", help="The same, from a file.")
@option("--model", group="Model", metavar="NAME", help=f"[default: {_DEFAULT_MODEL}]")
@endpoint_options
@prices_option
@option(
    "--output-dimension",
    group=_VECTORS,
    type=int,
    metavar="N",
    help="Length of the vectors, for models that let one choose.",
)
@option(
    "--output-dtype",
    group=_VECTORS,
    type=click.Choice(get_args(Dtype)),
    help="Kind of their numbers, for models that let one choose.  [default: float]",
)
@option(
    "--max-batch-tokens",
    group=_VECTORS,
    type=int,
    metavar="N",
    help=f"Most tokens of one request, which holds many rows.  [default: {MOST_TOKENS:,}]",
)
@out_options
@column_option
@extra_column_option(EmbeddingReader)
@input_options
@pace_options
@budget_options
@durability_options
@telling_options
@click.pass_context
def command(ctx: click.Context, **given: Any) -> Exit:
    """Embeds every row of SOURCE (files, globs, or - for stdin) and writes the rows with their vectors to --out.

    Every vector is on disk before it is counted. The same command again goes on where it ended, whatever ended it, and
    asks only for what has no vector yet.

    Exit code: 0 all rows embedded, 1 some failed, 2 usage or input, 3 stopped (key, quota, budget, ledger),
    130 interrupted.
    """
    choose_one(ctx, given, "prompt", "prompt_file")
    attributes = attributes_of(given) | {name: given[name] for name in _ATTRIBUTES if given[name] is not None}
    run = Run(
        list(given["source"]),
        llm=MistralEmbeddings(**attributes),
        prompt=template_of(given["prompt"], given["prompt_file"]),
        **run_settings_of(given),
    )
    return start_given(run, given)
