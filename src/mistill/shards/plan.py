"""The plan of a run in shards: where its input is cut. It is written once, before anything is sent."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from mistill.datasets.formats import format_of
from mistill.datasets.places import place_of
from mistill.datasets.sources import Source
from mistill.datasets.sources.input_file import InputFile
from mistill.datasets.sources.row import Input, Row
from mistill.datasets.sources.slices import Slice, cut, cut_points_of, quoted, unquoted
from mistill.datasets.sources.text_form import TextForm
from mistill.datasets.writers import open_writer
from mistill.errors import InputError
from mistill.ledger.shard_files import (
    PLAN_FORMAT,
    OneOrMore,
    RowCount,
    check_plan_is_there,
    plan_of,
    read_as,
    whole_of,
    write_file,
)
from mistill.progress.formatting import count
from mistill.wording import Setting, words

_log = logging.getLogger("mistill")
_MOST_ROWS: Final = 50_000
"""Of a shard: what is lost with a worker is found again in seconds."""
_FEWEST_ROWS: Final = 250
_TINY_ROWS: Final = 10
_SHARDS_A_WORKER: Final = 4
"""So that the last ones end at about the same time."""


class PlannedFile(Struct, frozen=True):
    """A file of the input: its absolute path, quoted as in a URL, and its size."""

    path: str
    size: int


class PlannedInput(Struct, frozen=True):
    """What was cut.

    Attributes:
        files: in order. ``choice``: the options that say which rows of them there are.
        digest: of all its rows, where these are no files.
    """

    files: list[PlannedFile]
    choice: dict[str, Any]
    digest: str | None = None


class PlannedShard(Struct, frozen=True):
    """One shard: how many rows of the run it has, and where they are read."""

    rows: RowCount
    slices: list[Slice]

    def inputs(self) -> list[Input]:
        return [one.open() for one in self.slices]


class Plan(Struct, frozen=True):
    """Where a run is cut.

    Attributes:
        input: of what. ``shards``: in the order of the input.
        wanted: how many shards were asked for: there are fewer where there are fewer rows.
    """

    input: PlannedInput
    shards: OneOrMore[PlannedShard]
    format: int = PLAN_FORMAT
    wanted: int | None = None

    @property
    def rows(self) -> int:
        return sum(shard.rows for shard in self.shards)

    def first_row(self, number: int) -> int:
        """The place of a shard's first row in the input, from 0."""
        return sum(shard.rows for shard in self.shards[:number])

    def whole(self) -> Source:
        """All that was cut, before anything is done to its rows."""
        slices: list[Slice] = []
        for one in chain.from_iterable(shard.slices for shard in self.shards):
            if slices and slices[-1].path == one.path and slices[-1].end == one.begin:
                slices[-1] = msgspec.structs.replace(slices[-1], end=one.end)
            else:
                slices.append(one)
        paths = dict.fromkeys(unquoted(one.path) for one in slices)
        return Source([one.open() for one in slices], None, list(paths))

    def source(self, number: int, whole: Source, limit: int | None) -> Source:
        """The rows of a shard.

        Args:
            whole: the input, with all that is done to its rows. ``limit``: of the whole run.

        Raises:
            InputError: there is no such shard; a file is not there any more; or, on iterating, it has other rows.
        """
        if number >= len(self.shards):
            raise InputError(
                f"it is cut into {count(len(self.shards), 'shard')}, and has none of number {number}",
                hint="all rows are in those; they count from 0",
            )
        shard = self.shards[number]
        most = shard.rows if limit is None else max(0, min(shard.rows, limit - self.first_row(number)))
        is_all = most == shard.rows and most > 0
        return whole.part(shard.inputs(), rows=shard.rows, limit=None if is_all else most)


def read_plan(folder: Path) -> Plan | None:
    """The plan of the run that remembers in a folder; ``None``: it has none yet.

    Raises:
        LedgerError: nobody can read it, or there was one.
    """
    check_plan_is_there(folder)
    return read_as(folder, _PLAN) if plan_of(folder).exists() else None


def make_plan(
    folder: Path,
    source: Source,
    choice: Mapping[str, Any],
    *,
    shards: int | None,
    workers: int,
    by_number: bool = False,
) -> Plan:
    """Cuts an input and writes the plan. Whoever calls it holds the lock of the run.

    What cannot be cut is written anew, into the folder, first.

    Args:
        choice: the options that say which rows there are. ``shards``: how many; as many as are good for so many
            ``workers`` unless given.
        by_number: each is started by its number, so there are as many as are asked for, with rows or without.

    Raises:
        InputError: the input cannot be read, or has a row that cannot be written anew.
    """
    sign = _sign_of(source, choice)
    inputs, cut_points = source.inputs, cut_points_of(source.inputs)
    if cut_points is None:
        rewritten, digest = _rewrite(source, folder)
        if not sign.files:
            sign = msgspec.structs.replace(sign, digest=digest)
        folders, inputs = _folders_of(source), [rewritten]
        cut_points = cut_points_of(inputs)
        assert cut_points is not None, "it was written for that"
    else:
        folders = None
    rows = sum(each[-1].rows for each in cut_points)
    pieces = cut(inputs, cut_points, min(shards or _good_number(rows, workers), max(1, rows)))
    planned: list[PlannedShard] = []
    for number, slices in pieces:
        shard = PlannedShard(number, [_with_folder(one, folders) for one in slices])
        if source.is_changed_in_number:
            rows_here = sum(1 for _ in source.part(shard.inputs()))
            shard = msgspec.structs.replace(shard, rows=rows_here)
        planned.append(shard)
    if rows and not any(shard.rows for shard in planned):
        source.say_nothing_chosen(inputs)
    if by_number:
        planned += [PlannedShard(0, [])] * ((shards or 0) - len(planned))
    elif shards is not None:
        _say_if_tiny(shards, len(planned), rows)
    plan = Plan(sign, planned, wanted=shards)
    write_file(plan_of(folder), msgspec.json.format(msgspec.json.encode(plan)))
    return plan


