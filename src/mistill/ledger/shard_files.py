"""The files of a run in shards: a folder with its plan, the ledger of the run as a whole, and one of each shard."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Final, Protocol, TypeAlias, TypeVar

import msgspec
from msgspec import Meta, Struct

from mistill.directories import sync_directory
from mistill.errors import LedgerError
from mistill.ledger.files import cannot_write
from mistill.ledger.permissions import check_may_read
from mistill.wording import Setting, words

PLAN: Final = "plan.json"
PLAN_FORMAT: Final = 1
_WHOLE: Final = "run.ledger"
_SHARDS: Final = "shard-*.ledger"
_PARTS: Final = "parts"
SETTINGS: Final = "settings.ledger"
OUTPUT: Final = "output.ledger"
"""Ledgers that are never there: by their locks one process at a time changes the settings, or writes the one file."""


T = TypeVar("T")

RowCount: TypeAlias = Annotated[int, Meta(ge=0, le=2**53)]
OneOrMore: TypeAlias = Annotated[list[T], Meta(min_length=1)]
"""Of an empty input too, one shard is planned."""


class ShardSize(Struct, frozen=True):
    """What a reader needs to know of a shard: how many rows of the run are in it."""

    rows: RowCount


class _Plan(Struct, frozen=True):
    shards: OneOrMore[ShardSize]
    format: int = PLAN_FORMAT


_SIZES = msgspec.json.Decoder(_Plan)
_NOTE = msgspec.json.Decoder(dict[str, str])


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


def run_of_shard(ledger: Path) -> Path | None:
    """The folder of the run whose shard has this ledger; ``None``: it is that of no shard."""
    is_one = ledger.match(_SHARDS) and ledger.is_file() and is_in_shards(ledger.parent)
    return ledger.parent if is_one else None


def whole_run(ledger: Path) -> Path:
    """The folder, where somebody names the ledger of the run as a whole: that alone knows of no row."""
    is_whole = ledger.name == _WHOLE and is_in_shards(ledger.parent)
    return ledger.parent if is_whole else ledger


def check_plan_is_there(folder: Path) -> None:
    """``LedgerError`` where there are shards, and nothing says where the input was cut: cut anew, rows would be asked
    again that are answered."""
    if not is_in_shards(folder) and any(folder.glob(_SHARDS)):
        raise LedgerError(
            f"{folder} has ledgers of shards, and {PLAN} is not there any more, which says which rows each of them has",
            hint=words(
                "restore it from a copy, or start over with ",
                Setting("fresh", True),
                ", which keeps what is there under another name",
            ),
        )


def is_foreign(folder: Path) -> bool:
    """Whether a folder is there that has something, and no run in shards has made it."""
    ledgers = (whole_of(folder), *folder.glob(_SHARDS))
    if not folder.is_dir() or any(path.is_file() for path in ledgers):
        return False
    return any(not path.name.startswith((_WHOLE, _PARTS, SETTINGS, OUTPUT)) for path in folder.iterdir())


def is_memory(path: Path) -> bool:
    """Whether a run remembers here: in a file, or in a folder with the ledgers of its shards."""
    return path.is_file() or is_in_shards(path)


def files_of(path: Path) -> list[Path]:
    """The ledgers that are there of a run that remembers here: its one, or those of the whole and of its shards."""
    if not is_in_shards(path):
        return [path]
    return [whole_of(path), *sorted(path.glob(_SHARDS))]


def read_parts(folder: Path, out: str | Path) -> dict[str, str]:
    """The parts that starts of the run may have written into this folder of its output: the name of each, and how it
    was left; empty: it was begun.

    What a run knew of another folder is of no use here: a file of the same name may be anybody's.
    """
    where = _seen_from(folder, out)
    try:
        notes = {path.name: _note_in(path) for path in (folder / _PARTS).iterdir()}
    except OSError:  # none that is known: nothing is taken for one
        return {}
    return {name: note[where] for name, note in notes.items() if where in note}


def note_part(folder: Path, part: Path) -> None:
    """It is written from now on. Each name has a file of its own: several processes note theirs at the same time."""
    parts = folder / _PARTS
    parts.mkdir(mode=0o700, parents=True, exist_ok=True)
    if part.name not in read_parts(folder, part.parent):
        _write_note(folder, part, "")
        sync_directory(folder)


def note_written(folder: Path, part: Path) -> None:
    """It is as the run wants it."""
    _write_note(folder, part, _state_of(part))


def remove_part(folder: Path, part: Path) -> bool:
    """Removes it, if it is as the run has left it. False: it is not, and may be somebody's."""
    noted = read_parts(folder, part.parent).get(part.name)
    if part.exists() and (not noted or noted != _state_of(part)):
        return False
    part.unlink(missing_ok=True)
    path = folder / _PARTS / part.name
    if note := {
        where: state for where, state in _note_in(path).items() if where != _seen_from(folder, part.parent)
    }:
        write_file(path, msgspec.json.encode(note))
    else:
        path.unlink(missing_ok=True)
    return True


