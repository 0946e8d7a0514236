"""A start without an input, which asks nothing: it takes over what batch jobs of a run have answered meanwhile."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from mistill.errors import InputError, MistillError
from mistill.estimates.forecast import Forecast
from mistill.kinds.kept_settings import KeptSettings
from mistill.kinds.options import OUTPUT_OPTIONS, RunArguments
from mistill.ledger import Ledger, LedgerReader
from mistill.llms.event_loop import background
from mistill.progress.display import Display
from mistill.runs.export import Exported
from mistill.runs.lanes.batch import JobUse, left_over
from mistill.runs.ledger_rows import LedgerRows
from mistill.runs.ledger_run import KnownRun, LedgerRun
from mistill.runs.report import StartRecord
from mistill.runs.results import RunResults
from mistill.runs.row_settings import Retried, read_retry
from mistill.runs.runner import Runner
from mistill.wording import Setting, words

_NO_PRICES: Mapping[str, Any] = {"prices": None}
"""A job has its price with it; the file that said it need not be there any more."""


class Collection(LedgerRun):
    """See `Run.collect_jobs` and `Run.cancel_jobs`, which make one.

    Of rows whose requests cannot be made again to the byte, answers are taken over, and become outcomes in a start of
    the run itself: those that files go along with, and those whose schema is a class of somebody's.

    Args:
        retry: only rows that it asks get their outcomes; else all but these.

    Attributes:
        settles: rows get their outcomes.
        failed: why it came to an early end, if it did: the server's answer, or that there is none.
    """

    def __init__(
        self,
        run: RunResults | str | Path | None,
        *,
        cancels: bool,
        gives_up: bool = False,
        llm: Mapping[str, Any] | None,
        ledger: str | Path | None,
        trust: bool,
        display: Display,
        retry: Retried | None = None,
    ) -> None:
        known = KnownRun(run, ledger)
        if known.out == "-":
            known.out = None  # records go to stdout where a run was asked for, not where somebody looks
        self._retry, self._settings = retry, None
        if retry is not None and retry.settings is not None:
            with LedgerReader(known.path) as reader:
                settings = read_retry(reader, retry.settings)
            known.ask_by(settings.manifest, settings.llm)
            self._settings = settings.kept
        self._cancels, self._gives_up = cancels, gives_up
        self._seen: dict[int, str] = {}
        self.failed: MistillError | None = None
        super().__init__(
            known,
            LedgerRows(known.path, left_over(retry and retry.settings, is_retry=retry is not None)),
            known.model({**_NO_PRICES, **(llm or {})}, trust=trust),
            _options_of(known.kept, waits=cancels),
            display,
            trust=trust,
        )
        if retry is None:
            _check_server(known.path, self._llm.endpoint)
        self.settles = not self.kind.reads_files and (
            trust or known.own_llm is not None or not _has_class(known.kept)
        )

    @property
    def endpoint(self) -> str:
        """The server that is asked."""
        return self._llm.endpoint

    def _open_ledger(self) -> Ledger:
        ledger = super()._open_ledger()
        self._seen = {job.id: job.state for job in background.run(ledger.jobs())}
        return ledger

    def _job_use(self) -> JobUse:
        return JobUse(
            self._llm.batch_factor,
            plans=False,
            asks=False,
            cancels=self._cancels,
            gives_up=self._gives_up,
            settles=self.settles,
        )

    async def _choose_rows(self, ledger: Ledger) -> None:
        """A retry whose rows it settles goes on; any other is none of its business."""
        if self._retry is not None:
            await ledger.begin_retry(None, self._settings)

    def _settle_retries(self, *, looks: bool) -> bool:  # noqa: ARG002  it has looked itself by the end
        return self._retry is None and super()._settle_retries(looks=False)

    def _note_begin(self, ledger: Ledger) -> None:  # noqa: ARG002  the signature of a run
        return None

    def _note_end(self, ledger: Ledger, number: int | None, ended: StartRecord) -> None:  # noqa: ARG002  the same
        """A look that brought nothing is no start that anybody wants to read of."""
        self.failed = None if ended.stopped is None else ended.stopped.to_error()
        if self._has_brought(ledger):
            ended = msgspec.structs.replace(ended, is_look=True)
            begun = background.run(
                ledger.begin_start(msgspec.structs.replace(self._record(), is_look=True).encode())
            )
            background.run(ledger.end_start(begun, ended.encode()))

    def _finish(
        self, runner: Runner, *, is_first: bool
    ) -> tuple[Forecast | None, str | None, Exported | None]:
        if not self._has_brought(runner.ledger):
            return None, None, None
        return super()._finish(runner, is_first=is_first)

    def _has_brought(self, ledger: Ledger) -> bool:
        """Some job has come to an end, or some row."""
        progress = self.progress
        return bool(progress.completions or progress.failures) or any(
            job.is_over and self._seen.get(job.id) != job.state for job in background.run(ledger.jobs())
        )


def awaits_jobs(path: Path) -> bool:
    """Whether a run has batch jobs of which something may still come.

    Raises:
        LedgerError: its ledger cannot be read.
    """
    with LedgerReader(path) as reader:
        return any(not job.is_over for job in reader.jobs())


def has_kept_answers(path: Path) -> bool:
    """Whether jobs have answered rows of a run that have no outcome of that yet.

    Raises:
        LedgerError: its ledger cannot be read.
    """
    with LedgerReader(path) as reader:
        return reader.has_kept_answers()


def _check_server(path: Path, endpoint: str) -> None:
    """``InputError`` where jobs are at another server: this one would say that it does not know them."""
    with LedgerReader(path) as reader:
        hosts = {job.record.host for job in reader.jobs() if not job.is_over}
    others = sorted(hosts - {endpoint})
    if others:
        raise InputError(
            f"batch jobs of this run are at {others[0]}, not at {endpoint}",
            hint=words("name that: ", Setting("endpoint", others[0])),
        )


def _has_class(kept: KeptSettings) -> bool:
    """What its answers must fit is a class, which validates as it likes; the ledger has its JSON schema alone."""
    setting = kept.llm.get("structured_output")
    schema: Any = setting.get("schema") if isinstance(setting, Mapping) else None  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  JSON
    return isinstance(schema, Mapping) and "module" in schema


def _options_of(kept: KeptSettings, *, waits: bool) -> RunArguments:
    """What a record looks like, and what a row asks, as the run has it; how long it waits."""
    names = (*OUTPUT_OPTIONS, "id_column", "keep_batch_files", "pin")
    options: dict[str, Any] = {name: getattr(kept.options, name) for name in names} | kept.manifest.options()
    return cast("RunArguments", options | {"wait": waits, "on_stop": "return"})
