"""JSON Lines: one object a line."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from mistill.datasets.sources.input_file import TextReader
from mistill.datasets.sources.json_problems import explain_json
from mistill.datasets.sources.json_text import check_object, repair_line
from mistill.datasets.sources.row import Row
from mistill.datasets.sources.slices import AS_IT_WAS, CutPoint
from mistill.datasets.sources.text_blocks import TAKE_REPLACED, TextBlock, text_blocks
from mistill.errors import InputError
from mistill.wording import Setting, words


class JsonLinesReader(TextReader):
    """A file of JSON objects, one a line; blank lines are skipped."""

    def rows(self, first_index: int) -> Iterator[Row]:
        return self.rows_of(self._file.chunks(), first_index)

    def _each(self) -> Iterator[bytes]:
        for block in self._blocks(self._file.chunks()):
            yield from filter(bytes.strip, block.text.split(b"\n"))

    def _blocks(self, chunks: Iterable[bytes]) -> Iterator[TextBlock]:
        stretch = self._file.stretch
        first_line, first_byte = (1, 0) if stretch is None else (stretch.line, stretch.begin)
        return text_blocks(chunks, self.name, first_line=first_line, first_byte=first_byte)

    format_to_cut = "jsonl"

    def path_to_cut(self) -> Path | None:
        return self._file.path_to_cut

    def cut_points(self, first_index: int) -> Iterator[CutPoint]:
        """At the beginning of every line with a row. Each is looked at, as where rows are made of them."""
        rows = begin = 0
        next_line = 1
        for first_line, block, _, whole in self._blocks(self._file.chunks()):
            lines, offset = block.split(b"\n"), begin
            last_line = (
                first_line + len(lines) - 1
            )  # which is empty, unless the file ends without an end of line
            as_there = lines if block is whole else whole.split(b"\n")
            for line, (text, bytes_there) in enumerate(zip(lines, as_there, strict=True), first_line):
                if self._is_row(text.strip(), line, first_index + rows, is_cut=line == last_line):
                    yield CutPoint(rows, offset, line)
                    rows += 1
                offset += len(bytes_there) + 1
            begin += len(whole)
            next_line = last_line if lines[-1] == b"" else last_line + 1
        yield CutPoint(rows, begin, next_line)

    def _is_row(self, raw: bytes, place: int, index: int, *, is_cut: bool) -> bool:
        """Whether `rows_of` gives a row for a line, and not nothing. Raises what that does."""
        if not raw:
            return False
        try:
            check_object(raw)
        except (msgspec.MsgspecError, RecursionError):
            raw = repair_line(raw)
            if raw:
                self._repaired(raw, place, index, is_cut=is_cut)
        return bool(raw)

    def rows_of(self, chunks: Iterable[bytes], first_index: int) -> Iterator[Row]:
        """The rows in ``chunks``, which are this file's bytes."""
        index = first_index
        for first_line, block, torn, _ in self._blocks(chunks):
            for place, line in enumerate(block.split(b"\n"), first_line):
                raw = line.strip()
                if not raw:
                    continue
                try:
                    check_object(raw)
                except (msgspec.MsgspecError, RecursionError):
                    raw = repair_line(raw)
                    if not raw:
                        continue
                    is_cut = not block.endswith(b"\n") and place == first_line + block.count(b"\n")
                    row = self._repaired(raw, place, index, is_cut=is_cut)
                else:
                    row = Row(index, raw, self, place)
                if torn and place in torn:
                    row.problem, row.hint = torn[place], TAKE_REPLACED
                yield row
                index += 1

    def _repaired(self, raw: bytes, place: int, index: int, *, is_cut: bool) -> Row:
        try:
            check_object(raw)
        except RecursionError:  # it may be JSON all the same, and costs its row alone
            return Row(index, b"{}", self, place, problem="it is nested too deep to be read")
        except msgspec.MsgspecError as error:
            raise self._refusal(raw, place, index, is_cut=is_cut) from error
        return Row(index, raw, self, place)

    def _refusal(self, raw: bytes, place: int, index: int, *, is_cut: bool) -> InputError:
        problem = explain_json(raw)
        if self._file.stretch is not None:  # each line was looked at when it was cut
            return InputError(
                f"{self.where(place)} could be read when the run was cut into shards, and has changed: "
                f"{problem.message}",
                hint=AS_IT_WAS,
                index=index,
            )
        if is_cut and problem.cut:
            return InputError(
                f"{self.where(place)}, the last, has no end: {problem.message}",
                hint="the file is still being written, or was cut; wait for it, or remove that line",
                index=index,
            )
        hint = problem.hint
        if place == 1 and raw[:1] in (b"[", b"{") and (problem.cut or raw[:1] == b"["):
            hint = words("if the file is one JSON document, give ", Setting("input_format", "json"))
        return InputError(f"{self.where(place)}: {problem.message}", hint=hint, index=index)
