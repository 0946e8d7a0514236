"""A checksum beside everything that an output is made of, so that damage on the disk is never taken for an answer.

CRC-32 finds every flipped bit. What a line belongs to is part of its sum: an answer that is whole, but another
row's, does not fit either. The figures of ``attempts``, which are added up by the million, have sums in SQL alone: see
`ATTEMPT_SUM`.
"""

from __future__ import annotations

import sqlite3
from typing import Any
from zlib import crc32

import msgspec

from mistill.ledger.tables import CHECKSUMMED, LATER_INDEXES

__all__ = [
    "MASK",
    "ODD",
    "add_checksum",
    "answer_sum",
    "crc32",
    "error_sum",
    "meta_sum",
    "pack",
    "record_sum",
    "schema_sum",
]

pack = msgspec.msgpack.Encoder().encode
"""``crc32(pack((table, *values)))`` is the sum of a line of numbers and short texts; ``checksum(…)`` in SQL."""

ODD = 0x9E3779B1
"""What numbers below 2^32 are multiplied by; odd, so that different ones stay different."""

MASK = 0xFFFFFFFF


def answer_sum(attempt: int, row: int, body: bytes) -> int:
    """``Ledger.answer`` has the same once more, since it is called for every request."""
    return crc32(body, (attempt * ODD ^ row) & MASK)


def record_sum(row: int, record: bytes) -> int:
    return crc32(record, ~row * ODD & MASK)


def error_sum(error: bytes) -> int:
    """31 bits, so that it fits beside those of an attempt's figures."""
    return crc32(error) >> 1


def _text_sum(text: str) -> int:
    return error_sum(text.encode())


def meta_sum(key: str, value: str) -> int:
    return crc32(value.encode(), crc32(key.encode()))


def add_checksum(connection: sqlite3.Connection) -> None:
    """Makes the SQL functions of a ledger known to a connection."""
    connection.create_function("checksum", -1, lambda *values: crc32(pack(values)), deterministic=True)
    connection.create_function("answer_sum", 3, answer_sum, deterministic=True)
    connection.create_function("record_sum", 2, record_sum, deterministic=True)
    connection.create_function("error_sum", 1, _text_sum, deterministic=True)
    connection.create_function("meta_sum", 2, meta_sum, deterministic=True)


def schema_sum(connection: sqlite3.Connection) -> str | None:
    """Over the words that made the tables, which read otherwise where they are damaged. ``None``: they are."""
    found: dict[str, tuple[Any, ...]] = {
        name: tuple(rest)
        for name, *rest in connection.execute(  # what somebody else added is not ours to judge
            "SELECT name, type, tbl_name, sql FROM sqlite_master ORDER BY name"
        )
    }
    if any(name in found and found[name][2] != sql for name, sql in LATER_INDEXES.items()):
        return None
    return str(crc32(pack([(name, found.get(name)) for name in CHECKSUMMED])))
