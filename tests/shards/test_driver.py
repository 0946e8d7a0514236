"""What a driver does when those who work on shards die, or cannot begin."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from mistill import MistralLLM
from mistill.api.usage import Usage
from mistill.delivery.diagnostics import Snapshot, WaitCause
from mistill.delivery.sliding_window import Room
from mistill.errors import InputError, LedgerInUse, Unauthorized
from mistill.estimates.budget import Budget
from mistill.ledger import Spending
from mistill.progress.progress import Progress
from mistill.progress.view import View, Watch
from mistill.runs.steering import DriverSteering
from mistill.shards import driver as driver_of_shards
from mistill.shards import time_left
from mistill.shards.driver import Driver
from mistill.shards.workers import Begun, BudgetNow, Ended, Event, Obeyed, Seen
from mistill.steering.orders import Order

Script = Callable[[int, int], list[Event]]
"""Shard and how often it was begun → what happens."""


class Scripted:
    """Two workers that do as they are told."""

    are_one_process = False

    def __init__(self, script: Script) -> None:
        self.begun: list[int] = []
        self.asked: list[str] = []
        self._script = script
        self._events: list[Event] = []

    @property
    def free(self) -> int:
        return 2 - len(self._events)

    def begin(self, begun: Begun) -> None:
        self.begun.append(begun.number)
        self._events += self._script(begun.number, self.begun.count(begun.number))

    async def events(self) -> list[Event]:
        await asyncio.sleep(0)
        found, self._events = self._events, []
        return found

    def stop(self, message: str) -> None:
        self.asked.append(message)

    def abandon(self) -> None:
        self.asked.append("abandon")

    def order(self, shard: int, order: Order, by: str) -> None:
        self.asked.append(f"{order.do} {shard}")
        self._events.append(Obeyed(shard) if shard else Ended(shard))

    def close(self) -> None:
        self.asked.append("close")


def _drive(script: Script, shards: int = 3) -> tuple[Driver, Scripted]:
    workers = Scripted(script)
    driver = Driver(workers, range(shards), Begun, Progress(), grace_s=1.0)
    asyncio.run(driver.run())
    assert workers.asked[-1] == "close"
    return driver, workers


def test_a_shard_whose_worker_died_is_begun_again_and_what_it_has_is_counted_once() -> None:
    def script(shard: int, time: int) -> list[Event]:
        seen = Seen(shard, View(completions=10) if time == 1 else View(known=10, completions=5))
        return [seen, Ended(shard, died="signal 9") if (shard, time) == (1, 1) else Ended(shard)]

    driver, workers = _drive(script)
    assert sorted(workers.begun) == [0, 1, 1, 2]
    assert driver.stopped is None
    assert (driver.progress.completions, driver.progress.known) == (25, 10)


def test_who_goes_on_with_a_shard_is_told_what_others_answered() -> None:
    told: list[Begun] = []

    class Notes(Scripted):
        def begin(self, begun: Begun) -> None:
            told.append(begun)
            super().begin(begun)

    def script(shard: int, time: int) -> list[Event]:
        view = View(completions=shard + 2, usage=Usage(30 * (shard + 1), 7 * (shard + 1)), cost=0.5)
        return [Seen(shard, view), Ended(shard, died="signal 9" if shard == 1 and time == 1 else None)]

    def begun(shard: int) -> Begun:
        return Begun(shard, budget=BudgetNow(None, 9_000, Spending(), Spending(answers=4, input_tokens=40)))

    driver = Driver(Notes(script), range(2), begun, Progress(), grace_s=1.0)
    asyncio.run(driver.run())
    assert [one.number for one in told] == [0, 1, 1]
    seen = [one.budget.seen for one in told if one.budget is not None]
    of_first = Spending(answers=6, input_tokens=70, output_tokens=7, cost=0.5)
    assert seen == [Spending(answers=4, input_tokens=40), of_first, of_first]


def test_workers_that_end_before_they_begin_end_the_start_with_what_to_do() -> None:
    driver, workers = _drive(lambda shard, _: [Ended(shard, died="exit code 1", was_stillborn=True)])
    assert isinstance(driver.broke_off, InputError)
    assert "__name__ == '__main__'" in str(driver.broke_off)
    assert len(workers.begun) <= 5


def test_where_no_further_worker_can_be_had_those_at_work_are_waited_for() -> None:
    class OneOnly(Scripted):
        def begin(self, begun: Begun) -> None:
            if begun.number:
                raise InputError("no room")
            super().begin(begun)

    workers = OneOnly(lambda shard, _: [Seen(shard, View(completions=7)), Ended(shard)])
    driver = Driver(workers, range(3), Begun, Progress(), grace_s=1.0)
    asyncio.run(driver.run())
    assert isinstance(driver.broke_off, InputError)
    assert driver.progress.completions == 7
    assert (workers.begun, workers.asked) == ([0], ["no room", "close"])


def test_a_worker_that_is_killed_as_it_begins_is_replaced() -> None:
    driver, workers = _drive(
        lambda shard, time: [
            Ended(shard, died="signal 9", was_stillborn=True) if time == 1 else Ended(shard)
        ],
        shards=1,
    )
    assert driver.stopped is None
    assert workers.begun == [0, 0]


def test_a_shard_that_kills_one_worker_after_another_ends_the_start() -> None:
    driver, workers = _drive(lambda shard, _: [Seen(shard, View()), Ended(shard, died="signal 9")], shards=1)
    assert driver.stopped is not None
    assert "5 workers on shard 0 died in turn" in driver.stopped.message
    assert workers.begun == [0] * 5


def test_workers_that_die_after_rows_were_answered_are_replaced_for_as_long_as_that_goes_on() -> None:
    def script(shard: int, time: int) -> list[Event]:
        # The seventh sees fewer, since it dies while it still looks which are known; the next two get none answered.
        known = [0, 10, 20, 30, 40, 50, 3, 60, 60, 60][time - 1]
        view = View(known=known, completions=10 if known == 10 * (time - 1) else 0)
        return [Seen(shard, view), Ended(shard, died="signal 9" if time < 10 else None)]

    driver, workers = _drive(script, shards=1)
    assert driver.stopped is None
    assert workers.begun == [0] * 10


def test_who_waits_for_room_in_a_budget_is_told_that_a_dead_worker_holds_some(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def begun(shard: int) -> Begun:
        return Begun(shard, budget=BudgetNow(1.0, None, Spending(), Spending()))

    workers = Scripted(lambda shard, time: [Ended(shard, died="signal 9" if time == 1 else None)])
    asyncio.run(Driver(workers, range(1), begun, Progress(), grace_s=1.0).run())
    assert "what was in flight there counts at its longest for the budget" in caplog.text


def test_what_ends_one_shard_for_all_rows_ends_the_others() -> None:
    driver, workers = _drive(lambda shard, _: [Ended(shard, stopped=Unauthorized("no", status=401))])
    assert isinstance(driver.stopped, Unauthorized)
    assert driver.broke_off is None
    assert len(workers.begun) == 2
    assert workers.asked[0].startswith("no")


def test_a_shard_that_another_process_has_is_waited_for() -> None:
    driver, workers = _drive(
        lambda shard, time: [Ended(shard, error=LedgerInUse("in use") if time == 1 else None)], shards=1
    )
    assert driver.stopped is None
    assert workers.begun == [0, 0]


def test_an_order_returns_when_the_shards_under_way_have_obeyed_or_ended() -> None:
    async def ordered() -> list[str]:
        workers = Scripted(lambda shard, _: [])
        driver = Driver(workers, range(2), Begun, Progress(), grace_s=1.0)
        have_begun = asyncio.Event()
        driver.on_begun = lambda shard: have_begun.set() if shard else None
        driving = asyncio.ensure_future(driver.run())
        await have_begun.wait()
        await driver.order(Order("pause"), "somebody", {0, 1, 2})
        assert driver.under_way == {1}
        asked = list(workers.asked)
        workers._events.append(Ended(1))
        await driving
        return asked

    assert sorted(asyncio.run(ordered())) == ["pause 0", "pause 1"]


def test_a_shard_that_does_not_obey_in_time_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver_of_shards, "_OBEYED_WITHIN_S", 0.3)
    llm = MistralLLM(model="mistral-small-latest")

    class OneIsSuspended(Scripted):
        def order(self, shard: int, order: Order, by: str) -> None:
            if shard == 0:
                self._events.append(Obeyed(shard))

    async def ordered() -> list[str | None]:
        workers = OneIsSuspended(lambda shard, _: [])
        driver = Driver(workers, range(2), Begun, Progress(), grace_s=1.0)
        have_begun = asyncio.Event()
        watch = Watch(driver.progress, driver.snapshot, at_once=lambda: 2)
        steering = DriverSteering(
            *(driver, llm, Budget(), llm.governor_apart()),
            before=None,
            note_sent=lambda: None,
            watch=watch,
            keep=lambda: asyncio.sleep(0),
        )
        driver.on_begun = lambda shard: have_begun.set() if shard else None
        driving = asyncio.ensure_future(driver.run())
        await have_begun.wait()
        orders = Order("pause"), Order("resume"), Order("set", {"max_concurrent_requests": 3})
        told = [(await steering.obey(order, "somebody")).told for order in orders]
        workers._events += [Ended(0), Ended(1)]
        await driving
        return told

    late = "; shard 1 not yet: what works there is starting, or suspended, and obeys as soon as it can"
    assert asyncio.run(ordered()) == [
        f"paused{late}",
        f"resumed{late}",
        f"set max_concurrent_requests 64 → 3, in each process{late}",
    ]


class Clock:
    """What is taken for `time`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


