"""Excel workbooks: ``.xlsx``, their first sheet. Needs the extra ``excel``."""

from __future__ import annotations

import datetime
import logging
import re
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from types import SimpleNamespace
from typing import Any

from mistill.datasets.column_names import check_columns_once
from mistill.datasets.optional_library import OPENPYXL
from mistill.datasets.sources.input_file import FileReader, InputFile
from mistill.datasets.sources.row import Row, UntypedInput
from mistill.errors import InputError

_log = logging.getLogger("mistill")

_FORMULA = re.compile(rb"<(?:\w+:)?f[\s/>]")
_BLOCK_BYTES = 1 << 20
_LONGEST_TAG_BYTES = 64


class ExcelReader(FileReader, UntypedInput):
    """The first sheet of a workbook: a header, then rows. Empty rows are skipped, and an empty cell is null.

    Numbers are numbers, dates and times ISO 8601 text: a date alone where the cell shows no time. Of a formula it is
    the value that was saved with it; where none was, that is said, once for each column. A row with more cells than
    the header has a `Row.problem`. ``where`` counts rows as the sheet does, from 1.
    """

    def __init__(self, file: InputFile) -> None:
        super().__init__(file)
        if not file.repeatable:
            raise InputError(
                f"{file.name}: a workbook cannot be read from a pipe", hint="save it as a file, or send csv"
            )
        self._uncalculated: set[int] = set()
        with self._sheet() as (sheet, others):
            first = next(_filled(sheet), None)
            if first is None and any(next(_filled(other), None) for other in others):
                raise self._first_is_empty(sheet, others)
            self._columns = () if first is None else self._header(*first)
            self._has_formulas = _has_formulas(sheet)
        if others:
            titles = ", ".join(other.title for other in others)
            _log.warning("%s: the first sheet is read, %r; not %s", self.name, sheet.title, titles)

    def columns(self) -> tuple[str, ...]:
        return self._columns

    def total(self) -> None:
        return None

    def where(self, place: int) -> str:
        return f"{self.name} sheet row {place}"

    def rows(self, first_index: int) -> Iterator[Row]:
        with self._sheet() as (sheet, _):
            filled = self._calculated(sheet) if self._has_formulas else _filled(sheet)
            next(filled, None)
            for index, (place, cells) in enumerate(filled, first_index):
                values = [_value(cell) for cell in cells]
                is_too_long = any(value is not None for value in values[len(self._columns) :])
                values += [None] * (len(self._columns) - len(values))
                row = Row.of(dict(zip(self._columns, values, strict=False)), self, index, place)
                if is_too_long and row.problem is None:
                    row.problem, row.hint = "it has more cells than the header", "name the column"
                yield row
        self._file.place.check_unchanged()

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

    def _first_is_empty(self, sheet: Any, others: list[Any]) -> InputError:
        titles = ", ".join(repr(other.title) for other in others)
        return InputError(
            f"{self.name}: its first sheet, {sheet.title!r}, is empty, and no other is read; there are {titles} too",
            hint="move the sheet with the rows to the front, or save it as CSV",
        )

    def _calculated(self, sheet: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """As `_filled`. Warns of formulas without a value: programs write them so, and a spreadsheet works them out."""
        with self._sheet(formulas=True) as (twin, _):
            pairs = zip(_numbered(sheet), _numbered(twin), strict=True)
            for (place, cells), (_, written) in pairs:
                for number, (cell, formula) in enumerate(zip(cells, written, strict=True)):
                    if cell.value is None and formula.data_type == "f" and cell.data_type != "str":
                        self._warn_of_formula(place, number)
                if _is_filled(cells):
                    yield place, cells

    def _warn_of_formula(self, place: int, number: int) -> None:
        if number in self._uncalculated or number >= len(self._columns):
            return
        self._uncalculated.add(number)
        _log.warning(
            "%s: column %r has a formula that was never calculated, and is read as null, as are others like it in "
            "that column; open the workbook in a spreadsheet, and save it",
            self.where(place),
            self._columns[number],
        )

    @contextmanager
    def _sheet(self, *, formulas: bool = False) -> Generator[tuple[Any, list[Any]]]:
        """The first sheet, to be read from its beginning, and the others.

        Args:
            formulas: cells have these in place of the values that were saved with them.
        """
        openpyxl_reader = OPENPYXL.load(f"reading {self.name}", "openpyxl.reader.excel")
        try:
            with self._file.place.for_library() as source:
                reader = openpyxl_reader.ExcelReader(source, read_only=True, data_only=not formulas)
                with closing(_without_charts(reader)) as book:
                    first, *others = self._with_cells(book.worksheets)
                    yield first, others
        except InputError:
            raise
        except Exception as error:  # whatever openpyxl makes of a damaged file, or one that is none
            raise InputError(f"{self.name}: cannot be read: {error}") from error

    def _with_cells(self, sheets: list[Any]) -> list[Any]:
        if not sheets:
            raise InputError(f"{self.name}: no sheet of it has cells")
        for sheet in sheets:
            sheet.reset_dimensions()  # what a file says of its size may be wrong
        return sheets


def _without_charts(reader: Any) -> Any:
    """The workbook. Of a sheet that is a chart only the place is kept, since what is said of sheets counts them."""

    def keep_place(*_: Any) -> None:
        reader.wb._sheets.append(SimpleNamespace(defined_names={}))  # noqa: SLF001  nothing public skips a sheet

    reader.read_chartsheet = keep_place
    reader.read()
    return reader.wb


def _has_formulas(sheet: Any) -> bool:
    """Whether one may stand in a sheet: else it need not be read twice."""
    before = b""
    with sheet._get_source() as xml:  # noqa: SLF001  its cells alone are public, one by one
        while block := xml.read(_BLOCK_BYTES):
            if _FORMULA.search(before + block):
                return True
            before = block[-_LONGEST_TAG_BYTES:]
    return False


def _filled(sheet: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """Rows in which something stands, with their numbers."""
    return ((place, cells) for place, cells in _numbered(sheet) if _is_filled(cells))


def _numbered(sheet: Any) -> Iterator[tuple[int, tuple[Any, ...]]]:
    rows: Iterator[tuple[Any, ...]] = sheet.iter_rows()
    return enumerate(rows, 1)


def _is_filled(cells: tuple[Any, ...]) -> bool:
    return any(cell.value is not None for cell in cells)


def _value(cell: Any) -> Any:
    value = cell.value
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value if "h" in str(cell.number_format).lower() else value.date()
    return value
