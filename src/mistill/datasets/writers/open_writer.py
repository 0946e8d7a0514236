"""Opening a writer: its format, its place, its compression."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mistill.datasets.compression import Compression
from mistill.datasets.formats import FileFormat, format_of
from mistill.datasets.places import target_of
from mistill.datasets.places.output_stream import OutputStream
from mistill.datasets.writers.destination import CsvDialect, Destination, Writer
from mistill.datasets.writers.spool import open_spool
from mistill.errors import InputError
from mistill.same_place import refuse_unclear
from mistill.wording import Setting, words


def check_target(
    target: str | Path,
    format: str | None = None,  # noqa: A002 the public name
    csv_dialect: CsvDialect = "unix",
) -> FileFormat:
    """What ``open_writer`` would refuse, without writing: for the time before any money is spent.

    Raises:
        InputError: an unknown format, a place that cannot be written to, a library that is missing.
    """
    refuse_unclear(str(target))
    chosen = format_of(str(target), format)
    if chosen.writer is None:
        raise InputError(f"{target}: files of the format {chosen.name} can be read, not written")
    if csv_dialect != "unix" and not chosen.has_delimiter:
        raise InputError(
            words(Setting("csv_dialect", csv_dialect), f": {target} is {chosen.name}"),
            hint="leave it out, or write .csv or .tsv",
        )
    target_of(target).check_writable()
    chosen.load_libraries(f"writing {target}")
    is_binary = chosen.is_binary or chosen.compression is not None
    if str(target) == "-" and is_binary and sys.stdout.isatty():
        raise InputError("binary output would garble the terminal", hint="name a file, or pipe it on")
    return chosen


def check_columns(target: str | Path, columns: Iterable[str]) -> None:
    """What ``open_writer`` would refuse of the columns, without writing.

    Raises:
        InputError: the output cannot have columns of these names.
    """
    target_of(target).check_columns(list(columns))


def check_no_loss(target: str | Path, setting: str) -> None:
    """Refuses an output that exists and has something in it: it may be dear to somebody.

    Args:
        setting: what the user sets to replace it.

    Raises:
        InputError: it exists.
    """
    place = target_of(target)
    if place.holds_something():
        raise InputError(
            f"{place.name} exists, and may not be an output of this run",
            hint=words("choose another name, or replace it with ", Setting(setting, True)),
        )


@contextmanager
def open_writer(
    target: str | Path,
    *,
    format: str | None = None,  # noqa: A002 the public name
    columns: Iterable[str] | None = None,
    types: Mapping[str, Any] | None = None,
    features: Mapping[str, Any] | None = None,
    csv_dialect: CsvDialect = "unix",
    made_of: Sequence[str | Path] = (),
) -> Generator[Writer]:
    """A writer to ``target``; the file appears when the block ends well, else nothing changes.

    Args:
        target: a path, or ``-`` for stdout.
        format: see ``formats``; else the suffix says it.
        columns: all that records can have, in order. A format that ``needs_header`` wants them if the first record may
            not have all.
        types: of columns, for Parquet and Arrow: pyarrow's, or `Vectors`. A column whose values do not have its type
            gets one by its values, as those do that are not named.
        features: Hugging Face's, of columns of such types, for Parquet and Arrow: see `hugging_face`.
        csv_dialect: ``excel``: CSV and TSV for Excel, with a byte order mark, ``\\r\\n``, and an apostrophe before
            texts that it would take for formulas.
        made_of: the files that are in it: whoever may not read these may not read the output, see `Place.writing`.

    Raises:
        InputError: at once what ``check_target`` refuses; later a record that does not fit.
        MistillError: the disk is full, or fails.
    """
    chosen = check_target(target, format, csv_dialect)
    place = target_of(target)
    with ExitStack() as stack:
        output = stack.enter_context(place.writing(made_of))
        stream = output
        if chosen.compression is not None:
            stream = stack.enter_context(_compressed(output, chosen.compression))
        spool = open_spool(place.folder, place.name)
        writer = chosen.open_writer(
            Destination(
                stream=stream,
                columns=None if columns is None else list(columns),
                open_spool=lambda: stack.enter_context(spool),
                types=types or {},
                features=features or {},
                csv_dialect=csv_dialect,
            )
        )
        yield writer
        writer.finish()


@contextmanager
def _compressed(output: OutputStream, compression: Compression) -> Generator[Any]:
    stream = compression.open_writer(output)
    try:
        yield stream
    except BaseException:
        output.discard()  # closing the stream writes its trailer, which nobody wants now
        raise
    finally:
        stream.close()
