"""The one table of file formats: what each is called, what reads and writes it, and what it needs.

A format is written as a suffix without its dot: ``jsonl``, ``csv.gz``, ``parquet``. The same words are file suffixes,
the ``--format`` of the command line and the ``format=`` of Python.

To add a format, add an entry to ``FORMATS`` and write the classes that it names: an ``Input`` that is made from an
``InputFile``, and a ``Writer`` that is made from a ``Destination``. They are loaded when the first file of the format
is opened, so they may import what they need at their top.
"""

from __future__ import annotations

import pkgutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from mistill.addresses import is_of_store, is_of_table, shown
from mistill.datasets.compression import COMPRESSIONS, Compression
from mistill.datasets.optional_library import OPENPYXL, PYARROW, OptionalLibrary
from mistill.errors import InputError
from mistill.same_place import refuse_unknown

if TYPE_CHECKING:
    from mistill.datasets.sources.input_file import InputFile
    from mistill.datasets.sources.row import Input
    from mistill.datasets.writers.destination import Destination, Writer


class FileFormat(Struct, frozen=True, kw_only=True):
    """What the bytes of a file mean.

    Attributes:
        name: its suffix and what it is called.
        aliases: other suffixes of the same format.
        reader: ``module:class`` of its ``Input``; ``None`` where it cannot be read.
        writer: ``module:class`` of its ``Writer``; ``None`` where it cannot be written.
        needs_header: all columns must be known before the first record is written.
        has_delimiter: a character stands between its fields.
        is_binary: no text: it is not for a terminal, and takes no compression, since it compresses inside.
        has_types: each column has a type.
        library: what reader and writer need.
        compression: how this file is compressed around its format.
    """

    name: str
    aliases: tuple[str, ...] = ()
    reader: str | None = None
    writer: str | None = None
    needs_header: bool = False
    has_delimiter: bool = False
    is_binary: bool = False
    has_types: bool = False
    library: OptionalLibrary | None = None
    compression: Compression | None = None

    def open_reader(self, file: InputFile) -> Input:
        """The rows of ``file``.

        Raises:
            InputError: the format cannot be read, a library is missing, or the file cannot be read.
        """
        if self.reader is None:
            raise InputError(f"{file.name}: files of the format {self.name} can be written, not read")
        self.load_libraries(f"reading {file.name}")
        reader: Callable[[InputFile], Input] = pkgutil.resolve_name(self.reader)
        return reader(file)

    def open_writer(self, destination: Destination) -> Writer:
        """A writer of records to ``destination``."""
        assert self.writer is not None, "what cannot be written is refused before"
        writer: Callable[[Destination], Writer] = pkgutil.resolve_name(self.writer)
        return writer(destination)

    def load_libraries(self, purpose: str) -> None:
        """Imports what reader and writer need.

        Args:
            purpose: what for, in the words of the error: "writing answers.parquet".

        Raises:
            InputError: a library is missing.
        """
        if self.library is not None:
            self.library.load(purpose)
        if self.compression is not None and self.compression.library is not None:
            self.compression.library.load(f"{purpose} (.{self.compression.suffix})")


_SOURCES = "mistill.datasets.sources"
_WRITERS = "mistill.datasets.writers"

FORMATS = (
    FileFormat(
        name="jsonl",
        aliases=("ndjson",),
        reader=f"{_SOURCES}.jsonl_reader:JsonLinesReader",
        writer=f"{_WRITERS}.json_writer:JsonLinesWriter",
    ),
    FileFormat(
        name="json",
        reader=f"{_SOURCES}.json_reader:JsonDocumentReader",
        writer=f"{_WRITERS}.json_writer:JsonArrayWriter",
    ),
    FileFormat(
        name="csv",
        reader=f"{_SOURCES}.csv_reader:CsvReader",
        writer=f"{_WRITERS}.csv_writer:CsvWriter",
        needs_header=True,
        has_delimiter=True,
    ),
    FileFormat(
        name="tsv",
        reader=f"{_SOURCES}.csv_reader:TsvReader",
        writer=f"{_WRITERS}.csv_writer:TsvWriter",
        needs_header=True,
        has_delimiter=True,
    ),
    FileFormat(
        name="parquet",
        reader=f"{_SOURCES}.arrow_reader:ParquetReader",
        writer=f"{_WRITERS}.arrow_writer:ParquetWriter",
        is_binary=True,
        has_types=True,
        library=PYARROW,
    ),
    FileFormat(
        name="arrow",
        aliases=("feather",),
        reader=f"{_SOURCES}.arrow_reader:ArrowIpcReader",
        writer=f"{_WRITERS}.arrow_writer:ArrowIpcWriter",
        is_binary=True,
        has_types=True,
        library=PYARROW,
    ),
    FileFormat(
        name="xlsx",
        reader=f"{_SOURCES}.excel_reader:ExcelReader",
        writer=f"{_WRITERS}.excel_writer:ExcelWriter",
        is_binary=True,
        library=OPENPYXL,
    ),
)

