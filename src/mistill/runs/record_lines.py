"""One row of a ledger → its record: the row as it was read, then our columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, cast

import msgspec

from mistill.errors import FieldLeftOut, InputError, MistillError, UnwritableAnswer, let_interrupt_pass
from mistill.ledger import LedgerRow
from mistill.ledger.error_record import decode_error
from mistill.records.answer_values import column_value
from mistill.records.columns import add_columns
from mistill.records.misfits import Misfits
from mistill.runs.record_shape import RecordShape


class RecordParts(NamedTuple):
    """What a record is made of.

    Attributes:
        raw: the row's part of it, JSON. ``own``: its columns.
        columns: those that are added, none of which the row has.
    """

    raw: bytes
    own: Mapping[str, Any]
    columns: dict[str, Any]


def record_line(row: LedgerRow, shape: RecordShape, misfits: Misfits | None = None) -> bytes:
    """One record as JSON: the row as it was read, then our columns. In a row that was never answered its own column
    stands, where one of ours has that name.

    Args:
        misfits: is told of a row whose answer does not make the record that is asked for. What it has in place of
            the answer is the error.

    Raises:
        InputError: the row was answered, and has a column of the name of one of ours.
    """
    raw, own, columns = record_parts(row, shape, misfits)
    try:
        line = add_columns(raw, columns)
    except BaseException as error:  # whatever a value turns out to hold: it must not hold up the other rows
        let_interrupt_pass(error)
        unwritable = _unwritable(error)
        _note(misfits, row, unwritable)
        failed = dict.fromkeys(columns) | (
            {name: _told(unwritable)} if (name := shape.error_column()) else {}
        )
        line = add_columns(raw, {name: value for name, value in failed.items() if name not in own})
    return shape.ordered(line)


def record_parts(row: LedgerRow, shape: RecordShape, misfits: Misfits | None = None) -> RecordParts:
    """The row's part of its record, and what is added to it; ``misfits`` and errors: as for `record_line`."""
    fields = _decode_fields(row.record)
    if row.state == "completion" and not shape.hints.keys().isdisjoint(fields):
        shape.check_row(fields, f"row {row.position}", row.position)
    columns = added_columns(row, shape, misfits)
    further = columns.keys() - shape.hints.keys() if shape.has_further_fields else ()
    own = shape.of_row(fields, further)
    for name in columns.keys() & own.keys():
        del columns[name]
    if further and (left_out := [name for name in further if name in own]):
        _note(misfits, row, _left_out(left_out, "the row has a column of that name"))
    return RecordParts(row.record if own is fields else msgspec.json.encode(own), own, columns)


def added_columns(row: LedgerRow, shape: RecordShape, misfits: Misfits | None = None) -> dict[str, Any]:
    """Our columns by the names that they have in the output. ``misfits``: as for `record_line`."""
    fields = outcome_fields(row, shape, misfits)
    columns: dict[str, Any] = {}
    if shape.flat is not None:
        flat = cast("dict[str, Any]", fields.get("value") or {})
        found = {name: flat.pop(name, None) for name in shape.known_fields}
        columns = {column: found[name] for name, column in shape.fields.items()}
        columns |= {name: fields.get(column) for column, name in shape.names.items()}
        # Further fields, which the schema allows and does not name.
        further = {f"{shape.prefix}{name}": value for name, value in flat.items()}
        if further and (left_out := [name for name in further if name in shape.hints]):
            _note(misfits, row, _left_out(left_out, "the output has a column of that name"))
        added = {
            name: value for name, value in further.items() if name not in shape.hints and shape.has(name)
        }
        return columns | added
    return {name: fields.get(column) for column, name in shape.names.items()}


