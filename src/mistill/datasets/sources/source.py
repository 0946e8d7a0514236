"""Several inputs, one after another, as one sequence of rows."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain, groupby, islice
from pathlib import Path
from typing import Any, cast

import msgspec

from mistill.addresses import is_of_store, is_of_table, keep_secrets, scheme_of
from mistill.datasets.formats import format_by_suffix, format_of
from mistill.datasets.places import expand, place_of
from mistill.datasets.sources.in_memory import input_of, is_one_column
from mistill.datasets.sources.input_file import FileReader, InputFile
from mistill.datasets.sources.media_files import (
    MediaFiles,
    holds_media,
    media_kind,
    refusal_of_media,
    say_left_out,
)
from mistill.datasets.sources.row import Input, Row
from mistill.datasets.sources.slices import expecting
from mistill.datasets.sources.steps import Step
from mistill.datasets.sources.table_reader import TableReader
from mistill.datasets.sources.text_form import TextForm
from mistill.errors import InputError
from mistill.same_place import refuse_unclear
from mistill.wording import Setting, words

_log = logging.getLogger("mistill")

_MAX_INPUTS_NAMED = 3

_MAX_PEEKED = 512


class NotWanted(Exception):
    """Nobody wants the rest of the rows. It is raised where they are read, so that no step takes it for their end."""


class Source:
    """An iterable of rows over one or several inputs, in order.

    Attributes:
        name: what the inputs are called, for messages.
        paths: of those that are files, or addresses without their secrets; ``-`` for stdin.
        repeatable: it can be iterated again, as files, lists and frames can; stdin, pipes and generators cannot.
        is_far: some of it comes over a network.
    """

    def __init__(self, inputs: Sequence[Input], limit: int | None, paths: Sequence[str] = ()) -> None:
        self._inputs = inputs
        self._limit = limit
        self.paths = paths
        self._steps: list[Step] = []
        self._unread: Iterator[Row] | None = None
        self._is_part = False
        self._expected: int | None = None
        names = [one.name for one in inputs[:_MAX_INPUTS_NAMED]]
        self.name = ", ".join(names) + (" …" if len(inputs) > _MAX_INPUTS_NAMED else "")
        self.repeatable = all(one.repeatable for one in inputs)
        self.is_far = any(one.is_far for one in inputs)

    @property
    def is_changed_in_number(self) -> bool:
        """Some rows are left out, or made of others: one that is given may come after any number that are read."""
        return any(step.changes_number for step in self._steps)

    @property
    def inputs(self) -> Sequence[Input]:
        """What it is made of, in order."""
        return self._inputs

    def part(self, inputs: Sequence[Input], *, rows: int | None = None, limit: int | None = None) -> Source:
        """The rows of some of its inputs, or of parts of them, with the same steps.

        Args:
            rows: so many are left after these: any other number is an `InputError` where the last one is read.
            limit: at most so many of them.
        """
        part = Source(inputs, limit, self.paths)
        part._steps, part._is_part, part._expected = self._steps, True, rows
        return part

    def say_nothing_chosen(self, inputs: Sequence[Input]) -> None:
        """Raises what says why the steps leave no row of the inputs, where one of them does."""
        for _ in self._after_steps(self.part(inputs).rows_before_steps()):
            pass

    def rows_before_steps(self) -> Iterator[Row]:
        """The rows as they are read, whatever is done to them before they are given; once, where they can be read only
        once."""
        return self._unread_rows()

    def add(self, step: Step) -> None:
        """Does something to the rows before they are given; ``limit`` counts those that are left."""
        self._steps.append(step)

    def records_until(self, is_enough: Callable[[], bool]) -> Iterator[dict[str, Any]]:
        """Records from the first on, with the steps that were added so far, to look at their columns; it is still the
        first that iteration gives. The last, where ``is_enough`` says so; of what can be read once, 512 at the most.

        What breaks off the input ends it, and is raised when the rows are wanted.
        """
        with suppress(InputError):
            rows = self._rows() if self.repeatable else self._peek_on()
            for row in self._after_steps(rows, looking=True):
                yield row.record
                if is_enough():
                    return

    def _peek_on(self) -> Iterator[Row]:
        """The first rows of what can be read once; they are still the first that iteration gives."""
        rows = self._rows() if self._unread is None else self._unread
        seen: list[Row] = []
        self._unread = chain(seen, rows)  # by the time it is read, all that was seen is in it
        try:
            for row in islice(rows, _MAX_PEEKED):
                seen.append(row)
                yield msgspec.structs.replace(row)
        except Exception as error:  # once raised, what raised it would end without a word
            self._unread = chain(seen, _raising(error))
            raise

    def versions(self) -> dict[str, str]:
        """What the stores say of files that are elsewhere, by their names: another one is another content."""
        places = (one.place for one in self._inputs if isinstance(one, FileReader) and one.is_far)
        return {place.name: place.version for place in places if place.version is not None}

    @property
    def media_kinds(self) -> frozenset[str]:
        """``image``, ``document``, ``audio``: what its rows name, where they were made of such files."""
        kinds = (one.kinds for one in self._inputs if isinstance(one, MediaFiles))
        return frozenset(chain.from_iterable(kinds))

    @property
    def total(self) -> int | None:
        """How many rows, where that is known without reading them; None for text files, streams, and where some are
        left out or made of others."""
        if self._expected is not None:
            return self.of_total(self._expected)
        if self.is_changed_in_number:
            return None
        totals = [one.total() for one in self._inputs]
        known = [total for total in totals if total is not None]
        if len(known) < len(totals):
            return 0 if self._limit == 0 else None
        return self.of_total(sum(known))

    def count(self, wanted: Callable[[], bool]) -> int | None:
        """As `total`, for all files that can be read again, which are read through: meant for a thread beside whoever
        reads the rows.

        ``None`` where nobody can know, and where it is no longer ``wanted``.
        """
        if self._expected is not None:
            return self.total
        if self.is_changed_in_number:
            return self._count_after_steps(wanted)
        rows = 0
        for one in self._inputs:
            found = one.count(wanted) if isinstance(one, FileReader | TableReader) else one.total()
            if found is None:
                return None
            rows += found
        return self.of_total(rows)

    def _count_after_steps(self, wanted: Callable[[], bool]) -> int | None:
        if not self.repeatable or self.is_far:
            return None
        with suppress(InputError, NotWanted):  # the first is raised where the rows are read
            rows = self._after_steps(_while(wanted, self._rows()), looking=True)
            return self.of_total(sum(1 for _ in rows))
        return None

    def say_empty(self) -> None:
        """Warns that the inputs have no row, where some are wanted."""
        if self._limit != 0:
            _log.warning("the input is empty: %s has no row", self.name or "it")

    def of_total(self, rows: int) -> int:
        """How many rows are given where the inputs have so many."""
        return rows if self._limit is None else min(rows, self._limit)

    @property
    def columns(self) -> tuple[str, ...] | None:
        """Column names of all inputs together: from headers and schemas, else from the first row; None without one.

        JSON needs no two rows to be alike, so later rows may have others.
        """
        found: dict[str, None] = {}
        for one in self._inputs:
            names = one.columns()
            if names is None and one.repeatable:
                first = next(one.rows(0), None)
                names = () if first is None else first.record
            found.update(dict.fromkeys(names or ()))
        if not found and not self.repeatable:
            first = self._peek()
            found.update(dict.fromkeys(first.record if first else ()))
        return self._named(found) or None

    @property
    def header(self) -> tuple[str, ...] | None:
        """Column names of all inputs together, where each has a header or schema: no row has another one."""
        found: dict[str, None] = {}
        for one in self._inputs:
            names = one.columns()
            if names is None:
                return None
            found.update(dict.fromkeys(names))
        return self._named(found)

    def types(self) -> Mapping[str, Any]:
        """pyarrow's types of columns, where all inputs that have types have one and the same for them."""
        types = self.types_of_inputs()
        for step in self._steps:
            types = step.types(types)
        return types

    def types_of_inputs(self) -> Mapping[str, Any]:
        """The same before all steps."""
        return _same_in_all(one.types() for one in self._inputs)

    def features(self) -> Mapping[str, Any]:
        """Hugging Face's features of columns, where all inputs that have some have the same; none of a column that a
        step makes another of."""
        before, after = self.types_of_inputs(), self.types()
        found = _same_in_all(one.features() for one in self._inputs)
        return {
            name: feature
            for name, feature in found.items()
            if name in after and after[name] == before.get(name)
        }

    def _named(self, columns: Iterable[str]) -> tuple[str, ...]:
        names = list(columns)
        for step in self._steps:
            names = step.columns(names)
        return tuple(names)

    def __iter__(self) -> Iterator[Row]:
        return self._given(self._unread_rows())

    def rows_while(self, wanted: Callable[[], bool]) -> Iterator[Row]:
        """As iteration, for as long as more are ``wanted``, which is asked of every row that is read.

        Raises:
            NotWanted: they are no longer.
        """
        return self._given(_while(wanted, self._unread_rows()))

    def _unread_rows(self) -> Iterator[Row]:
        rows, self._unread = self._rows() if self._unread is None else self._unread, None
        return rows

    def _given(self, rows: Iterator[Row]) -> Iterator[Row]:
        rows = self._after_steps(rows, looking=self._is_part)  # what is to be said, is of the whole
        if self._expected is not None:
            rows = expecting(rows, self._expected, self.name)
        return rows if self._limit is None else islice(rows, self._limit)

    def _after_steps(self, rows: Iterator[Row], *, looking: bool = False) -> Iterator[Row]:
        for step in self._steps:
            rows = step.rows(rows, looking=looking)
        return rows

    def _peek(self) -> Row | None:
        """The first row of what can be read once; it is still the first that iteration gives."""
        rows = self._rows() if self._unread is None else self._unread
        first = next(rows, None)
        self._unread = rows if first is None else chain([first], rows)
        return first

    def _rows(self) -> Iterator[Row]:
        return chain.from_iterable(self._rows_by_input())

    def _rows_by_input(self) -> Iterator[Iterator[Row]]:
        next_index = 0

        def counted(rows: Iterator[Row]) -> Iterator[Row]:
            nonlocal next_index
            row = None
            for row in rows:
                yield row
            if row is not None:
                next_index = row.index + 1

        for one in self._inputs[:-1]:
            yield counted(one.rows(next_index))
        if self._inputs:
            yield self._inputs[-1].rows(next_index)