class Stepping(Scripted):
    """They are seen one time when the first requests leave, at 100 s on a clock, and once more later.

    Args:
        now_s, views, governor: when, and of each what.
    """

    def __init__(
        self, clock: Clock, now_s: float, views: list[View], governor: Snapshot | None = None
    ) -> None:
        super().__init__(lambda shard, _: [Seen(shard, View(in_flight=10, elapsed_s=8.0))])
        self.seen = View()
        self.watch: Watch | None = None
        self._clock, self._now_s = clock, now_s
        self._next = [[Seen(shard, view, governor) for shard, view in enumerate(views)], None]

    async def events(self) -> list[Event]:
        if found := await super().events():
            return found
        views = self._next.pop(0)
        if views is not None:
            self._clock.now_s = self._now_s
            return [*views]
        assert self.watch is not None
        self.seen = self.watch.view()
        return [Ended(0), Ended(1)]


def _seen_at(
    clock: Clock,
    now_s: float,
    views: list[View],
    *,
    of: int,
    are_one_process: bool = False,
    governor: Snapshot | None = None,
) -> tuple[int, float | None]:
    """What is in flight, and how long it will take yet."""
    workers = Stepping(clock, now_s, views, governor)
    workers.are_one_process = are_one_process
    progress = Progress(total=of)
    driver = Driver(workers, range(2), Begun, progress, grace_s=1.0)
    workers.watch = Watch(progress, driver.snapshot, at_once=lambda: 10)
    asyncio.run(driver.run())
    return workers.seen.in_flight, workers.seen.left_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time_left, "time", clock)
    return clock


