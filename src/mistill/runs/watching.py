"""A run that goes on in another process, followed from here."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

from mistill.api.usage import Usage
from mistill.errors import InputError
from mistill.kinds.kept_settings import find_run
from mistill.ledger.files import main_name
from mistill.ledger.lock import is_held
from mistill.progress.view import View
from mistill.runs.report import RunReport, read_report
from mistill.steering.client import Control

_LOOK_S = 0.05
_DEAREST = 10
"""Reading a ledger may take a tenth of the time."""


def follow_run(
    path: str | Path | None, ledger: str | Path | None = None, *, every_s: float = 1.0
) -> Iterator[View]:
    """How far a run is, again and again, until its start has ended; nothing where none goes on.

    A start that cannot be reached (on another machine, another user's) is followed by its ledger: its counts, and what
    they cost, of all starts together.

    Args:
        path, ledger: the run, as for `find_run`. ``every_s``: seconds between two views.

    Raises:
        InputError: there is no such run.
        LedgerError: its ledger cannot be read.
    """
    _, found = find_run(path, ledger)
    control = Control(found)
    name = main_name(control.ledger)[0]
    seen: View | None = None
    while is_held(name):
        if seen is not None and seen.is_last:  # its output is written
            time.sleep(_LOOK_S)
            continue
        try:
            for seen in control.views(every_s):
                yield seen
        except InputError:
            for seen in _by_ledger(path, ledger, every_s):
                yield seen
    if seen is not None and not seen.is_last:  # it was killed
        yield from _by_ledger(path, ledger, every_s)


def _by_ledger(path: str | Path | None, ledger: str | Path | None, every_s: float) -> Iterator[View]:
    while True:
        began_s = time.monotonic()
        report = read_report(path, ledger=ledger)
        yield view_by_ledger(report)
        if not report.is_running:
            return
        time.sleep(max(every_s, _DEAREST * (time.monotonic() - began_s)))


def view_by_ledger(report: RunReport) -> View:
    """How far a run is, of all its starts together: what its ledger has."""
    paused = report.paused
    return View(
        total=report.input_rows,
        completions=report.completions,
        failures=report.failures,
        usage=Usage(report.input_tokens, report.output_tokens, report.cached_tokens),
        cost=report.cost,
        saved_by_cache=report.saved_by_cache,
        elapsed_s=report.seconds,
        in_flight=report.open_attempts,
        waiting_for="paused" if paused is not None else "server",
        paused_s=None if paused is None else max(0.0, time.time() - paused.at),
        is_last=not report.is_running,
    )
