"""What several processes may spend together holds, whoever keeps count of it."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Coroutine, Iterable
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.delivery.fake_clock import run_in_fake_time
from tests.sharing.peers import Peer, Peers, until

from mistill.api.prices import Price
from mistill.api.usage import Usage
from mistill.delivery.governor import AnyGovernor, Governor
from mistill.delivery.purse import Amount, Purse, PurseMember, SpendingLimit
from mistill.delivery.sharing.far_purse import FarPurse, GuestMembers
from mistill.delivery.sharing.guest import GuestGovernor
from mistill.errors import Stopped
from mistill.estimates.budget import Budget, CommonPurse
from mistill.ledger import Spending

PRICE = Price(input=1.0, output=4.0, cached_input=0.1)
PURSE = "cd" * 16


def budget_of(
    governor: AnyGovernor,
    part: str = "0",
    *,
    max_tokens: int | None = 1_000,
    max_cost: float | None = None,
    others: dict[str, Amount] | None = None,
    before: Spending | None = None,
) -> Budget:
    common = CommonPurse(governor, PURSE, part, others or {})
    return Budget(max_tokens_total=max_tokens, max_cost=max_cost, price=PRICE, before=before, common=common)


async def spend(budget: Budget, rng: random.Random, *, workers: int = 4, pause_s: float = 5.0) -> list[Usage]:
    """Until nothing is left; what was billed."""
    billed: list[Usage] = []

    async def work() -> None:
        while True:
            size, most = rng.randint(1, 400), rng.randint(1, 500)
            try:
                reservation = await budget.reserve(size, most)
            except Stopped:
                return
            await asyncio.sleep(rng.random() * pause_s)
            if rng.random() < 0.1:
                budget.refund(reservation)
                continue
            billed.append(Usage(rng.randint(1, size), rng.randint(0, most)))
            budget.settle(reservation, billed[-1])

    await asyncio.gather(*(work() for _ in range(workers)))
    return billed


async def spend_all(each_spends: Iterable[Coroutine[Any, Any, list[Usage]]]) -> list[Usage]:
    return list(chain(*await asyncio.gather(*each_spends)))


def tokens_of(billed: list[Usage]) -> list[int]:
    return [each.input_tokens + each.output_tokens for each in billed]


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32),
    parts=st.integers(1, 8),
    max_tokens=st.integers(1, 20_000) | st.none(),
    max_cost=st.floats(1e-6, 0.03),
)
def test_all_parts_together_overrun_by_less_than_one_answer(
    seed: int, parts: int, max_tokens: int | None, max_cost: float
) -> None:
    async def main() -> list[Usage]:
        governor, rng = Governor(clock=asyncio.get_running_loop().time), random.Random(seed)
        budgets = [
            budget_of(governor, str(part), max_tokens=max_tokens, max_cost=max_cost) for part in range(parts)
        ]
        return await spend_all(spend(budget, rng) for budget in budgets)

    billed = run_in_fake_time(main())
    tokens, costs = tokens_of(billed), [PRICE.cost(each) for each in billed]
    assert sum(tokens) >= (max_tokens or math.inf) or sum(costs) >= max_cost - 1e-12  # all of it is used
    assert sum(tokens) - (max_tokens or math.inf) < max(tokens)
    assert sum(costs) - max_cost < max(costs) + 1e-12


async def test_processes_spend_from_one_purse(peers: Peers) -> None:
    started = [peers.start() for _ in range(4)]
    await asyncio.gather(*(peer.send(1) for peer in started))
    budgets = [budget_of(peer.governor, str(part), max_tokens=30_000) for part, peer in enumerate(started)]
    rng = random.Random(3)
    billed = await spend_all(spend(each, rng, pause_s=0.001) for each in budgets)
    tokens = tokens_of(billed)
    assert 30_000 <= sum(tokens) < 30_000 + max(tokens)
    with pytest.raises(Stopped, match="30,000 are used by all parts of the run together") as stopped:
        await budgets[2].reserve(1, 1)
    assert stopped.value.hint == "run again with a larger one to go on with the rest"


async def test_more_is_asked_at_once_than_goes_into_one_frame(peers: Peers) -> None:
    peers.start()
    guest = peers.start()
    await guest.send(1)
    budget = budget_of(guest.governor, max_tokens=1_000_000)
    reservations = await asyncio.gather(*(budget.reserve(100, 100) for _ in range(2_500)))
    for reservation in reservations:
        budget.settle(reservation, Usage(1, 1))
    assert budget.spent_tokens == 5_000
    await until(lambda: spent_there(peers.started[0]) == 5_000)


def spent_there(host: Peer) -> int:
    """Tokens, of all parts."""
    return own_of(host).purse(PURSE).spent.tokens


def own_of(peer: Peer) -> Governor:
    own = peer.governor.own if isinstance(peer.governor, GuestGovernor) else peer.governor
    assert isinstance(own, Governor)
    return own


async def test_another_process_keeps_count_when_the_one_that_did_has_ended(peers: Peers) -> None:
    host, ended, first, second = (peers.start() for _ in range(4))
    for peer in (ended, first, second):
        await peer.send(1)
    kept, gone = budget_of(host.governor, "host"), budget_of(ended.governor, "ended")
    budgets = [budget_of(first.governor, "first"), budget_of(second.governor, "second")]
    kept.settle(await kept.reserve(50, 50), Usage(50, 50))
    gone.settle(await gone.reserve(150, 150), Usage(150, 150))
    gone.leave_common()
    purse = own_of(host).purse(PURSE)
    await until(lambda: purse.spent.tokens == 400 and "ended" not in purse.members.values())
    in_flight = [await budget.reserve(100, 50) for budget in budgets]
    host.end()
    await until(lambda: any(peer.is_host for peer in (ended, first, second)))
    # 400 are spent, 300 in flight: 100 + 300 + 300 of 1,000.
    for budget, reservation in zip(budgets, in_flight, strict=True):
        budget.settle(reservation, Usage(100, 50))
    billed = await spend_all(spend(each, random.Random(1), pause_s=0.001) for each in budgets)
    assert 1_000 - 400 - 300 <= sum(tokens_of(billed)) < 1_000 - 400 - 300 + max(tokens_of(billed))


async def test_what_a_process_that_is_gone_had_in_flight_is_reserved_until_its_part_is_taken_up(
    peers: Peers,
) -> None:
    host, guest = peers.start(), peers.start()
    await guest.send(1)
    own, others = budget_of(host.governor, "0"), budget_of(guest.governor, "1")
    await others.reserve(400, 500)
    waiting = asyncio.create_task(own.reserve(200, 200))
    await asyncio.sleep(0)
    guest.end()
    reservation = await waiting  # 900 of 1,000 may be on the bill
    with_more = asyncio.create_task(own.reserve(10, 10))
    await until(lambda: own.waiting == 1)
    again = peers.start()
    await again.send(1)
    taken_up = budget_of(again.governor, "1", before=Spending(answers=1, input_tokens=100, output_tokens=100))
    taken_up.refund(await taken_up.reserve(1, 1))
    own.refund(await with_more)  # it was 200, by its ledger
    own.settle(reservation, Usage(200, 200))
    billed = await spend(taken_up, random.Random(1), workers=1, pause_s=0.001)
    assert 400 <= sum(tokens_of(billed)) < 400 + max(tokens_of(billed))


async def test_what_a_process_had_in_flight_whose_part_is_taken_up_before_it_is_gone_is_reserved_no_more() -> (
    None
):
    purse, limit = Purse(), SpendingLimit(cost=10.0)
    old, new, other = (PurseMember(PURSE, part, limit) for part in "110")
    old.is_kept_by(purse)
    for _ in range(6):
        await old.reserve(Amount(1.0, 0))
    new.spend(Amount(3.0, 0))  # those six, by its ledger
    new.is_kept_by(purse)
    other.is_kept_by(purse)
    old.is_kept_by(None)  # it was killed, and that is seen only now
    for _ in range(7):
        number = await asyncio.wait_for(other.reserve(Amount(1.0, 0)), 5.0)
        assert number is not None
        other.settle(number, Amount(1.0, 0))
    assert await other.reserve(Amount(1.0, 0)) is None
    assert other.spent_by_all == Amount(10.0, 0)


async def test_one_that_waits_may_be_cancelled(peers: Peers) -> None:
    peers.start()
    guest = peers.start()
    await guest.send(1)
    budget = budget_of(guest.governor)
    first = await budget.reserve(900, 200)
    waiting = [asyncio.create_task(budget.reserve(100, 100)) for _ in range(20)]
    await asyncio.sleep(0.002)
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert budget.waiting == 0
    budget.refund(first)
    budget.refund(await budget.reserve(900, 100))  # nothing else is in flight
    assert budget.spent_tokens == 0


def test_one_that_hears_of_nobody_keeps_to_its_share() -> None:
    async def main() -> None:
        limit = SpendingLimit(cost=None, tokens=1_000)
        member = PurseMember(PURSE, "0", limit, spent=Amount(0.0, 100), others={"1": Amount(0.0, 300)})
        member.is_kept_by(Purse(), shares=4)
        assert await member.reserve(Amount(0.0, 1)) is not None
        member.spend(Amount(0.0, 149))
        second = await member.reserve(Amount(0.0, 10))
        assert second is None or member.spent_by_all.tokens < 100 + 150 + 300
        member.spend(Amount(0.0, 1))  # a fourth of 600, beside its own 100
        assert await member.reserve(Amount(0.0, 1)) is None
        member.is_kept_by(Purse())
        assert await member.reserve(Amount(0.0, 1)) is not None

    asyncio.run(main())


def test_others_are_as_their_ledgers_have_it_until_they_speak_for_themselves() -> None:
    async def main() -> None:
        governor = Governor()
        first = budget_of(governor, "0", others={"1": Amount(0.0, 999)})
        first.refund(await first.reserve(1, 1))
        second = budget_of(governor, "1", others={"0": Amount(0.0, 500)})
        second.settle(await second.reserve(100, 900), Usage(100, 900))
        with pytest.raises(Stopped):
            await first.reserve(1, 1)

    asyncio.run(main())


class Wire:
    """A member of one process, and the purse of another: what they say goes when it is told to."""

    def __init__(self) -> None:
        self.purse = Purse()
        self.far = FarPurse(lambda: None)
        self._host = GuestMembers(lambda _: self.purse, lambda: None)
        self.member = PurseMember(PURSE, "0", SpendingLimit(10.0))
        self.member.is_kept_by(self.far)

    async def up(self) -> None:
        await asyncio.sleep(0)
        for wishes in self.far.take_unsaid():
            self._host.take(wishes)

    async def down(self) -> None:
        for told in self._host.take_told():
            self.far.hear(told)
        await asyncio.sleep(0)

    def attempt(self) -> asyncio.Task[int | None]:
        return asyncio.create_task(self.member.reserve(Amount(1.0, 1)))


@settings(max_examples=200)
@given(moves=st.lists(st.sampled_from(["ask", "up", "down", "end", "limit"]), max_size=30))
def test_a_limit_that_is_set_on_the_way_counts_nothing_twice_and_holds_nobody_up(moves: list[str]) -> None:
    async def run() -> None:
        wire, asked, spent = Wire(), list[asyncio.Task[int | None]](), 0.0
        for move in [*moves, *["up", "down", "end"] * 40, "up"]:
            if move == "ask":
                asked.append(wire.attempt())
            elif move == "limit":
                wire.member.set_limit(SpendingLimit(0.9 + len(asked) % 3))
            elif move != "end":
                await getattr(wire, move)()
            elif ended := next((task for task in asked if task.done()), None):
                asked.remove(ended)
                if (number := ended.result()) is not None:
                    wire.member.settle(number, Amount(0.25, 1))
                    spent += 0.25
        assert asked == []
        assert wire.purse.spent.cost == pytest.approx(spent)
        last = wire.attempt()
        await wire.up()
        await wire.down()
        await asyncio.sleep(0)
        assert last.done()  # nothing is in flight

    asyncio.run(run())
