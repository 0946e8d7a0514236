"""What rows took by each lane, live or in jobs: what a later start goes by, and a forecast."""

from __future__ import annotations

import sqlite3

from msgspec import Struct

from mistill.ledger.spending import IS_DAMAGED

_NEWEST = 1000
_ANSWERED = f"status = 'answered' AND NOT {IS_DAMAGED}"


class RowUsage(Struct, frozen=True, gc=False):
    """What a row took by one lane, all its answers together. ``cost``: US dollars, where the price was known."""

    in_job: bool
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    cost: float | None
    is_first: bool


class CachedShares(Struct, frozen=True, gc=False):
    """Which share of the input was cached, of answers that came live, and of those in jobs.

    Attributes:
        first_row: the first that was asked live, where nothing of it was cached.
        live_tokens: of the input that was asked live.
    """

    live: float = 0.0
    in_jobs: float = 0.0
    first_row: int | None = None
    live_tokens: int = 0


NOTHING_CACHED = CachedShares()


def row_usages(connection: sqlite3.Connection, settings: int | None) -> list[RowUsage]:
    """Of the newest thousand answers of each lane.

    Args:
        settings: the number of a retry's; ``None``: the run's own.
    """
    found: list[RowUsage] = []
    first = _first_answer(connection)
    for lane in ("NULL", "NOT NULL"):
        query = f"""SELECT job IS NOT NULL, total(input_tokens), total(output_tokens), total(cached_tokens),
                CASE WHEN count(cost) = count(*) THEN total(cost) END, min(id)
            FROM (SELECT * FROM attempts WHERE {_ANSWERED} AND job IS {lane} AND settings IS ?
                  ORDER BY id DESC LIMIT {_NEWEST})
            WHERE input_tokens IS NOT NULL AND output_tokens IS NOT NULL GROUP BY row"""  # noqa: S608 - our own words
        found += [
            RowUsage(bool(in_job), int(read), int(written), int(cached), cost, number == first and not cached)
            for in_job, read, written, cached, cost, number in connection.execute(query, (settings,))
        ]
    return found


def _first_answer(connection: sqlite3.Connection) -> int | None:
    query = "SELECT id FROM attempts WHERE status = 'answered' AND job IS NULL ORDER BY id LIMIT 1"
    found = connection.execute(query).fetchone()
    return None if found is None else found[0]


def cached_shares(connection: sqlite3.Connection) -> CachedShares:
    """Of all answers."""
    query = f"""SELECT job IS NOT NULL, total(cached_tokens) / total(input_tokens), total(input_tokens) FROM attempts
        WHERE {_ANSWERED} GROUP BY job IS NOT NULL"""  # noqa: S608 - our own words
    found = connection.execute(query).fetchall()
    shares = {bool(in_job): share or 0.0 for in_job, share, _ in found}
    live_tokens = sum(int(tokens) for in_job, _, tokens in found if not in_job)
    first = connection.execute(
        "SELECT row FROM attempts WHERE id = ? AND coalesce(cached_tokens, 0) = 0",
        (_first_answer(connection),),
    ).fetchone()
    live = shares.get(False, 0.0)
    return CachedShares(live, shares.get(True, 0.0), first[0] if first and live else None, live_tokens)


def rows_by_jobs(connection: sqlite3.Connection) -> int:
    """Rows of the current input whose answer came in a job."""
    query = """SELECT count(*) FROM row_states WHERE position IS NOT NULL AND state = 'completion'
        AND answer IN (SELECT id FROM attempts WHERE job IS NOT NULL)"""
    return connection.execute(query).fetchone()[0]
