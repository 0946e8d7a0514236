"""A run over rows that stand in a ledger already: some of them once more, by other settings."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from mistill.datasets.input_size import InputSize
from mistill.datasets.sources import Source
from mistill.errors import InputError, did_you_mean
from mistill.ledger import Cause, Ledger, LedgerReader
from mistill.llms.connection import Connection
from mistill.llms.mistral import MistralLLM
from mistill.progress.display import Display
from mistill.runs.kept_settings import KeptSettings, find_run, read_settings
from mistill.runs.ledger_rows import ASKED_AGAIN, LedgerRows
from mistill.runs.options import (
    OUTPUT_OPTIONS,
    RETRY_OPTIONS,
    RetryArguments,
    RunArguments,
    hint_of_parameter,
    split_names,
)
from mistill.runs.pending_rows import Matcher
from mistill.runs.record_shape import RecordShape, shape_of
from mistill.runs.report import RetryRecord, last_start
from mistill.runs.results import RunResults
from mistill.runs.row_settings import changes_of, settings_of_retry
from mistill.runs.run import Run
from mistill.runs.runner import Runner
from mistill.runs.where import RunFilter
from mistill.wording import Setting, words

_log = logging.getLogger("mistill")


class Retry(Run):
    """See `Run.retry`, which makes one."""

    def __init__(
        self,
        run: RunResults | str | Path | None,
        where: str | None,
        *,
        failed: bool,
        llm: Mapping[str, Any] | None,
        ledger: str | Path | None,
        trust: bool,
        display: Display,
        changes: RetryArguments,
    ) -> None:
        if isinstance(run, RunResults):
            output, path = find_run(run.out, ledger or run.ledger_path)
        else:
            output, path = find_run(run, ledger)
            run = RunResults(path, output)
        own_llm = run.own_llm
        self._path = path
        self._where = _condition(where, failed=failed)
        with LedgerReader(path) as reader:
            self._kept = kept = read_settings(reader)
            self._filter = RunFilter(self._where, reader, shape_of(reader, trust=trust))
            self._selection = self._filter.ids(reader)
            self._own_manifest = reader.manifest()
        self._trust = trust
        self._rows = LedgerRows(path, ASKED_AGAIN)
        self._chosen: int | None = None
        self._goes_on = False
        super().__init__(
            Source([self._rows], None),
            llm=_model_of(kept, own_llm, llm or {}, path, trust=trust),
            out=output,
            progress=display.progress,
            on_progress=display.on_progress,
            **_options_of(kept, path, changes),
        )
        self.own_llm = own_llm
        self._changes = changes_of(kept.manifest, self.kind.manifest, self.kind.llm_settings)

    def _open_ledger(self) -> Ledger:
        # The run stays what it is, and so do its settings: these are the ones of some rows.
        ledger = Ledger.open(self.ledger_path, msgspec.json.decode(self._own_manifest))
        self._goes_on = self._chosen is not None or self._was_cut_short()
        return ledger

    def _was_cut_short(self) -> bool:
        """The last start was this very retry, and did not come to its end."""
        with LedgerReader(self.ledger_path) as reader:
            last = last_start(reader)
        if last is None or last.retry is None:
            return False
        ended = last.ended_at is not None and last.stopped is None
        return not ended and (last.retry.where, last.retry.settings) == (self._where, self._changes)

    def _shape_of_records(self, reader: LedgerReader | None = None) -> RecordShape:
        if reader is not None:
            extra = {"extra_columns": self.options.extra_columns}
            return shape_of(reader, extra, live=self.kind, trust=self._trust)
        with LedgerReader(self._path) as before:
            return self._shape_of_records(before)

    def _check_chosen(self, shape: RecordShape, rows: Source) -> None:
        pass  # the run has checked them, and no row is chosen before it begins

    @property
    def _input_paths(self) -> None:
        return None

    def _find_input_size(self) -> InputSize:
        return InputSize(self._source)  # of the rows that are chosen

    def _matcher(self, ledger: Ledger) -> Matcher:
        self._rows.follow(ledger)
        return self._rows

    async def _choose_rows(self, ledger: Ledger) -> None:
        """All that match; or, where the last start was this very retry and did not come to its end, what it left."""
        settings = settings_of_retry(self.kind) if self._changes else None
        self._chosen = await ledger.begin_retry(None if self._goes_on else self._selection, settings)
        self.progress.total = self._chosen
        if not self._chosen and not self._goes_on:
            _log.warning("%s", self._filter.nothing(self.out))

    def _retry_record(self, runner: Runner | None) -> RetryRecord:
        found: list[Cause] = [] if runner is None else list(runner.unreplaced.values())
        unreplaced = sorted(found, key=lambda cause: -cause.count)
        return RetryRecord(self._where, self._changes, self._chosen, unreplaced)


def _condition(where: str | None, *, failed: bool) -> str:
    terms = [*(["state=failure"] if failed else []), *([where] if where else [])]
    if not terms:
        raise InputError(
            "no rows are chosen",
            hint=words(
                "those that failed: ", Setting("failed", True), "; those of a condition: ", Setting("where")
            ),
        )
    return ", ".join(terms)


def _options_of(kept: KeptSettings, path: Path, changes: RetryArguments) -> RunArguments:
    """The options of the run, and what is given for these rows over them."""
    for name in changes:
        if name not in RETRY_OPTIONS:
            hint = hint_of_parameter(name) or did_you_mean(name, RETRY_OPTIONS)
            if name in Connection.model_fields:
                hint = f"it is an attribute of the LLM: llm={{{name!r}: …}}"
            raise InputError(f"a retry has no option {name!r}", hint=hint)
    given = {name: value for name, value in changes.items() if value is not None}
    taken_over = (*OUTPUT_OPTIONS, "id_column")
    options = {name: getattr(kept.options, name) for name in taken_over} | kept.manifest.options()
    columns: dict[str, str] = options.get("row_parameters") or {}
    parameters = cast("Mapping[str, Any]", given.get("parameters") or {})
    if columns:
        # What is given now goes before what rows bring themselves: else more tokens would be no more.
        kept_columns = {name: column for name, column in columns.items() if name not in parameters}
        given["row_parameters"] = kept_columns | dict(
            cast("Mapping[str, str]", given.get("row_parameters") or {})
        )
    # Further ones beside the run's own, as for an export.
    extra = (*kept.options.extra_columns, *split_names(given.get("extra_columns", ())))
    given["extra_columns"] = tuple(dict.fromkeys(extra))
    return cast("RunArguments", options | given | {"ledger": path})


def _model_of(
    kept: KeptSettings, own: Connection | None, changes: Mapping[str, Any], path: Path, *, trust: bool
) -> Connection:
    """The model of the run, with some attributes changed: as it is at hand, its key and classes too, or as it is kept.

    Its generation parameters are in any case those that are kept: some are the run's.
    """
    at_hand: dict[str, Any] = {}
    if own is not None:
        at_hand = {name: getattr(own, name) for name in type(own).model_fields if name != "generation_kwargs"}
    given = at_hand | dict(changes)
    structured = changes.get("structured_output")
    if isinstance(structured, Mapping):  # what it does not say of schema, mode and retries stays
        before = at_hand.get("structured_output") or MistralLLM.restore_attribute(
            "structured_output", kept.llm.get("structured_output"), trust=trust
        )
        given["structured_output"] = (before or {}) | dict(cast("Mapping[str, Any]", structured))
    of_class = Connection if own is None else type(own)
    return of_class.from_dict(kept.llm, trust=trust, source=str(path), **given)