def test_the_time_left_counts_from_the_first_request_and_what_is_in_flight_by_half(clock: Clock) -> None:
    view = View(total=500, completions=5, in_flight=10, left_s=1.0)
    in_flight, left_s = _seen_at(clock, 101.0, [view, view], of=1000)
    assert in_flight == 20
    assert left_s == pytest.approx((990 - 10) / 20 * 1.25)
    clock.now_s = 100.0
    view = View(total=500, completions=250, in_flight=10, left_s=1.0)
    assert _seen_at(clock, 150.0, [view, view], of=1000)[1] == pytest.approx(490 / 510 * 50.25)


def _governor(free: float, frees: tuple[tuple[float, float], ...], *, sharers: int = 2) -> Snapshot:
    """It knows a quota of 600 requests a minute, and tells each of so many who wait for it his part."""
    room = Room(600.0, 60.0, free, frees).shared_by(sharers)
    return replace(Snapshot(0, 0, 0, 600.0, "server", None, None, 0, 0, {}), requests_room=room)


def test_the_time_left_is_what_a_quota_lets_all_shards_send_and_goes_down_with_it(clock: Clock) -> None:
    view = View(
        total=600, completions=300, requests=300, busy_s=150.0, waiting_for="quota_requests", left_s=90.0
    )
    for in_s in (57.0, 20.0):  # how long it took so far, and what each expects of his part, says nothing
        governor = _governor(0, ((in_s, 600),))
        clock.now_s = 100.0
        assert _seen_at(clock, 170.0, [view, view], of=1200, governor=governor)[1] == in_s + 0.5
        clock.now_s = 100.0
        assert _seen_at(clock, 170.0, [view, view], of=1300, governor=governor)[1] == in_s + 60.5
    clock.now_s = 100.0
    free = _governor(600, ())
    assert _seen_at(clock, 170.0, [view, view], of=1200, governor=free)[1] == 0.5
    clock.now_s = 100.0  # two of three who share it
    foreign = _governor(0, ((30.0, 300), (50.0, 300)), sharers=3)
    assert _seen_at(clock, 170.0, [view, view], of=1000, governor=foreign)[1] == 50.5
    clock.now_s = 100.0  # a row takes two requests
    twice = replace(view, requests=600)
    assert _seen_at(clock, 170.0, [twice, twice], of=1200, governor=governor)[1] == 80.5


