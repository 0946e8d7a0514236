"""What the exit code of a command says, and which one an end means."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from mistill.errors import (
    APIError,
    InputError,
    InvalidOutput,
    MalformedAnswer,
    ManifestChanged,
    MistillError,
    Stopped,
    TransportError,
)

if TYPE_CHECKING:
    from mistill.estimates.dry_run import DryRun
    from mistill.runs.report import RunReport


class Exit(IntEnum):
    ANSWERED = 0
    """Every row was answered."""
    SOME_FAILED = 1
    """Some rows failed, wait for the user's word, or have an answer that is no record as it was asked for."""
    USAGE = 2
    """The command, a setting or the input is wrong. Nothing was sent, unless the input breaks off later."""
    STOPPED = 3
    """A refused key, a quota of 0, nothing that answers, a budget, a ledger that cannot be used; or what the command
    itself asks a server for, such as a bill, does not come."""
    WAITING = 4
    """Jobs are at Mistral: the same command goes on. However the command ended, if by nothing worse: by Ctrl-C too."""
    INTERRUPTED = 130
    """Ctrl-C, a signal that ends programs, or ``mistill ctl OUT stop``."""
    READER_LEFT = 141
    """Whoever read our stdout has left, as `head` does: what SIGPIPE makes of other programs (128 + 13)."""


def exit_of_start(report: RunReport, *, is_sample: bool = False) -> Exit:
    """What the end of a start means. After a sample, rows that were not asked are no failure."""
    stopped = report.stopped
    reason = stopped.reason if isinstance(stopped, Stopped) else None
    if isinstance(stopped, InputError):
        return Exit.USAGE
    if stopped is not None and reason not in ("waiting", "interrupted", "stopped"):
        return Exit.STOPPED
    if report.has_jobs:
        return Exit.WAITING
    if stopped is not None:
        return Exit.STOPPED if reason == "waiting" else Exit.INTERRUPTED
    failed = report.failures or report.unreplaced or report.misfits
    if failed or (report.pending and not is_sample):
        return Exit.SOME_FAILED
    return Exit.ANSWERED


def exit_of_dry_run(found: DryRun) -> Exit:
    """What the start would come to, as far as that is known before anything is sent."""
    if found.is_blocked:
        return Exit.USAGE
    return Exit.SOME_FAILED if found.refused or found.too_long else Exit.ANSWERED


def exit_of_cancel(report: RunReport, failed: MistillError | None) -> Exit:
    """What the end of jobs came to: rows that they did not answer are no failure."""
    is_interrupted = isinstance(failed, Stopped) and failed.reason == "interrupted"
    if failed is not None and not is_interrupted:
        return exit_of_error(failed) if isinstance(failed, InputError) else Exit.STOPPED
    if any(job.is_under_way for job in report.jobs):
        return Exit.WAITING
    if is_interrupted:
        return Exit.INTERRUPTED
    return Exit.SOME_FAILED if report.failures or report.misfits else Exit.ANSWERED


def exit_of_status(report: RunReport) -> Exit:
    """What a look at a run means: it may go on, so rows without an outcome are no failure."""
    if report.has_jobs or (not report.is_running and report.goes_on_by_jobs):
        return Exit.WAITING
    return Exit.SOME_FAILED if report.failures or report.misfits else Exit.ANSWERED


def exit_of_error(error: MistillError, *, asks_one_row: bool = False) -> Exit:
    """What an error that ended a command means.

    Args:
        asks_one_row: it may be that of the one row that the command asks; rows of a run end no command.
    """
    from mistill.delivery.retry import classify

    if isinstance(error, InputError | ManifestChanged):
        return Exit.USAGE
    of_one_request = isinstance(error, APIError | TransportError | MalformedAnswer | InvalidOutput)
    return Exit.SOME_FAILED if asks_one_row and of_one_request and not classify(error).fatal else Exit.STOPPED
