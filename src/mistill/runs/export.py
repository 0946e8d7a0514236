"""The ledger → the output file: derived, so it can be made again at any time, in any format, for free."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from mistill.addresses import keep_secrets, scheme_of
from mistill.datasets.formats import FileFormat, format_of
from mistill.datasets.places import target_of
from mistill.datasets.writers import CsvDialect, check_no_loss, open_writer
from mistill.errors import InputError, LedgerError
from mistill.kinds.kept_settings import find_run, output_of, read_inputs, read_options, read_types
from mistill.ledger import LedgerReader
from mistill.ledger.targets import check_targets
from mistill.progress.formatting import count
from mistill.records.misfits import Misfit, Misfits, misfit_lines
from mistill.runs.chat_lines import ChatLines, Turns
from mistill.runs.record_lines import added_columns, record_line, record_parts
from mistill.runs.record_shape import RecordShape, shape_of
from mistill.runs.report import rows_left
from mistill.runs.run_name import RunName
from mistill.runs.where import RunFilter, SeenColumns
from mistill.same_place import is_same_place
from mistill.wording import Phrase, Setting, words

_log = logging.getLogger("mistill")


class Exported(Struct, frozen=True):
    """What was written.

    Attributes:
        records: how many.
        misfits: answered rows whose records could not be made as they were asked for, by kind.
        empty_answers: answered rows with nothing in their answer.
    """

    records: int
    misfits: list[Misfit]
    empty_answers: int


def export_run(
    out: str | Path,
    to: str | Path,
    *,
    ledger: str | Path | None = None,
    format: str | None = None,  # noqa: A002  the public name
    csv_dialect: CsvDialect = "unix",
    where: str | None = None,
    columns: Mapping[str, str] | None = None,
    extra_columns: Iterable[str] = (),
    flatten: bool | str | None = None,
    keep: Iterable[str] = (),
    drop: Iterable[str] = (),
    earlier: str | None = None,
    schema: Any = None,
    partial: bool = False,
    overwrite: bool = False,
    as_: Literal["chat"] | None = None,
    turns: Turns | None = None,
) -> Exported:
    """Writes the records of the run that writes ``out`` once more, in another shape.

    Nothing is sent and no key is needed: the answers are in the ledger. What is not given is as the run has it.

    Args:
        out: the run's output; it need not be there any more.
        to: the new file, whose suffix says the format; ``"-"`` for stdout.
        csv_dialect: as for `Run`; the run's own is not taken over, since this may be another format.
        ledger: where the run remembers, if not beside ``out``.
        where: which rows, such as ``"finish_reason=stop"``; all unless given.
        columns, extra_columns, flatten, earlier: as for `Run`.
        keep, drop: as for `Run`, in place of the run's own.
        schema: reads the answers in place of the run's own: a pydantic model class, any type, or a JSON schema.
        partial: rows without an outcome yet are left out, instead of refused.
        overwrite: replace a file that is at ``to``. An input of the run, a ledger and what belongs to one are never
            replaced; the run's own output may be without this, unless by some of its rows, or by conversations.
        as_: ``"chat"``: conversations for fine-tuning in place of records, ``{"messages": […]}``: what the run asked
            and what was answered. Rows that failed and answers that were cut off are left out, which is said. Images,
            documents and sound that went along are in them as ``data:`` URLs; a row whose file is not there any more,
            or another than it was, is left out too.
        turns: who says what in them, in place of that: ``{"user": "instruction", "assistant": "answer"}``, or pairs
            where a role speaks twice. Roles are ``system``, ``user``, ``assistant``, ``tool``, and ``messages`` for a
            column of several messages.

    Raises:
        InputError: there is no such run, something given is wrong, or ``to`` exists and would be lost.
        LedgerError: it is not finished and ``partial`` is not wanted.
    """
    _check_form(as_, turns, keep, drop)
    out, to = keep_secrets(str(out)), keep_secrets(str(to))
    if as_ is not None:
        _check_holds_conversations(format_of(str(to), format), to)
    output, path = find_run(out, ledger)
    with LedgerReader(path) as reader:
        check_targets(to, path, read_inputs(reader))
        if not overwrite:
            by = "conversations" if as_ else "some of its rows" if where is not None or partial else None
            _check_no_loss(output, to, by)
        changes = {
            "columns": columns,
            "extra_columns": extra_columns,
            "flatten": flatten,
            "keep": keep,
            "drop": drop,
            "earlier": earlier,
        }
        shape = shape_of(reader, changes, schema=schema)
        _check_chosen(reader, shape)
        chosen = RunFilter(where, reader, shape)
        chat = ChatLines(reader, shape, turns) if as_ == "chat" else None
    written = export(
        path, to, shape, format=format, csv_dialect=csv_dialect, chosen=chosen, partial=partial, chat=chat
    )
    if chat is not None and chat.left_out:
        _log.warning("left out of %s: %s", to, chat.left_out)
    if where is not None and not written.records:
        _log.warning("%s", chosen.nothing(out))
    warn_of_misfits(written.misfits, out)
    return written


def warn_of_misfits(misfits: Iterable[Misfit], out: str | None) -> None:
    """Says which records of a table or a file were not made as asked, where no report does."""
    for line in misfit_lines(misfits, out):
        _log.warning(line)


def _check_no_loss(out: str | None, to: str | Path, by: str | None) -> None:
    """``InputError`` if ``to`` exists, and more would be lost with it than can be made again in the same way.

    Args:
        by: what the run's own output would be replaced by, where that is less than its records.
    """
    if out is None or not is_same_place(str(to), out):
        check_no_loss(to, "overwrite")
    elif by is not None and target_of(to).holds_something():
        raise InputError(
            f"{to} is the run's own output, and would be replaced by {by}",
            hint=words("choose another name, or replace it with ", Setting("overwrite", True)),
        )


def export(
    ledger: str | Path,
    out: str | Path,
    shape: RecordShape,
    *,
    format: str | None = None,  # noqa: A002  the public name
    csv_dialect: CsvDialect = "unix",
    chosen: RunFilter | None = None,
    partial: bool = False,
    chat: ChatLines | None = None,
) -> Exported:
    """Writes the records of a run, in the order of its input; complete or not at all.

    Args:
        chosen: which rows; all unless given.
        chat: makes conversations of them, in place of records.
        partial: rows without an outcome yet are left out, instead of refused.

    Raises:
        LedgerError: the run is not finished, and ``partial`` is not wanted.
    """
    with LedgerReader(ledger) as reader:
        counts = reader.counts()
        if not partial and not counts.is_finished:
            left = rows_left(reader, counts) or counts.pending
            missing = f"{count(left, 'row has', 'rows have')}" if left else "rows that were not read yet have"
            raise LedgerError(
                f"{missing} no outcome",
                hint=words(
                    "it is running: wait for its end"
                    if reader.is_being_written()
                    else "start the run again to finish it",
                    ", or export what there is with ",
                    Setting("partial", True),
                    Phrase(
                        "",
                        f"; to look at it: {RunName.of(output_of(ledger), Path(ledger)).command('rows')}",
                    ),
                ),
            )
    return write_records(ledger, out, shape, format=format, csv_dialect=csv_dialect, chosen=chosen, chat=chat)


def write_records(
    ledger: str | Path,
    out: str | Path,
    shape: RecordShape,
    *,
    format: str | None = None,  # noqa: A002  the public name
    csv_dialect: CsvDialect = "unix",
    chosen: RunFilter | None = None,
    made_of: Sequence[str | Path] | None = None,
    chat: ChatLines | None = None,
) -> Exported:
    """As `export`, for rows that have an outcome, whether or not others still have none.

    Args:
        made_of: the files of the input, where they are at hand: whoever may not read one may not read the output. Else
            a new output is as private as the ledger, and an old one stays as it is.

    Raises:
        LedgerError: some rows are damaged in the ledger; the others were written.
    """
    written = 0
    if made_of is None:
        made_of = () if scheme_of(str(out)) is None and Path(out).exists() else (ledger,)
    # Of one moment, or a row that is answered meanwhile would have columns that the header has not.
    with LedgerReader(ledger) as reader, reader.snapshot():
        chosen = chosen or RunFilter(None, reader, shape)
        misfits = misfits_of(reader)
        chosen_format = format_of(str(out), format)
        columns = types = features = None
        if chosen_format.needs_header:
            columns = chat.columns if chat is not None else _all_columns(chosen, reader, shape)
        if chosen_format.has_types and chat is None:
            types, features = read_types(reader)
            types, features = shape.types(types), shape.of_row(features)
        with open_writer(
            out,
            format=format,
            columns=columns,
            types=types,
            features=features,
            csv_dialect=csv_dialect,
            made_of=made_of,
        ) as writer:
            for row in chosen.rows(reader):
                if row.state != "pending":
                    for line in (record_line(row, shape, misfits),) if chat is None else chat(row):
                        writer.write_raw(line)
                        written += 1
            if chat is not None:
                chat.check(out)
        reader.check_damages(f"{out} was written")
    return Exported(written, misfits.found(), misfits.empty)


def misfits_of(reader: LedgerReader) -> Misfits:
    """What counts the misfits of a run, and names its rows as the run does."""
    return Misfits(read_options(reader).get("id_column"))


def read_records(ledger: str | Path, shape: RecordShape, *, empty_answers: int | None = None) -> Exported:
    """What there is to say of the records of a run that are not written.

    Args:
        empty_answers: how many answers have nothing in them, where that is known: to read all of them takes time.
    """
    if empty_answers is not None and not shape.has_schema:
        return Exported(0, [], empty_answers)
    with LedgerReader(ledger) as reader:
        misfits = misfits_of(reader)
        if not shape.always_fits:
            for row in reader.rows():
                record_line(row, shape, misfits)
    return Exported(0, misfits.found(), misfits.empty)


def _check_form(as_: str | None, turns: Turns | None, keep: Iterable[str], drop: Iterable[str]) -> None:
    if as_ not in (None, "chat"):
        raise InputError(words(Setting("as_"), f": there is no form {as_!r}"), hint='there is "chat"')
    if as_ is None and turns is not None:
        raise InputError(
            words(Setting("turns"), " says who speaks in a conversation"),
            hint=words("it goes with ", Setting("as_", "chat")),
        )
    if as_ is not None and (keep or drop):
        raise InputError(
            words(Setting("keep" if keep else "drop"), ": a conversation has no such columns"),
            hint="leave it out",
        )


def _check_holds_conversations(form: FileFormat, to: str | Path) -> None:
    if form.has_delimiter or form.name == "xlsx":
        raise InputError(
            f"{to}: a table of texts holds no conversations",
            hint="name a .jsonl file, or one of Parquet or Arrow",
        )


def _check_chosen(reader: LedgerReader, shape: RecordShape) -> None:
    """``InputError`` if a column is to be kept or left out that no record has."""
    if shape.chosen:
        columns = SeenColumns(shape.chosen)
        for row in reader.rows():
            columns.see(msgspec.json.decode(row.record))
            if shape.has_further_fields:
                columns.see(added_columns(row, shape))
            if not columns.missing:
                break
        shape.check_chosen(columns.missing, columns.known)


def _all_columns(chosen: RunFilter, reader: LedgerReader, shape: RecordShape) -> list[str]:
    """Every column of every record that the rows make, in the order of appearance: what a header must have. Where none
    is chosen, that of all."""
    found: dict[str, None] = {}
    further: dict[str, None] = {}
    for row in chosen.rows(reader):
        if row.state == "pending":
            continue
        if shape.has_further_fields:
            _, own, columns = record_parts(row, shape)
            further.update(dict.fromkeys(columns))
        else:
            own = shape.of_row(_decode_fields(row.record))
        found.update(dict.fromkeys(own))
    if not found and chosen.text is not None:
        return _all_columns(RunFilter(None, reader, shape), reader, shape)
    return shape.header([*found, *shape.columns, *further])


_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
