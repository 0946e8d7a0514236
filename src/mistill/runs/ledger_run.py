"""A start over rows that stand in a ledger already: the input is not needed, and the run stays what it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from mistill.datasets.sources import Source
from mistill.kinds.kept_settings import KeptSettings, find_run, is_output_unknown, read_settings
from mistill.kinds.manifest import RunManifest
from mistill.kinds.options import RunArguments, RunOptions
from mistill.ledger import Ledger, LedgerReader
from mistill.ledger.shard_files import is_in_shards
from mistill.llms.connection import Connection
from mistill.llms.mistral import MistralLLM
from mistill.progress.display import Display
from mistill.runs.ledger_rows import LedgerRows
from mistill.runs.pending_rows import Matcher
from mistill.runs.record_shape import RecordShape, shape_of
from mistill.runs.results import RunResults
from mistill.runs.run import Run


class KnownRun:
    """A run that was started before, as whoever asks rows of it again finds it.

    Args:
        run: itself, its output, or its ledger; ``None``: it is the run of ``ledger``.

    Attributes:
        out, path: its output, and its ledger. ``own_llm``: its model, where that is at hand.
        is_output_unknown: it may have an output, which nothing names.
        kept: its settings. ``manifest``: what makes it the same run, as it was written down.

    Raises:
        InputError: there is no such run.
        LedgerError: its ledger cannot be read.
    """

    def __init__(self, run: RunResults | str | Path | None, ledger: str | Path | None) -> None:
        if isinstance(run, RunResults):
            self.out, self.path = find_run(run.out, ledger or run.ledger_path)
        else:
            self.out, self.path = find_run(run, ledger)
            run = RunResults(self.path, self.out)
        self.own_llm = run.own_llm
        with LedgerReader(self.path) as reader:
            self.kept: KeptSettings = read_settings(reader)
            self.manifest: Any = msgspec.json.decode(reader.manifest())
            self.is_output_unknown = self.out is None and is_output_unknown(reader)

    def ask_by(self, manifest: RunManifest, llm: dict[str, Any]) -> None:
        """Rows of it are asked by other settings: those that a retry had."""
        kept = self.kept
        options = RunOptions.of(kept.options.kept() | manifest.options())
        self.kept, self.own_llm = KeptSettings(kept.kind, manifest, llm, options), None

    def model(self, changes: Mapping[str, Any], *, trust: bool) -> Connection:
        """Its model, with some attributes changed: as it is at hand, its key and classes too, or as it is kept.

        Its generation parameters are in any case those that are kept: some are the run's.
        """
        own, kept = self.own_llm, self.kept
        at_hand: dict[str, Any] = {}
        if own is not None:
            at_hand = {
                name: getattr(own, name) for name in type(own).model_fields if name != "generation_kwargs"
            }
        given = at_hand | dict(changes)
        structured = changes.get("structured_output")
        if isinstance(structured, Mapping):  # what it does not say of schema, mode and retries stays
            before = at_hand.get("structured_output") or MistralLLM.restore_attribute(
                "structured_output", kept.llm.get("structured_output"), trust=trust
            )
            given["structured_output"] = (before or {}) | dict(cast("Mapping[str, Any]", structured))
        of_class = Connection if own is None else type(own)
        return of_class.from_dict(kept.llm, trust=trust, source=str(self.path), **given)


class LedgerRun(Run):
    """A start whose rows are some of a ledger's.

    Args:
        known: the run that they are of. ``rows``: which of them, and in which order.
    """

    def __init__(
        self,
        known: KnownRun,
        rows: LedgerRows,
        llm: Connection,
        options: RunArguments,
        display: Display,
        *,
        trust: bool,
    ) -> None:
        self._known = known
        self._rows = rows
        self._trust = trust
        super().__init__(
            Source([rows], None),
            llm=llm,
            out=None if is_in_shards(known.path) else known.out,  # of these, the parts are looked at
            progress=display.progress,
            on_progress=display.on_progress,
            **(options | {"ledger": known.path}),
        )
        self.out, self.own_llm = known.out, known.own_llm

    def _open_ledger(self) -> Ledger:
        # The run stays what it is, and so do its settings: these are the ones of some rows.
        return Ledger.open(self.ledger_path, self._known.manifest)

    def _shape_of_records(self, reader: LedgerReader | None = None) -> RecordShape:
        if reader is not None:
            extra = {"extra_columns": self.options.extra_columns}
            return shape_of(reader, extra, live=self.kind, trust=self._trust)
        with LedgerReader(self._known.path) as before:
            return self._shape_of_records(before)

    def _check_chosen(self, shape: RecordShape, rows: Source) -> None:
        pass  # the run has checked them, and no row is chosen before it begins

    @property
    def _input_paths(self) -> None:
        return None

    def _matcher(self, ledger: Ledger) -> Matcher:
        self._rows.follow(ledger)
        return self._rows
