"""What a record out looks like: which columns of ours it has, and under which names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from mistill.errors import InputError, did_you_mean
from mistill.ledger import LedgerReader
from mistill.runs.flattening import FlatFields
from mistill.runs.kept_settings import read_settings
from mistill.runs.kinds.chat import ChatKind, ChatReader
from mistill.runs.kinds.kind import AnswerReader, Kind
from mistill.runs.options import RunOptions
from mistill.runs.records import column_names, rename_hint
from mistill.wording import Setting, words


class RecordShape:
    """What a record out looks like.

    Args:
        names: our columns → their names in the output.
        fields: fields of a structured answer → the names of their columns.
        extra: those of our columns that were asked for.
        flat: makes columns of the fields of an answer, in place of ``generation``; ``None``: they are not.
        answers: what reads the answers; by the run's own schema, or another.
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
        answers: AnswerReader,
        several: bool,
    ) -> None:
        self.names = names
        self.fields = fields
        self.flat = flat
        self.answers = answers
        self.several = several
        self._extra = frozenset(extra)
        columns = self.columns
        if len(set(columns)) < len(columns):
            twice = next(name for name in columns if columns.count(name) > 1)
            raise InputError(
                f"two output columns would be called {twice!r}",
                hint=words("rename one: ", Setting("columns", {twice: "NEW_NAME"})),
            )

    @property
    def columns(self) -> list[str]:
        """The output's own columns, in order."""
        return [*self.fields.values(), *self.names.values()]

    @property
    def has_further_fields(self) -> bool:
        """Fields of an answer that no schema names become columns too."""
        return self.flat is not None and self.flat.is_open

    @cached_property
    def hints(self) -> Mapping[str, str]:
        """Each of `columns` → what can be done where a row has a column of that name."""
        hints = {name: rename_hint(ours, name) for ours, name in {**self.fields, **self.names}.items()}
        for ours in self._extra:
            name = self.names[ours]
            hints[name] = words("leave ", Setting("extra_columns", [ours]), " out, or ", hints[name])
        return hints


def record_shape(
    *,
    renames: Iterable[str] = (),
    extra: Iterable[str] = (),
    kind: type[Kind[Any]] = ChatKind,
    answers: AnswerReader | None = None,
    flatten: bool = False,
    num_generations: int = 1,
) -> RecordShape:
    """The shape of a run's records.

    Args:
        renames: ``generation=answer``, …; of our columns, and where answers are flattened, of their fields.
        extra: some of the extra columns of ``kind``.
        answers: what reads the answers; as plain text unless given.

    Raises:
        InputError: an unknown or doubled column, or answers that cannot be flattened.
    """
    answers = answers or ChatReader()
    extra = _known_extras(extra, kind)
    ours = (*kind.columns, *extra)
    flat = FlatFields(answers.schema) if flatten else None
    if flat is not None and num_generations > 1:
        raise InputError(
            "several generations a row cannot be flattened",
            hint=words("leave ", Setting("num_generations"), " or ", Setting("flatten"), " out"),
        )
    renamed = column_names(renames, _renamable(kind, extra, flat))
    fields = {name: renamed[name] if name not in ours else name for name in flat.names} if flat else {}
    names = {column: renamed[column] for column in ours if flat is None or column != "generation"}
    several = num_generations > 1
    return RecordShape(names, fields, extra, flat=flat, answers=answers, several=several)


def shape_for(kind: type[Kind[Any]], answers: AnswerReader, options: RunOptions) -> RecordShape:
    """The shape of the records of a run of this kind with such options, whose answers ``answers`` reads."""
    return record_shape(
        renames=[f"{ours}={theirs}" for ours, theirs in options.columns.items()],
        extra=options.extra_columns,
        kind=kind,
        answers=answers,
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
) -> RecordShape:
    """The shape of a run's own records, as its ledger has it, changed where something is given. No key is needed.

    Raises:
        InputError: the run never read a row, or the change is impossible.
    """
    kept = read_settings(reader)
    own, kind = kept.options, kept.kind
    answers = kind.reader_of(kept.manifest, kept.llm, schema)
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
    return shape_for(kind, answers, own.model_copy(update=changed))


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
