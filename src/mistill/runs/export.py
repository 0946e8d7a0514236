"""The ledger → the output file: derived, so it can be made again at any time, in any format, for free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec
from msgspec import Struct
from pydantic_core import to_jsonable_python

from mistill.datasets.formats import format_of
from mistill.datasets.writers import open_writer
from mistill.errors import InputError, LedgerError, MistillError, did_you_mean
from mistill.ledger import EVERYTHING, LedgerReader, LedgerRow, Selection
from mistill.ledger.error_record import decode_error
from mistill.runs.kept_settings import read_settings
from mistill.runs.kinds.chat import ChatKind, ChatReader
from mistill.runs.kinds.kind import AnswerReader, Kind
from mistill.runs.options import RunOptions
from mistill.runs.records import column_names, make_line, make_record


class RecordShape(Struct, frozen=True, kw_only=True):
    """What a record out looks like.

    Attributes:
        names: our columns → their names in the output.
        answers: what reads the answers; by the run's own schema, or another.
        flatten: the fields of a structured answer become columns of their own, in place of ``generation``.
        several: ``generation`` is a list, since each row has several.
    """

    names: Mapping[str, str]
    answers: AnswerReader
    flatten: bool = False
    several: bool = False

    @property
    def columns(self) -> list[str]:
        """The output's own columns, in order."""
        if not self.flatten:
            return list(self.names.values())
        kept = [name for column, name in self.names.items() if column != "generation"]
        return [*self.fields, *kept]

    @property
    def fields(self) -> list[str]:
        """The fields that `flatten` makes columns of."""
        schema = self.answers.schema
        properties = schema.json_schema.get("properties") if schema else None
        if not isinstance(properties, dict) or not properties:
            raise InputError(
                "only answers that are objects with known fields can be flattened",
                hint="give a schema with properties, or leave --flatten out",
            )
        return list(cast("dict[str, Any]", properties))


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
        renames: ``generation=answer``, …
        extra: some of the extra columns of ``kind``.
        answers: what reads the answers; as plain text unless given.

    Raises:
        InputError: an unknown or doubled column, or answers that cannot be flattened.
    """
    names = column_names(renames, (*kind.columns, *_known_extras(extra, kind)))
    several = num_generations > 1
    shape = RecordShape(names=names, answers=answers or ChatReader(), flatten=flatten, several=several)
    if flatten and num_generations > 1:
        raise InputError(
            "several generations a row cannot be flattened", hint="leave one of the two options out"
        )
    columns = shape.columns
    if len(set(columns)) < len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise InputError(f"two output columns would be called {twice!r}", hint=f"--column {twice}=NEW_NAME")
    return shape


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
    changed: dict[str, Any] = {
        "columns": own.columns | dict(columns or {}),
        "extra_columns": tuple(dict.fromkeys([*own.extra_columns, *extra_columns])),
    }
    if flatten is not None:
        changed["flatten"] = flatten
    answers = kind.reader_of(kept.manifest, kept.llm, schema)
    return shape_for(kind, answers, own.model_copy(update=changed))


def _known_extras(extra: Iterable[str], kind: type[Kind[Any]]) -> list[str]:
    chosen = list(extra)
    for column in chosen:
        if column not in kind.extra_columns:
            raise InputError(
                f"there is no extra column {column!r}", hint=did_you_mean(column, kind.extra_columns)
            )
    return chosen


def export_run(
    out: str | Path,
    to: str | Path,
    *,
    ledger: str | Path | None = None,
    format: str | None = None,  # noqa: A002  the public name
    where: str | None = None,
    columns: Mapping[str, str] | None = None,
    extra_columns: Iterable[str] = (),
    flatten: bool | None = None,
    schema: Any = None,
    partial: bool = False,
) -> int:
    """Writes the records of the run that writes ``out`` once more, in another shape. Returns how many.

    Nothing is sent and no key is needed: the answers are in the ledger. What is not given is as the run has it.

    Args:
        out: the run's output; it need not be there any more.
        to: the new file, whose suffix says the format; ``"-"`` for stdout.
        ledger: where the run remembers, if not beside ``out``.
        where: which rows, such as ``"finish_reason=stop"``; all unless given.
        columns, extra_columns, flatten: as for `Run`.
        schema: reads the answers in place of the run's own: a pydantic model class, any type, or a JSON schema.
        partial: rows without an outcome yet are left out, instead of refused.

    Raises:
        InputError: something given is wrong.
        LedgerError: there is no such run, or it is not finished and ``partial`` is not wanted.
    """
    path = Path(ledger) if ledger is not None else Path(f"{out}.ledger")
    selection = EVERYTHING if where is None else Selection.parse(where)
    with LedgerReader(path) as reader:
        shape = shape_of(reader, columns=columns, extra_columns=extra_columns, flatten=flatten, schema=schema)
    return export(path, to, shape, format=format, selection=selection, partial=partial)


def export(
    ledger: str | Path,
    out: str | Path,
    shape: RecordShape,
    *,
    format: str | None = None,  # noqa: A002  the public name
    selection: Selection = EVERYTHING,
    partial: bool = False,
) -> int:
    """Writes the records of a run, in the order of its input; complete or not at all. Returns how many.

    Args:
        selection: which rows; all unless given.
        partial: rows without an outcome yet are left out, instead of refused.

    Raises:
        LedgerError: the run is not finished, and ``partial`` is not wanted.
    """
    with LedgerReader(ledger) as reader:
        counts = reader.counts()
        if not partial and not counts.is_finished:
            missing = f"{counts.pending} rows have" if counts.pending else "rows that were not read yet have"
            raise LedgerError(
                f"{missing} no outcome",
                hint="start the run again to finish it, or export what there is with --partial",
            )
    return write_records(ledger, out, shape, format=format, selection=selection)


def write_records(
    ledger: str | Path,
    out: str | Path,
    shape: RecordShape,
    *,
    format: str | None = None,  # noqa: A002  the public name
    selection: Selection = EVERYTHING,
) -> int:
    """As `export`, for rows that have an outcome, whether or not others still have none."""
    written = 0
    with LedgerReader(ledger) as reader:
        columns = _all_columns(reader, shape) if format_of(str(out), format).needs_header else None
        with open_writer(out, format=format, columns=columns) as writer:
            for row in reader.rows(selection):
                if row.state != "pending":
                    writer.write_raw(record_line(row, shape))
                    written += 1
    return written


def record_line(row: LedgerRow, shape: RecordShape) -> bytes:
    """One record as JSON: the row as it was read, then our columns."""
    fields = outcome_fields(row, shape)
    if not shape.flatten:
        return make_line(row.record, fields, shape.names)
    value = cast("dict[str, Any]", fields.pop("value", None) or {})
    flat = {name: value.get(name) for name in shape.fields}
    record = make_record(
        msgspec.json.decode(row.record) | flat,
        fields,
        {column: name for column, name in shape.names.items() if column != "generation"},
    )
    return msgspec.json.encode(record)


def outcome_fields(row: LedgerRow, shape: RecordShape) -> dict[str, Any]:
    """Our columns of a row by our own names, and the decoded ``value`` where answers are flattened."""
    fields: dict[str, Any] = {
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cost": row.cost,
        "finish_reason": row.finish_reason,
    }
    if row.state != "completion":
        return fields | {"error": None if row.error is None else str(decode_error(row.error))}
    try:
        fields |= shape.answers.fields(row.answers, several=shape.several)
    except MistillError as error:
        return fields | {"error": f"{error.kind}: {error}"}
    if shape.flatten:
        # As validated, so defaults and coercions count; not as the model wrote it.
        fields["value"] = to_jsonable_python(fields["value"], by_alias=True)
    return fields


def _all_columns(reader: LedgerReader, shape: RecordShape) -> list[str]:
    """Every column of every record, in the order of appearance: what a header must have."""
    found: dict[str, None] = {}
    for row in reader.rows():
        found.update(dict.fromkeys(msgspec.json.decode(row.record)))
    return [*found, *shape.columns]
