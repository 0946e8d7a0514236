"""Which runs there are to look at: one, or those of a folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from heapq import nlargest
from pathlib import Path
from typing import TypeAlias

from msgspec import UNSET, Struct

from mistill.addresses import scheme_of, shown
from mistill.characters import whole_characters
from mistill.errors import InputError, MistillError
from mistill.kinds.kept_settings import (
    LEDGER_SUFFIX,
    SaidOutput,
    find_run,
    ledger_beside,
    output_as_said,
    read_manifest,
    said_output,
)
from mistill.ledger import LedgerReader
from mistill.ledger.files import log_of, main_name
from mistill.ledger.lock import is_held
from mistill.ledger.permissions import check_may_read, is_denied
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


LedgerState: TypeAlias = tuple[int, ...]


def state_of(ledger: Path) -> LedgerState:
    """What changes when anything is written to a ledger."""
    state: list[int] = []
    for path in (file for each in files_of(ledger) for file in (each, log_of(each))):
        try:
            found = path.stat()
            state += [found.st_ino, found.st_size, found.st_mtime_ns]
        except OSError:
            state.append(0)
    return tuple(state)


class _Told(Struct, frozen=True):
    """What a ledger tells of its run: see `RunLine`, and `said_output`."""

    output: SaidOutput = UNSET
    problem: str | None = None
    kind: str | None = None
    model: str | None = None
    started_at: float | None = None


class Catalogue:
    """The runs of a folder, or one run.

    Args:
        path: the folder, the output of a run, or its ledger.
        ledger: where the run remembers, if not beside its output.

    Attributes:
        single: the name of the only run, where there is one alone.

    Raises:
        InputError: there is no such run or folder.
        LedgerError: this user may not read it.
    """

    def __init__(self, path: str | Path, ledger: str | Path | None = None) -> None:
        self._folder: Path | None = None
        self._only: KnownRun | None = None
        if ledger is None:
            check_may_read(ledger_beside(path))
        is_one = is_in_shards(Path(path)) or is_memory(ledger_beside(path))
        if ledger is None and Path(path).is_dir() and not is_one:
            check_may_read(Path(path))
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
        self._told: dict[Path, tuple[LedgerState, _Told]] = {}

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
        out = output_as_said(ledger, self._told_by(ledger).output)
        named = out or str(ledger)
        return _known(named if scheme_of(named) else os.path.relpath(named, self._folder), out, ledger)

    def _told_by(self, ledger: Path) -> _Told:
        """What a ledger tells. It is opened once, until it changes: a folder may have hundreds, and a page that is open
        asks for all of them every few seconds."""
        state = state_of(ledger)
        kept = self._told.get(ledger)
        if kept is not None and kept[0] == state:
            return kept[1]
        told = _read(ledger)
        if told.problem is None:  # else it may be another one the next time
            self._told[ledger] = state, told
        return told

    def find(self, name: str) -> KnownRun:
        """The run of a name.

        Raises:
            InputError: there is none; whatever else the name may stand for on this disk.
        """
        known = self._found.get(name)
        if self._folder is not None and (known is None or not is_memory(known.ledger)):
            known = self._look_for(name, self._folder)
        if known is not None:
            return known
        raise InputError(
            f"there is no run {name!r} in {self.place}", hint="the list of runs has those that there are"
        )

    def _look_for(self, name: str, folder: Path) -> KnownRun | None:
        """The ledger that is called as the output is as a rule its own, and no other is opened then."""
        likely = folder / f"{name}{LEDGER_SUFFIX}"
        for ledger in sorted(self._ledgers(), key=lambda one: one != likely):
            run = self._run_of(ledger)
            if run.name == name:
                self._found[name] = run
                return run
        return None

    def lines(self) -> tuple[list[RunLine], int]:
        """What there is to say of each at a glance, the newest first; and how many older ones there are besides."""
        found = [
            (changed_at, path) for path in self._ledgers() if (changed_at := _changed_at(path)) is not None
        ]
        listed = nlargest(_MAX_LISTED, found, key=lambda one: one[0])
        lines = [line for _, path in listed if (line := self._line(path)) is not None]
        return sorted(lines, key=lambda line: (not line.live, -line.changed_at)), len(found) - len(listed)

    def _line(self, ledger: Path) -> RunLine | None:
        try:
            size = sum(path.stat().st_size for path in files_of(ledger))
        except OSError:
            return None
        if (changed_at := _changed_at(ledger)) is None:
            return None
        told = self._told_by(ledger)
        return RunLine(
            name=self._run_of(ledger).name,
            changed_at=changed_at,
            bytes=size,
            problem=told.problem,
            kind=told.kind,
            model=told.model,
            started_at=told.started_at,
            live=told.problem is None and any(is_held(main_name(file)[0]) for file in files_of(ledger)),
        )


def _ledgers_in(folder: Path) -> Iterator[Path]:
    depth = len(folder.parts)
    for place, folders, files in os.walk(folder):
        here = Path(place)
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and name not in _SKIPPED and len(here.parts) - depth < _MAX_DEPTH
        )
        in_shards = {name for name in folders if _is_of_shards(here / name)}
        folders[:] = [name for name in folders if name not in in_shards]  # these are one run each
        for name in sorted(in_shards.union(files)):
            if name.endswith(LEDGER_SUFFIX) and not name.startswith("."):
                yield here / name


def _is_of_shards(folder: Path) -> bool:
    """Also by its name alone, where this user may not look into it: the list says so, in place of being without it."""
    return is_in_shards(folder) or (folder.name.endswith(LEDGER_SUFFIX) and is_denied(folder))


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


def _read(ledger: Path) -> _Told:
    output: SaidOutput = UNSET
    try:
        # A list changes nothing: a ledger of an older format becomes one of the newest when its run is looked at.
        with LedgerReader(ledger, as_it_is=True) as reader:
            output = said_output(ledger, reader)
            manifest, starts = read_manifest(reader)[1], reader.starts()
    except (MistillError, OSError) as error:
        return _Told(output, problem=str(error))
    started_at = starts[0].started_at if starts else None
    return _Told(output, kind=manifest.kind, model=manifest.model, started_at=started_at)


def _known(name: str, out: str | None, ledger: Path) -> KnownRun:
    """Under a name that a page can be told, whatever bytes a file system has in it."""
    return KnownRun(whole_characters(name), RunName.of(out, ledger), ledger)
