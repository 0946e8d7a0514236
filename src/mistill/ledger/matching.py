"""Which row of the ledger is which row of the input: by content, so that only what changed is paid for.

A pass goes over the input once, in order, a window at a time, with nothing else in memory:

1. ``known``: a row at its old position with the same bytes is the same row; no prompt is rendered.
   ``answered``: one whose files are gone cannot be rendered any more; its record at its old place tells it.
2. ``claim``: the others are looked up by what their request contains. Of the rows of the ledger with that
   content, one that this pass has not met yet is moved here, so duplicates find one row each. If there is none,
   it is new.
3. ``finish``: at the end of the input, rows past it are no longer part of it. What was paid for them is kept,
   and found again if they come back.

Rows met already have positions before the window; rows not met yet have later ones, or none. That one
invariant is all the bookkeeping, and it survives a kill between any two windows.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Literal

import msgspec

from mistill.errors import InputError
from mistill.ledger import database
from mistill.ledger.checksums import crc32, pack, record_sum
from mistill.ledger.commits import CommitQueue, Insert
from mistill.ledger.damage import Damage, DamagedMeta, SQLiteErrors, damage_at, means_damage, set_damage_aside
from mistill.ledger.tables import FINGERPRINT_INDEX, OUTCOME_IS_SOUND, ROW_IS_SOUND

_ROWS = Insert("INSERT INTO rows (id, position, fingerprint, digest, checksum)", "(?, ?, ?, ?, ?)")
_RECORDS = Insert("INSERT INTO records", "(?, ?, ?)")

# Among many identical candidates, how many more than needed are looked at for one that is answered already.
_LOOK_AHEAD = 64

State = Literal["pending", "completion", "failure"]


class InputRow(msgspec.Struct, frozen=True, gc=False):
    """A row of the input as the ledger keeps it.

    ``digest``: 16 bytes over the record as it was read; ``fingerprint``: 16 bytes over the request that it
    renders to; ``record``: the row as JSON.
    """

    position: int
    digest: bytes
    fingerprint: bytes
    record: bytes


class RowState(msgspec.Struct, frozen=True, gc=False):
    """Where a row of the input stands.

    ``state``: pending when it must be asked. ``maybe_billed``: it was in flight when a run died.
    ``has_answers``: ``Ledger.known_attempts`` may have some for it. ``is_with_server``: a job asks it that has not
    ended. ``same_as``: the row whose outcome it shares, so that it is never asked itself. ``is_answered``: it is
    pending though it has an answer, which stays unless a better one comes; ``whole_tokens``: the output tokens of one
    that was not cut off. ``has_changed``: what it names is not what the run read.
    """

    row: int
    position: int
    state: State = "pending"
    maybe_billed: bool = False
    has_answers: bool = False
    same_as: int | None = None
    is_answered: bool = False
    whole_tokens: int | None = None
    has_changed: bool = False
    is_with_server: bool = False


class InputMatcher:
    """One pass. For each window in turn: ``known``, then ``claim`` with every row that it did not know."""

    def __init__(
        self,
        commits: CommitQueue,
        take_rows: Callable[[int], int],
        with_answers: Collection[int],
        with_server: Collection[int],
        rows_not_met: int,
        *,
        dedupe: bool,
        max_record_bytes: int,
    ) -> None:
        self._commits = commits
        self._take_rows = take_rows
        self._with_answers = with_answers
        self._with_server = with_server
        self._rows_not_met = rows_not_met
        self._dedupe = dedupe
        self._max_record_bytes = max_record_bytes
        self._end = 0  # positions before it are decided
        self._missed = 0

    @classmethod
    async def begin(
        cls,
        commits: CommitQueue,
        take_rows: Callable[[int], int],
        with_answers: Collection[int],
        with_server: Collection[int],
        *,
        dedupe: bool,
        max_record_bytes: int,
    ) -> InputMatcher:
        rows_not_met = await commits.run(lambda connection: _begin(connection, dedupe=dedupe))
        return cls(
            commits,
            take_rows,
            with_answers,
            with_server,
            rows_not_met,
            dedupe=dedupe,
            max_record_bytes=max_record_bytes,
        )

    async def known(self, digests: Sequence[bytes]) -> list[RowState | None]:
        """The next ``len(digests)`` rows of the input: the state of each, None where ``claim`` must tell."""
        assert not self._missed, "claim the rows of the last window first"
        start, self._end = self._end, self._end + len(digests)
        if self._rows_not_met:
            found = await self._commits.run(
                lambda connection: self._find_in_place(connection, start, digests)
            )
        else:
            found: list[RowState | None] = [None] * len(digests)
        self._missed = found.count(None)
        self._rows_not_met -= len(found) - self._missed
        return found

    async def answered(self, rows: Sequence[InputRow]) -> list[RowState | None]:
        """Some rows that ``known`` gave None for and that cannot be asked, since what they name is gone: the state of
        each that has the same record at its old place, and an answer, which it keeps. ``claim`` is for the others."""
        if not self._rows_not_met:
            return [None] * len(rows)
        found = await self._commits.run(
            lambda connection: [self._find_answered(connection, row) for row in rows]
        )
        met = len(found) - found.count(None)
        self._missed -= met
        self._rows_not_met -= met
        return found

    def _find_answered(self, connection: sqlite3.Connection, row: InputRow) -> RowState | None:
        query = f"""SELECT record, id, state, asked_again, maybe_billed, same_as
                FROM row_states JOIN records ON records.row = id
                WHERE position = ? AND state = 'completion' AND {ROW_IS_SOUND} AND {OUTCOME_IS_SOUND}"""  # noqa: S608 - our own words
        try:
            line = connection.execute(query, (row.position,)).fetchone()
        except SQLiteErrors as error:
            if not means_damage(error):
                raise
            return None
        return self._state(row.position, *line[1:]) if line is not None and line[0] == row.record else None

    async def claim(self, rows: Sequence[InputRow]) -> list[RowState]:
        """The rows that ``known`` gave None for, all of them, in order. What is new is written.

        Raises:
            InputError: a record is larger than a ledger can hold; names its row.
        """
        assert len(rows) == self._missed, "claim every row of the window that was not known"
        self._missed = 0
        if not rows:
            return []
        for row in rows:
            if len(row.record) > self._max_record_bytes:
                raise _too_large(row, self._max_record_bytes)
        if self._rows_not_met or self._dedupe:
            states, reused = await self._commits.run(lambda connection: self._look_up(connection, rows))
            self._rows_not_met -= reused
            return states
        # Nothing is left to look for. The rows are on disk before any attempt at one of them is.
        first = self._take_rows(len(rows))
        states = [RowState(first + n, row.position) for n, row in enumerate(rows)]
        self._commits.put(
            (_ROWS, [_new_row(state, row) for state, row in zip(states, rows, strict=True)]),
            (_RECORDS, [_record(state, row) for state, row in zip(states, rows, strict=True)]),
        )
        return states

    async def finish(self) -> int:
        """The input was read to its end. Returns how many rows of the ledger are no longer in it."""
        assert not self._missed, "claim the rows of the last window first"
        return await self._commits.run(lambda connection: _finish(connection, self._end))

    def _find_in_place(
        self, connection: sqlite3.Connection, start: int, digests: Sequence[bytes]
    ) -> list[RowState | None]:
        found: list[RowState | None] = [None] * len(digests)
        query = f"""SELECT {ROW_IS_SOUND}, {OUTCOME_IS_SOUND}, outcome_row, position, digest, id, state, asked_again,
                    maybe_billed, same_as
                FROM row_states WHERE position >= ? AND position < ? ORDER BY position"""  # noqa: S608 - our own words
        end = start + len(digests)
        try:
            places = connection.execute(query, (start, end)).fetchall()
        except SQLiteErrors as error:
            if not means_damage(error):
                raise
            for position in range(start, end):
                _read_place(connection, query, position)
            places = connection.execute(query, (start, end)).fetchall()
        for row_is_sound, outcome_is_sound, outcome, position, digest, *rest in places:
            if not start <= position < end:
                continue  # of a damaged index
            if not row_is_sound:
                set_damage_aside(connection, Damage(position, "row"))
            elif digest == digests[position - start]:
                state = self._state(position, *rest)
                if not outcome_is_sound:
                    set_damage_aside(connection, Damage(position, "outcome", outcome))
                    state = msgspec.structs.replace(state, state="failure")
                # What is not answered yet may now have a twin that is, or have lost the one it followed.
                if state.state == "completion" or not self._dedupe:
                    found[position - start] = state
        return found

    def _look_up(
        self, connection: sqlite3.Connection, rows: Sequence[InputRow]
    ) -> tuple[list[RowState], int]:
        connection.execute(FINGERPRINT_INDEX)
        # Whoever stood at these positions has been passed by, and may be claimed here or further on.
        connection.executemany(
            "UPDATE rows SET position = NULL WHERE position = ?", [(row.position,) for row in rows]
        )
        candidates = self._candidates(connection, rows)
        states: list[RowState] = []
        reused = 0
        for row in rows:
            available = candidates[row.fingerprint]
            old = available.pop() if available else None
            state = old[0] if old else RowState(self._take_rows(1), row.position)
            state = msgspec.structs.replace(state, position=row.position)
            if self._dedupe and state.state != "completion":
                leader = _leader(connection, row.fingerprint, self._end)
                state = msgspec.structs.replace(state, same_as=leader)
            _write_claimed(
                connection, state, row, is_new=old is None, changed=old is not None and old[1] != row.digest
            )
            reused += old is not None
            states.append(state)
        return states, reused

    def _candidates(
        self, connection: sqlite3.Connection, rows: Sequence[InputRow]
    ) -> dict[bytes, list[tuple[RowState, bytes]]]:
        """Fingerprint -> rows not met yet with that content, the best last: answered, then the oldest."""
        found: dict[bytes, list[tuple[RowState, bytes]]] = {}
        for fingerprint, count in Counter(row.fingerprint for row in rows).items():
            limit = count + _LOOK_AHEAD
            query = f"""SELECT id, state, asked_again, maybe_billed, same_as, digest
                    FROM row_states WHERE id IN (
                        SELECT * FROM (SELECT id FROM rows WHERE fingerprint = ? AND position IS NULL LIMIT ?)
                        UNION ALL
                        SELECT * FROM (SELECT id FROM rows WHERE fingerprint = ? AND position >= ? LIMIT ?))
                    AND fingerprint = ? AND {ROW_IS_SOUND} AND {OUTCOME_IS_SOUND}
                    ORDER BY state = 'completion', id DESC"""  # noqa: S608 - our own words
            try:
                chosen = connection.execute(
                    query, (fingerprint, limit, fingerprint, self._end, limit, fingerprint)
                ).fetchall()
            except SQLiteErrors as error:
                if not means_damage(error):
                    raise
                chosen = []  # it is asked anew
            found[fingerprint] = [(self._state(-1, *rest), digest) for *rest, digest in chosen]
        return found

    def _state(
        self,
        position: int,
        row: int,
        state: State,
        asked_again: int,
        maybe_billed: int,
        same_as: int | None,
    ) -> RowState:
        if state == "completion" and not asked_again:  # most are, where a run goes on
            return RowState(row, position, state, bool(maybe_billed), same_as=same_as)
        return RowState(
            row,
            position,
            "pending" if asked_again else state,
            bool(maybe_billed),
            row in self._with_answers,
            same_as,
            is_with_server=row in self._with_server,
        )


def _read_place(connection: sqlite3.Connection, query: str, position: int) -> None:
    """Sets aside what is damaged of a row so that its line cannot be read."""
    try:
        connection.execute(query, (position, position + 1)).fetchall()
    except SQLiteErrors as error:
        if not means_damage(error):
            raise
        set_damage_aside(connection, damage_at(connection, position))


def _begin(connection: sqlite3.Connection, *, dedupe: bool) -> int:
    if dedupe:
        connection.execute(FINGERPRINT_INDEX)
        database.write_meta(connection, "dedupe", "1")
    elif _deduped_before(connection):
        # Copies of an earlier pass that did deduplicate are rows of their own again.
        connection.execute("UPDATE rows SET same_as = NULL WHERE same_as IS NOT NULL")
        database.write_meta(connection, "dedupe", "0")
    return connection.execute("SELECT count(*) FROM rows").fetchone()[0]


def _deduped_before(connection: sqlite3.Connection) -> bool:
    try:
        return database.read_meta(connection, "dedupe") == "1"
    except DamagedMeta:
        return True  # to look for copies costs little


def _finish(connection: sqlite3.Connection, total: int) -> int:
    database.write_meta(connection, "input_rows", str(total))
    return connection.execute("UPDATE rows SET position = NULL WHERE position >= ?", (total,)).rowcount


def _leader(connection: sqlite3.Connection, fingerprint: bytes, before: int) -> int | None:
    """A row of this pass with the same request, that is asked itself."""
    found = connection.execute(
        f"""SELECT id FROM row_states WHERE fingerprint = ? AND position < ? AND same_as IS NULL AND {ROW_IS_SOUND}
            ORDER BY position LIMIT 1""",  # noqa: S608 - our own words
        (fingerprint, before),
    ).fetchone()
    return None if found is None else found[0]


def _write_claimed(
    connection: sqlite3.Connection, state: RowState, row: InputRow, *, is_new: bool, changed: bool
) -> None:
    if is_new:
        _ROWS.write(connection, [_new_row(state, row)])
        _RECORDS.write(connection, [_record(state, row)])
    if not is_new or state.same_as is not None:
        connection.execute(
            "UPDATE rows SET position = ?, digest = ?, same_as = ? WHERE id = ?",
            (row.position, row.digest, state.same_as, state.row),
        )
    if changed:  # another column of the record, that the request does not show
        connection.execute(
            "INSERT OR REPLACE INTO records VALUES (?, ?, ?)",  # a damaged one may be lost altogether
            (state.row, row.record, record_sum(state.row, row.record)),
        )


def _new_row(state: RowState, row: InputRow) -> tuple[object, ...]:
    # The columns that are not given are the defaults of the table.
    checksum = crc32(pack(("rows", state.row, row.position, row.fingerprint, row.digest, 0, 0, None, None)))
    return (state.row, row.position, bytearray(row.fingerprint), bytearray(row.digest), checksum)


def _record(state: RowState, row: InputRow) -> tuple[object, ...]:
    return (state.row, bytearray(row.record), record_sum(state.row, row.record))


def _too_large(row: InputRow, max_bytes: int) -> InputError:
    return InputError(
        f"row {row.position} has {len(row.record):,} bytes; a ledger can hold {max_bytes:,} of a row",
        hint="leave the row out, or what in it no prompt uses",
        index=row.position,
    )
