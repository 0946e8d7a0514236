"""A run that goes on elsewhere, shown as its own terminal shows it."""

from __future__ import annotations

import json

import click

from mistill.cli.terminal.output import is_terminal, show
from mistill.progress.screens import Terminal
from mistill.progress.view import View
from mistill.runs.report import RunReport, read_report
from mistill.runs.watching import follow_run, view_by_ledger
from mistill.visible import visible_json


def watch_run(out: str, ledger: str | None, *, as_json: bool) -> RunReport:
    """Shows how far a run is, each second, until it has ended; returns its report then. Of one that has ended already,
    JSON has its last line, which is waited for; as text there is nothing to watch."""
    screen, view = None, None
    draws = not as_json and is_terminal(stderr=True)
    try:
        for view in follow_run(out, ledger):
            if as_json:
                _show_json(view)
            elif not draws:
                show(_line(view))
            else:
                screen = screen or Terminal()
                screen.show(view)
    finally:
        if screen is not None and view is not None:
            screen.close(view)
    report = read_report(out, ledger=ledger)
    if view is None and as_json:
        _show_json(view_by_ledger(report))
    return report


def _show_json(view: View) -> None:
    click.echo(visible_json(json.dumps(view.describe(), ensure_ascii=False)))


def _line(view: View) -> str:
    return "; ".join(view.texts())
