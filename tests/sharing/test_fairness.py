"""Who shares a governor has as much of the quota as the others, and is done when they are."""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.delivery.fake_clock import run_in_fake_time
from tests.delivery.model_server import ModelServer, send_rows

from mistill.delivery.governor import ConcurrencyLimit, Governor


def ends(processes: int, quota: int, begin_s: list[float], rows: int) -> list[float]:
    """When each process is done that begins so late, has so many rows, and up to 64 in flight."""

    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        server = ModelServer(loop.time, requests_per_minute=quota, latency_s=0.2)
        governor = Governor(clock=loop.time)
        guests = [governor.add_guest(number) for number in range(processes)]
        start_s = loop.time()

        async def send(number: int) -> float:
            await asyncio.sleep(begin_s[number])
            await send_rows(server, governor, rows, seed=number, guest=guests[number])
            return loop.time() - start_s

        return list(await asyncio.gather(*map(send, range(processes))))

    random.seed(0)
    return run_in_fake_time(main())


@pytest.mark.parametrize("within_s", [0.1, 1.0])
@pytest.mark.parametrize(("processes", "quota"), [(8, 60), (4, 60), (8, 600)])
def test_processes_with_as_many_rows_are_done_together(processes: int, quota: int, within_s: float) -> None:
    rng = random.Random(processes)
    begin_s = [rng.uniform(0, within_s) for _ in range(processes)]
    done_s = ends(processes, quota, begin_s, 3 * quota // processes)
    assert max(done_s) - min(done_s) <= 0.02 * max(done_s)


def test_one_that_comes_late_is_owed_nothing_of_what_it_did_not_ask_for() -> None:
    """After ten minutes alone the first has half of the quota, but for what the other may catch up."""

    async def main() -> tuple[int, int]:
        loop = asyncio.get_running_loop()
        governor = Governor(clock=loop.time, requests_per_minute=600)
        first, second = governor.add_guest(1), governor.add_guest(2)
        sent = {first: 0, second: 0}

        async def work(limit: ConcurrencyLimit) -> None:
            while True:
                permit = governor.try_admit(limit, 1) or await governor.admit(limit, 1)
                sent[limit] += 1
                await asyncio.sleep(0.1)
                governor.settle(permit, tokens=1)

        workers = [asyncio.create_task(work(first)) for _ in range(8)]
        await asyncio.sleep(600)
        before = sent[first]
        workers += [asyncio.create_task(work(second)) for _ in range(8)]
        await asyncio.sleep(300)
        for worker in workers:
            worker.cancel()
        return sent[first] - before, sent[second]

    first, second = run_in_fake_time(main())
    assert first + second >= 2_900
    assert 0 <= second - first <= 66


def test_a_permit_that_was_given_back_was_none() -> None:
    async def main() -> list[ConcurrencyLimit]:
        governor = Governor(clock=asyncio.get_running_loop().time, requests_per_minute=60)
        first, second = governor.add_guest(1), governor.add_guest(2)
        for _ in range(20):
            given = governor.try_admit(first, 1) or await governor.admit(first, 1)
            governor.refund(given)
        order: list[ConcurrencyLimit] = []

        async def ask(limit: ConcurrencyLimit) -> None:
            governor.settle(await governor.admit(limit, 1), tokens=1)
            order.append(limit)

        await asyncio.gather(*(ask(limit) for limit in (first, second) * 40))
        return order

    order = run_in_fake_time(main())
    # Whoever asked first is first, and from the moment on that they wait it is one for each.
    assert order[-2] is not order[-1]
    assert abs(order[:40].count(order[0]) - 20) <= 1
