"""Where shards are worked on, and which of them, as a user says it."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

MAX_SHARDS: Final = 100_000
_MAX_PROCESSES: Final = 1024
_PROCESSES = re.compile(r"processes:([0-9]{1,6})")
_SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


class Placement(Struct, frozen=True):
    """``processes:4``: in so many processes of this machine.

    Attributes:
        workers: how many work at once.
        address: of this machine, by which they reach the driver.
    """

    workers: int
    address: str = "127.0.0.1"

    @classmethod
    def parse(cls, text: str) -> Placement:
        """Raises:
        ValueError: it is none.
        """
        found = _PROCESSES.fullmatch(text)
        if found is None or not 1 <= int(found[1]) <= _MAX_PROCESSES:
            raise ValueError(f"it must be so many processes, such as processes:4, not {text!r}")
        return cls(int(found[1]))


class OneShard(Struct, frozen=True):
    """``3/16``: one of so many shards; they count from 0."""

    number: int
    of: int

    @classmethod
    def parse(cls, text: str) -> OneShard:
        """Raises:
        ValueError: it is none.
        """
        found = _SHARD.fullmatch(text)
        if found is None:
            raise ValueError(f"it must be one of so many, such as 0/16, not {text!r}")
        shard = cls(int(found[1]), int(found[2]))
        if not 1 <= shard.of <= MAX_SHARDS:
            raise ValueError(f"there may be from 1 to {MAX_SHARDS:,} shards, not {shard.of:,}")
        if shard.number >= shard.of:
            raise ValueError(f"shards count from 0: the last of {shard.of:,} is {shard.of - 1}/{shard.of}")
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"
