"""Starting a run and showing it: what every command that starts one has in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mistill.cli.exit_codes import Exit, exit_of_dry_run, exit_of_start
from mistill.cli.options.wording import on_the_command_line
from mistill.cli.terminal.output import say_error, show
from mistill.cli.terminal.report_lines import write_json, write_report
from mistill.errors import InputError
from mistill.progress.display import Display
from mistill.runs.report import RunReport
from mistill.runs.report_text import hint_of_broken_input
from mistill.runs.run import Run
from mistill.wording import worded


def start(run: Run, given: Mapping[str, Any]) -> Exit:
    """Starts the run, shows it, reports how it ended, and gives the exit code.

    Args:
        given: what the command was given: ``as_json`` and ``quiet`` of it.
    """
    if given.get("dry_run"):
        return _rehearse(run, given)
    as_json, quiet = given["as_json"], given["quiet"]
    options = run.options
    run.display = Display(progress=not quiet)
    report = run.start().worded(on_the_command_line)
    code = exit_of_start(report, is_sample=options.sample is not None)
    if as_json:
        write_json(report, code, to_stderr=run.out == "-")
    elif not quiet:
        write_report(report)
    elif report.stopped is not None and code is not Exit.WAITING:
        say_error(report.stopped.headline, _hint(report))
    return code


def _hint(report: RunReport) -> str | None:
    """What to do next, where no report says it."""
    stopped = report.stopped
    assert stopped is not None, "it was"
    if not isinstance(stopped, InputError):
        return stopped.hint
    return worded(hint_of_broken_input(stopped.hint, report), on_the_command_line)


def _rehearse(run: Run, given: Mapping[str, Any]) -> Exit:
    """Shows what a start would ask, on stdout: no record goes there."""
    found = run.dry_run()
    code = exit_of_dry_run(found)
    if given["as_json"]:
        write_json(found, code)
    elif not given["quiet"]:
        for line in found.lines(on_the_command_line):
            show(line)
    return code