def answer_columns(row: LedgerRow, shape: RecordShape) -> dict[str, Any]:
    """What a condition may ask of an answer, as JSON values: its fields, our columns by their own names and by those
    that they have in the output, and whether it is ``without_content``."""
    columns: dict[str, Any] = {}
    own = outcome_fields(row, shape)
    text = own.get("generation")
    if shape.settings_of(row).answers.schema is not None and isinstance(text, str):
        with suppress(msgspec.DecodeError, RecursionError):
            value: Any = msgspec.json.decode(text)
            columns |= cast("dict[str, Any]", value) if isinstance(value, dict) else {}
    columns |= {name: value for name, value in own.items() if name != "value"} | added_columns(row, shape)
    return msgspec.json.decode(add_columns(b"{}", columns))


def answer_values(row: LedgerRow, shape: RecordShape) -> list[Any]:
    """What a row was answered, a JSON value for each generation: what its schema says, else a text; or a vector. None
    where that cannot be made of it."""
    fields = outcome_fields(row, shape)
    if "embedding" in fields:
        return [decoded_value(fields["embedding"])]
    if "generation" not in fields:
        return []
    said = fields["generation"]
    answers = cast("list[Any]", said) if isinstance(said, list) else [said]
    has_schema = shape.settings_of(row).answers.schema is not None
    return [decoded_value(one) if has_schema else one for one in answers]


def decoded_value(value: Any) -> Any:
    """A value of a column that holds JSON, decoded; of a text that is none, itself."""
    if isinstance(value, msgspec.Raw):
        return msgspec.json.decode(value)
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        with suppress(msgspec.DecodeError, RecursionError):
            return msgspec.json.decode(value)
    return value


def outcome_fields(row: LedgerRow, shape: RecordShape, misfits: Misfits | None = None) -> dict[str, Any]:
    """Our columns of a row by our own names, and where answers are flattened, the fields of the first as ``value``.
    ``misfits``: as for `record_line`."""
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
        answers = shape.settings_of(row).answers
        read = answers.fields(row.answers, several=shape.several)
        columns = read.columns
        if (flat := shape.flat_of(row)) is not None:
            columns["value"] = flat.read(read.value, columns["generation"])
    except MistillError as error:
        problem = error
    except BaseException as error:  # of a serializer of the user's own, or of an answer that is none
        let_interrupt_pass(error)
        problem = _unwritable(error)
    else:
        if misfits is not None and read.is_empty:
            misfits.note_empty()
        if answers.schema is not None and (said := columns.get("generation")):
            values = read.value
            columns["generation"] = (
                list(map(column_value, said, values or ())) if shape.several else column_value(said, values)
            )
        return fields | columns | {"without_content": read.is_empty}
    _note(misfits, row, problem)
    return fields | {"error": _told(problem)}


def _extra_fields(row: LedgerRow, shape: RecordShape) -> dict[str, Any]:
    """Those of the columns of a row's making that are asked for."""
    fields: dict[str, Any] = {}
    if "settings" in shape.extra:
        fields["settings"] = shape.settings_of(row).changes or None
    if shape.has_marks:
        fields["mark"], fields["note"] = (None, None) if row.said is None else (row.said.mark, row.said.note)
    if "prompt" in shape.extra:
        try:
            fields["prompt"] = shape.settings_of(row).prompt_of(row)
        except InputError:
            fields["prompt"] = None  # the row's error says why
    if "raw" in shape.extra:
        bodies = row.answers if row.unfit is None else (row.unfit,)
        texts = [shape.settings_of(row).answers.as_text(body) for body in bodies]
        fields["raw"] = texts if shape.several else next(iter(texts), None)
    return fields


def _left_out(names: Sequence[str], why: str) -> FieldLeftOut:
    return FieldLeftOut(f"of the answer is left out {', '.join(map(repr, names))}: {why}", text=None)


def _unwritable(error: BaseException) -> UnwritableAnswer:
    return UnwritableAnswer(f"the answer cannot be written: {type(error).__name__}: {error}", text=None)


def _told(error: MistillError) -> str:
    return f"{error.kind}: {error}"


def _note(misfits: Misfits | None, row: LedgerRow, error: MistillError) -> None:
    if misfits is not None and row.state == "completion":
        misfits.note(row, error)


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
