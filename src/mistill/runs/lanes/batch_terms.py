"""When rows cannot be asked in batch jobs, and which jobs nobody follows any more: told before anything is sent."""

from __future__ import annotations

import logging
import shlex
from http import HTTPStatus
from pathlib import Path
from typing import Any

from mistill.api.endpoint import MISTRAL_ENDPOINT, regional_host
from mistill.errors import APIError, InputError, LedgerError, MistillError
from mistill.kinds.kind import Kind
from mistill.ledger import LedgerReader
from mistill.progress.formatting import count
from mistill.wording import Phrase, Setting, words

_log = logging.getLogger("mistill")

_LANE = Setting("lane", "batch")
_LIVE = words("ask live: ", Setting("lane", "live"))


def check_server(kind: Kind[Any], endpoint: str) -> None:
    """Refuses a server, or a kind of run, that has no batch jobs.

    Raises:
        InputError: it has none.
    """
    if kind.batch_path is None:
        raise InputError(words(_LANE, f": {kind.asked_for} have no batch jobs"), hint=_LIVE)
    host, dialect = regional_host(endpoint), kind.server.dialect.name
    if host is not None:
        raise InputError(
            words(_LANE, f": {host} is a regional host of Mistral's, and these have no batch jobs"),
            hint=words(
                _LIVE, "; or, where the rows may leave the region, ", Setting("endpoint", MISTRAL_ENDPOINT)
            ),
        )
    if dialect != "mistral":
        raise InputError(
            words(_LANE, f": batch jobs are Mistral's, and {endpoint} speaks the dialect {dialect!r}"),
            hint=_LIVE,
        )


def has_no_jobs(error: MistillError) -> bool:
    """Whether a server says that it makes no batch jobs, for this key or at all, and nothing beside that."""
    return (
        error.status in (HTTPStatus.PAYMENT_REQUIRED, HTTPStatus.NOT_FOUND)
        if isinstance(error, APIError)
        else False
    )


def has_jobs(kind: Kind[Any], endpoint: str) -> bool:
    """Whether rows of such a run can be asked in batch jobs there."""
    try:
        check_server(kind, endpoint)
    except InputError:
        return False
    return True


def by_price(kind: Kind[Any], endpoint: str) -> InputError | None:
    """Why rows cannot go each by the lane that costs less there, and go live all of them.

    Raises:
        InputError: there are both lanes, and what they cost is not known.
    """
    try:
        check_server(kind, endpoint)
    except InputError as error:
        return error
    if kind.server.price is None:
        raise InputError(
            words(Setting("lane", "cheapest"), f": {kind.server.tariff.unknown()}"),
            hint=words(
                "give your own table with ", Setting("prices"), ", or choose: ", Setting("lane", "batch")
            ),
        )
    return None


def warn_of_jobs(backup: Path) -> None:
    """Says how to end the jobs of a run that has been put aside: they are answered, and paid, all the same."""
    try:
        with LedgerReader(backup) as reader:
            jobs = [job for job in reader.jobs() if not job.is_over]
    except LedgerError:  # it may be what it was put aside for
        return
    if jobs:
        name = shlex.quote(str(backup))
        ended = Phrase(f"Run.cancel_jobs({str(backup)!r}).start()", f"mistill cancel {name}")
        told = f"{count(len(jobs), 'batch job')} of the run that was put aside may still be at the server, and paid; "
        _log.warning(words(told, "to end them: ", ended))


def check_remembers(lane: str, *, is_temporary: bool) -> None:
    """Refuses a ledger that goes with this process: jobs are answered in their own time.

    Raises:
        InputError: it does.
    """
    if is_temporary:
        raise InputError(
            words(
                Setting("lane", lane),
                ": jobs go on when this process has ended, and this run would have forgotten them",
            ),
            hint=words("say where it remembers, with ", Setting("ledger"), " or an ", Setting("out")),
        )
