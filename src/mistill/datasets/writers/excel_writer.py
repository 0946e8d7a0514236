"""Records to Excel workbooks, ``.xlsx``: one sheet. Needs the extra ``excel``.

Records go to a temporary spool first: a sheet begins with all of its columns.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from mistill.datasets.encoding import encode_record
from mistill.datasets.optional_library import OPENPYXL
from mistill.datasets.writers.destination import Destination
from mistill.datasets.writers.exact_records import INEXACT, decode_exactly
from mistill.errors import InputError

_log = logging.getLogger("mistill")

_PURPOSE = "writing a workbook"
_MAX_NAMED = 3
_MAX_ROWS = 2**20 - 1
_MAX_COLUMNS = 2**14
_MAX_CHARACTERS = 32_767
"""What Excel takes. Source: its specifications and limits (support.microsoft.com)."""
_MAX_EXACT = 10**15
"""Excel keeps 15 digits of a number."""

_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Source: XML 1.0, section 2.2 (Char). openpyxl looks for control characters alone."""

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class ExcelWriter:
    """A sheet with a header. Text is text, also where it begins like a formula; null is an empty cell; lists, objects
    and numbers of more digits than Excel keeps are their JSON. What XML cannot carry becomes U+FFFD. Text that is too
    long for a cell is cut, with a mark at its end, and a warning says which cells those are.
    """

    def __init__(self, destination: Destination) -> None:
        self._cell_of = OPENPYXL.load(_PURPOSE, "openpyxl.cell").WriteOnlyCell
        self._letter_of = OPENPYXL.load(_PURPOSE, "openpyxl.utils").get_column_letter
        self._book = OPENPYXL.load(_PURPOSE).Workbook(write_only=True)
        self._sheet = self._book.create_sheet("Sheet1")
        self._stream = destination.stream
        self._columns = dict.fromkeys(destination.columns or ())
        self._records = 0
        self._cut = 0
        self._first_cut: list[str] = []
        self._spool = destination.open_spool()

    def write(self, record: Mapping[str, Any]) -> None:
        self.write_raw(encode_record(record))

    def write_raw(self, line: bytes) -> None:
        self._records += 1
        if self._records > _MAX_ROWS:
            raise self._too_much(self._records, "more rows", f"{_MAX_ROWS:,}")
        self._columns.update(dict.fromkeys(_decode_fields(line)))
        if len(self._columns) > _MAX_COLUMNS:
            raise self._too_much(self._records, "more columns", f"{_MAX_COLUMNS:,}")
        self._spool.append(line)

    def finish(self) -> None:
        try:
            self._sheet.append([self._text(1, place, name) for place, name in enumerate(self._columns, 1)])
            for row, line in enumerate(self._spool.lines(), 2):
                fields, values = _decode_fields(line), decode_exactly(line)
                self._sheet.append(
                    [
                        self._cell(row, place, fields.get(name), values.get(name))
                        for place, name in enumerate(self._columns, 1)
                    ]
                )
        except BaseException:
            self._sheet.close()  # else its half-written file complains when it is collected
            raise
        self._book.save(self._stream)
        if self._cut:
            cells = "1 cell was" if self._cut == 1 else f"{self._cut:,} cells were"
            more = ", …" if self._cut > len(self._first_cut) else ""
            _log.warning(
                "%s cut, since Excel takes %s characters in one: %s%s; JSONL, CSV and Parquet have them whole",
                cells,
                f"{_MAX_CHARACTERS:,}",
                ", ".join(self._first_cut),
                more,
            )

    def _cell(self, row: int, place: int, raw: msgspec.Raw | None, value: Any) -> Any:
        if raw is None or value is None or isinstance(value, bool | float):
            return value
        if isinstance(value, int) and abs(value) < _MAX_EXACT:
            return value
        if isinstance(value, str):
            return self._text(row, place, value)
        text = raw if value is INEXACT or isinstance(value, int) else msgspec.json.format(raw, indent=-1)
        return self._text(row, place, bytes(text).decode())

    def _text(self, row: int, place: int, text: str) -> Any:
        """The cell of a text. Rows and columns are those of the sheet, from 1."""
        if len(text) > _MAX_CHARACTERS:
            mark = f"… [cut: it has {len(text):,} characters]"
            text = text[: _MAX_CHARACTERS - len(mark)] + mark
            self._cut += 1
            if len(self._first_cut) < _MAX_NAMED:
                self._first_cut.append(f"{self._letter_of(place)}{row}")
        cell = self._cell_of(self._sheet)
        cell.value = _UNWRITABLE.sub("\ufffd", text)
        cell.data_type = "s"  # openpyxl takes what begins with = for a formula
        return cell

    def _too_much(self, record: int, what: str, limit: str) -> InputError:
        return InputError(
            f"record {record}: {what}, and Excel takes at most {limit}",
            hint="write JSONL, CSV or Parquet",
        )
