"""``mistill embed``: vectors of a dataset, durably."""

from __future__ import annotations

from typing import Any, get_args

import click

from mistill.api.embeddings import MAX_TOKENS, Dtype
from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.model_options import (
    attributes_of,
    choose_one,
    endpoint_options,
    pace_options,
    prices_option,
    trace_content_option,
)
from mistill.cli.options.param_types import Named, OneOf
from mistill.cli.options.run_options import (
    dry_run_option,
    options_given,
    out_option,
    report_options,
    require_out,
    run_options,
)
from mistill.cli.terminal.start import start
from mistill.kinds.embedding import EmbeddingKind
from mistill.llms import MistralEmbeddings
from mistill.runs.run import Run

_VECTORS = "Vectors"
_DEFAULT_MODEL = MistralEmbeddings.model_fields["model"].default
_ATTRIBUTES = ("output_dimension", "output_dtype", "max_batch_tokens")


@cli_command(
    "embed",
    examples="""
mistill embed articles.jsonl --out vectors.parquet
mistill embed 'data/*.csv' --out vectors.jsonl --prompt "{{ title }}: {{ body }}"
mistill embed code.jsonl --out vectors.parquet --model codestral-embed --output-dimension 256 --output-dtype int8
""",
)
@click.argument("source", nargs=-1, required=True, type=Named())
@run_options(EmbeddingKind, groups=("Prompt",))
@option("--model", group="Model", metavar="NAME", help=f"[default: {_DEFAULT_MODEL}]")
@endpoint_options
@prices_option
@trace_content_option
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
    type=OneOf(get_args(Dtype)),
    help="Kind of their numbers, for models that let one choose.  [default: float]",
)
@option(
    "--max-batch-tokens",
    group=_VECTORS,
    type=int,
    metavar="N",
    help=f"Most tokens of one request, which holds many rows.  [default: {MAX_TOKENS:,}]",
)
@out_option
@run_options(EmbeddingKind, groups=("Output", "Input"))
@pace_options
@run_options(EmbeddingKind, groups=("Lane",))
@run_options(EmbeddingKind, groups=("Budget",))
@dry_run_option
@run_options(EmbeddingKind, groups=("Durability",))
@run_options(EmbeddingKind, groups=("Machines",))
@report_options
@click.pass_context
def command(ctx: click.Context, **given: Any) -> Exit:
    """Embeds every row of SOURCE (files, globs, or - for stdin) and writes the rows with their vectors to --out.

    Every vector is on disk before it is counted. The same command again goes on where it ended, whatever ended it, and
    asks only for what has no vector yet.

    Exit code: 0 all rows embedded, 1 some failed, 2 usage or input, 3 stopped (key, quota, budget, ledger),
    4 jobs are at Mistral and the same command goes on, 130 interrupted.
    """
    require_out(ctx, given)
    choose_one(ctx, given, "prompt", "prompt_file")
    choose_one(ctx, given, "dry_run", "sample")
    attributes = attributes_of(ctx, given) | {
        name: given[name] for name in _ATTRIBUTES if given[name] is not None
    }
    llm, sources = MistralEmbeddings(**attributes), list(given["source"])
    run = Run(sources, llm=llm, out=given["out"], **options_given(given), on_stop="return")
    return start(run, given)
