"""File formats, by suffix: which there are, and the optional libraries behind some of them.

A format is written as a suffix without its dot: ``jsonl``, ``csv.gz``, ``parquet``. The same words are file
suffixes, the ``--format`` of the command line and the ``format=`` of Python.
"""

from __future__ import annotations

import importlib
from pathlib import PurePath
from typing import Any, Literal, NamedTuple

from mistill.errors import InputError

Kind = Literal["jsonl", "json", "csv", "tsv", "parquet", "arrow"]
Compression = Literal["", "gz", "zst"]

_KINDS: dict[str, Kind] = {
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "json",
    "csv": "csv",
    "tsv": "tsv",
    "parquet": "parquet",
    "arrow": "arrow",
    "feather": "arrow",
}
_COMPRESSIONS: dict[str, Compression] = {"gz": "gz", "zst": "zst"}

KNOWN_FORMATS = "jsonl, ndjson, json, csv, tsv (each also with .gz or .zst), parquet, arrow, feather"


class Format(NamedTuple):
    """What the bytes of a file mean. Parquet and Arrow compress inside, so they have no ``compression``."""

    kind: Kind
    compression: Compression = ""


def parse_format(text: str) -> Format | None:
    """``"csv.gz"`` or ``".csv.gz"`` to a format; None where it names none."""
    kind_name, _, compression_name = text.lower().removeprefix(".").partition(".")
    kind = _KINDS.get(kind_name)
    if kind is None or (compression_name and compression_name not in _COMPRESSIONS):
        return None
    compression = _COMPRESSIONS.get(compression_name, "")
    if compression and kind in ("parquet", "arrow"):
        return None
    return Format(kind, compression)


def format_of(name: str, override: str | None = None) -> Format:
    """The format of the file ``name``: ``override`` where given, else what its suffixes say.

    Raises ``InputError`` where neither names a format. ``-`` (stdin, stdout) is JSONL unless told otherwise.
    """
    if override is not None:
        chosen = parse_format(override)
        if chosen is None:
            raise InputError(f"unknown format {override!r}", hint=f"known formats: {KNOWN_FORMATS}")
        return chosen
    if name == "-":
        return Format("jsonl")
    suffixes = PurePath(name).suffixes
    for count in (2, 1):
        found = parse_format("".join(suffixes[-count:])) if len(suffixes) >= count else None
        if found is not None:
            return found
    raise InputError(
        f"{name}: its suffix names no known format",
        hint=f"pass the format, one of: {KNOWN_FORMATS}",
    )


def arrow_module(name: str, purpose: str) -> Any:
    """Import ``pyarrow`` or a module of it; ``purpose`` says in the error what it is wanted for."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"{purpose} needs pyarrow", hint="pip install 'mistill[arrow]'") from error
