"""``mistill audit``: what runs have cost by day, model and lane, held against Mistral's bill."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import click
from pydantic import SecretStr

from mistill.audits.audit import ADMIN_KEY_VARIABLE, Audited, find_admin_key, no_admin_key
from mistill.audits.report import Audit
from mistill.audits.text import bill_lines, ledger_lines
from mistill.cli.command import command as cli_command
from mistill.cli.command import negated, option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import fetch_option, ledger_option
from mistill.cli.options.model_options import as_the_run_has_it, attributes_of, endpoint_options, key_in
from mistill.cli.options.param_types import Named
from mistill.cli.terminal.job_results import take_over_results
from mistill.cli.terminal.output import show
from mistill.errors import InputError
from mistill.kinds.kept_settings import find_run
from mistill.visible import visible, visible_json

_BILL = "Bill"


@cli_command(
    "audit",
    examples="""
mistill audit answers.jsonl
mistill audit answers.jsonl labels.parquet --month 2026-11     # with MISTRAL_ADMIN_KEY: against the bill
mistill audit answers.jsonl --json | jq .difference.unexplained
mistill audit answers.jsonl --csv > cost.csv
""",
)
@as_the_run_has_it
@click.argument("outs", metavar="OUT...", nargs=-1, required=True, type=Named())
@ledger_option
@fetch_option
@option("--json", "as_json", group="Run", is_flag=True, help="All of it as JSON.")
@option("--csv", "as_csv", group="Run", is_flag=True, help="The table as CSV, without the bill.")
@option(
    "--month",
    group=_BILL,
    multiple=True,
    metavar="YYYY-MM",
    help="Of the bill; repeatable.  [default: those in which the runs have asked]",
)
@option(
    "--workspace",
    group=_BILL,
    metavar="ID",
    help="The one that the key of the runs is of.  [default: the whole organisation]",
)
@option(
    "--admin-key-env",
    group=_BILL,
    in_settings=False,
    metavar="NAME",
    help=f"Environment variable that has the key of the Admin API.  [default: {ADMIN_KEY_VARIABLE}]",
)
@option(
    "--no-bill",
    "bill",
    group=_BILL,
    is_flag=True,
    callback=negated,
    help="Do not ask for the bill, though there is a key.",
)
@endpoint_options
@click.pass_context
def command(ctx: click.Context, outs: Sequence[str], ledger: str | None, **given: Any) -> Exit:
    """What the runs that write OUT… have taken, from their ledgers: requests, tokens, money, and what may be billed, by
    day, model and lane.

    With a key of the Admin API, Mistral's bill is asked for, and the difference is split: the table of prices, requests
    that may be on the bill though no answer came, other programs, and what nothing explains. The whole bill of the
    months is compared, so name all runs that have asked in the workspace.
    """
    if ledger is not None and len(outs) > 1:
        raise InputError(
            "--ledger is of one run, and several are named", hint="name the ledgers in their place"
        )
    if given["as_json"] and given["as_csv"]:
        raise click.UsageError("--json and --csv exclude each other", ctx)
    attributes = attributes_of(ctx, given)
    for out in outs if given["fetch"] else ():
        take_over_results(out, ledger, llm=attributes, trust=given["trust"])
    key = _key(given)
    audited = Audited([find_run(out, ledger)[1] for out in outs])
    if given["as_csv"]:
        click.echo(visible(audited.audit().to_csv()), nl=False)
        return Exit.ANSWERED
    if not given["as_json"]:
        _show(ledger_lines(audited.audit()))
    audit = audited.audit() if key is None else _with_bill(audited, key, given, attributes)
    if given["as_json"]:
        click.echo(visible_json(json.dumps(audit.describe(), ensure_ascii=False)))
    elif audit.difference is not None:
        _show(["", *bill_lines(audit.difference)])
    return Exit.ANSWERED


def _key(given: dict[str, Any]) -> SecretStr | None:
    """With which the bill is asked for; ``None``: it is not."""
    if not given["bill"]:
        return None
    variable = given["admin_key_env"]
    key = find_admin_key() if variable is None else key_in(variable, "--admin-key-env")
    if key is None and (given["month"] or given["workspace"]):
        raise no_admin_key()
    return key


def _with_bill(audited: Audited, key: SecretStr, given: dict[str, Any], attributes: dict[str, Any]) -> Audit:
    return audited.against_bill(
        key,
        months=given["month"],
        workspace=given["workspace"],
        endpoint=attributes.get("endpoint"),
        allow_http=bool(given["allow_http"]),
        trust=given["trust"],
    )


def _show(lines: Iterable[str]) -> None:
    for line in lines:
        show(line)
