"""``mistill dedupe``: one of each cluster of near duplicates, by their vectors."""

from __future__ import annotations

import json

import click

from mistill.cli.command import OTHER, option
from mistill.cli.command import command as cli_command
from mistill.cli.exit_codes import Exit
from mistill.cli.options.param_types import Named
from mistill.cli.options.run_options import option_of_run
from mistill.cli.terminal.output import say, show
from mistill.curation.near_duplicates import Deduped, dedupe
from mistill.datasets.formats import OUTPUT_FORMATS
from mistill.datasets.writers import CsvDialect
from mistill.progress.formatting import count

_NAMED = 5


@cli_command(
    "dedupe",
    examples="""
mistill embed texts.jsonl --out embeddings.parquet --model mistral-embed
mistill dedupe embeddings.parquet --to unique.parquet --threshold 0.95
mistill dedupe embeddings.parquet --to marked.parquet --mark        # all rows, each with the one it is like
mistill dedupe embeddings.parquet --json | jq '.dropped | length'   # only look
""",
)
@click.argument("source", nargs=-1, required=True, type=Named())
@option(
    "--to",
    type=Named(),
    group="Output",
    metavar="FILE",
    help=f"The rows that are kept. By suffix: {OUTPUT_FORMATS}.",
)
@option(
    "--mark",
    group="Output",
    is_flag=True,
    help="Write all rows instead, with the columns duplicate_of and similarity, null in rows that are kept.",
)
@option(
    "--overwrite",
    group="Output",
    is_flag=True,
    help="Replace FILE if it is there; never an input, nor a ledger.",
)
@option("--output-format", group="Output", metavar="FORMAT", help="Where the suffix does not tell.")
@option_of_run("csv_dialect")
@option("--input-format", group="Input", metavar="FORMAT", help="Where the suffix does not tell.")
@option_of_run("delimiter")
@option_of_run("encoding")
@option(
    "--column",
    group="Input",
    default="embedding",
    metavar="NAME",
    help="Has the vectors.  [default: embedding]",
)
@option(
    "--threshold",
    group="Input",
    type=click.FloatRange(0, 1, min_open=True),
    default=0.95,
    help="Rows are alike from this cosine similarity on.  [default: 0.95]",
)
@option("--json", "as_json", group=OTHER, is_flag=True, help="Which rows are like which, as JSON on stdout.")
def command(
    source: tuple[str, ...],
    to: str | None,
    mark: bool,
    overwrite: bool,
    output_format: str | None,
    csv_dialect: CsvDialect | None,
    input_format: str | None,
    delimiter: str | None,
    encoding: str | None,
    column: str,
    threshold: float,
    as_json: bool,
) -> Exit:
    """Keeps one of each cluster of near duplicates in SOURCE (files or globs): the first, in the order of the input.

    Every row that is dropped is as near to one that is kept as the threshold says; the nearest of those before it
    stands for it. All pairs are compared, exactly. Rows without a vector are kept. Rows count from 0.
    """
    result = dedupe(
        list(source),
        to,
        threshold=threshold,
        column=column,
        mark=mark,
        overwrite=overwrite,
        input_format=input_format,
        delimiter=delimiter,
        encoding=encoding,
        output_format=output_format,
        csv_dialect=csv_dialect or "unix",
    )
    if as_json:
        dropped = [
            {"row": one.row, "kept": one.kept, "similarity": round(one.similarity, 6)}
            for one in result.dropped
        ]
        show(json.dumps({"rows": result.rows, "without_vector": result.without_vector, "dropped": dropped}))
    else:
        _tell(result, to)
    return Exit.ANSWERED


def _tell(result: Deduped, to: str | None) -> None:
    say(
        f"{count(result.rows, 'row')}: {result.kept:,} kept, {count(len(result.dropped), 'near duplicate')} dropped"
    )
    if result.without_vector:
        say(f"without a vector, and kept: {count(result.without_vector, 'row')}")
    for one in result.dropped[:_NAMED]:
        say(f"  row {one.row} is like row {one.kept} ({one.similarity:.3f})")
    if len(result.dropped) > _NAMED:
        say(f"  … all of them: {'--mark, or ' if to is None else ''}--json")
    say(
        f"output: {to}"
        if to is not None
        else "nothing was written: name a file for the rows that are kept with --to"
    )
