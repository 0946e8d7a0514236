"""One governor for several threads, each with its own real event loop."""

from __future__ import annotations

import asyncio
import threading

from mistill.delivery.governor import ConcurrencyLimit, Governor, Permit


def test_threads_share_slots_and_all_get_through() -> None:
    governor, limit = Governor(), ConcurrencyLimit(3)
    counting = threading.Lock()
    in_flight, most, done = 0, 0, 0

    async def send() -> None:
        nonlocal in_flight, most, done
        permit = governor.try_admit(limit, 1) or await governor.admit(limit, 1)
        with counting:
            in_flight += 1
            most = max(most, in_flight)
        await asyncio.sleep(0)
        with counting:
            in_flight -= 1
            done += 1
        governor.settle(permit)

    async def send_all() -> None:
        await asyncio.gather(*(send() for _ in range(300)))

    threads = [threading.Thread(target=lambda: asyncio.run(send_all())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (done, in_flight, limit.in_flight, governor.in_flight) == (1200, 0, 0, 0)
    assert most <= 3


def test_a_waiter_whose_loop_is_gone_does_not_block_the_next() -> None:
    governor, limit = Governor(), ConcurrencyLimit(1)
    permit = governor.try_admit(limit, 1)
    assert permit is not None

    gone = asyncio.new_event_loop()
    gone.set_exception_handler(lambda *_: None)  # asyncio reports the task that is destroyed below
    abandoned = gone.create_task(governor.admit(limit, 1))
    gone.run_until_complete(asyncio.sleep(0))
    assert governor.snapshot().waiting == 1
    gone.close()

    async def wait() -> Permit:
        waiting = asyncio.ensure_future(governor.admit(limit, 1))
        await asyncio.sleep(0)
        governor.settle(permit)
        return await asyncio.wait_for(waiting, 10)

    governor.settle(asyncio.run(wait()))
    assert (limit.in_flight, governor.snapshot().waiting) == (0, 0)
    del abandoned


def test_a_timer_on_one_loop_wakes_another() -> None:
    """The next in line waits in another thread than the one whose request made it look."""
    governor, limit = Governor(requests_per_minute=1, window_s=0.05), ConcurrencyLimit(8)
    first = governor.try_admit(limit, 1)
    assert first is not None
    governor.settle(first)
    results: list[Permit] = []

    async def wait() -> None:
        permit = await asyncio.wait_for(governor.admit(limit, 1), 30)
        results.append(permit)
        governor.settle(permit)

    threads = [threading.Thread(target=lambda: asyncio.run(wait())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(results) == 4
