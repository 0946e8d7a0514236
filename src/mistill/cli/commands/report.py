"""``mistill report``: a run as one HTML page that can be sent: what was asked, what came, what it cost."""

from __future__ import annotations

from typing import Any

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import fetch_option, ledger_option
from mistill.cli.options.model_options import as_the_run_has_it, attributes_of, endpoint_options
from mistill.cli.options.param_types import Named
from mistill.cli.options.wording import on_the_command_line
from mistill.cli.terminal.job_results import take_over_results
from mistill.cli.terminal.output import Colored, say
from mistill.datasets.names_beside import named_beside
from mistill.extras import install_command
from mistill.kinds.kept_settings import LEDGER_SUFFIX
from mistill.pages.charts import VL_CONVERT
from mistill.runs.report import read_report


@cli_command(
    "report",
    examples="""
mistill report answers.jsonl                      # answers.report.html
mistill report answers.jsonl --to report.html
mistill report answers.jsonl --to - > report.html
""",
)
@as_the_run_has_it
@click.argument("out", type=Named())
@option(
    "--to",
    type=Named(),
    group="Output",
    metavar="FILE",
    help="Its name ends in .html; - for stdout.  [default: OUT with .report.html for its suffix]",
)
@option(
    "--overwrite",
    group="Output",
    is_flag=True,
    help="Replace FILE even if it is no report; never an input or the output of the run, nor a ledger.",
)
@ledger_option
@fetch_option
@endpoint_options
@click.pass_context
def command(
    ctx: click.Context, out: str, to: str | None, overwrite: bool, ledger: str | None, **given: Any
) -> Exit:
    """Writes all that there is to look at of the run that writes OUT as one HTML file: what was asked, how rows ended,
    failures with examples and what to do, money, time, what the answers are like, and some of them.

    It asks nobody for anything: no script, no network, fit to be sent. Works while the run goes on, and on a million
    rows. Charts need the extra "report"; without it their tables are there.
    """
    if given["fetch"]:
        take_over_results(out, ledger, llm=attributes_of(ctx, given), trust=given["trust"])
    report = read_report(out, ledger=ledger)
    target = to or _beside(report.out if report.out not in (None, "-") else report.ledger or out)
    report.save(target, overwrite=overwrite, wording=on_the_command_line)
    if target != "-":
        say(Colored("report: ", "yellow"), target)
    if not VL_CONVERT.is_there:
        say(f"tables stand in place of charts; these need {install_command(VL_CONVERT.extra)}")
    return Exit.ANSWERED


def _beside(path: str | None) -> str:
    return str(named_beside(str(path).removesuffix(LEDGER_SUFFIX), ".report.html"))