def test_the_time_left_leaves_out_how_long_a_quota_was_waited_for(clock: Clock) -> None:
    spent: dict[WaitCause, float] = {"quota_requests": 48.0, "server": 12.0}
    view = View(total=300, completions=300, requests=300, left_s=1.0, seconds_by_cause=spent)
    governor = _governor(600, ())
    told = _seen_at(clock, 100.0 + 59.75, [view, view], of=900, governor=governor)[1]
    assert told == pytest.approx(300 * 60 * 0.2 / 600)


def test_while_a_quota_is_waited_for_that_nobody_knows_no_time_left_is_told(clock: Clock) -> None:
    almost = View(total=300, completions=299, left_s=0.051)
    waits = View(total=300, completions=1, waiting_for="quota_requests")
    assert _seen_at(clock, 130.0, [almost, waits], of=600)[1] is None
    clock.now_s = 100.0
    governor = _governor(0, ((20.0, 600),))
    assert _seen_at(clock, 130.0, [almost, waits], of=600, governor=governor)[1] == 20


def test_where_no_worker_knows_the_time_left_of_its_own_nobody_does(clock: Clock) -> None:
    views = [View(total=500, completions=5, in_flight=10)] * 2
    assert _seen_at(clock, 130.0, [views[0], View(total=500)], of=1000)[1] is not None
    assert _seen_at(clock, 130.0, views, of=1000)[1] is None


def test_shards_of_one_process_have_one_governor(clock: Clock) -> None:
    view = View(total=500, completions=5, in_flight=10, left_s=1.0)
    in_flight, left_s = _seen_at(clock, 101.0, [view, view], of=1000, are_one_process=True)
    assert in_flight == 10
    assert left_s == pytest.approx((990 - 5) / 15 * 1.25)