def _say_if_tiny(wanted: int, made: int, rows: int) -> None:
    """Each shard is a run of its own, with a ledger, and a worker waits for the last answers of each."""
    if wanted > 1 and 0 < rows < wanted * _TINY_ROWS:
        cut_into = f"{count(rows, 'row')} cut into {count(made, 'shard')}"
        asked = "" if made == wanted else f", of {wanted:,} that were asked for"
        why = ": each is a run of its own, and fewer are done sooner; leave out "
        _log.warning(words(cut_into, asked, why, Setting("shards")))


def changes_of(
    plan: Plan, source: Source | None, choice: Mapping[str, Any], *, shards: int | None
) -> list[str]:
    """What is wanted otherwise than it was cut, as far as is seen without reading the rows.

    Args:
        source: ``None``: it is at hand no more, and is not looked at.
    """
    problems: list[str] = []
    if shards is not None and shards not in (len(plan.shards), plan.wanted):
        problems.append(f"it is cut into {len(plan.shards):,} shards, not {shards:,}")
    for name in sorted(plan.input.choice.keys() | choice.keys()):
        before, now = plan.input.choice.get(name), choice.get(name)
        if before != now:
            problems.append(f"{name}: {before!r} → {now!r}")
    if source is not None:
        problems += _changed_files(plan.input, _sign_of(source, choice))
    return problems


def check_plan(
    plan: Plan, folder: Path, source: Source | None, choice: Mapping[str, Any], *, shards: int | None
) -> None:
    """Raises `InputError` where another input, other rows of it or another number of shards is wanted than was cut.

    Args:
        source: as in `changes_of`.
    """
    problems = changes_of(plan, source, choice, shards=shards)
    digest = plan.input.digest
    if not problems and source is not None and digest is not None and _digest_of(source) != digest:
        problems = ["the rows are others than those that were cut"]
    if problems:
        raise InputError(
            f"{folder} is of a run that was cut in another way: {'; '.join(problems)}",
            hint=words(
                "go back to that to resume, choose another output, or start over with ",
                Setting("fresh", True),
                ", which keeps what is answered under another name",
            ),
        )


def _changed_files(before: PlannedInput, now: PlannedInput) -> list[str]:
    paths, others = ([unquoted(one.path) for one in each.files] for each in (before, now))
    if paths != others:
        return [f"input: {_named(paths)} → {_named(others)}"]
    return [
        f"{unquoted(one.path)} had {one.size:,} bytes, and has {other.size:,}"
        for one, other in zip(before.files, now.files, strict=True)
        if one.size != other.size
    ]


def _named(paths: Sequence[str]) -> str:
    if not paths:
        return "rows of this program"
    return paths[0] + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")


def _good_number(rows: int, workers: int) -> int:
    fair = -(-rows // (_SHARDS_A_WORKER * workers))
    return max(1, -(-rows // min(_MOST_ROWS, max(_FEWEST_ROWS, fair))))


def _sign_of(source: Source, choice: Mapping[str, Any]) -> PlannedInput:
    files: list[PlannedFile] = []
    if source.repeatable:
        with suppress(OSError):
            files = [PlannedFile(quoted(path), os.stat(path).st_size) for path in source.paths]  # noqa: PTH116  a str
    return PlannedInput(files, dict(choice))


def _folders_of(source: Source) -> str | None:
    folders = list(dict.fromkeys(chain.from_iterable(one.folders for one in source.inputs)))
    return quoted(folders[0]) if folders else None


def _with_folder(one: Slice, folder: str | None) -> Slice:
    return one if folder is None else msgspec.structs.replace(one, folder=folder)


def _rewrite(source: Source, folder: Path) -> tuple[Input, str]:
    """All rows in a file that can be cut, and their digest: Parquet, where columns have types, else JSON Lines."""
    if source.media_kinds:
        raise InputError(
            f"{source.name}: files of images, documents or sound are not cut into shards",
            hint="make a file of rows that name them: one column with their paths",
        )
    types = source.types_of_inputs()
    path = folder / ("input.parquet" if types else "input.jsonl")
    digest = hashlib.blake2b(digest_size=16)
    ledgers = (whole_of(folder),)  # they have these rows too: who may not read them may not read this
    with open_writer(path, types=types, features=source.features(), made_of=ledgers) as writer:
        for row in source.rows_before_steps():
            _check_whole(row)
            digest.update(row.raw + b"\n")
            writer.write_raw(row.raw)
    return format_of(str(path)).open_reader(InputFile(place_of(path), None, TextForm())), digest.hexdigest()


def _check_whole(row: Row) -> None:
    if row.problem is not None:
        raise InputError(f"{row.where}: {row.problem}", hint=row.hint, index=row.index)


def _digest_of(source: Source) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in source.rows_before_steps():
        digest.update(row.raw + b"\n")
    return digest.hexdigest()


_PLAN = msgspec.json.Decoder(Plan)
