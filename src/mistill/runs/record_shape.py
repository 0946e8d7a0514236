"""What a record out looks like: which columns of ours it has, and under which names."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Final

import msgspec

from mistill.datasets.column_names import first_repeated
from mistill.errors import InputError, did_you_mean
from mistill.kinds.chat import ChatKind
from mistill.kinds.kept_settings import read_settings
from mistill.kinds.kind import MARK_COLUMNS, AnswerReader, Kind
from mistill.kinds.options import RunOptions
from mistill.ledger import EVERYTHING, LedgerReader, LedgerRow, Selection
from mistill.records.columns import check_columns, column_names, nearest_and_all, rename_hint
from mistill.records.flattening import FlatFields, Flattening
from mistill.runs.row_settings import RowSettings, retried_settings
from mistill.structured.object_fields import SchemaFields
from mistill.wording import Setting, words

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
DROP: Final = "drop"
"""What the option ``earlier`` says to leave the row's columns out that ours would replace."""


class RecordShape:
    """What a record out looks like.

    Args:
        names: our columns → their names in the output.
        fields: fields of a structured answer → the names of their columns.
        extra: those of our columns that were asked for.
        flat: makes columns of the fields of an answer, in place of ``generation``; ``None``: they are not.
        own: what the rows of the run were asked with. ``retried``: the same of those that were asked again, by the
            numbers of their settings; ``flat_retried``: the fields of their answers, likewise.
        options: which columns are kept or left out, and what becomes of a row's column of the name of one of ours.
        prefix: stands before the names of further fields, which no schema names.

    Raises:
        InputError: two columns would have one name.
    """

    def __init__(
        self,
        names: Mapping[str, str],
        fields: Mapping[str, str],
        extra: Iterable[str],
        options: RunOptions,
        *,
        flat: FlatFields | None,
        own: RowSettings,
        retried: Mapping[int, RowSettings],
        flat_retried: Mapping[int, FlatFields],
        prefix: str = "",
    ) -> None:
        self._keep = dict.fromkeys(options.keep)
        self._drop = frozenset(options.drop)
        self._earlier = options.earlier
        self._all_ours = [*fields.values(), *names.values()]
        self._own_names = (*names, *fields)
        self.names = {ours: name for ours, name in names.items() if self.has(name)}
        self.fields = {field: name for field, name in fields.items() if self.has(name)}
        self.flat = flat
        self.prefix = prefix
        self.known_fields = tuple(fields)
        self.several = options.num_generations > 1
        self._own = own
        self._retried = retried
        self._flat_retried = flat_retried
        self.extra = frozenset(extra)
        if (twice := first_repeated(self.columns)) is not None:
            raise InputError(
                f"two output columns would be called {twice!r}",
                hint=words(
                    "rename one: ",
                    Setting("columns", {twice: "NEW_NAME"}),
                    ", or give fields a prefix: ",
                    Setting("flatten", "answer_"),
                ),
            )

    def settings_of(self, row: LedgerRow) -> RowSettings:
        """What a row was asked with."""
        return self._own if row.settings is None else self._retried.get(row.settings, self._own)

    def answers_of(self, number: int | None) -> AnswerReader:
        """What reads answers to the settings that have this number in the ledger."""
        return (self._own if number is None else self._retried.get(number, self._own)).answers

    def changes_of(self, number: int | None) -> dict[str, Any]:
        """What differs from the run's own settings in those that have this number in the ledger."""
        settings = None if number is None else self._retried.get(number)
        return {} if settings is None else settings.changes

    def flat_of(self, row: LedgerRow) -> FlatFields | None:
        """The fields of a row's answer, where they are columns."""
        return self.flat if row.settings is None else self._flat_retried.get(row.settings, self.flat)

    @property
    def columns(self) -> list[str]:
        """The output's own columns, in order."""
        return [*self.fields.values(), *self.names.values()]

    @property
    def chosen(self) -> list[str]:
        """Columns that were named to be kept or left out."""
        return [*self._keep, *self._drop]

    @property
    def has_marks(self) -> bool:
        """What people said of rows is asked for."""
        return not self.extra.isdisjoint(MARK_COLUMNS)

    def rows_of(
        self,
        reader: LedgerReader,
        selection: Selection = EVERYTHING,
        first: int = 0,
        until: int | None = None,
    ) -> Iterator[LedgerRow]:
        """The selected rows between two positions, with all of the ledger that their records have."""
        with_unfit = "raw" in self.extra
        return reader.rows(
            selection, first=first, until=until, with_unfit=with_unfit, with_marks=self.has_marks
        )

    @cached_property
    def has_further_fields(self) -> bool:
        """Fields of an answer that no schema names become columns too."""
        return any(flat.is_open for flat in (self.flat, *self._flat_retried.values()) if flat is not None)

    @property
    def has_schema(self) -> bool:
        """Some answers are read by a schema."""
        return any(one.answers.schema is not None for one in (self._own, *self._retried.values()))

    @property
    def always_fits(self) -> bool:
        """No record can be other than asked, or without content."""
        return all(one.answers.always_fits for one in (self._own, *self._retried.values()))

    def has(self, name: str) -> bool:
        """Whether a column of that name is in the output, if there is one."""
        return name not in self._drop and (not self._keep or name in self._keep)

    def answer_names(self) -> list[str]:
        """By what names an answer's columns may be called, as far as they are known before it is read: as the output
        has them, by our own, and the fields of its schema."""
        schemas = (settings.answers.schema for settings in (self._own, *self._retried.values()))
        sent = (schema.json_schema for schema in schemas if schema is not None)
        fields = (name for schema in sent for name in SchemaFields(schema).fields().schemas)
        return [*self.columns, *self._own_names, *fields]

    def error_column(self) -> str | None:
        """What the column ``error`` is called, if there is one."""
        return self.names.get("error")

    @cached_property
    def hints(self) -> Mapping[str, str]:
        """Each of `columns` → what can be done where a row has a column of that name."""
        hints = {name: rename_hint(ours, name) for ours, name in {**self.fields, **self.names}.items()}
        for ours in self.extra & self.names.keys():
            name = self.names[ours]
            hints[name] = words("leave ", Setting("extra_columns", [ours]), " out, or ", hints[name])
        return hints

    def check_row(self, columns: Collection[str], where: str = "the input", index: int | None = None) -> None:
        """Refuses columns of a row, or of the whole input, that the output cannot have beside ours.

        Raises:
            InputError: they have the names of ours, and ``earlier`` does not say what becomes of them; or names that
                it would give to others.
        """
        if self.hints.keys().isdisjoint(columns):
            return
        if self._earlier is None:
            check_columns(columns, self.hints, where, index)
        elif self._earlier != DROP:
            for name in (name for name in columns if name in self.hints):
                if (other := self._earlier + name) in columns or other in self.hints:
                    raise InputError(
                        f"{where}: its column {name!r} would become {other!r}, which is there already",
                        hint=words("give another prefix to ", Setting("earlier"), ", or drop"),
                        index=index,
                    )

    def check_chosen(self, missing: Iterable[str], columns: Iterable[str]) -> None:
        """Refuses a column to keep or to leave out that no record has.

        Args:
            missing: those of `chosen` that no row has. ``columns``: those that rows have.

        Raises:
            InputError: the output has no such column.
        """
        ours = self._all_ours
        for name in missing:
            if name not in ours:
                known = dict.fromkeys([*columns, *ours])
                word = "keep" if name in self._keep else "drop"
                raise InputError(
                    words(Setting(word), f": there is no output column {name!r}"),
                    hint=nearest_and_all(name, known),
                )

    def of_row(self, fields: Mapping[str, Any], further: Collection[str] = ()) -> Mapping[str, Any]:
        """What a record has of the row itself: its columns by the names that they have in the output.

        Args:
            further: columns of its answer that are not among `columns`: the row's own make way for them too, where
                ``earlier`` says how.
        """
        if self._earlier is None and not self._drop:
            return fields
        own: dict[str, Any] = {}
        for name, value in fields.items():
            if self._earlier is not None and (name in self.hints or name in further):
                name = self._out_of_the_way(name, self._earlier, fields, further)
            if name is not None and name not in self._drop:
                own[name] = value
        return own

    def _out_of_the_way(
        self, name: str, earlier: str, fields: Collection[str], further: Collection[str]
    ) -> str | None:
        """What becomes of a row's column; it stays what it is where another has the name that it would get."""
        if earlier == DROP:
            return None
        other = earlier + name
        return name if other in fields or other in self.hints or other in further else other

    def types(self, of_input: Mapping[str, Any]) -> dict[str, Any]:
        """The types of the output's columns, where they are known: those of the input's, and of vectors."""
        vectors = {
            name: self._own.answers.vectors[ours]
            for ours, name in self.names.items()
            if ours in self._own.answers.vectors
        }
        return {**self.of_row(of_input), **vectors}

    def ordered(self, line: bytes) -> bytes:
        """A record with the columns that are kept, in their order."""
        if not self._keep:
            return line
        found = _decode_fields(line)
        return msgspec.json.encode({name: found[name] for name in self._keep if name in found})

    def header(self, found: Iterable[str]) -> list[str]:
        """The names of all columns that records have, of those that were ``found`` in rows and answers."""
        columns = dict.fromkeys(name for name in found if self.has(name))
        return [name for name in self._keep if name in columns] if self._keep else list(columns)


