"""Looks at a ledger that cost the same for a million rows as for ten thousand: rows drawn at random, examples of
failures, and what went on in each stretch of time."""

from __future__ import annotations

import sqlite3

from msgspec import Struct

from mistill.ledger.spending import IS_DAMAGED

_HASH = 2_654_435_761
_RANGE = 2**32
"""A position times the one, modulo the other, is spread evenly over it (Knuth's multiplicative hashing): the same rows
are drawn by each look."""

_REFUSALS = ("rate_limited", "capacity_exceeded")
_IS_REFUSAL = (
    "(status = 'failed' AND ("
    + " OR ".join(f"""coalesce(instr(error, '"kind":"{kind}"'), 0) > 0""" for kind in _REFUSALS)
    + "))"
)
"""The kinds of answers with 429, in what an error is kept as."""

_IS_FIRST = "coalesce(request, id) = id"


class Stretch(Struct):
    """What went on in a stretch of time.

    Attributes:
        sent: requests that left by themselves, in no job.
        answered: requests and lines of jobs whose answers came. ``refused``: answered with 429. ``failed``: in another
            way, and those that may be billed.
        input_tokens, output_tokens: of the answers.
    """

    sent: int = 0
    answered: int = 0
    refused: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


def draw_positions(connection: sqlite3.Connection, most: int, of: int) -> list[int]:
    """Places of answered rows of the current input, in order: all of them, or about so many drawn at random.

    Args:
        of: how many there are.
    """
    threshold = _RANGE if of <= most else _RANGE * most // of
    found = connection.execute(
        f"""SELECT position FROM row_states WHERE position IS NOT NULL AND state = 'completion'
            AND (position * {_HASH}) % {_RANGE} < ? ORDER BY position""",  # noqa: S608 - our own words
        (threshold,),
    )
    return [position for (position,) in found]


def first_failures(connection: sqlite3.Connection, each: int) -> dict[str, list[int]]:
    """Kind of error → the first places of rows that failed so."""
    found = connection.execute(
        """SELECT error_kind, position FROM (
               SELECT error_kind, position, row_number() OVER (PARTITION BY error_kind ORDER BY position) AS place
               FROM row_states WHERE position IS NOT NULL AND state = 'failure')
           WHERE place <= ? ORDER BY position""",
        (each,),
    )
    positions: dict[str, list[int]] = {}
    for kind, position in found:
        positions.setdefault(str(kind), []).append(position)
    return positions


def read_stretches(
    connection: sqlite3.Connection, started_at: float, stretch_s: float, number: int
) -> list[Stretch]:
    """What went on since a moment, stretch by stretch; so many of them."""
    stretches: list[Stretch] = [Stretch() for _ in range(number)]
    until = started_at + stretch_s * number
    sent = connection.execute(
        f"""SELECT CAST((sent_at - ?1) / ?2 AS INTEGER) AS place, count(*) FROM attempts
            WHERE sent_at >= ?1 AND sent_at < ?3 AND job IS NULL AND {_IS_FIRST}
                AND coalesce(status, '') != 'not_sent' GROUP BY place""",  # noqa: S608 - our own words
        (started_at, stretch_s, until),
    )
    for place, requests in sent:
        stretches[min(int(place), number - 1)].sent = requests
    ended = connection.execute(
        f"""SELECT CAST((ended_at - ?1) / ?2 AS INTEGER) AS place,
                sum(status = 'answered' AND {_IS_FIRST}), sum({_IS_REFUSAL} AND {_IS_FIRST}),
                sum(status IN ('failed', 'maybe_billed') AND NOT {_IS_REFUSAL} AND {_IS_FIRST}),
                CAST(total(CASE status WHEN 'answered' THEN input_tokens END) AS INTEGER),
                CAST(total(CASE status WHEN 'answered' THEN output_tokens END) AS INTEGER)
            FROM attempts WHERE ended_at >= ?1 AND ended_at < ?3 AND status IS NOT NULL AND NOT {IS_DAMAGED}
            GROUP BY place""",  # noqa: S608 - our own words
        (started_at, stretch_s, until),
    )
    for place, answered, refused, failed, input_tokens, output_tokens in ended:
        one = stretches[min(int(place), number - 1)]
        one.answered, one.refused, one.failed = answered or 0, refused or 0, failed or 0
        one.input_tokens, one.output_tokens = input_tokens, output_tokens
    return stretches