_TABLE = FileFormat(
    name="a table",
    writer=f"{_WRITERS}.table_writer:TableWriter",
    needs_header=True,
    is_binary=True,
    has_types=True,
    library=PYARROW,
)
"""Of databases: no format of files, so it has no suffix."""

_BY_SUFFIX = {suffix: found for found in FORMATS for suffix in (found.name, *found.aliases)}
_COMPRESSION_BY_SUFFIX = {compression.suffix: compression for compression in COMPRESSIONS}


def _list_formats(formats: Mapping[str, FileFormat]) -> str:
    text = ", ".join(suffix for suffix, found in formats.items() if not found.is_binary)
    binary = ", ".join(suffix for suffix, found in formats.items() if found.is_binary)
    compressions = " or ".join(f".{suffix}" for suffix in _COMPRESSION_BY_SUFFIX)
    return f"{text} (each also with {compressions}), {binary}"


KNOWN_FORMATS = _list_formats(_BY_SUFFIX)
"""All formats in words, for messages."""
OUTPUT_FORMATS = _list_formats(
    {name: found for name, found in _BY_SUFFIX.items() if found.writer is not None}
)
"""Those that can be written, for help."""


def parse_format(text: str) -> FileFormat | None:
    """``"csv.gz"`` or ``".csv.gz"`` to a format; None where it names none."""
    name, dot, suffix = text.lower().removeprefix(".").partition(".")
    found = _BY_SUFFIX.get(name)
    if found is None or not dot:
        return found
    compression = _COMPRESSION_BY_SUFFIX.get(suffix)
    if compression is None or found.is_binary:
        return None
    return msgspec.structs.replace(found, compression=compression)


def format_of(name: str, override: str | None = None) -> FileFormat:
    """The format of the file ``name``: ``override`` where given, else what its suffixes say.

    ``-`` (stdin, stdout) is JSON Lines unless ``override`` names another.

    Raises:
        InputError: neither names a format.
    """
    if is_of_table(name):
        if override is not None:
            raise InputError(f"{shown(name)} is a table, and has no format", hint="leave it out")
        return _TABLE
    refuse_unknown(name)
    if override is not None:
        chosen = parse_format(override)
        if chosen is None:
            raise InputError(f"unknown format {override!r}", hint=f"known formats: {KNOWN_FORMATS}")
        return chosen
    if name == "-":
        return _BY_SUFFIX["jsonl"]
    found = format_by_suffix(name)
    if found is None:
        raise InputError(
            f"{shown(name)}: its suffix names no known format",
            hint=f"pass the format, one of: {KNOWN_FORMATS}",
        )
    return found


def files_in(folder: str, names: Iterable[str]) -> str:
    """A glob for the data files of a folder, such as ``'data/*.parquet'``: by the suffix that most of them have."""
    known = (data_suffix(name) for name in names)
    suffixes = Counter(suffix for suffix in known if suffix is not None)
    suffix = suffixes.most_common(1)[0][0] if suffixes else ".jsonl"
    return f"'{folder.rstrip('/')}/*{suffix}'"


def data_suffix(name: str) -> str | None:
    """``.csv.gz``: what of a file's name says its format; ``None`` where it names none."""
    suffixes = PurePath(name).suffixes
    for count in (2, 1):
        suffix = "".join(suffixes[-count:])
        if len(suffixes) >= count and parse_format(suffix) is not None:
            return suffix
    return None


def format_by_suffix(name: str) -> FileFormat | None:
    """What the suffixes of a file's name say; ``None`` where they name no format."""
    if is_of_store(name):
        name = shown(name).partition("?")[0]
    suffix = data_suffix(name)
    return None if suffix is None else parse_format(suffix)
