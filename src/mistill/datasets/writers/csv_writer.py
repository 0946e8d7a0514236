"""Records to CSV and TSV.

A cell is a string as it is, nothing for null, and JSON for all else, to the digit; so null and "" look alike.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from mistill.datasets.encoding import encode_record
from mistill.datasets.writers.destination import Destination
from mistill.errors import InputError

# The csv module quotes a field for the characters of its line terminator, so a lone \r needs this one to be quoted.
_CRLF = "\r\n"

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")

# -7.25, -1.234,56, -1 000, -2e-05, -3 %, -€5, and the dash that stands for nothing
_is_negative = re.compile(
    r"-(?: ?[€$£]?(?:[0-9]+(?:[.,'\u2019 \u00a0\u202f][0-9]+)*|[.,][0-9]+)(?:[eE][+-]?[0-9]+)?[ \u00a0\u202f]?[€$£%]?)?"
).fullmatch

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_string = msgspec.json.Decoder(str).decode


class CsvWriter:
    """RFC 4180, with \\n instead of \\r\\n at the end of a record.

    For Excel: with \\r\\n, a byte order mark, and no text that it would take for a formula.
    """

    delimiter = ","

    def __init__(self, destination: Destination) -> None:
        is_for_excel = destination.csv_dialect == "excel"
        lines = _Lines(destination.stream, _CRLF.encode() if is_for_excel else b"\n")
        self._csv = csv.writer(lines, delimiter=self.delimiter, lineterminator=_CRLF)
        self._text: Callable[[str], str] = _harmless if is_for_excel else str
        if is_for_excel:
            destination.stream.write(codecs.BOM_UTF8)
        self._records = 0
        self._columns: list[str] | None = None
        self._known: frozenset[str] = frozenset()
        if destination.columns is not None:
            self._begin(destination.columns)

    def _begin(self, columns: list[str]) -> None:
        self._columns = columns
        self._known = frozenset(columns)
        self._csv.writerow([self._text(name) for name in columns])

    def write(self, record: Mapping[str, Any]) -> None:
        self.write_raw(encode_record(record))

    def write_raw(self, line: bytes) -> None:
        fields = _decode_fields(line)
        if self._columns is None:
            self._begin(list(fields))
        assert self._columns is not None
        self._records += 1
        if not self._known.issuperset(fields):
            raise self._unknown_column(fields)
        self._csv.writerow([_cell(fields.get(name), self._text) for name in self._columns])

    def finish(self) -> None:
        pass

    def _unknown_column(self, fields: Mapping[str, object]) -> InputError:
        name = next(name for name in fields if name not in self._known)
        return InputError(
            f"record {self._records} has a column {name!r}, which is not in the header of the CSV",
            hint="write JSONL or Parquet, where records may differ",
        )


class TsvWriter(CsvWriter):
    """As `CsvWriter`, with tabs between fields."""

    delimiter = "\t"


class _Lines:
    """What csv.writer writes to, a whole record at a time."""

    def __init__(self, stream: Any, end: bytes) -> None:
        self._put = stream.write
        self._end = end

    def write(self, text: str) -> None:
        self._put(text.removesuffix(_CRLF).encode() + self._end)


def _harmless(text: str) -> str:
    """A text that no spreadsheet takes for a formula: with an apostrophe before it, where it would.

    A negative number is none, however it is written. One with a plus is mostly a telephone's, which a number would end.

    Source: OWASP, CSV injection (https://owasp.org/www-community/attacks/CSV_Injection).
    """
    return f"'{text}" if text.startswith(_FORMULA_STARTS) and not _is_negative(text) else text


def _cell(value: msgspec.Raw | None, text_of: Callable[[str], str]) -> str:
    text = b"null" if value is None else bytes(value)
    if text[:1] == b'"':
        return text_of(_decode_string(text))
    if text[:1] in b"{[" and (b" " in text or b"\t" in text):
        return msgspec.json.format(text, indent=-1).decode()
    return "" if text == b"null" else text.decode()
