"""What a record out looks like: which columns of ours it has, and under which names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from mistill.errors import InputError, did_you_mean
from mistill.ledger import LedgerReader, LedgerRow
from mistill.runs.flattening import FlatFields
from mistill.runs.kept_settings import read_settings
from mistill.runs.kinds.chat import ChatKind
from mistill.runs.kinds.kind import Kind
from mistill.runs.options import RunOptions
from mistill.runs.records import column_names, rename_hint
from mistill.runs.row_settings import RowSettings, retried_settings
from mistill.wording import Setting, words


class RecordShape:
    """What a record out looks like.

    Args:
        names: our columns → their names in the output.
        fields: fields of a structured answer → the names of their columns.
        extra: those of our columns that were asked for.
        flat: makes columns of the fields of an answer, in place of ``generation``; ``None``: they are not.
        own: what the rows of the run were asked with. ``retried``: the same of those that were asked again, by the
            numbers of their settings; ``flat_retried``: the fields of their answers, likewise.
        several: ``generation`` is a list, since each row has several.

    Raises:
        InputError: two columns would have one name.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        fields: Mapping[str, str],
        extra: Iterable[str],
        *,
        flat: FlatFields | None,
        own: RowSettings,
        retried: Mapping[int, RowSettings],
        flat_retried: Mapping[int, FlatFields],
        several: bool,
    ) -> None:
        self.names = names
        self.fields = fields
        self.flat = flat
        self.several = several
        self._own = own
        self._retried = retried
        self._flat_retried = flat_retried
        self.extra = frozenset(extra)
        columns = self.columns
        if len(set(columns)) < len(columns):
            twice = next(name for name in columns if columns.count(name) > 1)
            raise InputError(
                f"two output columns would be called {twice!r}",
                hint=words("rename one: ", Setting("columns", {twice: "NEW_NAME"})),
            )

    def settings_of(self, row: LedgerRow) -> RowSettings:
        """What a row was asked with."""
        return self._own if row.settings is None else self._retried.get(row.settings, self._own)

    def flat_of(self, row: LedgerRow) -> FlatFields | None:
        """The fields of a row's answer, where they are columns."""
        return self.flat if row.settings is None else self._flat_retried.get(row.settings, self.flat)

    @property
    def columns(self) -> list[str]:
        """The output's own columns, in order."""
        return [*self.fields.values(), *self.names.values()]

    @property
    def has_further_fields(self) -> bool:
        """Fields of an answer that no schema names become columns too."""
        return any(flat.is_open for flat in (self.flat, *self._flat_retried.values()) if flat is not None)

    @cached_property
    def hints(self) -> Mapping[str, str]:
        """Each of `columns` → what can be done where a row has a column of that name."""
        hints = {name: rename_hint(ours, name) for ours, name in {**self.fields, **self.names}.items()}
        for ours in self.extra:
            name = self.names[ours]
            hints[name] = words("leave ", Setting("extra_columns", [ours]), " out, or ", hints[name])
        return hints


def record_shape(
    *,
    renames: Iterable[str] = (),
    extra: Iterable[str] = (),
    kind: type[Kind[Any]] = ChatKind,
    own: RowSettings | None = None,
    retried: Mapping[int, RowSettings] | None = None,
    flatten: bool = False,
    num_generations: int = 1,
) -> RecordShape:
    """The shape of a run's records.

    Args:
        renames: ``generation=answer``, …; of our columns, and where answers are flattened, of their fields.
        extra: some of the extra columns of ``kind``.
        own, retried: as for `RecordShape`; of a run whose answers are plain text, unless given.

    Raises:
        InputError: an unknown or doubled column, or answers that cannot be flattened.
    """
    own, retried = own or RowSettings.of_chat(), retried or {}
    extra = _known_extras(extra, kind)
    ours = (*kind.columns, *extra)
    flat = FlatFields(own.answers.schema) if flatten else None
    flat_retried = {
        number: FlatFields(settings.answers.schema) for number, settings in retried.items() if flatten
    }
    if flat is not None and num_generations > 1:
        raise InputError(
            "several generations a row cannot be flattened",
            hint=words("leave ", Setting("num_generations"), " or ", Setting("flatten"), " out"),
        )
    renamed = column_names(renames, _renamable(kind, extra, flat))
    fields = {name: renamed[name] if name not in ours else name for name in flat.names} if flat else {}
    for other in flat_retried.values():
        fields |= {name: name for name in other.names if name not in fields}
    names = {column: renamed[column] for column in ours if flat is None or column != "generation"}
    several = num_generations > 1
    return RecordShape(
        names, fields, extra, flat=flat, own=own, retried=retried, flat_retried=flat_retried, several=several
    )


def shape_for(
    kind: type[Kind[Any]],
    own: RowSettings,
    options: RunOptions,
    retried: Mapping[int, RowSettings] | None = None,
) -> RecordShape:
    """The shape of the records of a run of this kind with such options; ``own``, ``retried`` as for `RecordShape`."""
    return record_shape(
        renames=[f"{ours}={theirs}" for ours, theirs in options.columns.items()],
        extra=options.extra_columns,
        kind=kind,
        own=own,
        retried=retried,
        flatten=options.flatten,
        num_generations=options.num_generations,
    )


def shape_of(
    reader: LedgerReader,
    *,
    columns: Mapping[str, str] | None = None,
    extra_columns: Iterable[str] = (),
    flatten: bool | None = None,
    schema: Any = None,
    live: Kind[Any] | None = None,
    trust: bool = False,
) -> RecordShape:
    """The shape of a run's own records, as its ledger has it, changed where something is given. No key is needed.

    Answers are read by the schema that their row was asked with, unless one for all of them is given. ``live`` and
    ``trust`` are as for `retried_settings`.

    Raises:
        InputError: the run never read a row, or the change is impossible.
    """
    kept = read_settings(reader)
    own, kind = kept.options, kept.kind
    answers = kind.reader_of(kept.manifest, kept.llm, schema, trust=trust)
    retried = retried_settings(reader, live=live, trust=trust)
    if schema is not None:
        retried = {number: settings.read_by(answers) for number, settings in retried.items()}
    settings = RowSettings(kind, kept.manifest, answers)
    extra = tuple(dict.fromkeys([*own.extra_columns, *extra_columns]))
    flattened = own.flatten if flatten is None else flatten
    # A field that the run gave another name may be no column of this shape.
    renamable = _renamable(kind, extra, FlatFields(answers.schema) if flattened else None)
    own_renames = {ours: name for ours, name in own.columns.items() if ours in renamable}
    changed = {
        "columns": own_renames | dict(columns or {}),
        "extra_columns": extra,
        "flatten": flattened,
    }
    return shape_for(kind, settings, own.model_copy(update=changed), retried)


def _renamable(kind: type[Kind[Any]], extra: Iterable[str], flat: FlatFields | None) -> tuple[str, ...]:
    """What may be given another name: our columns, and the fields that have no name of ours."""
    ours = (*kind.columns, *extra)
    return (*(name for name in flat.names if name not in ours), *ours) if flat else ours


def _known_extras(extra: Iterable[str], kind: type[Kind[Any]]) -> list[str]:
    chosen = list(extra)
    for column in chosen:
        if column not in kind.extra_columns:
            raise InputError(
                f"there is no extra column {column!r}", hint=did_you_mean(column, kind.extra_columns)
            )
    return chosen