def takes_parts(anew: Path) -> bool:
    """Whether nothing is there but what `hand_on_parts` puts there, as after a start that was killed behind it."""
    if not os.path.lexists(anew):
        return True
    return anew.is_dir() and not anew.is_symlink() and all(path.name == _PARTS for path in anew.iterdir())


def hand_on_parts(folder: Path, anew: Path) -> None:
    """What is known of parts is known beside it too, in what is to take its place."""
    if (folder / _PARTS).is_dir():
        anew.mkdir(mode=0o700, exist_ok=True)
        shutil.copytree(folder / _PARTS, anew / _PARTS, dirs_exist_ok=True)
        sync_directory(anew)


def _seen_from(folder: Path, out: str | Path) -> str:
    """A folder of parts, as it stays where both are moved together, or seen from another machine."""
    whole = os.path.realpath(out)
    try:
        return os.path.relpath(whole, os.path.realpath(folder.parent))
    except ValueError:  # they are on different drives
        return whole


def _state_of(part: Path) -> str:
    found = part.stat()
    return f"{found.st_size} bytes, {found.st_mtime_ns}"


def _note_in(path: Path) -> dict[str, str]:
    """Of a part's name: by folder, how it was left there."""
    try:
        return _NOTE.decode(path.read_bytes())
    except (OSError, msgspec.MsgspecError):
        return {}


def _write_note(folder: Path, part: Path, state: str) -> None:
    path = folder / _PARTS / part.name
    write_file(path, msgspec.json.encode(_note_in(path) | {_seen_from(folder, part.parent): state}))


def write_file(path: Path, data: bytes) -> None:
    """One of these files, whole or not at all. As with a ledger, nobody else may read it.

    Raises:
        LedgerError: it cannot be written.
    """
    beside = path.with_name(f"{path.name}.new")
    with suppress(FileNotFoundError):  # of a start that was killed
        beside.unlink()
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with suppress(OSError):
            beside.unlink()
        raise cannot_write(path, error.strerror) from error
    sync_directory(path.parent)


def place_in_shards(folder: Path, position: int) -> tuple[int, int]:
    """The shard that has the row at a place of the input, and the row's place there; the last shard, where no row is
    there."""
    sizes = read_sizes(folder)
    for number, size in enumerate(sizes):
        if position < size.rows:
            return number, position
        position -= size.rows
    return len(sizes) - 1, position + sizes[-1].rows


def read_sizes(folder: Path) -> list[ShardSize]:
    """The shards of a run, in the order of its input.

    Raises:
        LedgerError: nobody can read its plan.
    """
    return read_as(folder, _SIZES).shards


def read_as(folder: Path, decoder: msgspec.json.Decoder[P]) -> P:
    """What of the plan somebody needs to know.

    Raises:
        LedgerError: nobody can read it, or this user may not, or no plan is like that.
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
