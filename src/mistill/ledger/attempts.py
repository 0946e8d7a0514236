"""Attempts at rows, and what is known of those that came before: what a row need not ask again."""

from __future__ import annotations

import json
import sqlite3
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from typing import Any, Protocol

import msgspec

from mistill.ledger.checksums import answer_sum, error_sum
from mistill.ledger.commits import Insert
from mistill.ledger.error_record import ErrorRecord, decode_error
from mistill.ledger.row_set import RowSet
from mistill.ledger.tables import ATTEMPT_COLUMNS, ATTEMPT_IS_SOUND, ATTEMPT_SUM, WAITS


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One HTTP try of a row that is on disk, and so may be sent; or what a job asks for it.

    Attributes:
        sent_at: unix seconds.
        settings: the number of a retry's settings; ``None``: the run's own.
        request: the first attempt of those that leave in one request; ``None`` where it asks one row.
        job: the number of its job; ``None``: it is a request of its own.
        asked: the CRC-32 of the request's body; ``None`` where that is not known, in attempts of older versions.
    """

    id: int
    row: int
    sent_at: float
    settings: int | None = None
    request: int | None = None
    job: int | None = None
    asked: int | None = None


class Tokens(Protocol):
    """What answers took, in tokens."""

    @property
    def input_tokens(self) -> int: ...
    @property
    def output_tokens(self) -> int: ...
    @property
    def cached_tokens(self) -> int: ...


class PaidAnswer(msgspec.Struct, frozen=True, gc=False):
    """An answer that is in the ledger though its row has no outcome since.

    What it took is 0, and its cost unknown, where that is damaged.
    """

    attempt: Attempt
    body: bytes
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: float | None


class KnownAttempt(msgspec.Struct, frozen=True, gc=False):
    """How an attempt at a row that waits for an outcome ended: with an ``answer``, or with an ``error``.

    Errors are of attempts in jobs, also of those that may be billed: else what a job never answers would be asked for
    ever. Those of requests of their own were dealt with as they came.
    """

    attempt: Attempt
    answer: PaidAnswer | None = None
    error: ErrorRecord | None = None


def attempts_insert(columns: str, *, status: str | None = None, replaces: bool = True) -> Insert:
    """A way into ``attempts`` for lines of such values; what they leave out is NULL. SQLite adds their checksums."""
    names = columns.split(", ")
    given = {name: f"column{number}" for number, name in enumerate(names, 1)}
    given |= {} if status is None else {"status": f"'{status}'"}
    line = ", ".join(f"{given.get(name, 'NULL')} AS {name}" for name in ATTEMPT_COLUMNS)
    otherwise = "REPLACE" if replaces else "IGNORE"
    into = f"attempts ({', '.join(ATTEMPT_COLUMNS)}, checksum)"
    head = f"INSERT OR {otherwise} INTO {into} SELECT *, {ATTEMPT_SUM} FROM (SELECT {line} FROM ("  # noqa: S608 - our own words
    return Insert(head, f"({', '.join('?' * len(names))})", "))")


_COUNTS = f"""(a.status = 'answered' OR (
    a.job IS NOT NULL AND a.status IN ('failed', 'maybe_billed') AND a.error IS NOT NULL)) AND {WAITS}"""
_JOINED = "attempts AS a JOIN rows AS r ON r.id = a.row LEFT JOIN outcomes AS o ON o.row = a.row"


class KnownAttempts:
    """Attempts that count for rows which wait for an outcome, found without a look at all the others.

    With the index that a first job makes, they are found by their rows. Without it there are few, and none that this
    start makes: what was under way when the last one ended, kept in 16 bytes each.

    Attributes:
        rows: those of which there may be some.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.rows = RowSet()
        self._by_row = has_index(connection)
        self._rows, self._attempts = array("q"), array("q")
        found = connection.execute(
            f"SELECT a.row, a.id FROM {_JOINED} WHERE {_COUNTS} AND a.settings IS r.settings"  # noqa: S608 - our own words
            + ("" if self._by_row else " ORDER BY a.row, a.id")
        )
        while lines := found.fetchmany(10_000):
            rows = [row for row, _ in lines]
            self.rows.update(rows)
            if not self._by_row:
                self._rows.extend(rows)
                self._attempts.extend(attempt for _, attempt in lines)

    def look_again(self, connection: sqlite3.Connection) -> None:
        """Other rows wait by now than when this was made."""
        now = KnownAttempts(connection)
        self.rows.update(now.rows)
        self._by_row, self._rows, self._attempts = now._by_row, now._rows, now._attempts

    def index_is_made(self) -> None:
        """From now on there is an index, and attempts of this start that count."""
        self._by_row = True
        self._rows, self._attempts = array("q"), array("q")

    def read(
        self, connection: sqlite3.Connection, rows: Sequence[int], settings: int | None
    ) -> dict[int, list[KnownAttempt]]:
        """Row → what counts for it of these settings, oldest first."""
        if self._by_row:
            where, numbers = "a.row", list(rows)
        else:
            where, numbers = "a.id", [number for row in rows for number in self._attempts_of(row)]
        found: dict[int, list[KnownAttempt]] = {}
        if not numbers:
            return found
        for line in connection.execute(
            f"""SELECT a.id, a.row, a.sent_at, a.settings, a.request, a.job, a.asked, is_sound, CAST(a.error AS BLOB),
                    error_checksum, a.input_tokens, a.output_tokens, coalesce(a.cached_tokens, 0), a.cost,
                    body, b.checksum
                FROM (SELECT *, {ATTEMPT_IS_SOUND} AS is_sound, checksum >> 32 AS error_checksum FROM attempts) AS a
                    JOIN rows AS r ON r.id = a.row LEFT JOIN outcomes AS o ON o.row = a.row
                    LEFT JOIN answers AS b ON b.attempt = a.id
                WHERE {where} IN (SELECT value FROM json_each(?)) AND {_COUNTS} AND a.settings IS ?
                ORDER BY a.row, a.id""",  # noqa: S608 - our own words
            (json.dumps(numbers), settings),
        ):
            if (known := _known(*line)) is not None:
                found.setdefault(known.attempt.row, []).append(known)
        return found

    def _attempts_of(self, row: int) -> Sequence[int]:
        start, end = bisect_left(self._rows, row), bisect_left(self._rows, row + 1)
        return self._attempts[start:end]


def _known(
    number: int, row: int, sent_at: float, settings: int | None, request: int | None, job: int | None,
    asked: int | None, is_sound: int, error: object, error_checksum: object, *rest: Any,
) -> KnownAttempt | None:  # fmt: skip
    """A line of the query; ``None`` where it is damaged, so that it has to be asked again."""
    *took, body, checksum = rest
    if not is_sound:  # the answer has a sum of its own
        request = job = asked = None
        took = list[Any]((0, 0, 0, None))
    attempt = Attempt(number, row, sent_at, settings, request, job, asked)
    if isinstance(body, bytes) and answer_sum(number, row, body) == checksum:
        return KnownAttempt(attempt, answer=PaidAnswer(attempt, body, *took))
    if is_sound and isinstance(error, bytes) and error_sum(error) == error_checksum:
        return KnownAttempt(attempt, error=decode_error(error))
    return None


def has_index(connection: sqlite3.Connection) -> bool:
    """Whether attempts can be found by their row."""
    query = "SELECT 1 FROM sqlite_master WHERE name = 'attempts_row'"
    return connection.execute(query).fetchone() is not None
