"""``mistill show``: one row of a run: its prompt, its attempts, what came of it."""

from __future__ import annotations

import json
from typing import Any, cast

import click

from mistill.characters import cut
from mistill.cli.command import command as cli_command
from mistill.cli.command import option
from mistill.cli.exit_codes import Exit
from mistill.cli.options.ledger_options import fetch_option, ledger_option, row_id_option
from mistill.cli.options.param_types import Named, RowName
from mistill.cli.options.wording import on_the_command_line
from mistill.cli.terminal.job_results import take_over_results
from mistill.cli.terminal.output import Colored, show
from mistill.finish_reasons import MOST_REASON_CHARS
from mistill.ledger import ErrorRecord
from mistill.progress.formatting import moment, money, seconds
from mistill.runs.row_report import AttemptReport, OutcomeReport, RowReport, read_row
from mistill.visible import visible_json


@cli_command(
    "show",
    examples="""
mistill show answers.jsonl 1929
mistill show answers.jsonl mail-17 --id-column id
mistill show answers.jsonl 1929 --json | jq -r '.attempts[].raw'
mistill rows answers.jsonl --failed --extra-column prompt,raw      # the same of many rows
""",
)
@click.argument("out", type=Named())
@click.argument("row", type=RowName())
@row_id_option
@ledger_option
@fetch_option
@option("--json", "as_json", group="Run", is_flag=True, help="All of it as JSON, the raw answers too.")
def command(
    out: str, row: int | str, id_column: str | None, ledger: str | None, fetch: bool, as_json: bool
) -> Exit:
    """What the run that writes OUT knows of one ROW of its input: a number, from 0, or an id. Works while it runs.

    Its prompt as it was rendered; each attempt with its time, why it was made and how it ended; the answers, those too
    that did not fit; tokens and cost; and the outcomes that a later one has replaced.
    """
    if fetch:
        take_over_results(out, ledger)
    report = read_row(out, row, ledger=ledger, id_column=id_column)
    if as_json:
        click.echo(visible_json(json.dumps(report.describe(), ensure_ascii=False)))
    else:
        _show(report, out)
    return Exit.ANSWERED


def _show(report: RowReport, out: str) -> None:
    again = ", to be asked again" if report.asked_again else ""
    copied = ", copied from an identical row" if report.copied else ""
    name = f" ({report.row_id})" if report.row_id else ""
    show(f"row {report.row}{name} of {out}: {report.outcome.state}{copied}{again}")
    show(Colored("row: ", "cyan"), _json(report.record))
    if report.prompt_error is not None:
        show(Colored("prompt: ", "cyan"), f"none: {report.prompt_error}")
    else:
        _show_prompt(report.prompt)
    for attempt in report.attempts:
        _show_attempt(attempt)
    for outcome in report.earlier:
        _show_outcome("earlier outcome", outcome)
    _show_outcome("outcome", report.outcome)


def _show_prompt(prompt: Any) -> None:
    if not isinstance(prompt, list):
        show(Colored("text: ", "cyan"), str(prompt))
        return
    for message in cast("list[dict[str, Any]]", prompt):
        content = message.get("content")
        text = content if isinstance(content, str) else _json(message)
        show(Colored(f"{message.get('role')}: ", "cyan"), text)


def _show_attempt(attempt: AttemptReport) -> None:
    took = "" if attempt.seconds is None else f", {seconds(attempt.seconds)}"
    job = "" if attempt.job is None else f" in job {attempt.job}"
    label = f"attempt {attempt.number}{job}, {moment(attempt.sent_at, to_seconds=True)}{took}: "
    is_open = "in flight, or cut off by a kill" if attempt.job is None else "no answer yet"
    ended = (attempt.status or is_open).replace("_", " ")
    tokens = ""
    if attempt.input_tokens is not None:
        tokens = _spending(
            attempt.input_tokens, attempt.output_tokens or 0, attempt.cost, cached=attempt.cached_tokens or 0
        )
        tokens += "" if attempt.model is None else f", by {attempt.model}"
    damaged = ", damaged in the ledger: these figures are not what it wrote" if attempt.damaged else ""
    since = "" if attempt.since is None else f", made since {attempt.since}"
    show(
        Colored(label, "yellow"),
        ended + tokens + damaged + _settings(attempt.settings) + since + _error(attempt.error),
    )
    if attempt.answer is not None:
        show("  " + attempt.answer.replace("\n", "\n  "))


def _show_outcome(label: str, outcome: OutcomeReport) -> None:
    if outcome.state == "pending":
        show(Colored(f"{label}: ", "yellow"), "none yet")
        return
    reason = "" if outcome.finish_reason is None else f", {cut(outcome.finish_reason, MOST_REASON_CHARS)}"
    spending = ""  # of a refused row: nothing is known to be billed, whatever the price is
    if outcome.input_tokens or outcome.output_tokens or outcome.cost:
        spending = _spending(outcome.input_tokens, outcome.output_tokens, outcome.cost)
    told = outcome.state + reason + spending + _settings(outcome.settings) + _error(outcome.error)
    show(Colored(f"{label}: ", "yellow"), told)
    for answer in outcome.answers:
        show("  " + answer.replace("\n", "\n  "))
    if outcome.mark is not None or outcome.note is not None:
        show(Colored("marked: ", "cyan"), ", ".join(filter(None, (outcome.mark, outcome.note))))


def _spending(input_tokens: int, output_tokens: int, cost: float | None, *, cached: int = 0) -> str:
    of_cache = f" ({cached:,} cached)" if cached else ""
    return f", {input_tokens:,} tokens in{of_cache}, {output_tokens:,} out, {money(cost)}"


def _settings(changes: dict[str, Any]) -> str:
    return f", with {_json(changes)}" if changes else ""


def _error(error: ErrorRecord | None) -> str:
    return "" if error is None else f": {error.worded(on_the_command_line)}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