def _while(wanted: Callable[[], bool], rows: Iterator[Row]) -> Iterator[Row]:
    for row in rows:
        if not wanted():
            raise NotWanted
        yield row


def _raising(error: Exception) -> Iterator[Row]:
    raise error
    yield


def open_source(
    source: Any,
    *,
    format: str | None = None,  # noqa: A002 the public name
    encoding: str | None = None,
    delimiter: str | None = None,
    limit: int | None = None,
) -> Source:
    """The rows of ``source``.

    Args:
        source: a path, a glob (``"data/*.jsonl"``, sorted), ``"-"`` for stdin, an address of a store
            (``"s3://bucket/*.jsonl"``; see docs/remote.md), a folder or files of images, documents or sound (see
            `MediaFiles`), several of these, an iterable of mappings, an Arrow table or whatever exports
            an Arrow stream, a pandas or polars frame, or a Hugging Face dataset.
        format: that of the files (see ``formats``), where their suffix does not say it.
        encoding: that of text files that are not UTF-8: ``cp1252``, ``latin-1``, ``utf-16``; with
            ``-replace`` after it (``utf-8-replace``), U+FFFD stands for bytes that are no text.
        delimiter: what is between fields of CSV files: one character, or ``tab``.
        limit: at most so many rows.

    Raises:
        InputError: an input is not there or of no known format. Iterating raises it for what is wrong inside.
    """
    if limit is not None and limit < 0:
        raise InputError(f"limit is {limit}, and must be 0 or more")
    form = TextForm.of(encoding, delimiter)
    if isinstance(source, (str, os.PathLike)):
        paths = _expand(cast("str | os.PathLike[str]", source), format)
    elif _is_paths(source):
        paths = list(chain.from_iterable(_expand(path, format) for path in source))
    elif format is not None or form != TextForm():
        told = "a format" if format is not None else "an encoding or a delimiter"
        raise InputError(f"{told} can be given for files only", hint="leave it out")
    else:
        return Source([input_of(source)], limit)
    inputs = list(_open_files(paths, format, form))
    # Files of images may be many, and no output takes the place of one.
    named = [keep_secrets(path) for path in paths if format is not None or media_kind(path) is None]
    return Source(inputs, limit, named)


