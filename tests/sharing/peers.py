"""Several processes within one: each a `Participant`, and what one does with it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from msgspec.structs import replace

from mistill.delivery.governor import AnyGovernor, ConcurrencyLimit, Governor, Permit
from mistill.delivery.limits_file import LimitsFile
from mistill.delivery.sharing.guest import GuestGovernor
from mistill.delivery.sharing.participant import Participant
from mistill.delivery.sharing.place import Place, place_of
from mistill.delivery.tuning import Tuning

NAME = "ab" * 16
QUICK = Tuning(out_of_reach_s=20.0, standing_every_s=0.02, counts_every_s=0.05)
"""On a busy machine a host may take its time, and nobody goes on alone."""
IMPATIENT = replace(QUICK, out_of_reach_s=0.3, come_back_s=0.1)


class Peer:
    """One of them, and its governor of the name that all share."""

    def __init__(self, place: Place, name: str, tuning: Tuning, limits_file: LimitsFile | None) -> None:
        self.participant = Participant()
        self.governor: AnyGovernor = self.participant.governor(place, name, tuning, limits_file)

    @property
    def is_host(self) -> bool:
        governor = self.governor
        return isinstance(governor, Governor) or (
            isinstance(governor, GuestGovernor) and governor.decides_itself
        )

    async def permit(self, limit: ConcurrencyLimit | None = None, tokens: int = 1) -> Permit:
        limit = limit or ConcurrencyLimit(1_000)
        return self.governor.try_admit(limit, tokens) or await self.governor.admit(limit, tokens)

    async def send(self, requests: int, limit: ConcurrencyLimit | None = None) -> None:
        """Requests that are answered at once."""
        limit = limit or ConcurrencyLimit(64)

        async def one() -> None:
            permit = await self.permit(limit)
            await asyncio.sleep(0)
            self.governor.settle(permit, tokens=1)

        await asyncio.gather(*(one() for _ in range(requests)))

    def end(self) -> None:
        self.participant.end()


class Peers:
    def __init__(self) -> None:
        self.started: list[Peer] = []

    def start(self, name: str = NAME, tuning: Tuning = QUICK, limits_file: LimitsFile | None = None) -> Peer:
        place = place_of(name)
        assert place is not None
        self.started.append(Peer(place, name, tuning, limits_file))
        return self.started[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for peer in self.started:
            peer.end()


async def until(happened: Callable[[], bool], within_s: float = 20.0) -> None:
    """Returns as soon as it has, by looking every now and then."""
    give_up_s = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < give_up_s, "it did not happen"
        await asyncio.sleep(0.002)
