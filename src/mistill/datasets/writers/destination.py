"""What a format's writer is made from, and what it must do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias

from msgspec import Struct

from mistill.datasets.writers.spool import Spool

CsvDialect: TypeAlias = Literal["unix", "excel"]
"""``excel``: as Excel opens it by a double click, and without cells that it would take for formulas."""


class Writer(Protocol):
    """Takes records one by one."""

    def write(self, record: Mapping[str, Any]) -> None:
        """A record of whatever ``encode_record`` takes."""
        ...

    def write_raw(self, line: bytes) -> None:
        """A record that is JSON already: one object, without a newline in it. The fast way to JSONL and JSON."""
        ...

    def finish(self) -> None:
        """Write what must stand at the end. ``open_writer`` calls it."""
        ...


class Vectors(Struct, frozen=True):
    """The type of a column of vectors.

    Attributes:
        numbers: theirs.
    """

    numbers: Literal["float32", "int8", "uint8"]


class Destination(Struct, frozen=True):
    """Where a writer's records go.

    Attributes:
        stream: takes bytes by ``write``, and compresses them where that is wanted.
        columns: all that records can have, in order; None where that is not known.
        open_spool: makes a temporary file beside the output, which ends with it.
        types: of columns where they are known: those of `Source.types`, and `Vectors`. For formats that have types.
        features: Hugging Face's, of those columns.
        csv_dialect: of CSV and TSV.
    """

    stream: Any
    columns: list[str] | None
    open_spool: Callable[[], Spool]
    types: Mapping[str, Any] = {}
    features: Mapping[str, Any] = {}
    csv_dialect: CsvDialect = "unix"
