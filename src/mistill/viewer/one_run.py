"""What a page says of a run beside its rows: what was asked, how far it is, and by what its rows can be chosen."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Literal, TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from mistill.characters import whole_characters
from mistill.ledger import Counts, LedgerReader
from mistill.runs.report import last_start, rows_of_input
from mistill.runs.report_text import WITHOUT_A_WORD
from mistill.steering.orders import paused_by
from mistill.viewer.catalogue import KnownRun, LedgerState, state_of
from mistill.viewer.pages import RunRows
from mistill.viewer.texts import page_text
from mistill.wording import in_python


class Choice(Struct, frozen=True):
    """By what rows can be chosen: the value of a field, and how many have it."""

    value: str
    count: int


class SettingsChoice(Struct, frozen=True):
    """What a retry asked with in place of the run's own settings, as JSON, by its number in the ledger."""

    number: int
    changes: str


PhaseName: TypeAlias = Literal["running", "paused", "waiting", "stopped", "died", "open", "ended"]
"""``waiting``: for batch jobs, which go on without a process of ours. ``open``: rows are left, and nobody asks them."""


class Phase(Struct, frozen=True):
    """Whether a run goes on, and if not, why. ``told``: the same in words, where there is more to say."""

    name: PhaseName
    told: str = ""


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run at a glance.

    Attributes:
        named: what a command takes for it. ``settings``: what was asked, by the names of the settings, as JSON.
        live: a run is on it now. ``phase``: whether it goes on, and why not.
        input_rows: of its input, those too that are still to be read; ``None``: nobody knows how many these are.
        causes, finish_reasons, marks: of the rows of the current input.
        retries: what was asked otherwise. ``replaced``: some outcomes took the place of earlier ones.
        started_at: of its first start, unix seconds. ``seconds``: how long it took to find all this.
    """

    name: str
    named: str
    kind: str
    model: str
    settings: str
    live: bool
    phase: Phase
    counts: Counts
    input_rows: int | None
    causes: list[Choice]
    finish_reasons: list[Choice]
    marks: list[Choice]
    retries: list[SettingsChoice]
    replaced: bool
    started_at: float | None
    seconds: float


class Summaries:
    """Summaries of runs, each kept until its ledger changes: to count a million rows takes a second."""

    def __init__(self) -> None:
        self._kept: dict[Path, tuple[LedgerState, RunSummary]] = {}

    def of(self, run: KnownRun, rows: RunRows) -> RunSummary:
        """The summary of a run as it is now.

        Raises:
            LedgerError: its ledger cannot be read.
        """
        state = state_of(run.ledger)
        kept = self._kept.get(run.ledger)
        live = rows.reader.is_being_written()
        if kept is not None and kept[0] == state:  # a process that was killed has changed nothing of it
            phase = _phase(rows.reader, kept[1].counts, live=live)
            return replace(kept[1], live=live, phase=phase)
        with rows.reader.snapshot():  # what is counted in several ways is of one moment
            found = _summary(run, rows, live=live)
        self._kept[run.ledger] = state, found
        return found


def _phase(reader: LedgerReader, counts: Counts, *, live: bool) -> Phase:
    start = last_start(reader)
    if live:
        paused = None if start is None else paused_by(start.changes)
        return Phase("running") if paused is None else Phase("paused", page_text(f"by {paused.by}").text)
    if start is None:
        return Phase("open")
    if start.ended_at is None:
        return Phase("died", WITHOUT_A_WORD)
    if counts.with_server:
        return Phase("waiting", "for batch jobs at Mistral")
    if start.stopped is not None:
        error = start.stopped.worded(in_python)
        return Phase("stopped", page_text("; ".join(filter(None, (error.message, error.hint)))).text)
    is_whole = counts.input_was_read_to_its_end and not counts.pending
    return Phase("ended" if is_whole else "open")


def _summary(run: KnownRun, rows: RunRows, *, live: bool) -> RunSummary:
    began_at = time.perf_counter()
    reader, manifest = rows.reader, rows.manifest
    starts, counts = reader.starts(), reader.counts()
    asked = page_text(json.dumps(manifest.settings(), ensure_ascii=False, indent=2)).text
    return RunSummary(
        name=run.name,
        named=whole_characters(run.place.command_arguments()),
        kind=manifest.kind,
        model=manifest.model,
        settings=asked,
        live=live,
        phase=_phase(reader, counts, live=live),
        counts=counts,
        input_rows=rows_of_input(reader, counts),
        causes=[Choice(page_text(cause.kind, 100).text, cause.count) for cause in reader.failures()],
        finish_reasons=[Choice(reason, number) for reason, number in reader.finish_reasons().items()],
        marks=[Choice(mark, number) for mark, number in reader.marks().items() if mark is not None],
        retries=[
            SettingsChoice(
                number, page_text(json.dumps(rows.shape.changes_of(number), ensure_ascii=False), 500).text
            )
            for number in reader.retry_settings()
        ],
        replaced=reader.has_earlier_outcomes(),
        started_at=starts[0].started_at if starts else None,
        seconds=time.perf_counter() - began_at,
    )
