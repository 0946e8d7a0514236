"""What every command does first that looks at a run: results of batch jobs may be gone a day after these have ended."""

from __future__ import annotations

import threading
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import ValidationError

from mistill.cli.command import failure_of
from mistill.cli.terminal.output import say
from mistill.errors import LedgerInUse, MistillError, Stopped
from mistill.kinds.kept_settings import find_run
from mistill.runs.collection import awaits_jobs, has_kept_answers
from mistill.runs.run import Run

_SLOW_S = 3.0


def take_over_results(
    out: str, ledger: str | None, *, llm: Mapping[str, Any] | None = None, trust: bool = False
) -> None:
    """Takes over what batch jobs of the run that writes ``out`` have answered by now; what prevents that is said.

    Whoever has the run's ledger, a start of it, does so anyway.

    Raises:
        InputError: there is no such run.
    """
    _, path = find_run(out, ledger)
    if not awaits_jobs(path) and not has_kept_answers(path):
        return
    try:
        collection = Run.collect_jobs(out, ledger=ledger, llm=llm, trust=trust)
        with said_if_slow(
            f"waiting for {collection.endpoint}, which is asked for batch jobs; --no-fetch leaves that"
        ):
            collection.start()
        failed = collection.failed
        if failed is not None and not (isinstance(failed, Stopped) and failed.reason == "interrupted"):
            raise failed
    except LedgerInUse:
        return
    except (MistillError, ValidationError, OSError) as error:
        failure = failure_of(error)
        hint = "" if failure.hint is None else f" ({failure.hint})"
        say(f"batch jobs were not looked at: {failure.message}{hint}")
        return
    if not collection.settles and has_kept_answers(path):
        trusted = (
            ""
            if collection.kind.reads_files
            else ", or by --trust: the schema is a class, which that imports"
        )
        say(
            "answers of batch jobs wait in the ledger, and become those of their rows when the run is started again"
            + trusted
        )


@contextmanager
def said_if_slow(text: str) -> Generator[None]:
    """Says it where the block has not ended after a while: whom it waits for."""
    timer = threading.Timer(_SLOW_S, say, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
