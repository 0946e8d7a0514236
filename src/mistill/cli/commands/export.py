"""``mistill export``: the records of a run again, in another shape, for free."""

from __future__ import annotations

from typing import Any, Literal

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import fetch_option, ledger_option, where_option
from mistill.cli.options.model_options import schema_named
from mistill.cli.options.param_types import Named, OneOf, Pair
from mistill.cli.options.run_options import option_of_run, shape_given
from mistill.cli.terminal.job_results import take_over_results
from mistill.cli.terminal.output import say
from mistill.datasets.formats import OUTPUT_FORMATS
from mistill.errors import InputError
from mistill.kinds import KINDS
from mistill.kinds.kept_settings import find_run
from mistill.ledger import LedgerReader
from mistill.progress.formatting import count
from mistill.records.misfits import number_of
from mistill.runs.export import export_run
from mistill.runs.report import rows_left

_OUTPUT = "Output"


@cli_command(
    "export",
    examples="""
mistill export answers.jsonl --to answers.parquet
mistill export profiles.jsonl --to profiles.csv --schema models:UserV2 --flatten
mistill export judged.jsonl --where "score>=4" --to sft.jsonl --as chat \\
    --turn user=instruction --turn assistant=answer
mistill export answers.jsonl --to - --partial --where finish_reason=stop | wc -l
""",
)
@click.argument("out", type=Named())
@option(
    "--to",
    type=Named(),
    group=_OUTPUT,
    required=True,
    metavar="FILE",
    help=f"By suffix: {OUTPUT_FORMATS}; - for stdout.",
)
@option_of_run("output_format", *KINDS.values())
@option_of_run("csv_dialect")
@option(
    "--schema",
    group=_OUTPUT,
    metavar="SCHEMA",
    help="Read the answers by this schema in place of the run's: a .json file, or module:Name.",
)
@option_of_run("flatten", *KINDS.values())
@option(
    "--no-flatten", group=_OUTPUT, is_flag=True, help="They do not, though the run's own output has them."
)
@option_of_run("columns", *KINDS.values())
@option_of_run("extra_columns", *KINDS.values())
@option_of_run("keep", *KINDS.values())
@option_of_run("drop", *KINDS.values())
@option_of_run("earlier", *KINDS.values())
@option(
    "--as",
    "as_",
    group=_OUTPUT,
    type=OneOf(["chat"]),
    help='Conversations for fine-tuning in place of records: {"messages": [...]}, what was asked and answered.',
)
@option(
    "--turn",
    "turns",
    group=_OUTPUT,
    multiple=True,
    type=Pair("ROLE=COLUMN"),
    help="Who says what in them, in order: system=persona, user=instruction, assistant=answer, tool=result, or "
    "messages=history. Repeatable.",
)
@option(
    "--partial",
    group="Run",
    is_flag=True,
    help="Leave rows out that have no outcome yet, instead of refusing.",
)
@option(
    "--overwrite",
    group=_OUTPUT,
    is_flag=True,
    help="Replace FILE if it is there; never an input of the run, nor a ledger.",
)
@where_option
@ledger_option
@fetch_option
def command(
    out: str,
    to: str,
    schema: str | None,
    no_flatten: bool,
    partial: bool,
    overwrite: bool,
    where: str | None,
    ledger: str | None,
    fetch: bool,
    as_: Literal["chat"] | None,
    turns: tuple[tuple[str, str], ...],
    **given: Any,
) -> Exit:
    """Writes the records of the run that writes OUT once more: another format, other columns, another schema.

    The raw answers are in the ledger, so nothing is sent and nothing is paid. The file is complete or not there at all.

    Exit code: 1 where answers could not be written as asked (they fit no such schema, or have no fields to flatten);
    their records say why.
    """
    if no_flatten and given["flatten"] is not None:
        raise InputError("--flatten and --no-flatten say the opposite", hint="give one of them")
    if fetch:
        take_over_results(out, ledger)
    written = export_run(
        out,
        to,
        ledger=ledger,
        where=where,
        **shape_given(given | ({"flatten": False} if no_flatten else {})),
        schema=None if schema is None else schema_named(schema),
        partial=partial,
        overwrite=overwrite,
        as_=as_,
        turns=turns or None,
    )
    _, path = find_run(out, ledger)
    with LedgerReader(path) as reader:
        left_out = _left_out(reader) if partial else ""
        misfits = number_of(written.misfits)
        as_asked = f", {misfits:,} of them not as asked" if misfits else ""
        say(f"{count(written.records, 'record')} to {'stdout' if to == '-' else to}{as_asked}{left_out}")
    return Exit.SOME_FAILED if written.misfits else Exit.ANSWERED


def _left_out(reader: LedgerReader) -> str:
    """What is not in a part of the records, for the end of a line."""
    counts = reader.counts()
    left = rows_left(reader, counts)
    pending = counts.pending if left is None else left
    parts = [f"{count(pending, 'row')} without an outcome"] if pending else []
    if left is None:
        parts.append("what was not read of the input yet")
    return f"; left out: {' and '.join(parts)}" if parts else ""
