"""The ledger → the output file: derived, so it can be made again at any time, in any format, for free."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from mistill.datasets.formats import format_of
from mistill.datasets.writers import open_writer
from mistill.errors import InputError, LedgerError, MistillError, let_interrupt_pass
from mistill.ledger import EVERYTHING, LedgerReader, LedgerRow, Selection
from mistill.ledger.error_record import decode_error
from mistill.ledger.files import is_same
from mistill.ledger.targets import check_no_loss, check_targets
from mistill.runs.kept_settings import ledger_beside, read_inputs
from mistill.runs.record_shape import RecordShape, shape_of
from mistill.runs.records import add_columns, check_columns
from mistill.wording import Setting, words


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
    overwrite: bool = False,
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
        overwrite: replace a file that is at ``to``. An input of the run, a ledger and what belongs to one are never
            replaced; the run's own output always may be.

    Raises:
        InputError: something given is wrong, or ``to`` exists.
        LedgerError: there is no such run, or it is not finished and ``partial`` is not wanted.
    """
    path = Path(ledger) if ledger is not None else ledger_beside(out)
    selection = EVERYTHING if where is None else Selection.parse(where)
    with LedgerReader(path) as reader:
        check_targets(to, path, read_inputs(reader))
        if not overwrite and not is_same(Path(to), Path(out)):
            check_no_loss(to, "overwrite")
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
                hint=words(
                    "start the run again to finish it, or export what there is with ",
                    Setting("partial", True),
                ),
            )
    return write_records(ledger, out, shape, format=format, selection=selection)


def write_records(
    ledger: str | Path,
    out: str | Path,
    shape: RecordShape,
    *,
    format: str | None = None,  # noqa: A002  the public name
    selection: Selection = EVERYTHING,
    made_of: Sequence[str | Path] | None = None,
) -> int:
    """As `export`, for rows that have an outcome, whether or not others still have none.

    Args:
        made_of: the files of the input, where they are at hand: whoever may not read one may not read the output. Else
            a new output is as private as the ledger, and an old one stays as it is.

    Raises:
        LedgerError: some rows are damaged in the ledger; the others were written.
    """
    written = 0
    if made_of is None:
        made_of = () if Path(out).exists() else (ledger,)
    with LedgerReader(ledger) as reader:
        columns = _all_columns(reader, shape) if format_of(str(out), format).needs_header else None
        with open_writer(out, format=format, columns=columns, made_of=made_of) as writer:
            for row in reader.rows(selection, with_unfit="raw" in shape.extra):
                if row.state != "pending":
                    writer.write_raw(record_line(row, shape))
                    written += 1
        reader.check_damages(f"{out} was written")
    return written


def record_line(row: LedgerRow, shape: RecordShape) -> bytes:
    """One record as JSON: the row as it was read, then our columns. In a row that was never answered its own column
    stands, where one of ours has that name.

    Raises:
        InputError: the row was answered, and has a column of the name of one of ours.
    """
    own = _decode_fields(row.record)
    taken = shape.hints.keys() & own.keys()
    if taken and row.state == "completion":
        check_columns(own, shape.hints, f"row {row.position}", row.position)
    columns = _added_columns(row, shape)
    if shape.has_further_fields:
        taken = columns.keys() & own.keys()
    for name in taken:
        del columns[name]
    try:
        return add_columns(row.record, columns)
    except BaseException as error:  # whatever a value turns out to hold: it must not hold up the other rows
        let_interrupt_pass(error)
        failed = dict.fromkeys(columns) | {shape.names["error"]: _unwritable(error)}
        return add_columns(row.record, {name: value for name, value in failed.items() if name not in own})


def _added_columns(row: LedgerRow, shape: RecordShape) -> dict[str, Any]:
    """Our columns by the names that they have in the output."""
    fields = outcome_fields(row, shape)
    columns: dict[str, Any] = {}
    if shape.flat is not None:
        flat = cast("dict[str, Any]", fields.get("value") or {})
        columns = {column: flat.pop(name, None) for name, column in shape.fields.items()}
        # Further fields, which the schema allows and does not name, where no column has that name.
        further = {name: value for name, value in flat.items() if name not in shape.hints}
        return columns | {name: fields.get(column) for column, name in shape.names.items()} | further
    return {name: fields.get(column) for column, name in shape.names.items()}


def outcome_fields(row: LedgerRow, shape: RecordShape) -> dict[str, Any]:
    """Our columns of a row by our own names, and where answers are flattened, the fields of the first as ``value``."""
    fields: dict[str, Any] = {
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cost": row.cost,
        "finish_reason": row.finish_reason,
    }
    if shape.extra:
        fields |= _extra_fields(row, shape)
    if row.state != "completion":
        return fields | {"error": None if row.error is None else str(decode_error(row.error))}
    try:
        read = shape.settings_of(row).answers.fields(row.answers, several=shape.several)
        if (flat := shape.flat_of(row)) is not None:
            read["value"] = flat.read(read["value"], read["generation"])
    except MistillError as error:
        return fields | {"error": f"{error.kind}: {error}"}
    except BaseException as error:  # of a serializer of the user's own, or of an answer that is none
        let_interrupt_pass(error)
        return fields | {"error": _unwritable(error)}
    return fields | read


def _extra_fields(row: LedgerRow, shape: RecordShape) -> dict[str, Any]:
    """Those of the columns of a row's making that are asked for."""
    fields: dict[str, Any] = {}
    if "settings" in shape.extra:
        fields["settings"] = shape.settings_of(row).changes or None
    if "prompt" in shape.extra:
        try:
            fields["prompt"] = shape.settings_of(row).prompt_of(row)
        except InputError:
            fields["prompt"] = None  # the row's error says why
    if "raw" in shape.extra:
        bodies = row.answers if row.unfit is None else (row.unfit,)
        texts = [body.decode(errors="replace") for body in bodies]
        fields["raw"] = texts if shape.several else next(iter(texts), None)
    return fields


def _unwritable(error: BaseException) -> str:
    return f"invalid_output: the answer cannot be written: {type(error).__name__}: {error}"


def _all_columns(reader: LedgerReader, shape: RecordShape) -> list[str]:
    """Every column of every record, in the order of appearance: what a header must have."""
    found: dict[str, None] = {}
    further: dict[str, None] = {}
    for row in reader.rows():
        found.update(dict.fromkeys(_decode_fields(row.record)))
        if shape.has_further_fields:
            further.update(dict.fromkeys(_added_columns(row, shape)))
    return list(dict.fromkeys([*found, *shape.columns, *further]))


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
