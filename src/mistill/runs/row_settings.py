"""What rows were asked with: the settings of their run, or those of a retry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self, cast

import msgspec
from msgspec import Struct

from mistill.datasets.sources import Row
from mistill.kinds.chat import ChatKind, ChatManifest, ChatReader
from mistill.kinds.kept_settings import KeptRetry, explained_meta, read_manifest
from mistill.kinds.kind import AnswerReader, Kind
from mistill.kinds.manifest import RunManifest, changed_settings
from mistill.ledger import LedgerReader, LedgerRow
from mistill.prompts.prompt_template import PromptTemplate
from mistill.runs.ledger_rows import ASKED_AGAIN, LedgerRows

_NOT_KEPT_YET = 0
"""The number of settings that the ledger has none for: it counts from 1."""

_LEDGER = LedgerRows(Path("the ledger"), ASKED_AGAIN)


class RowSettings:
    """What some rows were asked with.

    Args:
        kind: of which kind their run is. ``manifest``: of their settings.

    Attributes:
        answers: reads their answers.
        changes: what differs from the run's own settings, by the names that a user gives.
    """

    def __init__(
        self,
        kind: type[Kind[Any]],
        manifest: RunManifest,
        answers: AnswerReader,
        *,
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        self.answers = answers
        self.changes = dict(changes or {})
        self._kind = kind
        self._manifest = manifest

    @classmethod
    def of_chat(cls, answers: AnswerReader | None = None) -> Self:
        """Of chat completions of which no more is known than what reads them; plain text unless given."""
        manifest = ChatManifest(model="", prompt=PromptTemplate().describe())
        return cls(ChatKind, manifest, answers or ChatReader())

    def read_by(self, answers: AnswerReader) -> RowSettings:
        """The same, whose answers another reader reads."""
        return RowSettings(self._kind, self._manifest, answers, changes=self.changes)

    def prompt_of(self, row: LedgerRow) -> Any:
        """What was asked for a row, rendered once more, as JSON values.

        Raises:
            InputError: none can be made of it.
        """
        return self._render(Row(row.position, row.record, _LEDGER, row.position))

    def sent_of(self, row: LedgerRow, rows: LedgerRows) -> list[dict[str, Any]]:
        """The messages that a row sent to be answered by chat, whole: its files are read once more.

        Args:
            rows: those of its ledger, which know where their files lie.

        Raises:
            WrongFile: one is not there any more, or another than it was.
            InputError: none can be made of it.
        """
        return self._send(rows.row_of(row), row.digest)

    @cached_property
    def _send(self) -> Callable[[Row, bytes | None], list[dict[str, Any]]]:
        return ChatKind.sent_of(cast("ChatManifest", self._manifest))

    @cached_property
    def _render(self) -> Callable[[Row], Any]:
        return self._kind.prompts_of(self._manifest)


def settings_of_retry(kind: Kind[Any]) -> dict[str, Any]:
    """What a retry asks with, for its ledger; `retried_settings` reads it."""
    return {"manifest": kind.manifest.values(), "llm": kind.llm_settings}


class Retried(Struct, frozen=True):
    """The rows that a retry asks by the settings of this number; ``None``: by the run's own."""

    settings: int | None


class RetrySettings(Struct, frozen=True):
    """What a retry asked with: its manifest, its model as dumped, and both as `settings_of_retry` gave them."""

    manifest: RunManifest
    llm: dict[str, Any]
    kept: dict[str, Any]


def read_retry(reader: LedgerReader, number: int) -> RetrySettings:
    """The settings of one retry.

    Raises:
        LedgerError: they cannot be read.
    """
    kind, _ = read_manifest(reader)
    with explained_meta(reader):
        data = reader.retry_settings()[number]
        kept = msgspec.json.decode(data, type=KeptRetry)
        manifest = kind.manifest_type.decode(bytes(kept.manifest))
        return RetrySettings(manifest, kept.llm, msgspec.json.decode(data))


def retried_settings(
    reader: LedgerReader, *, live: Kind[Any] | None = None, trust: bool = False
) -> dict[int, RowSettings]:
    """The settings of all retries of a run, by the numbers that the ledger has for them.

    Args:
        live: what just asks some rows: it reads the answers to its own settings.
        trust: the ledger is your own: classes that it names are imported.

    Raises:
        InputError: a schema in it is wrong.
    """
    found: dict[int, RowSettings] = {}
    kind, own = read_manifest(reader)
    for number, data in reader.retry_settings().items():
        with explained_meta(reader):
            kept = msgspec.json.decode(data, type=KeptRetry)
            manifest = kind.manifest_type.decode(bytes(kept.manifest))
            is_live = live is not None and live.manifest == manifest
            answers = live.reader if live and is_live else kind.reader_of(manifest, kept.llm, trust=trust)
            found[number] = RowSettings(kind, manifest, answers, changes=changes_of(own, manifest, kept.llm))
        live = None if is_live else live
    if live is not None and live.manifest != own:
        found[_NOT_KEPT_YET] = RowSettings(type(live), live.manifest, live.reader)
    return found


def changes_of(own: RunManifest, manifest: RunManifest, llm: Mapping[str, Any]) -> dict[str, Any]:
    """What a retry's settings have in place of the run's own, as small JSON values: a schema by its name."""
    changes = {name: new for name, (_, new) in changed_settings(own, manifest).items()}
    if changes.get("schema") is not None:
        changes["schema"] = _name_of_schema(llm) or changes["schema"]
    return changes


def _name_of_schema(llm: Mapping[str, Any]) -> str | None:
    schema: Any = cast("dict[str, Any]", llm.get("structured_output") or {}).get("schema")
    if not isinstance(schema, dict):
        return None
    described = cast("dict[str, Any]", schema)
    nested = cast("dict[str, Any]", described.get("json_schema") or described)
    return described.get("name") or nested.get("title")
