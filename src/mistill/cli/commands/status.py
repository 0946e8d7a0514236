"""``mistill status``: how far a run is, and what failed, by cause."""

from __future__ import annotations

import click

from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit, exit_of_status
from mistill.cli.options.ledger_options import ledger_option
from mistill.cli.terminal.report_lines import write_json, write_status
from mistill.runs.report import read_report


@cli_command(
    "status",
    examples="""
mistill status answers.jsonl
watch -n 10 mistill status answers.jsonl
mistill status answers.jsonl --json | jq .failures
""",
)
@click.argument("out")
@ledger_option
@option("--json", "as_json", group="Run", is_flag=True, help="The report as JSON.")
def command(out: str, ledger: str | None, as_json: bool) -> Exit:
    """How far the run that writes OUT is: rows, tokens, money, and what failed, by cause. Works while it runs.

    Exit code: 4 while jobs are at Mistral, else 0 if no row failed so far, else 1.
    """
    report = read_report(out, ledger=ledger)
    code = exit_of_status(report)
    if as_json:
        write_json(report, code)
    else:
        write_status(report)
    return code
