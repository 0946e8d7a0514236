"""The files of a run in shards: a folder with its plan, the ledger of the run as a whole, and one of each shard."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec
from msgspec import Struct

from mistill.directories import sync_directory
from mistill.errors import LedgerError
from mistill.ledger.permissions import check_may_read

PLAN: Final = "plan.json"
PLAN_FORMAT: Final = 1
_WHOLE: Final = "run.ledger"
_PARTS: Final = "parts"


class ShardSize(Struct, frozen=True):
    """What a reader needs to know of a shard: how many rows of the run are in it."""

    rows: int


class _Plan(Struct, frozen=True):
    shards: list[ShardSize]
    format: int = PLAN_FORMAT


_SIZES = msgspec.json.Decoder(_Plan)


class _WithFormat(Protocol):
    @property
    def format(self) -> int: ...


P = TypeVar("P", bound=_WithFormat)


def plan_of(folder: Path) -> Path:
    """Where the run is cut."""
    return folder / PLAN


def whole_of(folder: Path) -> Path:
    """The ledger of the run as a whole: what it asks, and its starts. It has no rows: those are in its shards."""
    return folder / _WHOLE


def shard_of(folder: Path, number: int) -> Path:
    """The ledger of a shard; they count from 0."""
    return folder / f"shard-{number:05}.ledger"


def is_in_shards(path: Path) -> bool:
    """Whether a run in shards remembers here."""
    try:
        return plan_of(path).is_file()
    except (OSError, ValueError):  # no name that a file can have
        return False


def is_memory(path: Path) -> bool:
    """Whether a run remembers here: in a file, or in a folder with the ledgers of its shards."""
    return path.is_file() or is_in_shards(path)


def files_of(path: Path) -> list[Path]:
    """The ledgers that are there of a run that remembers here: its one, or those of the whole and of its shards."""
    if not is_in_shards(path):
        return [path]
    return [whole_of(path), *sorted(path.glob("shard-*.ledger"))]


def read_parts(folder: Path) -> frozenset[str]:
    """The names of the parts of the output that a start of the run may have written."""
    try:
        return frozenset(path.name for path in (folder / _PARTS).iterdir())
    except OSError:  # none that is known: nothing is taken for one
        return frozenset()


def note_parts(folder: Path, names: Iterable[str]) -> None:
    """They are written from now on. Each has a file of its own, so that several processes can note theirs at a time."""
    parts = folder / _PARTS
    if missing := [name for name in names if not (parts / name).exists()]:
        parts.mkdir(mode=0o700, parents=True, exist_ok=True)
        for name in missing:
            (parts / name).touch(mode=0o600)
        sync_directory(parts)
        sync_directory(folder)


def forget_part(folder: Path, name: str) -> None:
    """It was removed."""
    (folder / _PARTS / name).unlink(missing_ok=True)


def write_file(path: Path, data: bytes) -> None:
    """One of these files, whole or not at all. As with a ledger, nobody else may read it."""
    beside = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):  # of a start that was killed
        beside.unlink()
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    sync_directory(path.parent)


def place_in_shards(folder: Path, position: int) -> tuple[Path, int]:
    """The ledger of the shard that has the row at a place of the input, and the row's place there; the last shard,
    where no row is there."""
    sizes = read_sizes(folder)
    for number, size in enumerate(sizes):
        if position < size.rows:
            return shard_of(folder, number), position
        position -= size.rows
    return shard_of(folder, len(sizes) - 1), position + sizes[-1].rows


def read_sizes(folder: Path) -> list[ShardSize]:
    """The shards of a run, in the order of its input.

    Raises:
        LedgerError: nobody can read its plan.
    """
    return read_as(folder, _SIZES).shards


def read_as(folder: Path, decoder: msgspec.json.Decoder[P]) -> P:
    """What of the plan somebody needs to know.

    Raises:
        LedgerError: nobody can read it, or this user may not.
    """
    path = plan_of(folder)
    check_may_read(path)
    try:
        plan = decoder.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError) as error:
        raise LedgerError(
            f"the plan {path} cannot be read: {error}",
            hint="restore it from a copy: without it nobody knows which rows are in which shard",
        ) from error
    if plan.format != PLAN_FORMAT:
        raise LedgerError(
            f"the plan {path} has format {plan.format}, and this version of mistill reads format {PLAN_FORMAT}",
            hint="use the version that wrote it",
        )
    return plan
