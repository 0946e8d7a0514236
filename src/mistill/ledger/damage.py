"""What is damaged in a ledger: how it is reported, and how a run gets over it."""

from __future__ import annotations

import logging
import sqlite3
from typing import Literal

import msgspec

from mistill.ledger.error_record import ErrorRecord, encode_error_record
from mistill.ledger.tables import NOT_IN_INDEX, ROW_IS_SOUND
from mistill.wording import Phrase, Words, words

_log = logging.getLogger(__name__)

Part = Literal["answer", "outcome", "record", "row"]


def _asked_again(kind: str) -> Words:
    where = f"error={kind}"
    return words(
        "ask it again: ", Phrase(f"Run.retry(out, {where!r}).start()", f"`mistill retry OUT --where {where}`")
    )


_HINTS: dict[Part, str] = {
    "answer": _asked_again("damaged_answer"),
    "outcome": _asked_again("damaged_outcome"),
    "record": "start the run again with its input, which has the row: nothing is paid for again",
    "row": "start the run again with its input: the row is asked again",
}


class Damage(msgspec.Struct, frozen=True):
    """A part of a row that does not fit its checksum, or cannot be read.

    Attributes:
        position: the row's place in the input, from 0.
        part: its ``answer``; its ``outcome``; its ``record``, the row as it was read; or the ``row`` itself, of which
            nothing is known then.
        row: the ledger's number of the row whose outcome it is; ``None`` where that is damaged.
    """

    position: int
    part: Part
    row: int | None = None

    def __str__(self) -> str:
        return f"row {self.position}" + ("" if self.part == "row" else f" ({self.part})")

    @property
    def kind(self) -> str:
        """As the kind of an error: ``damaged_answer``, …"""
        return f"damaged_{self.part}"

    @property
    def hint(self) -> str:
        return _HINTS[self.part]

    def to_error(self) -> str:
        """The row's error, as JSON."""
        message = f"the {self.part} of row {self.position} is damaged in the ledger"
        return encode_error_record(ErrorRecord.made(self.kind, message, self.hint))


class DamagedMeta(sqlite3.DatabaseError):
    """What belongs to the whole run does not fit its checksum. Explained like SQLite's own findings."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT
    sqlite_errorname = "SQLITE_CORRUPT"


_DAMAGED = frozenset(
    {
        0,  # the module's own: a text that is not UTF-8
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_CONSTRAINT,  # all that is written keeps to them
    }
)


SQLiteErrors = (sqlite3.Error, UnicodeDecodeError)
"""What the module raises. The latter where SQLite's own message quotes damaged words."""


def means_damage(error: Exception) -> bool:
    """Whether an error of a query that is right in itself says that the file is not."""
    if isinstance(error, sqlite3.ProgrammingError):
        return False  # closed
    code = getattr(error, "sqlite_errorcode", 0)
    # One of our functions was given a text that is not UTF-8.
    return code & 0xFF in _DAMAGED or (code == sqlite3.SQLITE_ERROR and "user-defined function" in str(error))


def damage_at(connection: sqlite3.Connection, position: int) -> Damage:
    """What is damaged of a row whose line cannot be read as a whole."""
    query = f"SELECT coalesce(same_as, id), {ROW_IS_SOUND} FROM row_states WHERE position = ?"  # noqa: S608 - our own words
    try:
        found = connection.execute(query, (position,)).fetchall()
    except SQLiteErrors as error:
        if not means_damage(error):
            raise
        found = []
    if len(found) == 1 and found[0][1]:
        return Damage(position, "outcome", found[0][0])
    return Damage(position, "row")


def mend_indexes(connection: sqlite3.Connection) -> None:
    """Makes indexes anew that have lost some of their table: nothing else is lost with them."""
    if connection.execute(f"{NOT_IN_INDEX} LIMIT 1").fetchone() is not None:
        connection.execute("REINDEX rows_position")
    query = "SELECT name FROM sqlite_master WHERE name IN ('attempts_job', 'attempts_row')"
    for (index,) in connection.execute(query).fetchall():
        if not _has_all_attempts(connection, index):
            connection.execute(f"REINDEX {index}")


def _has_all_attempts(connection: sqlite3.Connection, index: str) -> bool:
    sums, where = "count(*), total(id), total(row)", ""
    if index == "attempts_job":
        sums, where = f"{sums}, total(job)", "WHERE job IS NOT NULL"
    try:
        whole, indexed = (
            connection.execute(f"SELECT {sums} FROM attempts {how} {where}").fetchone()  # noqa: S608 - our own words
            for how in ("NOT INDEXED", f"INDEXED BY {index}")
        )
    except SQLiteErrors as error:
        if not means_damage(error):
            raise
        return False
    return whole == indexed


def drop_lost_outcomes(connection: sqlite3.Connection) -> None:
    """Forgets outcomes of which nobody can say what they are: their rows have none, and are made of their answers anew
    where these are whole."""
    lost = connection.execute("DELETE FROM outcomes WHERE state NOT IN ('completion', 'failure')").rowcount
    if lost:
        _log.warning(
            "%s outcomes are damaged in the ledger: made anew from their answers, or asked again", lost
        )


def set_damage_aside(connection: sqlite3.Connection, damage: Damage) -> None:
    """Makes a damaged row one that is asked again, or, where only its record is damaged, one that is read again."""
    if damage.part == "row":
        # Nothing in it can be believed, so no row of an input may ever be taken for it.
        connection.execute(
            f"""UPDATE rows SET position = NULL, fingerprint = x'', digest = x''
                WHERE id IN (SELECT id FROM row_states WHERE position = ? AND NOT {ROW_IS_SOUND})""",  # noqa: S608 - our own words
            (damage.position,),
        )
    elif damage.part == "record":
        # With another digest the input's row is looked up, found by its request, and written anew.
        connection.execute("UPDATE rows SET digest = x'' WHERE id = ?", (damage.row,))
    else:
        _fail(connection, damage)


def _fail(connection: sqlite3.Connection, damage: Damage) -> None:
    """The row counts as failed; one that is being asked again anyway has no outcome until then."""
    took = (0, 0, None, 0.0, None)
    if damage.part == "answer":
        took = connection.execute(
            "SELECT input_tokens, output_tokens, cost, ended_at, settings FROM outcomes WHERE row = ?",
            (damage.row,),
        ).fetchone()
    # Not an update, which would keep it as an earlier outcome.
    connection.execute("DELETE FROM outcomes WHERE row = ?", (damage.row,))
    connection.execute(
        """INSERT INTO outcomes
           SELECT *, checksum('outcomes', row, state, answer, more_answers, finish_reason, error_kind, error,
               input_tokens, output_tokens, cost, ended_at, settings)
           FROM (SELECT ?1 AS row, 'failure' AS state, NULL AS answer, NULL AS more_answers, NULL AS finish_reason,
               ?2 AS error_kind, ?3 AS error, ?4 AS input_tokens, ?5 AS output_tokens, ?6 AS cost, ?7 AS ended_at,
               ?8 AS settings)
           WHERE NOT EXISTS (SELECT 1 FROM rows WHERE id = ?1 AND asked_again)""",
        (damage.row, damage.kind, damage.to_error(), *took),
    )
