"""Which runs there are to look at: one, or those of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from heapq import nlargest
from pathlib import Path

from msgspec import Struct
from msgspec.structs import replace

from mistill.addresses import scheme_of, shown
from mistill.characters import whole_characters
from mistill.errors import InputError, MistillError
from mistill.kinds.kept_settings import LEDGER_SUFFIX, find_run, ledger_beside, output_of, read_manifest
from mistill.ledger import LedgerReader
from mistill.ledger.files import log_of
from mistill.ledger.shard_files import files_of, is_in_shards, is_memory
from mistill.runs.run_name import RunName
from mistill.wording import Setting, words

_MAX_LISTED = 500
"""Runs that changed last; any other of the folder is shown too to whoever names it."""
_MAX_DEPTH = 4
_SKIPPED = frozenset({"node_modules", "__pycache__", "site-packages"})


class KnownRun(Struct, frozen=True):
    """A run that may be looked at.

    Attributes:
        name: of its output or its ledger, below the folder.
        place: what commands are given to name it.
        ledger: where it remembers.
    """

    name: str
    place: RunName
    ledger: Path


class RunLine(Struct, frozen=True, kw_only=True):
    """A run in the list of runs. Times in unix seconds.

    Attributes:
        name: as `KnownRun.name`.
        problem: why it cannot be looked at; all else is unknown then.
        live: a run is on it now.
    """

    name: str
    changed_at: float
    bytes: int
    problem: str | None = None
    kind: str | None = None
    model: str | None = None
    started_at: float | None = None
    live: bool = False


class Catalogue:
    """The runs of a folder, or one run.

    Args:
        path: the folder, the output of a run, or its ledger.
        ledger: where the run remembers, if not beside its output.

    Attributes:
        single: the name of the only run, where there is one alone.

    Raises:
        InputError: there is no such run or folder.
    """

    def __init__(self, path: str | Path, ledger: str | Path | None = None) -> None:
        self._folder: Path | None = None
        self._only: KnownRun | None = None
        is_one = is_in_shards(Path(path)) or is_memory(ledger_beside(path))
        if ledger is None and Path(path).is_dir() and not is_one:
            self._folder = Path(path)
        elif ledger is None and not Path(path).exists() and not ledger_beside(path).exists():
            raise InputError(
                f"there is no run and no folder at {shown(str(path))}",
                hint=words("give the output of a run, or its ", Setting("ledger"), ", or a folder with some"),
            )
        else:
            out, found = find_run(path, ledger)
            self._only = _known(out or str(found), out, found)
        self._found = {} if self._only is None else {self._only.name: self._only}
        self.single = None if self._only is None else self._only.name

    @property
    def place(self) -> str:
        """What is looked at, for people."""
        return str(self._folder.absolute()) if self._folder is not None else str(self.single)

    def _ledgers(self) -> list[Path]:
        """All of them, as they are now."""
        if self._folder is None:
            assert self._only is not None
            return [self._only.ledger]
        return list(_ledgers_in(self._folder))

    def _run_of(self, ledger: Path) -> KnownRun:
        """The one run, or one of the folder; an address is its own name, and no path from here."""
        if self._folder is None:
            assert self._only is not None
            return self._only
        out = output_of(ledger)
        named = out or str(ledger)
        return _known(named if scheme_of(named) else os.path.relpath(named, self._folder), out, ledger)

    def find(self, name: str) -> KnownRun:
        """The run of a name.

        Raises:
            InputError: there is none; whatever else the name may stand for on this disk.
        """
        known = self._found.get(name)
        if self._folder is not None and (known is None or not is_memory(known.ledger)):
            runs = map(self._run_of, reversed(self._ledgers()))
            self._found = {run.name: run for run in runs}  # of one name the first, as listed
            known = self._found.get(name)
        if known is not None:
            return known
        raise InputError(
            f"there is no run {name!r} in {self.place}", hint="the list of runs has those that there are"
        )

    def lines(self) -> tuple[list[RunLine], int]:
        """What there is to say of each at a glance, the newest first; and how many older ones there are besides."""
        found = [
            (changed_at, path) for path in self._ledgers() if (changed_at := _changed_at(path)) is not None
        ]
        listed = nlargest(_MAX_LISTED, found, key=lambda one: one[0])
        lines = [line for _, path in listed if (line := _line(self._run_of(path))) is not None]
        return sorted(lines, key=lambda line: (not line.live, -line.changed_at)), len(found) - len(listed)


def _ledgers_in(folder: Path) -> Iterator[Path]:
    depth = len(folder.parts)
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _SKIPPED and len(here.parts) - depth < _MAX_DEPTH
        )
        in_shards = {name for name in folders if is_in_shards(here / name)}
        folders[:] = [name for name in folders if name not in in_shards]  # these are one run each
        for name in sorted(in_shards.union(files)):
            if name.endswith(LEDGER_SUFFIX) and not name.startswith("."):
                yield here / name


def _changed_at(ledger: Path) -> float | None:
    """When a run last wrote something, which is in its logs first; ``None``: it is gone meanwhile."""
    try:
        newest = max(file.stat().st_mtime for file in files_of(ledger))
    except OSError:
        return None
    for file in files_of(ledger):
        with suppress(OSError):
            newest = max(newest, log_of(file).stat().st_mtime)
    return newest


def _line(run: KnownRun) -> RunLine | None:
    try:
        size = sum(path.stat().st_size for path in files_of(run.ledger))
    except OSError:
        return None
    if (changed_at := _changed_at(run.ledger)) is None:
        return None
    line = RunLine(name=run.name, changed_at=changed_at, bytes=size)
    try:
        with LedgerReader(run.ledger) as reader:
            manifest, starts = read_manifest(reader)[1], reader.starts()
            return replace(
                line,
                kind=manifest.kind,
                model=manifest.model,
                started_at=starts[0].started_at if starts else None,
                live=reader.is_being_written(),
            )
    except (MistillError, OSError) as error:
        return replace(line, problem=str(error))


def _known(name: str, out: str | None, ledger: Path) -> KnownRun:
    """Under a name that a page can be told, whatever bytes a file system has in it."""
    return KnownRun(whole_characters(name), RunName.of(out, ledger), ledger)
