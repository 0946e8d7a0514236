"""What the attempts of a run have taken, for whoever has to keep to a budget in its next start."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Self

import msgspec

from mistill.ledger.tables import ATTEMPT_IS_SOUND, IS_WITH_SERVER

MOST = 2**53
"""More tokens and more dollars than there are; what SQLite adds up of them stays exact."""


def is_possible(column: str) -> str:
    """That an attempt can have taken so much: what was believed as it was written may be absurd all the same."""
    return (
        f"({column} IS NULL OR (typeof({column}) IN ('integer', 'real') AND {column} BETWEEN 0 AND {MOST}))"
    )


_IS_KNOWN = f"""(status = 'answered' AND input_tokens IS NOT NULL AND output_tokens IS NOT NULL
    AND {" AND ".join(map(is_possible, ("input_tokens", "output_tokens", "cost")))} AND {ATTEMPT_IS_SOUND})"""
_IS_FREE = f"((coalesce(status IN ('failed', 'not_sent'), 0) OR {IS_WITH_SERVER}) AND {ATTEMPT_IS_SOUND})"
IS_DAMAGED = f"""(NOT {ATTEMPT_IS_SOUND}
    OR NOT ({" AND ".join(map(is_possible, ("input_tokens", "output_tokens", "cached_tokens", "cost")))}))"""
"""Of a line of ``attempts``: the ledger did not write it so, or wrote numbers that cannot be."""


class Spending(msgspec.Struct, frozen=True, kw_only=True):
    """What attempts have taken. Tokens and US dollars are of those that were answered and say what they took.

    Attributes:
        answers: how many did.
        longest_output_tokens: the most that one of them put out.
        unpriced_input_tokens, unpriced_output_tokens: those of answers without a cost: nobody knew their price.
        unknown: further attempts that may be on the bill: cut off, killed, or damaged.
        unknown_bytes: no less than these have asked with, in tokens: their rows, each with all that the run asks by.
        damaged: those of them that the ledger did not write so, or with numbers that cannot be.
    """

    answers: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    longest_output_tokens: int = 0
    cost: float = 0.0
    unpriced_input_tokens: int = 0
    unpriced_output_tokens: int = 0
    unknown: int = 0
    unknown_bytes: int = 0
    damaged: int = 0

    @classmethod
    def together(cls, each: Iterable[Spending]) -> Self:
        """Of several ledgers."""
        found, longest = list(each), "longest_output_tokens"
        sums = {name: sum(getattr(one, name) for one in found) for name in cls.__struct_fields__}
        return cls(**sums | {longest: max((getattr(one, longest) for one in found), default=0)})

    def since(self, earlier: Spending) -> Spending:
        """What was taken since another look at the same ledger. What was not known then may be by now, so 0 at the
        least; the longest answer is that of all."""
        left = {name: max(0, getattr(self, name) - getattr(earlier, name)) for name in self.__struct_fields__}
        return Spending(**left | {"longest_output_tokens": self.longest_output_tokens})


def read_spending(connection: sqlite3.Connection, *, open_is_free: bool = False) -> Spending:
    """Of all attempts of all starts. None of them is under way but those that are with the server: what a job may take,
    its record says.

    Args:
        open_is_free: others are under way too, and have taken nothing yet.
    """
    is_free = f"({_IS_FREE} OR (status IS NULL AND {ATTEMPT_IS_SOUND}))" if open_is_free else _IS_FREE
    answers, input_tokens, output_tokens, longest, cost, *unpriced = connection.execute(
        f"""SELECT count(*), CAST(total(input_tokens) AS INTEGER), CAST(total(output_tokens) AS INTEGER),
                coalesce(max(output_tokens), 0), total(cost),
                CAST(total(CASE WHEN cost IS NULL THEN input_tokens END) AS INTEGER),
                CAST(total(CASE WHEN cost IS NULL THEN output_tokens END) AS INTEGER)
            FROM attempts WHERE {_IS_KNOWN}"""  # noqa: S608 - our own words
    ).fetchone()
    spending = Spending(
        answers=answers,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        longest_output_tokens=longest,
        cost=cost,
        unpriced_input_tokens=unpriced[0],
        unpriced_output_tokens=unpriced[1],
    )
    others = connection.execute("SELECT count(*) FROM attempts").fetchone()[0] - answers
    free = f"SELECT count(*) FROM attempts WHERE {is_free}"  # noqa: S608 - our own words
    if not others or others == connection.execute(free).fetchone()[0]:
        return spending
    unknown, unknown_bytes, damaged = connection.execute(
        f"""SELECT count(*), coalesce(sum(coalesce(length(record), 0) + asked), 0), coalesce(sum(damaged), 0)
            FROM (SELECT row AS asked_row, {IS_DAMAGED} AS damaged FROM attempts
                  WHERE NOT {_IS_KNOWN} AND NOT {is_free})
                LEFT JOIN records ON records.row = asked_row,
                (SELECT coalesce(max(length(value)), 0) AS asked FROM meta WHERE key = 'manifest')"""  # noqa: S608 - our own words
    ).fetchone()
    return msgspec.structs.replace(spending, unknown=unknown, unknown_bytes=unknown_bytes, damaged=damaged)
