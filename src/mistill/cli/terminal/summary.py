"""The end of a run, told to a person or to a program."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import click

from mistill.cli.exit_codes import Exit
from mistill.cli.terminal.formatting import count, money, say, seconds, time_split
from mistill.errors import Stopped
from mistill.runs.forecast import Forecast, Range
from mistill.runs.summary import Summary

_INTERRUPTED = "interrupted"


def exit_code_of(summary: Summary, *, is_sample: bool = False) -> Exit:
    """What the end of a run means. After a sample, rows that were not asked are no failure."""
    if summary.stopped is not None:
        return Exit.INTERRUPTED if summary.stopped.message == _INTERRUPTED else Exit.STOPPED
    if summary.failures or (summary.pending and not is_sample):
        return Exit.SOME_FAILED
    return Exit.ANSWERED


def tell_as_json(summary: Summary, exit_code: Exit, *, to_stderr: bool) -> None:
    """One line of JSON: `Summary.describe`, and the exit code."""
    click.echo(
        json.dumps(summary.describe() | {"exit_code": int(exit_code)}, ensure_ascii=False), err=to_stderr
    )


def tell(summary: Summary, out: str) -> None:
    """The summary on stderr."""
    parts = [f"{summary.completions:,} answered"]
    if summary.failures:
        parts.append(click.style(f"{summary.failures:,} failed", fg="red"))
    if summary.pending:
        parts.append(f"{summary.pending:,} to go")
    say(f"{count(summary.rows, 'row')}: {', '.join(parts)}")
    say(f"sent now: {count(summary.sent, 'request')} in {seconds(summary.seconds)}")
    say(f"in all: {summary.input_tokens:,} tokens in, {summary.output_tokens:,} out, {money(summary.cost)}")
    if summary.maybe_billed:
        say(f"maybe billed: {count(summary.maybe_billed, 'attempt')} cut off before the answer came")
    for line in cause_lines(summary.causes):
        say(line)
    if summary.slowness:
        say(f"time: {time_split(summary.slowness)}")
    if summary.advice:
        say(f"advice: {summary.advice}")
    if summary.forecast is not None:
        _tell_forecast(summary.forecast)
    _tell_where(summary, out)


def cause_lines(causes: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Failures by cause: how many, one of them, and what to do. ``row`` counts from 0, as ``--where row=…`` does."""
    for place, cause in enumerate(causes):
        if place == 0:
            yield "failed:"
        error = cause["error"]
        row = cause.get("row", cause.get("position"))
        yield f"  {cause['count']:>6,}  {cause['kind']}, for example row {row}: {error['message']}"
        if error.get("hint"):
            yield f"          hint: {error['hint']}"


def _tell_forecast(forecast: Forecast) -> None:
    tokens = Range(
        forecast.input_tokens.low + forecast.output_tokens.low,
        forecast.input_tokens.expected + forecast.output_tokens.expected,
        forecast.input_tokens.high + forecast.output_tokens.high,
    )
    say(
        f"the {count(forecast.rows_left, 'row')} left, forecast from {forecast.sample:,} answered (95% interval):"
    )
    cost = forecast.cost
    if cost is None:
        say("  cost    no price is known for this model; give your own table with --prices")
    else:
        say(f"  cost    {money(cost.expected)} ({money(cost.low)} to {money(cost.high)})")
    took = forecast.seconds
    say(f"  time    {seconds(took.expected)} ({seconds(took.low)} to {seconds(took.high)})")
    say(f"  tokens  {tokens.expected:,.0f} ({tokens.low:,.0f} to {tokens.high:,.0f})")


def _tell_where(summary: Summary, out: str) -> None:
    if summary.output is not None and summary.output != "-":
        say(f"output: {summary.output}")
    if summary.ledger is not None:
        say(f"ledger: {summary.ledger}")
    if summary.stopped is not None:
        told = summary.stopped
        # What to do after a stop on purpose stands in the next line.
        say(
            click.style("stopped: ", fg="yellow") + (told.message if isinstance(told, Stopped) else str(told))
        )
    again = _again(summary, out)
    if again:
        say(again)


def _again(summary: Summary, out: str) -> str | None:
    """What to do next."""
    if summary.pending or summary.stopped is not None:
        if out == "-":
            return f"to go on: the same command with --ledger {summary.ledger}"
        return "to go on: the same command again; answered rows cost nothing"
    if summary.failures and out != "-":
        return (
            f"the same command asks failed rows again; all of them: mistill rows {shlex.quote(out)} --failed"
        )
    return None
