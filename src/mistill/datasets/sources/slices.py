"""Contiguous parts of input files: where a file can be cut, and the rows between two cuts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Protocol, TypeAlias, runtime_checkable
from urllib.parse import quote, unquote_to_bytes

from msgspec import Struct

from mistill.datasets.formats import format_of
from mistill.datasets.places import place_of
from mistill.datasets.sources.input_file import InputFile
from mistill.datasets.sources.row import Input, Row
from mistill.datasets.sources.text_form import TextForm
from mistill.errors import InputError

_MOST_POINTS = 1 << 16
AS_IT_WAS = "put it back as it was, or give another output: what is answered here is kept"
"""What to do about a file that has changed since it was cut."""


class CutPoint(Struct, frozen=True, gc=False):
    """A place where a file can be cut.

    Attributes:
        rows: how many of its rows stand before it.
        offset: as the format counts: the byte of a text file, the row of a table.
        line: of a text file: the number of the line that begins there, from 1.
    """

    rows: int
    offset: int
    line: int = 1


class Slice(Struct, frozen=True, omit_defaults=True):
    """The rows of a file between two cut_points.

    Attributes:
        path: of the file, absolute, quoted as in a URL: a path may be no text.
        format: of its content. ``begin``, ``end``: `CutPoint.offset` of both. ``line``: `CutPoint.line` of the first.
        folder: where paths in its rows begin, where that is not beside it; quoted too.
    """

    path: str
    format: str
    begin: int
    end: int
    line: int = 1
    folder: str | None = None

    def open(self) -> Input:
        """Its rows.

        Raises:
            InputError: the file is not there, or cannot be read.
        """
        chosen = format_of("", self.format)
        folder = None if self.folder is None else (Path(unquoted(self.folder)),)
        stretch = Stretch(self.begin, self.end, self.line, folder)
        return chosen.open_reader(InputFile(place_of(unquoted(self.path)), None, TextForm(), stretch))


class Stretch(Struct, frozen=True):
    """Which part of its file a reader gives; fields as in `Slice`."""

    begin: int
    end: int
    line: int = 1
    folders: Sequence[Path] | None = None


@runtime_checkable
class Cuttable(Protocol):
    """An input that is a file which can be read from the middle on."""

    def path_to_cut(self) -> Path | None:
        """The file; ``None`` where this one can only be read from its beginning on."""
        ...

    def cut_points(self, first_index: int) -> Iterator[CutPoint]:
        """Places where it can be cut, in order, its beginning and its end among them. ``first_index``: so many rows
        stand in the inputs before it.

        Raises:
            InputError: it cannot be read, or rows of it cannot, as far as text has to be read to find these places.
        """
        ...

    @property
    def format_to_cut(self) -> str: ...


Cut: TypeAlias = "list[tuple[int, list[Slice]]]"
"""Of each shard: its rows, and where they are."""


def cut_points_of(inputs: Sequence[Input]) -> list[list[CutPoint]] | None:
    """Where each input can be cut; ``None`` where one cannot.

    Raises:
        InputError: one cannot be read, or a row of text is none.
    """
    can_be_cut = [one for one in inputs if isinstance(one, Cuttable) and one.path_to_cut() is not None]
    if len(can_be_cut) < len(inputs):
        return None
    found: list[list[CutPoint]] = []
    rows = 0
    for one in can_be_cut:
        found.append(thinned(one.cut_points(rows)))
        rows += found[-1][-1].rows
    return found


def thinned(cut_points: Iterator[CutPoint]) -> list[CutPoint]:
    """The first, the last, and of those between as many as fit in a little memory, evenly spread."""
    kept: list[CutPoint] = []
    every, last = 1, None
    for number, point in enumerate(cut_points):
        last = point
        if number % every == 0:
            kept.append(point)
            if len(kept) > _MOST_POINTS:
                kept, every = kept[::2], every * 2
    if last is not None and kept[-1] != last:
        kept.append(last)
    return kept


def cut(inputs: Sequence[Input], cut_points: Sequence[Sequence[CutPoint]], shards: int) -> Cut:
    """All rows in so many contiguous shards of about the same size, or in fewer where it cannot be cut so often."""
    total = sum(each[-1].rows for each in cut_points)
    found: Cut = []
    rows, slices, done = 0, list[Slice](), 0
    for one, each in zip(inputs, cut_points, strict=True):
        assert isinstance(one, Cuttable), "its cut_points are known"
        begin = each[0]
        for point, after in [*pairwise(each), (each[-1], None)]:
            here = rows + point.rows - begin.rows
            is_full = done + here >= -(-total * (len(found) + 1) // shards) and here
            if after is None or is_full:
                if point.offset > begin.offset:
                    slices.append(_slice(one, begin, point))
                rows, begin = here, point
            if is_full and len(found) < shards - 1:
                found.append((rows, slices))
                done, rows, slices = done + rows, 0, []
    if slices or not found:
        found.append((rows, slices))
    return found


def _slice(one: Cuttable, begin: CutPoint, end: CutPoint) -> Slice:
    path = one.path_to_cut()
    assert path is not None, "it can be cut"
    return Slice(quoted(path), one.format_to_cut, begin.offset, end.offset, begin.line)


def quoted(path: str | Path) -> str:
    """An absolute path as text, whatever its bytes are."""
    return quote(os.fsencode(Path(path).absolute()))


def unquoted(path: str) -> str:
    return os.fsdecode(unquote_to_bytes(path))


def expecting(rows: Iterator[Row], expected: int, name: str) -> Iterator[Row]:
    """The same rows, which are so many.

    Raises:
        InputError: there are more, or fewer.
    """
    found = 0
    for found, row in enumerate(rows, 1):
        if found > expected:
            break
        yield row
    if found != expected:
        more = "more than " if found > expected else ""
        raise InputError(
            f"{name} is not what it was when the run was cut into shards: it had {expected:,} rows here, "
            f"and now has {more}{min(found, expected):,}",
            hint=AS_IT_WAS,
        )
