"""CSV and TSV: a header, then rows whose values are all strings."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from mistill.datasets.column_names import check_columns_once
from mistill.datasets.sources.input_file import InputFile, TextReader
from mistill.datasets.sources.json_problems import NUL_TAIL_HINT, nul_tail
from mistill.datasets.sources.row import Row
from mistill.datasets.sources.text_blocks import TAKE_REPLACED, text_blocks
from mistill.errors import InputError
from mistill.wording import Setting, words

# The csv module's own limit is 128 KiB, one for the whole process. This is the most that fits a C long
# on every platform.
_MAX_FIELD_CHARS = 2**31 - 1

_OTHER_DELIMITERS = {";": "semicolons", "\t": "tabs", "|": "bars", ",": "commas"}


class CsvReader(TextReader):
    """A CSV file as RFC 4180 has it, quoted with double quotes. Blank lines are skipped.

    A row with more or fewer fields than the header is refused: it is a stray delimiter or a cut file, and padding it
    would hide that.
    """

    delimiter = ","

    def __init__(self, file: InputFile) -> None:
        super().__init__(file)
        self._is_told = file.form.delimiter is not None
        self.delimiter = file.form.delimiter or self.delimiter

    def columns(self) -> tuple[str, ...] | None:
        if not self.repeatable:
            return None
        return tuple(self._header(self._records()))

    def rows(self, first_index: int) -> Iterator[Row]:
        torn: dict[int, str] = {}
        records = self._records(torn)
        header = self._header(records)
        for index, (line, fields) in enumerate(records, first_index):
            if len(fields) != len(header):
                raise self._wrong_length(line, index, len(fields), header)
            row = Row.of(dict(zip(header, fields, strict=True)), self, index, line)
            if torn:  # its lines are read, and none beyond them
                row.problem, row.hint = next(iter(torn.values())), TAKE_REPLACED
                torn.clear()
            yield row

    def _each(self) -> Iterator[object]:
        return islice(self._records(), 1, None)

    def _header(self, records: Iterator[tuple[int, list[str]]]) -> list[str]:
        first = next(records, None)
        return [] if first is None else first[1]

    def _records(self, torn: dict[int, str] | None = None) -> Iterator[tuple[int, list[str]]]:
        """The header, checked, then each record, with the line it begins at.

        Args:
            torn: is given each line whose bytes are no UTF-8, as it is read, and what is wrong with it.
        """
        # Of the whole process: it may only grow, or another reader would fail.
        csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD_CHARS))
        reader = csv.reader(self._lines({} if torn is None else torn), delimiter=self.delimiter, strict=True)
        header: list[str] | None = None
        line = 1
        try:
            for fields in reader:
                if fields:
                    if header is None:
                        header = list(check_columns_once(fields, self.name))
                        self._check_whole(torn)
                    elif len(header) == 1 and len(fields) == 1:
                        self._check_delimiter(header[0], fields[0])
                    yield line, fields
                line = reader.line_num + 1
        except csv.Error as error:
            raise self._not_well_formed(error, line) from error

    def _lines(self, torn: dict[int, str]) -> Iterator[str]:
        for first_line, block, torn_here, _ in text_blocks(self._file.chunks(), self.name):
            for place, line in enumerate(io.BytesIO(block), first_line):
                if torn_here and place in torn_here:
                    torn[place] = torn_here[place]
                if line.endswith(b"\0"):
                    column = len(line.rstrip(b"\0").decode()) + 1
                    raise InputError(f"{self.where(place)}: {nul_tail(column)}", hint=NUL_TAIL_HINT)
                yield line.decode()

    def _check_whole(self, torn: Mapping[int, str] | None) -> None:
        """Refuses a header with bytes that are no text: every row has it."""
        if torn:
            line, problem = next(iter(torn.items()))
            raise InputError(f"{self.where(line)}: {problem}", hint=TAKE_REPLACED)

    def _check_delimiter(self, header: str, row: str) -> None:
        """Refuses a table of one column whose header and row have several fields by another delimiter."""
        other = _other_delimiter([header])
        if not self._is_told and other is not None and header.count(other) == row.count(other):
            raise InputError(
                f"{self.name}: its header is one column, {header!r}", hint=delimiter_hint([header])
            )

    def _not_well_formed(self, error: csv.Error, line: int) -> InputError:
        if str(error).startswith("new-line character seen in unquoted field"):
            return InputError(
                f"{self.where(line)}: it holds a CR without LF, outside of quotes",
                hint="if all lines end so, end them with LF: tr '\\r' '\\n' < OLD > NEW",
            )
        return InputError(
            f"{self.where(line)}: not well-formed: {error}",
            hint='the record begins at that line; a field with a quote in it is written "like ""this"""',
        )

    def _wrong_length(self, line: int, index: int, got: int, header: Sequence[str]) -> InputError:
        hint = "quote a field that holds the delimiter; if it is the last line, the file may be cut"
        return InputError(
            f"{self.where(line)}: {got} field{'s' if got != 1 else ''} where the header has {len(header)}",
            hint=delimiter_hint(header) or hint,
            index=index,
        )


class TsvReader(CsvReader):
    """As `CsvReader`, with tabs between fields."""

    delimiter = "\t"


def delimiter_hint(columns: Sequence[str]) -> str | None:
    """What to say of a table whose only column seems to be a whole header; None of any other."""
    delimiter = _other_delimiter(columns)
    if delimiter is None:
        return None
    named = "tab" if delimiter == "\t" else delimiter
    return words(
        f"the fields seem to be separated by {_OTHER_DELIMITERS[delimiter]}: ", Setting("delimiter", named)
    )


def _other_delimiter(columns: Sequence[str]) -> str | None:
    return next((one for one in _OTHER_DELIMITERS if len(columns) == 1 and one in columns[0]), None)
