"""What people say of outcomes that they have looked at: good or bad, and a note.

A mark is of the outcome that its row had then. One that came later has none: it was not looked at. What was said of
earlier ones stays with them.
"""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import get_args

import msgspec

from mistill.characters import whole_characters
from mistill.errors import InputError, LedgerError, LedgerInUse
from mistill.ledger import database
from mistill.ledger.checksums import crc32, pack
from mistill.ledger.shard_files import is_in_shards, place_in_shards, shard_of, whole_of
from mistill.ledger.tables import MARK_SUM, Mark
from mistill.wording import Setting, words

MAX_NOTE_CHARS = 10_000
_LAST_POSITION = 2**63 - 1
"""Of SQLite's integers."""


class RowMark(msgspec.Struct, frozen=True):
    """What was said of an outcome. ``marked_at``: unix seconds."""

    mark: Mark | None
    note: str | None
    marked_at: float


def write_mark(
    path: Path, position: int, mark: Mark | None, note: str | None, *, outcome_at: float | None = None
) -> RowMark | None:
    """Keeps what is said of the outcome of a row, in the place of what was said of it before; a run may be going on.

    Args:
        path: the ledger, or the folder of a run in shards. ``position``: the row's place in the input, from 0.
        mark, note: where there is neither, nothing is said any more.
        outcome_at: when the outcome came that is meant; ``None``: whichever the row has.

    Raises:
        InputError: there is no such mark or row, the note is too long, or the row has no outcome, or another one.
        LedgerInUse: others used the ledger for too long.
        LedgerError: it cannot be written.
    """
    note, there = _checked(mark, note), position
    if is_in_shards(path):
        shard, there = place_in_shards(path, position)
        path = _checked_shard(path, shard)
    try:
        # A reader that is closed last: the log is the run's, and is left to it.
        with (
            closing(database.open_to_read(path)) as reader,
            closing(database.open_to_note(path)) as connection,
            database.explained(path),
        ):
            reader.execute("SELECT 1 FROM meta LIMIT 1").fetchone()  # SQLite's lock is taken here
            connection.execute("BEGIN IMMEDIATE")
            row, found_at = _outcome_of(connection, there, position)
            if outcome_at is not None and found_at != outcome_at:
                raise InputError(
                    f"row {position} has another outcome by now, and was not marked", hint="look at it again"
                )
            said = None if mark is None and note is None else RowMark(mark, note, time.time())
            if said is None:
                connection.execute("DELETE FROM marks WHERE row = ? AND outcome_at = ?", (row, found_at))
            else:
                values = (row, found_at, mark, note, said.marked_at)
                checksum = crc32(pack(("marks", *values)))
                connection.execute(
                    "INSERT OR REPLACE INTO marks VALUES (?, ?, ?, ?, ?, ?)", (*values, checksum)
                )
            connection.execute("COMMIT")
            return said
    except LedgerError as error:
        if isinstance(error.__cause__, sqlite3.OperationalError) and _is_busy(error.__cause__):
            raise LedgerInUse(
                f"row {position} was not marked: others are using the ledger {path}", hint="try it again"
            ) from error
        raise


def _checked_shard(folder: Path, shard: int) -> Path:
    """The ledger of a shard.

    Raises:
        LedgerError: another's stands in its place.
    """
    whole, path = whole_of(folder), shard_of(folder, shard)
    with closing(database.open_to_read(whole)) as connection, database.explained(whole):
        manifest = database.read_meta(connection, "manifest")
    with closing(database.open_to_read(path)) as connection, database.explained(path):
        database.check_shard(path, connection, shard, None if manifest is None else manifest.encode())
    return path


def _checked(mark: Mark | None, note: str | None) -> str | None:
    if mark is not None and mark not in get_args(Mark):
        raise InputError(
            words(Setting("mark"), f": there is no mark {mark!r}"),
            hint=f"there are {' and '.join(get_args(Mark))}",
        )
    note = whole_characters(note or "").strip()
    if len(note) > MAX_NOTE_CHARS:
        raise InputError(
            words(Setting("note"), f": {len(note):,} characters are too many"),
            hint=f"at most {MAX_NOTE_CHARS:,} are kept",
        )
    return note or None


def _outcome_of(connection: sqlite3.Connection, there: int, position: int) -> tuple[int, float]:
    """The row at a place of this ledger, and when its outcome came; ``position``: its place in the input."""
    query = "SELECT id, state, ended_at FROM row_states WHERE position = ?"
    found = None if there > _LAST_POSITION else connection.execute(query, (there,)).fetchone()
    if found is None:
        rows = connection.execute("SELECT count(position) FROM rows").fetchone()[0]
        raise InputError(
            f"there is no row {position}",
            hint=f"{rows + position - there:,} were read, and they count from 0",
        )
    row, state, ended_at = found
    if state == "pending" or ended_at is None:
        raise InputError(
            f"row {position} has no outcome yet", hint="there is nothing to mark: look again later"
        )
    return row, ended_at


def _is_busy(error: sqlite3.OperationalError) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


MARK_OF_OUTCOME = (
    f"SELECT mark, note, marked_at FROM marks WHERE row = ? AND outcome_at = ? AND checksum IS {MARK_SUM}"  # noqa: S608 - our own words
)
"""What is said of an outcome of a row; a damaged mark is none."""

MARKED_ROWS = f"""SELECT s.mark, count(*) FROM
        (SELECT row, outcome_at, mark FROM marks WHERE checksum IS {MARK_SUM}) AS s
        CROSS JOIN row_states AS r ON r.id = s.row AND r.ended_at = s.outcome_at
    WHERE r.position IS NOT NULL GROUP BY s.mark"""  # noqa: S608 - our own words
"""How many rows of the current input are marked so, by the outcome that they have."""