def record_shape(
    options: RunOptions | None = None,
    *,
    kind: type[Kind[Any]] = ChatKind,
    own: RowSettings | None = None,
    retried: Mapping[int, RowSettings] | None = None,
) -> RecordShape:
    """The shape of the records of a run of this kind with such options.

    Args:
        own, retried: as for `RecordShape`; of a run whose answers are plain text, unless given.

    Raises:
        InputError: an unknown or doubled column, or answers that cannot be flattened.
    """
    options = options or RunOptions()
    own, retried = own or RowSettings.of_chat(), retried or {}
    extra = _known_extras(options.extra_columns, kind)
    ours = (*kind.columns, *extra)
    flattening = Flattening.of(options.flatten)
    flat = _flat(own, flattening)
    flat_retried = {
        number: other
        for number, settings in retried.items()
        if (other := _flat(settings, flattening)) is not None
    }
    if flat is not None and options.num_generations > 1:
        raise InputError(
            "several generations a row cannot be flattened",
            hint=words("leave ", Setting("num_generations"), " or ", Setting("flatten"), " out"),
        )
    prefix = "" if flattening is None else flattening.prefix
    renamed = column_names(options.columns, _renamable(kind, extra, flat))
    fields: dict[str, str] = {}
    for name in flat.names if flat else ():
        # A field that has a name of ours goes by its own; renames are of ours then.
        theirs = renamed[name] if name not in ours else name
        fields[name] = theirs if theirs != name else prefix + name
    for other in flat_retried.values():
        fields |= {name: prefix + name for name in other.names if name not in fields}
    names = {column: renamed[column] for column in ours if flat is None or column != "generation"}
    return RecordShape(
        names,
        fields,
        extra,
        options,
        flat=flat,
        own=own,
        retried=retried,
        flat_retried=flat_retried,
        prefix=prefix,
    )


