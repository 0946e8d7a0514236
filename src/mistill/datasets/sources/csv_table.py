"""CSV and TSV: a header, then rows whose values are all strings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from mistill.datasets.encoding import encode_row
from mistill.datasets.sources.files import File, text_blocks
from mistill.datasets.sources.row import Row
from mistill.errors import InputError

# The csv module's own limit is 128 KiB, one for the whole process. This is the most that fits a C long
# on every platform.
_LONGEST_FIELD = 2**31 - 1


class CsvTable:
    """A CSV or TSV file as RFC 4180 has it, in UTF-8, quoted with double quotes. Blank lines are skipped.

    A row with more or fewer fields than the header is refused: it is a stray delimiter or a cut file, and
    padding it would hide that.
    """

    def __init__(self, file: File, delimiter: str) -> None:
        self._file = file
        self._delimiter = delimiter
        self.name = file.name
        self.repeatable = file.repeatable

    def columns(self) -> tuple[str, ...] | None:
        if not self.repeatable:
            return None
        return tuple(self._header(self._records()))

    def total(self) -> None:
        return None

    def where(self, place: int) -> str:
        return f"{self.name} line {place}"

    def rows(self, first_index: int) -> Iterator[Row]:
        records = self._records()
        header = self._header(records)
        for index, (line, fields) in enumerate(records, first_index):
            if len(fields) != len(header):
                raise self._wrong_length(line, index, len(fields), len(header))
            raw = encode_row(dict(zip(header, fields, strict=True)), self.where(line), index)
            yield Row(index, raw, self, line)

    def _header(self, records: Iterator[tuple[int, list[str]]]) -> list[str]:
        first = next(records, None)
        return [] if first is None else first[1]

    def _records(self) -> Iterator[tuple[int, list[str]]]:
        """The header, checked, then each record, with the line it begins at."""
        csv.field_size_limit(_LONGEST_FIELD)
        reader = csv.reader(self._lines(), delimiter=self._delimiter, strict=True)
        header: list[str] | None = None
        line = 1
        try:
            for fields in reader:
                if fields:
                    if header is None:
                        header = fields
                        self._check_header(header)
                    yield line, fields
                line = reader.line_num + 1
        except csv.Error as error:
            raise InputError(
                f"{self.where(line)}: not well-formed: {error}",
                hint='the record begins at that line; a field with a quote in it is written "like ""this"""',
            ) from error

    def _lines(self) -> Iterator[str]:
        for _, block in text_blocks(self._file.chunks(), self.name):
            for line in io.BytesIO(block):
                yield line.decode()

    def _check_header(self, header: list[str]) -> None:
        repeated = next((name for place, name in enumerate(header) if name in header[:place]), None)
        if repeated is not None:
            raise InputError(
                f"{self.name}: the column {repeated!r} stands twice in the header", hint="rename one"
            )

    def _wrong_length(self, line: int, index: int, got: int, wanted: int) -> InputError:
        return InputError(
            f"{self.where(line)}: {got} field{'s' if got != 1 else ''} where the header has {wanted}",
            hint="quote a field that holds the delimiter; if it is the last line, the file may be cut",
            index=index,
        )
