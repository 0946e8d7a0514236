"""``mistill status``: how far a run is, and what failed, by cause."""

from __future__ import annotations

from typing import Any

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit, exit_of_status
from mistill.cli.options.ledger_options import fetch_option, ledger_option
from mistill.cli.options.model_options import as_the_run_has_it, attributes_of, endpoint_options
from mistill.cli.options.param_types import Named
from mistill.cli.terminal.job_results import take_over_results
from mistill.cli.terminal.report_lines import write_json, write_status
from mistill.cli.terminal.watching import watch_run
from mistill.runs.report import read_report


@cli_command(
    "status",
    examples="""
mistill status answers.jsonl
mistill status answers.jsonl --watch
mistill status answers.jsonl --json | jq .failures
""",
)
@as_the_run_has_it
@click.argument("out", type=Named())
@ledger_option
@fetch_option
@option("--json", "as_json", group="Run", is_flag=True, help="The report as JSON.")
@option(
    "--watch",
    group="Run",
    is_flag=True,
    help="Follow it while it goes on, as its own terminal does; with --json, a line of JSON a second. Ctrl-C ends the "
    "watching alone.",
)
@endpoint_options
@click.pass_context
def command(
    ctx: click.Context, out: str, ledger: str | None, as_json: bool, watch: bool, **given: Any
) -> Exit:
    """How far the run that writes OUT is: rows, tokens, money, batch jobs, and what failed, by cause. Works while it
    runs.

    Where batch jobs have ended, their results are taken over, since these may be gone a day later.

    Exit code: 4 while jobs are at Mistral, or a start by jobs has left rows that the same command would send; else 0
    if no row failed so far, else 1.
    """
    if given["fetch"]:
        take_over_results(out, ledger, llm=attributes_of(ctx, given), trust=given["trust"])
    report = watch_run(out, ledger, as_json=as_json) if watch else read_report(out, ledger=ledger)
    code = exit_of_status(report)
    if not as_json:
        write_status(report)
    elif not watch:
        write_json(report, code)
    return code
