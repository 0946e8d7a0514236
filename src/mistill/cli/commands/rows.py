"""``mistill rows``: rows of a run as JSONL, while it runs or after."""

from __future__ import annotations

import sys
from itertools import islice
from typing import Any

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import (
    failed_option,
    fetch_option,
    joined_conditions,
    ledger_option,
    where_option,
)
from mistill.cli.options.param_types import Named
from mistill.cli.options.run_options import option_of_run, shape_given
from mistill.cli.options.wording import on_the_command_line
from mistill.cli.terminal.job_results import take_over_results
from mistill.cli.terminal.output import is_terminal, say
from mistill.errors import InputError
from mistill.kinds import KINDS
from mistill.kinds.kept_settings import find_run
from mistill.ledger import LedgerReader
from mistill.records.misfits import misfit_lines
from mistill.runs.export import misfits_of
from mistill.runs.record_lines import record_line
from mistill.runs.record_shape import shape_of
from mistill.runs.where import RunFilter
from mistill.visible import visible_json
from mistill.wording import worded


@cli_command(
    "rows",
    examples="""
mistill rows answers.jsonl | head
mistill rows answers.jsonl --failed | jq -r .error
mistill rows answers.jsonl --where finish_reason=length --limit 10
mistill rows answers.jsonl --where 'category=refund, score>=4'
mistill rows answers.jsonl --failed --extra-column prompt,raw --column prompt=asked
""",
)
@click.argument("out", type=Named())
@failed_option
@where_option
@option("--limit", group="Run", type=click.IntRange(min=0), metavar="N", help="At most so many.")
@option_of_run("columns", *KINDS.values())
@option_of_run("extra_columns", *KINDS.values())
@option_of_run("earlier", *KINDS.values())
@ledger_option
@fetch_option
def command(
    out: str,
    failed: bool,
    where: str | None,
    limit: int | None,
    ledger: str | None,
    fetch: bool,
    **given: Any,
) -> Exit:
    """Records of the run that writes OUT, as JSONL on stdout, in the order of its input. Works while it runs.

    Rows without an outcome yet are left out, unless --where state=pending asks for them.

    Exit code: 1 where answers among them could not be written as asked; their records say why.
    """
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]  None where it is closed
        raise InputError("stdout is closed, and rows are written to it")
    condition = joined_conditions(where, failed=failed)
    looked_at = is_terminal()
    written = 0
    if fetch:
        take_over_results(out, ledger)
    _, path = find_run(out, ledger)
    with LedgerReader(path) as reader:
        shape = shape_of(reader, shape_given(given))
        chosen = RunFilter(condition, reader, shape)
        misfits = misfits_of(reader)
        wants_pending = chosen.selection.wants_pending
        found = (row for row in chosen.rows(reader) if wants_pending or row.state != "pending")
        for written, row in enumerate(islice(found, limit), 1):  # noqa: B007  how many there were
            line = record_line(row, shape, misfits)
            if looked_at:
                line = visible_json(line.decode()).encode()
            sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
        reader.check_damages()
    if condition is not None and not written and limit != 0:
        say(chosen.nothing(out))
    for text in misfit_lines(found_misfits := misfits.found(), out):
        say(worded(text, on_the_command_line))
    return Exit.SOME_FAILED if found_misfits else Exit.ANSWERED
