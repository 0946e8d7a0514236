"""A run's report as text for a person, or as JSON for a program."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import click

from mistill.cli.exit_codes import Exit
from mistill.cli.terminal.output import Colored, say, show, visible_json
from mistill.errors import Stopped
from mistill.ledger import Cause
from mistill.progress.formatting import count, money, seconds, time_split
from mistill.runs.forecast import Forecast, Range
from mistill.runs.report import RunReport


def write_json(report: RunReport, exit_code: Exit, *, to_stderr: bool = False) -> None:
    """One line of JSON: `RunReport.describe`, and the exit code."""
    text = json.dumps(report.describe() | {"exit_code": int(exit_code)}, ensure_ascii=False)
    click.echo(visible_json(text), err=to_stderr)


def write_report(report: RunReport, out: str) -> None:
    """How a start ended, on stderr."""
    say(f"{count(report.rows, 'row')}: {_rows_by_state(report)}")
    say(f"sent now: {count(report.sent, 'request')} in {seconds(report.seconds)}")
    say(f"in all: {_spending(report)}")
    for line in _details(report):
        say(line)
    if report.seconds_by_cause:
        say(f"time: {time_split(report.seconds_by_cause)}")
    if report.advice:
        say(f"advice: {report.advice}")
    if report.forecast is not None:
        _say_forecast(report.forecast)
    _say_where(report, out)


def write_status(report: RunReport, out: str) -> None:
    """How far a run is, on stdout."""
    read = "" if report.input_was_read_to_its_end else " read so far"
    show(f"{out} by {report.model}: {count(report.rows, 'row')}{read}")
    share = report.completions / report.rows if report.rows else 0.0
    show(
        f"{report.completions:,} answered ({share:.0%}), {report.failures:,} failed, {report.pending:,} to go"
    )
    show(f"{_spending(report)}, {count(report.attempts, 'attempt')}")
    if report.latency_s is not None:
        latency = report.latency_s
        show(f"latency: half within {seconds(latency.p50)}, 99% within {seconds(latency.p99)}")
    for line in _details(report):
        show(line)
    if not report.is_finished:
        stale = ", and the one that is there is of before" if Path(out).exists() else ""
        show(
            f"{out} is written when every row has an outcome{stale}; until then: mistill rows, or export --partial"
        )
    elif not Path(out).exists():
        show(f"{out} is not there: the same command again, or mistill export, writes it for free")
    if (stopped := report.stopped) is not None:
        show(Colored("stopped: ", "yellow"), stopped.headline)
    show(f"ledger: {report.ledger}")


def _rows_by_state(report: RunReport) -> str:
    parts = [f"{report.completions:,} answered"]
    if report.failures:
        parts.append(f"{report.failures:,} failed")
    if report.pending:
        parts.append(f"{report.pending:,} to go")
    return ", ".join(parts)


def _spending(report: RunReport) -> str:
    cached = f" ({report.cached_tokens:,} cached)" if report.cached_tokens else ""
    return f"{report.input_tokens:,} tokens in{cached}, {report.output_tokens:,} out, {money(report.cost)}"


def _details(report: RunReport) -> Iterator[str]:
    if report.maybe_billed:
        yield f"maybe billed: {count(report.maybe_billed, 'attempt')} cut off before the answer came"
    if report.no_longer_in_input:
        yield f"no longer in the input, and kept: {count(report.no_longer_in_input, 'row')}"
    yield from _cause_lines(report.causes)


def _cause_lines(causes: Iterable[Cause]) -> Iterator[str]:
    """Failures by cause: how many, one of them, and what to do. Rows count from 0, as in ``--where row=…``."""
    for place, cause in enumerate(causes):
        if place == 0:
            yield "failed:"
        yield f"  {cause.count:>6,}  {cause.kind}, for example row {cause.row}: {cause.error.message}"
        if cause.error.hint:
            yield f"          hint: {cause.error.hint}"


def _say_forecast(forecast: Forecast) -> None:
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


def _say_where(report: RunReport, out: str) -> None:
    if report.output is not None and report.output != "-":
        say(f"output: {report.output}")
    if report.ledger is not None:
        say(f"ledger: {report.ledger}")
    if report.stopped is not None:
        stopped = report.stopped
        # What to do after a stop on purpose stands in the next line.
        message = stopped.message if isinstance(stopped, Stopped) else str(stopped)
        say(Colored("stopped: ", "yellow"), message)
    next_step = _next_step(report, out)
    if next_step:
        say(next_step)


def _changed_how(report: RunReport) -> str:
    stopped = report.stopped
    if stopped is None or (isinstance(stopped, Stopped) and stopped.reason != "budget"):
        return "again"
    return "again with a larger budget" if isinstance(stopped, Stopped) else "again, once that is mended"


def _next_step(report: RunReport, out: str) -> str | None:
    """What to do next."""
    if report.pending or report.stopped is not None:
        if out == "-":
            return f"to go on: the same command with --ledger {report.ledger}"
        return f"to go on: the same command {_changed_how(report)}; answered rows cost nothing"
    if report.failures and out != "-":
        return (
            f"the same command asks failed rows again; all of them: mistill rows {shlex.quote(out)} --failed"
        )
    return None
