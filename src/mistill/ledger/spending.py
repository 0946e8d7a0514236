"""What the attempts of a run have taken, for whoever has to keep to a budget in its next start."""

from __future__ import annotations

import sqlite3

import msgspec

MOST = 2**53
"""More tokens and more dollars than there are; what SQLite adds up of them stays exact."""


def is_possible(column: str) -> str:
    """That an attempt can have taken so much: ``attempts`` has no checksum, and budgets are made of it."""
    return (
        f"({column} IS NULL OR (typeof({column}) IN ('integer', 'real') AND {column} BETWEEN 0 AND {MOST}))"
    )


_IS_KNOWN = f"""(status = 'answered' AND input_tokens IS NOT NULL AND output_tokens IS NOT NULL
    AND {" AND ".join(map(is_possible, ("input_tokens", "output_tokens", "cost")))})"""
_IS_FREE = "coalesce(status IN ('failed', 'not_sent'), 0)"


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """What attempts have taken. Tokens and US dollars are of those that were answered and say what they took.

    Attributes:
        answers: how many did.
        longest_output_tokens: the most that one of them put out.
        unknown: further attempts that may be on the bill: cut off, killed, or with numbers that cannot be.
        unknown_bytes: no less than these have asked with, in tokens: their rows, each with all that the run asks by.
        impossible: those of them with numbers that cannot be, which the ledger did not write so.
    """

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    longest_output_tokens: int = 0
    cost: float = 0.0
    unknown: int = 0
    unknown_bytes: int = 0
    impossible: int = 0


def read_spending(connection: sqlite3.Connection) -> Spending:
    """Of all attempts of all starts. None of them is under way."""
    answers, input_tokens, output_tokens, longest, cost = connection.execute(
        f"""SELECT count(*), CAST(total(input_tokens) AS INTEGER), CAST(total(output_tokens) AS INTEGER),
                coalesce(max(output_tokens), 0), total(cost)
            FROM attempts WHERE {_IS_KNOWN}"""  # noqa: S608 - our own words
    ).fetchone()
    unknown, unknown_bytes, impossible = connection.execute(
        f"""SELECT count(*), coalesce(sum(coalesce(length(record), 0) + asked), 0),
                coalesce(sum(status IS NOT 'maybe_billed' AND status IS NOT NULL), 0)
            FROM attempts LEFT JOIN records ON records.row = attempts.row,
                (SELECT coalesce(max(length(value)), 0) AS asked FROM meta WHERE key = 'manifest')
            WHERE NOT {_IS_KNOWN} AND NOT {_IS_FREE}"""  # noqa: S608 - our own words
    ).fetchone()
    return Spending(
        answers=answers,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        longest_output_tokens=longest,
        cost=cost,
        unknown=unknown,
        unknown_bytes=unknown_bytes,
        impossible=impossible,
    )
