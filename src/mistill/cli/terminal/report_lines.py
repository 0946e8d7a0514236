"""A run's report on the terminal: as text for a person, or as JSON for a program."""

from __future__ import annotations

import json

import click

from mistill.cli.exit_codes import Exit
from mistill.cli.options.wording import on_the_command_line
from mistill.cli.terminal.output import Colored, say, show
from mistill.errors import MistillError
from mistill.estimates.dry_run import DryRun
from mistill.runs.report import RunReport
from mistill.runs.report_text import Line, cancelled_lines, start_lines, status_lines
from mistill.visible import visible_json


def write_json(report: RunReport | DryRun, exit_code: Exit, *, to_stderr: bool = False) -> None:
    """One line of JSON: what `describe` gives, and the exit code."""
    described = report.worded(on_the_command_line).describe()
    text = json.dumps(described | {"exit_code": int(exit_code)}, ensure_ascii=False)
    click.echo(visible_json(text), err=to_stderr)


def write_report(report: RunReport) -> None:
    """How a start ended, on stderr."""
    for line in start_lines(report, on_the_command_line):
        say(*_colored(line))


def write_cancelled(report: RunReport, failed: MistillError | None) -> None:
    """What became of the jobs of a run that were to be cancelled, on stderr."""
    for line in cancelled_lines(report, failed, on_the_command_line):
        say(*_colored(line))


def write_status(report: RunReport) -> None:
    """How far a run is, on stdout."""
    for line in status_lines(report, on_the_command_line):
        show(*_colored(line))


def _colored(line: Line) -> tuple[str | Colored, ...]:
    return (Colored(line.label, "yellow"), line.text) if line.label else (line.text,)
