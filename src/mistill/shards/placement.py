"""Where shards are worked on, and which of them, as a user says it."""

from __future__ import annotations

import re
from typing import Final, TypeAlias

from msgspec import Struct

MAX_SHARDS: Final = 100_000
_MAX_PROCESSES: Final = 1024
_MAX_PORT: Final = 65535
_RAY = re.compile(r"ray(?:://([A-Za-z0-9_.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]):([0-9]{1,5}))?")
_PROCESSES = re.compile(r"processes:([0-9]{1,6})")
_SHARD = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")


class InProcesses(Struct, frozen=True):
    """``processes:4``: in so many processes of this machine.

    Attributes:
        workers: how many work at once.
    """

    workers: int


class OnRay(Struct, frozen=True):
    """``ray``, ``ray://HOST:PORT``: on the machines of a Ray cluster.

    Attributes:
        address: ``HOST:PORT`` of its head; ``None``: the one that the environment names, that runs here, or a new one.
    """

    address: str | None = None


Placement: TypeAlias = InProcesses | OnRay


def parse_placement(text: str) -> Placement:
    """Raises:
    ValueError: it is none.
    """
    if text.partition(":")[0] == "ray":
        found = _RAY.fullmatch(text)
        if found is None or not 1 <= int(found[2] or 1) <= _MAX_PORT:
            raise ValueError(
                "a Ray cluster is ray, or ray:// and the address that `ray start` tells, such as "
                f"ray://10.0.0.5:6379, not {text!r}"
            )
        return OnRay(None if found[1] is None else f"{found[1]}:{found[2]}")
    found = _PROCESSES.fullmatch(text)
    if found is None or not 1 <= int(found[1]) <= _MAX_PROCESSES:
        raise ValueError(
            f"it must be so many processes, such as processes:4, or a Ray cluster: ray, not {text!r}"
        )
    return InProcesses(int(found[1]))


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
