"""A run over rows that stand in a ledger already: some of them once more, by other settings."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from mistill.datasets.input_size import InputSize
from mistill.errors import InputError, did_you_mean
from mistill.kinds.kept_settings import KeptSettings
from mistill.kinds.options import (
    OUTPUT_OPTIONS,
    RETRY_OPTIONS,
    RetryArguments,
    RunArguments,
    hint_of_parameter,
    split_names,
)
from mistill.ledger import Cause, Ledger, LedgerReader, Selection
from mistill.llms.connection import Connection
from mistill.llms.mistral import MistralLLM
from mistill.progress.display import Display
from mistill.runs.ledger_rows import ASKED_AGAIN, LedgerRows
from mistill.runs.ledger_run import KnownRun, LedgerRun
from mistill.runs.record_shape import shape_of
from mistill.runs.report import RetryRecord, StartReport, start_reports
from mistill.runs.results import RunResults
from mistill.runs.row_settings import changes_of, read_retry, settings_of_retry
from mistill.runs.run_name import RunName
from mistill.runs.runner import Runner
from mistill.runs.where import RunFilter
from mistill.wording import Phrase, Setting, words

_log = logging.getLogger("mistill")


class ChosenAgain(LedgerRun):
    """A start that asks some rows of a ledger once more.

    Args:
        known: the run. ``where``: which rows of it.
        options: all of them.
    """

    def __init__(
        self,
        known: KnownRun,
        where: str,
        llm: Connection,
        options: RunArguments,
        display: Display,
        *,
        trust: bool,
    ) -> None:
        self._where = where
        self._trust = trust
        self._filter, self._selection = self._select(known.path)
        self._chosen: int | None = None
        self._goes_on = False
        super().__init__(known, LedgerRows(known.path, ASKED_AGAIN), llm, options, display, trust=trust)
        self._changes = changes_of(known.kept.manifest, self.kind.manifest, self.kind.llm_settings)

    def _select(self, path: Path) -> tuple[RunFilter, Selection]:
        """The rows that match by now."""
        with LedgerReader(path) as reader:
            found = RunFilter(self._where, reader, shape_of(reader, trust=self._trust))
            return found, found.ids(reader)

    def _say_nothing_chosen(self) -> None:
        _log.warning("%s", self._filter.nothing(self.out))

    @property
    def asked(self) -> tuple[str, dict[str, Any]]:
        """Which rows, and what differs from the run's own settings: by these a retry is known again."""
        return self._where, self._changes

    @property
    def trusts(self) -> bool:
        """The ledger is the user's own."""
        return self._trust

    def _asks_by(self, reader: LedgerReader, number: int | None) -> bool:
        if number is None:
            return not self._changes
        return read_retry(reader, number).manifest == self.kind.manifest

    def _settle_retries(self, *, looks: bool) -> bool:
        if not super()._settle_retries(looks=looks):
            return False
        self._filter, self._selection = self._select(self.ledger_path)
        return True

    def _open_ledger(self) -> Ledger:
        ledger = super()._open_ledger()
        self._goes_on = self._chosen is not None or bool(self._cut_short())
        return ledger

    def _cut_short(self) -> list[StartReport]:
        """The last starts, one after the other, that were this very retry and did not come to their end."""
        with LedgerReader(self.ledger_path) as reader:
            asked = [start for start in start_reports(reader) if not start.is_look]
        return list(takewhile(lambda one: self._is_same(one) and not has_ended(one), reversed(asked)))

    def _is_same(self, start: StartReport) -> bool:
        return start.retry is not None and (start.retry.where, start.retry.settings) == self.asked

    def _find_input_size(self) -> InputSize:
        return InputSize(self._source)  # of the rows that are chosen

    async def _choose_rows(self, ledger: Ledger) -> None:
        """All that match; or, where the last start was this very retry and did not come to its end, what it left."""
        settings = settings_of_retry(self.kind) if self._changes else None
        self._chosen = await ledger.begin_retry(None if self._goes_on else self._selection, settings)
        self.progress.total = self._chosen
        if not self._chosen and not self._goes_on:
            is_at_server = bool(await ledger.rows_that(self._selection, 1))
            of_jobs = "all rows that match are in batch jobs which have not ended: none is asked"
            _log.warning("%s", of_jobs if is_at_server else self._filter.nothing(self.out))

    def _retry_record(self, runner: Runner | None) -> RetryRecord:
        found: list[Cause] = [] if runner is None else list(runner.unreplaced.values())
        unreplaced = sorted(found, key=lambda cause: -cause.count)
        return RetryRecord(self._where, self._changes, self._chosen, unreplaced)


class Asked(TypedDict):
    """What `Run.retry` is given beside the run and the condition, and how its progress is shown."""

    failed: bool
    llm: Mapping[str, Any] | None
    ledger: str | Path | None
    trust: bool
    display: Display
    changes: RetryArguments


class Retry(ChosenAgain):
    """See `Run.retry`, which makes one."""

    def __init__(
        self,
        run: RunResults | str | Path | None,
        where: str | None,
        **asked: Unpack[Asked],
    ) -> None:
        known, trust = KnownRun(run, asked["ledger"]), asked["trust"]
        _refuse_one_shard(known.path)
        super().__init__(
            known,
            _condition(where, failed=asked["failed"]),
            known.model(asked["llm"] or {}, trust=trust),
            _options_of(known.kept, asked["changes"]),
            asked["display"],
            trust=trust,
        )

    def _open_ledger(self) -> Ledger:
        self._say_no_output()
        return super()._open_ledger()

    def _say_no_output(self) -> None:
        if not self._known.is_output_unknown:
            return
        ledger = str(self.ledger_path)
        _log.warning(
            words(
                f"no output is written: {ledger} does not say which one is its own. To have one, name it: ",
                Phrase(
                    f"Run.retry('answers.jsonl', …, ledger={ledger!r})",
                    f"mistill retry answers.jsonl --ledger {shlex.quote(ledger)} …",
                ),
                "; or afterwards: ",
                Phrase(
                    f"export_run({ledger!r}, 'answers.jsonl')",
                    f"mistill export {shlex.quote(ledger)} --to answers.jsonl",
                ),
            )
        )


def _refuse_one_shard(ledger: Path) -> None:
    """``InputError``: a retry of one alone would leave the output of all as it was."""
    if (of_all := RunName.of_all_shards(ledger)) is not None:
        raise InputError(
            f"{ledger} is one shard of a run, and rows are asked again of all of it",
            hint=words(
                "name the run, where rows count over all shards: ",
                Phrase(of_all.call("Run.retry", "…"), of_all.command("retry", "…")),
            ),
        )


def has_ended(start: StartReport) -> bool:
    """Whether it came to its end, and was not stopped before."""
    return start.ended_at is not None and start.stopped is None


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


def _options_of(kept: KeptSettings, changes: RetryArguments) -> RunArguments:
    """The options of the run, and what is given for these rows over them."""
    for name in changes:
        if name not in RETRY_OPTIONS:
            hint = hint_of_parameter(name) or did_you_mean(name, RETRY_OPTIONS)
            if name in MistralLLM.model_fields:
                hint = f"it is an attribute of the LLM: llm={{{name!r}: …}}"
            raise InputError(f"a retry has no option {name!r}", hint=hint)
    given = {name: value for name, value in changes.items() if value is not None}
    taken_over = (*OUTPUT_OPTIONS, "id_column", "pin", "prompt_cache")
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
    return cast("RunArguments", options | given)