def shape_of(
    reader: LedgerReader,
    changes: Mapping[str, Any] | None = None,
    *,
    schema: Any = None,
    live: Kind[Any] | None = None,
    trust: bool = False,
) -> RecordShape:
    """The shape of a run's own records, as its ledger has it, changed where something is given. No key is needed.

    Answers are read by the schema that their row was asked with, unless one for all of them is given. Columns to keep
    or to drop are given in place of the run's own. ``live`` and ``trust`` are as for `retried_settings`.

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
    given = RunOptions.of(changes or {})
    extra = tuple(dict.fromkeys([*own.extra_columns, *given.extra_columns]))
    flattened = own.flatten if (changes or {}).get("flatten") is None else given.flatten
    flat = _flat(settings, Flattening.of(flattened))
    # A field that the run gave another name may be no column of this shape.
    renamable = _renamable(kind, extra, flat)
    own_renames = {ours: name for ours, name in own.columns.items() if ours in renamable}
    renames = own_renames | given.columns
    chosen = given if given.keep or given.drop else own
    keep = chosen.keep
    if keep and chosen is own:  # of columns that the run has; what is asked for beside them is wanted too
        added = (renames.get(name, name) for name in extra if name not in own.extra_columns)
        keep = tuple(dict.fromkeys([*keep, *added]))
    changed = {
        "columns": renames,
        "extra_columns": extra,
        "flatten": flattened,
        "keep": keep,
        "drop": chosen.drop,
        "earlier": given.earlier or own.earlier,
    }
    return record_shape(own.model_copy(update=changed), kind=kind, own=settings, retried=retried)


def _flat(settings: RowSettings, flattening: Flattening | None) -> FlatFields | None:
    return None if flattening is None else FlatFields(settings.answers.schema, deep=flattening.deep)


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
