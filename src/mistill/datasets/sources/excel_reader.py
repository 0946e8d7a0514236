"""Excel workbooks: ``.xlsx``, their first sheet. Needs the extra ``excel``."""

from __future__ import annotations

import datetime
import logging
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import islice
from typing import Any

from mistill.datasets.column_names import check_columns_once
from mistill.datasets.optional_library import OPENPYXL
from mistill.datasets.sources.input_file import FileReader, InputFile
from mistill.datasets.sources.row import Row
from mistill.errors import InputError

_log = logging.getLogger("mistill")


class ExcelReader(FileReader):
    """The first sheet of a workbook: a header, then rows. Empty rows are skipped, and an empty cell is null.

    Numbers are numbers, dates and times ISO 8601 text: a date alone where the cell shows no time. Of a formula it is
    the value that was saved with it. A row with more cells than the header has a
    `Row.problem`. ``where`` counts rows as the sheet does, from 1.
    """

    repeatable = True

    def __init__(self, file: InputFile) -> None:
        if not file.repeatable:
            raise InputError(
                f"{file.name}: a workbook cannot be read from a pipe", hint="save it as a file, or send csv"
            )
        self._path = file.path
        self.folders = (file.path.parent,)
        self.name = file.name
        with self._sheet() as (sheet, others):
            first = next(_filled(sheet), None)
            self._columns = () if first is None else self._header(*first)
        if others:
            _log.warning("%s: the first sheet is read, %r; not %s", self.name, sheet.title, ", ".join(others))

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def types(self) -> Mapping[str, Any]:
        return {}

    def features(self) -> Mapping[str, Any]:
        return {}

    def total(self) -> None:
        return None

    def where(self, place: int) -> str:
        return f"{self.name} sheet row {place}"

    def rows(self, first_index: int) -> Iterator[Row]:
        with self._sheet() as (sheet, _):
            filled = _filled(sheet)
            next(filled, None)
            for index, (place, cells) in enumerate(filled, first_index):
                values = [_value(cell) for cell in cells]
                is_too_long = any(value is not None for value in values[len(self._columns) :])
                values += [None] * (len(self._columns) - len(values))
                row = Row.of(dict(zip(self._columns, values, strict=False)), self, index, place)
                if is_too_long and row.problem is None:
                    row.problem, row.hint = "it has more cells than the header", "name the column"
                yield row

    def _each(self) -> Iterator[object]:
        with self._sheet() as (sheet, _):
            yield from islice(_filled(sheet), 1, None)

    def _header(self, place: int, cells: tuple[Any, ...]) -> tuple[str, ...]:
        names = [None if cell.value is None else str(cell.value) for cell in cells]
        while names and names[-1] is None:
            names.pop()
        if None in names:
            raise InputError(
                f"{self.where(place)}: column {names.index(None) + 1} of the header is empty", hint="name it"
            )
        return check_columns_once([name for name in names if name is not None], self.name)

    @contextmanager
    def _sheet(self) -> Generator[tuple[Any, list[str]]]:
        """The first sheet, to be read from its beginning, and the names of the others."""
        openpyxl = OPENPYXL.load(f"reading {self.name}")
        try:
            with closing(openpyxl.load_workbook(self._path, read_only=True, data_only=True)) as book:
                sheet, *others = book.worksheets
                sheet.reset_dimensions()  # what a file says of its size may be wrong
                yield sheet, [other.title for other in others]
        except InputError:
            raise
        except Exception as error:  # whatever openpyxl makes of a damaged file, or one that is none
            raise InputError(f"{self.name}: cannot be read: {error}") from error


def _filled(sheet: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Rows in which something stands, with their numbers."""
    for place, cells in enumerate(sheet.iter_rows(), 1):
        if any(cell.value is not None for cell in cells):
            yield place, cells


def _value(cell: Any) -> Any:
    value = cell.value
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value if "h" in str(cell.number_format).lower() else value.date()
    return value