def _same_in_all(inputs: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """What is said of columns, where all inputs that say something of one say the same."""
    found: dict[str, Any] = {}
    several: set[str] = set()
    for one in inputs:
        for name, said in one.items():
            if found.setdefault(name, said) != said:
                several.add(name)
    return {name: said for name, said in found.items() if name not in several}


def _open_files(paths: Sequence[str], override: str | None, form: TextForm) -> Iterator[Input]:
    """The inputs in files; files of images and the like that stand side by side are one."""
    for is_media, group in groupby(paths, key=lambda path: override is None and holds_media(path)):
        if is_media:
            yield MediaFiles(list(group))
            continue
        for path in group:
            yield _open_table(path, override, form) if is_of_table(path) else _open_file(path, override, form)


def _open_table(address: str, override: str | None, form: TextForm) -> Input:
    if override is not None or form != TextForm():
        told = "format" if override is not None else "encoding and no delimiter"
        raise InputError(f"{keep_secrets(address)} is a table, and has no {told}", hint="leave it out")
    return TableReader(address)


def _open_file(path: str, override: str | None, form: TextForm) -> Input:
    is_here = scheme_of(path) is None and path != "-"
    if is_here and not os.path.exists(path):  # noqa: PTH110  to it a name that is too long is none that exists
        raise InputError(f"{path}: no such file")
    if override is None and (refusal := refusal_of_media(path)) is not None:
        raise refusal
    chosen = format_of(path, override)
    if form.delimiter is not None and not chosen.has_delimiter:
        raise _useless("delimiter", path, chosen.name)
    if form.encoding is not None and chosen.is_binary:
        raise _useless("encoding", path, chosen.name)
    return chosen.open_reader(InputFile(place_of(path), chosen.compression, form))


def _useless(setting: str, path: str, format_: str) -> InputError:
    return InputError(words(Setting(setting), f": {path} is {format_}, which has none"), hint="leave it out")


def _is_paths(source: Any) -> bool:
    if not isinstance(source, Sequence) or isinstance(source, (bytes, bytearray)) or is_one_column(source):
        return False
    items = cast("Sequence[object]", source)
    return bool(items) and all(isinstance(item, (str, os.PathLike)) for item in items)


def _expand(path: str | os.PathLike[str], override: str | None) -> list[str]:
    """A glob to the files it matches, sorted; anything else to itself. A file here whose own name has a * in it wins.

    Where it matches images and the like, and no format is given, files of no known format are left out, as of a folder.
    """
    name = os.fspath(path)
    refuse_unclear(name)
    if is_of_store(name):
        return expand(name)
    if scheme_of(name) is not None or not glob.has_magic(name) or Path(name).exists():
        return [name]
    found = sorted(glob.iglob(name, recursive=True))  # noqa: PTH207 a pattern may be absolute
    folders = [match for match in found if Path(match).is_dir()]
    files = [match for match in found if match not in set(folders)]
    inside = f"what is in folders is matched by {os.path.join(os.path.dirname(name), '**', '*')!r}"  # noqa: PTH118, PTH120  the same
    if not files:
        named = f", but {len(folders)} folder{'s' if len(folders) > 1 else ''}" if folders else ""
        raise InputError(f"no file matches {name!r}{named}", hint=inside if folders else None)
    if folders and "**" not in name:
        named = ", ".join(folders[:_MAX_INPUTS_NAMED]) + (" …" if len(folders) > _MAX_INPUTS_NAMED else "")
        _log.warning("%r matches folders too, which are left out: %s; %s", name, named, inside)
    if override is None and any(media_kind(file) is not None for file in files):
        others = [file for file in files if media_kind(file) is None and format_by_suffix(file) is None]
        say_left_out(name, others)
        files = [file for file in files if file not in set(others)]
    return files
