"""``mistill cancel``: ends the batch jobs of a run, and keeps what they have answered."""

from __future__ import annotations

from typing import Any

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit, exit_of_cancel
from mistill.cli.options.ledger_options import ledger_option
from mistill.cli.options.model_options import as_the_run_has_it, attributes_of, endpoint_options
from mistill.cli.options.param_types import Named
from mistill.cli.options.run_options import json_option, quiet_option
from mistill.cli.terminal.job_results import said_if_slow
from mistill.cli.terminal.output import say
from mistill.cli.terminal.report_lines import write_cancelled, write_json
from mistill.kinds.kept_settings import find_run
from mistill.progress.display import Display
from mistill.runs.collection import awaits_jobs
from mistill.runs.report import read_report
from mistill.runs.report_text import to_go_on
from mistill.runs.run import Run


@cli_command(
    "cancel",
    examples="""
mistill cancel answers.jsonl
mistill cancel answers.jsonl --json | jq .completions
""",
)
@as_the_run_has_it
@click.argument("out", type=Named())
@option(
    "--give-up",
    group="Run",
    is_flag=True,
    help="Jobs as well that the server does not know, or not to this key: nobody waits for their answers any more.",
)
@ledger_option
@endpoint_options
@json_option
@quiet_option
@click.pass_context
def command(ctx: click.Context, **given: Any) -> Exit:
    """Cancels the batch jobs of the run that writes OUT, waits until they have ended, and keeps what they answered.

    Rows that are left without an answer are asked when the run is started again, in whichever lane. Whether Mistral
    bills what a job had done and did not hand over, is not known: such rows are counted as maybe billed.

    A start of the run that waits for them is ended first, by Ctrl-C.

    Exit code: 0, or 1 if some rows failed; 4 if jobs go on (it was interrupted, or the server does not let go of one).
    """
    out, ledger = given["out"], given["ledger"]
    _, path = find_run(out, ledger)
    if not awaits_jobs(path):
        report = read_report(out, ledger=ledger)
        left = (
            f"; {to_go_on(report).command_line}, in either lane"
            if report.to_go and not report.is_running
            else ""
        )
        say(f"{out} has no batch jobs under way{left}")
        return Exit.ANSWERED
    run = Run.cancel_jobs(
        out, ledger=ledger, llm=attributes_of(ctx, given), trust=given["trust"], give_up=given["give_up"]
    )
    run.display = Display(progress=not given["quiet"])
    with said_if_slow(f"waiting for {run.endpoint} to end the jobs; Ctrl-C leaves them there"):
        report = run.start()
    code = exit_of_cancel(report, run.failed)
    if given["as_json"]:
        write_json(report, code)
    elif not given["quiet"] or run.failed is not None:
        write_cancelled(report, run.failed)
    return code
