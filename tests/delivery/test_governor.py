"""The governor's behaviours one by one, in fake time."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest
from tests.delivery.fake_clock import run_in_fake_time

from mistill.delivery.diagnostics import advice
from mistill.delivery.governor import ConcurrencyLimit, Governor, Permit
from mistill.delivery.governors import governor_for
from mistill.delivery.tuning import Tuning
from mistill.errors import (
    APIError,
    AttemptTimeout,
    BadRequest,
    CapacityExceeded,
    ConnectFailed,
    Forbidden,
    MistillError,
    NotFound,
    NothingAnswers,
    RateLimited,
    RateLimits,
    ServerError,
    Stopped,
    Unauthorized,
)

REFUSED_CONNECTION = ConnectFailed("no", endpoint="http://127.0.0.1:1", why="refused")
UNAVAILABLE = ServerError("unavailable", status=503)
REFUSED = RateLimited("slow down", status=429, code="1300")


class Caller:
    """A governor, one object's concurrency limit, and the clock of the running loop."""

    def __init__(self, slots: int = 64, **settings: Any) -> None:
        self.clock = asyncio.get_running_loop().time
        self.governor = Governor(clock=self.clock, **settings)
        self.concurrency_limit = ConcurrencyLimit(slots)

    def take(self, tokens: int = 1) -> Permit:
        permit = self.governor.try_admit(self.concurrency_limit, tokens)
        assert permit is not None
        return permit

    def is_blocked(self, tokens: int = 1) -> bool:
        permit = self.governor.try_admit(self.concurrency_limit, tokens)
        if permit is not None:
            self.governor.refund(permit)
        return permit is None

    def wait(self, tokens: int = 1, **keywords: Any) -> asyncio.Task[Permit]:
        return asyncio.ensure_future(self.governor.admit(self.concurrency_limit, tokens, **keywords))

    def answer(self, limits: RateLimits | None = None, tokens: int = 1) -> None:
        self.governor.settle(self.take(tokens), limits=limits, tokens=tokens)

    def fail(self, error: MistillError, row: object = None) -> bool:
        return self.governor.settle(self.take(), error=error, row=row)


def in_fake_time(test: Any) -> Any:
    @functools.wraps(test)
    def run(*arguments: Any, **keywords: Any) -> None:
        main: Coroutine[Any, Any, None] = test(*arguments, **keywords)
        run_in_fake_time(main)

    del run.__wrapped__  # it is a coroutine's function, and pytest would look there
    run.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return run


# --- quotas -------------------------------------------------------------------------------------------------------


@in_fake_time
async def test_a_users_quota_is_available_at_once_then_by_the_minute() -> None:
    caller = Caller(requests_per_minute=5)
    for _ in range(5):
        caller.answer()
    waiting = [caller.wait() for _ in range(6)]
    await asyncio.sleep(59)
    assert not any(task.done() for task in waiting)
    await asyncio.sleep(16)
    assert [task.done() for task in waiting] == [True] * 5 + [False]
    waiting[5].cancel()


@in_fake_time
async def test_the_users_quota_comes_before_the_headers() -> None:
    caller = Caller()
    caller.governor.set_quota(3, None)
    for _ in range(3):
        caller.answer(RateLimits(1_000, 900))
    assert caller.is_blocked()
    snapshot = caller.governor.snapshot()
    assert (snapshot.requests_per_minute, snapshot.requests_source) == (3, "user")
    caller.governor.set_quota(None, None)
    assert not caller.is_blocked()
    assert caller.governor.snapshot().requests_source == "server"


@in_fake_time
async def test_what_others_have_used_is_obeyed() -> None:
    caller = Caller()
    caller.answer(RateLimits(100, 0))  # 99 of 100 went to others
    assert caller.is_blocked()
    permit = await caller.wait()
    assert 0 < caller.clock() < 3  # theirs leave the window too
    caller.governor.settle(permit, limits=RateLimits(100, 80))
    assert not caller.is_blocked()


@in_fake_time
async def test_answers_out_of_order_do_not_bring_back_an_old_quota() -> None:
    caller = Caller()
    old, new = caller.take(), caller.take()
    caller.governor.settle(new, limits=RateLimits(10, 8))
    caller.governor.settle(old, limits=RateLimits(500, 499))
    assert caller.governor.snapshot().requests_per_minute == 10


@in_fake_time
async def test_tokens_are_estimated_before_and_settled_after() -> None:
    caller = Caller(tokens_per_minute=1_000)
    permit = caller.take(900)
    assert caller.is_blocked(200)
    caller.governor.settle(permit, tokens=100)
    assert not caller.is_blocked(900)
    assert caller.is_blocked(901)


@in_fake_time
async def test_a_request_above_the_whole_quota_leaves_when_nothing_else_is_in_it() -> None:
    caller = Caller(tokens_per_minute=1_000)
    caller.answer(tokens=10)
    assert caller.is_blocked(5_000)
    permit = await caller.wait(5_000)
    assert 60 <= caller.clock() <= 62
    caller.governor.settle(permit, tokens=5_000)


@in_fake_time
async def test_a_limit_of_zero_fails_all_who_wait_at_once() -> None:
    caller = Caller(slots=1)
    permit = caller.take()
    waiting = [caller.wait() for _ in range(3)]
    await asyncio.sleep(1)
    error = RateLimited("no", status=429, limits=RateLimits(0, 0))
    assert error.limit_is_zero
    caller.governor.settle(permit, error=error)
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in ended] == [RateLimited] * 3
    assert len({id(each) for each in ended}) == 3  # each its own, since a traceback grows
    assert caller.clock() == 1


# --- refusals -----------------------------------------------------------------------------------------------------


@in_fake_time
async def test_retry_after_is_obeyed_and_then_one_leaves_before_the_rest() -> None:
    caller = Caller()
    caller.fail(RateLimited("slow down", status=429, code="1300", retry_after_s=20))
    waiting = [caller.wait() for _ in range(5)]
    await asyncio.sleep(19.9)
    assert not any(task.done() for task in waiting)
    await asyncio.sleep(0.2)
    assert [task.done() for task in waiting] == [True, False, False, False, False]
    caller.governor.settle(waiting[0].result())
    await asyncio.sleep(15)
    assert all(task.done() for task in waiting)


def asking(kind: type[APIError], status: int, retry_after_s: float, **more: Any) -> APIError:
    return kind("wait", status=status, retry_after_s=retry_after_s, **more)


ABSURD_S = [61.0, 1e6, 1e14]


@pytest.mark.parametrize("asked_s", ABSURD_S)
@pytest.mark.parametrize(
    "error", [(RateLimited, 429, "1300"), (CapacityExceeded, 429, "3505"), (ServerError, 503, None)]
)
@in_fake_time
async def test_others_wait_no_longer_for_retry_after_than_a_quota_takes(
    error: tuple[type[APIError], int, str | None], asked_s: float
) -> None:
    kind, status, code = error
    caller = Caller()
    if kind is not RateLimited:
        caller.answer()
    caller.fail(asking(kind, status, asked_s, code=code))
    assert caller.is_blocked()
    await asyncio.sleep(59)
    assert caller.is_blocked()
    await asyncio.sleep(2)
    assert not caller.is_blocked()


@in_fake_time
async def test_where_others_are_answered_nobody_waits_for_what_no_row_would_wait_for() -> None:
    caller = Caller()
    caller.answer()
    caller.fail(asking(RateLimited, 429, 86_400, code="1300"), "odd")
    assert caller.is_blocked()
    await asyncio.sleep(1)
    assert not caller.is_blocked()


@in_fake_time
async def test_a_row_that_is_refused_for_itself_waits_alone() -> None:
    caller = Caller()
    caller.answer()
    assert caller.fail(REFUSED, "odd") is False  # a quota, for all that is known
    await asyncio.sleep(2)
    for _ in range(8):
        caller.answer()
    for _ in range(6):
        permit = caller.take()
        assert caller.governor.settle(permit, error=REFUSED, row="odd") is True
        assert permit.stands_alone
        assert not caller.is_blocked()
    assert caller.fail(REFUSED, "other") is False  # another one's is not its own for that


@in_fake_time
async def test_rows_of_a_used_up_quota_are_not_refused_for_themselves() -> None:
    caller = Caller()
    for _ in range(20):
        caller.governor.settle(await caller.wait())
        for row in range(4):
            permit = await caller.wait()
            caller.governor.settle(permit, error=REFUSED, row=row)
            assert not permit.stands_alone


@pytest.mark.parametrize("asked_s", [0.5, 20.0, *ABSURD_S])
@pytest.mark.parametrize(
    "error",
    [
        *((BadRequest, 400), (BadRequest, 422), (Unauthorized, 401), (Forbidden, 403), (NotFound, 404)),
        *((ServerError, 500), (ServerError, 502), (ServerError, 504), (ServerError, 408)),
    ],
    ids=str,
)
@in_fake_time
async def test_no_other_refusal_of_one_request_holds_the_rest(
    error: tuple[type[APIError], int], asked_s: float
) -> None:
    caller = Caller()
    caller.fail(asking(*error, asked_s))
    assert not caller.is_blocked()


@in_fake_time
async def test_a_quota_that_is_not_used_up_shortens_what_others_wait() -> None:
    caller = Caller()
    left = RateLimits(requests_limit=600, requests_remaining=500)
    caller.fail(asking(RateLimited, 429, 1e9, code="1300", limits=left))
    await asyncio.sleep(Tuning().max_cool_down_s - 0.1)
    assert caller.is_blocked()
    await asyncio.sleep(0.2)
    assert not caller.is_blocked()


@in_fake_time
async def test_the_window_of_the_quota_is_the_longest_wait() -> None:
    caller = Caller(window_s=10)
    caller.fail(asking(RateLimited, 429, 1e9, code="1300"))
    await asyncio.sleep(9.9)
    assert caller.is_blocked()
    await asyncio.sleep(0.2)
    assert not caller.is_blocked()


@in_fake_time
async def test_the_wait_for_retry_after_can_be_ended() -> None:
    caller = Caller()
    caller.fail(asking(RateLimited, 429, 1e9, code="1300"))
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(caller.wait(), 3)
    assert caller.clock() == pytest.approx(3, abs=0.01)


@in_fake_time
async def test_only_the_first_refusal_of_a_stretch_is_charged_to_its_row() -> None:
    caller = Caller()
    permits = [caller.take() for _ in range(8)]
    assert [caller.governor.settle(permit, error=REFUSED) for permit in permits] == [True] + [False] * 7
    for _ in range(5):  # probes
        assert caller.governor.settle(await caller.wait(), error=REFUSED) is False


@in_fake_time
async def test_a_server_that_refuses_for_longer_than_patience_fails_even_a_single_row() -> None:
    caller = Caller(tuning=Tuning(patience_s=30))
    caller.fail(REFUSED)

    async def try_for_ever() -> None:
        while True:
            assert caller.governor.settle(await caller.wait(), error=REFUSED) is False

    with pytest.raises(RateLimited):
        await try_for_ever()
    assert 30 <= caller.clock() <= 30 + 20
    permit = await caller.wait()  # whoever comes now has patience anew
    caller.governor.settle(permit)


@in_fake_time
async def test_cool_downs_grow_to_a_quarter_of_a_minute_however_long_the_server_refuses() -> None:
    caller = Caller(tuning=Tuning(patience_s=1e9))
    pauses = []
    for _ in range(1_100):  # some four hours
        since_s = caller.clock()
        caller.governor.settle(await caller.wait(), error=REFUSED)
        pauses.append(caller.clock() - since_s)
    assert pauses[1] < 1
    assert all(0.8 * 15 - 0.01 <= pause <= 1.2 * 15 + 0.01 for pause in pauses[10:])


@in_fake_time
async def test_a_full_server_gets_fewer_at_once_and_one_cut_counts_for_all_stragglers() -> None:
    caller = Caller()
    permits = [caller.take() for _ in range(8)]
    before = caller.governor.snapshot().adaptive_limit
    full = CapacityExceeded("full", status=429, code="3505")
    assert [caller.governor.settle(permit, error=full) for permit in permits] == [True] + [False] * 7
    assert caller.governor.snapshot().adaptive_limit == int(0.8 * before)


@in_fake_time
async def test_a_refusal_among_accepted_ones_is_no_sign_of_a_quota() -> None:
    caller = Caller()
    permits = [caller.take() for _ in range(8)]
    assert caller.governor.settle(permits[0], error=REFUSED) is True
    assert caller.is_blocked()  # for a moment: do the later ones fare alike?
    await asyncio.sleep(0.2)
    assert not caller.is_blocked()
    for permit in permits[1:]:
        caller.governor.settle(permit)
    assert caller.governor.snapshot().requests_per_minute is None


@in_fake_time
async def test_refusals_of_most_that_left_later_tell_of_a_quota() -> None:
    caller = Caller()
    permits = [caller.take() for _ in range(8)]
    assert [caller.governor.settle(permit, error=REFUSED) for permit in permits[2:]] == [True] + [False] * 5
    for permit in permits[:2]:
        caller.governor.settle(permit)
    waiting = caller.wait()
    await asyncio.sleep(0.2)
    assert not waiting.done()
    assert caller.governor.snapshot().requests_per_minute == 2
    waiting.cancel()


@in_fake_time
async def test_scattered_failures_do_not_keep_the_limit_from_growing() -> None:
    caller = Caller()
    for number in range(800):
        permits = [caller.take() for _ in range(int(caller.governor.snapshot().adaptive_limit))]
        for permit in permits[1:]:
            caller.governor.settle(permit)
        caller.governor.settle(permits[0], error=UNAVAILABLE, row=number)
        if caller.governor.snapshot().adaptive_limit >= 64:
            return
    pytest.fail("it did not grow")


# --- outages ------------------------------------------------------------------------------------------------------


@in_fake_time
async def test_an_outage_is_not_charged_and_ends_with_the_first_good_probe() -> None:
    caller = Caller()
    caller.answer()
    assert [caller.fail(UNAVAILABLE, row) for row in "abcde"] == [True] * 4 + [False]
    waiting = [caller.wait() for _ in range(20)]
    for _ in range(4):
        await asyncio.sleep(6)
        (probe,) = [task for task in waiting if task.done()]
        waiting.remove(probe)
        assert caller.governor.settle(probe.result(), error=UNAVAILABLE) is False
    await asyncio.sleep(6)
    (probe,) = [task for task in waiting if task.done()]
    waiting.remove(probe)
    caller.governor.settle(probe.result())
    await asyncio.sleep(0)
    assert 1 <= sum(task.done() for task in waiting) <= 12  # not all at once
    for task in waiting:
        caller.governor.settle(await task)
    assert caller.governor.snapshot().seconds["outage"] == pytest.approx(30)


@in_fake_time
async def test_one_rows_own_failures_are_no_outage() -> None:
    caller = Caller()
    caller.answer()
    assert all(caller.fail(UNAVAILABLE, "poison") for _ in range(10))


@in_fake_time
async def test_rows_that_fail_while_others_are_answered_are_no_outage_when_they_are_left_alone() -> None:
    caller = Caller()
    caller.answer()
    for row in range(12):
        assert caller.fail(UNAVAILABLE, row) is True
        if row % 4 == 3:
            caller.answer()
    for _ in range(3):  # nothing else is left
        assert all(caller.fail(UNAVAILABLE, row) for row in range(12))
    assert not caller.is_blocked()
    # Of other rows, they hide no outage.
    assert [caller.fail(UNAVAILABLE, row) for row in "abcde"] == [True] * 4 + [False]
    assert caller.is_blocked()


FAILED = ServerError("internal error", status=500)


async def _fail_to_the_end(
    caller: Caller, error: MistillError, rows: int, retries: int = 5
) -> tuple[int, int]:
    """Rows that always fail, as a dispatcher sends them; how many attempts they took, and how many gave up."""
    attempts = given_up = 0

    async def row(number: int) -> None:
        nonlocal attempts, given_up
        charged = 0
        while charged <= retries:
            permit = caller.governor.try_admit(caller.concurrency_limit, 1)
            permit = permit or await caller.governor.admit(caller.concurrency_limit, 1)
            attempts += 1
            await asyncio.sleep(0.001)
            charged += caller.governor.settle(permit, error=error, row=number)
            await asyncio.sleep(0.5)
        given_up += 1

    await asyncio.gather(*map(row, range(rows)), return_exceptions=True)
    return attempts, given_up


@pytest.mark.parametrize("rows", [1, 4, 5, 8, 10])
@in_fake_time
async def test_a_few_rows_that_the_server_itself_fails_end_by_their_own_retries(rows: int) -> None:
    caller = Caller()
    caller.answer()
    attempts, given_up = await _fail_to_the_end(caller, FAILED, rows)
    assert given_up == rows
    assert attempts <= 7 * rows
    assert caller.clock() < 35


@pytest.mark.parametrize(("error", "rows"), [(FAILED, 20), (UNAVAILABLE, 5), (REFUSED_CONNECTION, 5)])
@in_fake_time
async def test_many_rows_or_a_server_that_is_not_there_are_waited_for(error: MistillError, rows: int) -> None:
    caller = Caller()
    caller.answer()
    _, given_up = await _fail_to_the_end(caller, error, rows)
    assert given_up == 0  # none by its own retries
    assert caller.clock() >= 300


@in_fake_time
async def test_rows_of_an_outage_are_not_suspected_after_it() -> None:
    caller = Caller()
    caller.answer()
    assert [caller.fail(UNAVAILABLE, row) for row in "abcde"] == [True] * 4 + [False]
    await asyncio.sleep(6)
    caller.answer()
    assert [caller.fail(UNAVAILABLE, row) for row in "abcde"] == [True] * 4 + [False]


@in_fake_time
async def test_a_server_that_never_answered_is_no_outage() -> None:
    caller = Caller()
    assert all(caller.fail(UNAVAILABLE, row) for row in range(10))


@in_fake_time
async def test_a_good_answer_to_a_later_request_ends_a_false_alarm() -> None:
    caller = Caller()
    caller.answer()
    slow = [caller.take() for _ in range(5)]
    quick = caller.take()
    timeout = AttemptTimeout("no answer within 120 s")
    for row, permit in enumerate(slow):
        caller.governor.settle(permit, error=timeout, row=row)
    assert caller.is_blocked()
    caller.governor.settle(quick)
    assert not caller.is_blocked()


@in_fake_time
async def test_a_refused_request_shows_that_the_server_is_well() -> None:
    caller = Caller()
    caller.answer()
    for row in range(4):
        caller.fail(UNAVAILABLE, row)
    assert caller.fail(BadRequest("no", status=400), "bad") is True
    assert caller.fail(UNAVAILABLE, "c") is True  # the first of a new stretch


@in_fake_time
async def test_an_outage_beyond_patience_fails_those_who_wait_with_the_servers_error() -> None:
    caller = Caller(tuning=Tuning(patience_s=50))
    caller.answer()
    for row in range(5):
        caller.fail(UNAVAILABLE, row)
    waiting = [caller.wait() for _ in range(3)]
    hanging = await waiting.pop(0)  # the probe gets no answer at all
    ended = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(each) for each in ended] == [ServerError] * 2
    assert caller.clock() == pytest.approx(50)
    caller.governor.settle(hanging)
    assert not caller.is_blocked()


async def _until_given_up(
    caller: Caller, error: MistillError, rows: int = 1_000
) -> tuple[int, float, list[object]]:
    """Attempts that rows make, each again for as long as it may; when the first gave up, and what all got."""
    attempts = 0

    async def row(number: int) -> None:
        nonlocal attempts
        while True:
            permit = caller.governor.try_admit(caller.concurrency_limit, 1)
            permit = permit or await caller.governor.admit(caller.concurrency_limit, 1)
            attempts += 1
            await asyncio.sleep(0.001)
            caller.governor.settle(permit, error=error, row=number)
            await asyncio.sleep(0.25)

    tasks = [asyncio.ensure_future(row(number)) for number in range(rows)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    given_up_s, so_far = caller.clock(), attempts
    ended = [task.exception() for task in tasks if task.done()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return so_far, given_up_s, list(ended)


@in_fake_time
async def test_where_nothing_ever_answered_all_are_given_up_after_a_few_attempts() -> None:
    attempts, given_up_s, ended = await _until_given_up(Caller(), REFUSED_CONNECTION)
    assert attempts <= 16
    assert given_up_s == pytest.approx(2.0, abs=0.1)
    assert {type(each) for each in ended} == {NothingAnswers}
    assert str(ended[0]).startswith("nothing answers at http://127.0.0.1:1: refused")


@in_fake_time
async def test_one_row_alone_gives_up_where_nothing_ever_answered() -> None:
    attempts, given_up_s, ended = await _until_given_up(Caller(), REFUSED_CONNECTION, rows=1)
    assert attempts <= 8
    assert given_up_s <= 3.5
    assert isinstance(ended[0], NothingAnswers)


@pytest.mark.parametrize("sign_of_life", ["answer", "error", "earlier start"])
@in_fake_time
async def test_a_server_that_was_there_once_is_waited_for(sign_of_life: str) -> None:
    caller = Caller()
    if sign_of_life == "answer":
        caller.answer()
    elif sign_of_life == "error":
        caller.fail(UNAVAILABLE, "loading")
    else:
        caller.governor.expect_answers()
    for row in range(20):
        if not caller.is_blocked():
            caller.fail(REFUSED_CONNECTION, row)
    await asyncio.sleep(30)
    admitted = caller.governor.try_admit(caller.concurrency_limit, 1) or await caller.wait()
    caller.governor.settle(admitted)


@in_fake_time
async def test_a_server_that_comes_up_within_a_moment_is_waited_for() -> None:
    caller = Caller()
    for row in range(3):
        caller.fail(REFUSED_CONNECTION, row)
    waiting = [caller.wait() for _ in range(5)]
    caller.governor.settle(await waiting[0])
    for permit in await asyncio.gather(*waiting[1:]):
        caller.governor.settle(permit)
    assert caller.clock() < 1


@in_fake_time
async def test_a_call_after_one_that_was_given_up_begins_anew() -> None:
    caller = Caller()
    await _until_given_up(caller, REFUSED_CONNECTION, rows=3)
    await asyncio.sleep(1)
    caller.answer()


@in_fake_time
async def test_a_cool_down_of_long_ago_does_not_fail_the_next_run() -> None:
    caller = Caller()
    caller.fail(REFUSED)
    await asyncio.sleep(3_600)
    probe, later = caller.take(), caller.wait()
    await asyncio.sleep(0.1)
    assert not later.done()
    caller.governor.settle(probe)
    caller.governor.settle(await later)


@in_fake_time
async def test_a_lost_probe_makes_way_for_another() -> None:
    caller = Caller()
    caller.answer()
    for row in range(5):
        caller.fail(UNAVAILABLE, row)
    caller.governor.refund(await caller.wait())
    caller.governor.settle(await caller.wait(), error=Stopped("cancelled"))
    caller.governor.settle(await caller.wait())
    assert not caller.is_blocked()


# --- waiting ------------------------------------------------------------------------------------------------------


@in_fake_time
async def test_a_request_that_is_given_up_waits_no_more() -> None:
    caller = Caller(requests_per_minute=1)
    caller.answer()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(caller.wait(), 10)
    assert caller.clock() == 10
    assert caller.governor.snapshot().waiting == 0


@in_fake_time
async def test_a_limit_without_a_free_slot_does_not_hold_back_another() -> None:
    caller = Caller(slots=1)
    permit = caller.take()
    behind = caller.wait()
    await asyncio.sleep(1)
    assert caller.governor.try_admit(ConcurrencyLimit(1), 1) is not None
    caller.governor.settle(permit)
    await behind


@in_fake_time
async def test_nobody_overtakes_those_who_wait_for_the_quota() -> None:
    caller = Caller(requests_per_minute=1)
    caller.answer()
    waiting = caller.wait()
    await asyncio.sleep(1)
    assert caller.governor.try_admit(ConcurrencyLimit(1), 1) is None
    waiting.cancel()


@in_fake_time
async def test_an_objects_slots_count_over_all_governors() -> None:
    caller = Caller(slots=1)
    other = Governor(clock=caller.clock)
    permit = caller.take()
    waiting = asyncio.ensure_future(other.admit(caller.concurrency_limit, 1))
    await asyncio.sleep(1)
    assert not waiting.done()
    caller.governor.settle(permit)
    await asyncio.sleep(0)
    other.settle(await waiting)
    assert caller.concurrency_limit.in_flight == 0


@in_fake_time
async def test_more_slots_are_used_at_once() -> None:
    caller = Caller(slots=1)
    caller.take()
    waiting = caller.wait()
    await asyncio.sleep(1)
    caller.concurrency_limit.limit = 2
    await waiting
    assert caller.clock() == 1


@in_fake_time
async def test_when_the_next_in_line_is_cancelled_the_others_are_still_woken() -> None:
    caller = Caller(requests_per_minute=1)
    caller.answer()
    first, second = caller.wait(), caller.wait()
    await asyncio.sleep(1)
    first.cancel()
    await second
    assert 60 <= caller.clock() <= 62


@in_fake_time
async def test_ten_thousand_wait_and_leave() -> None:
    caller = Caller(slots=100)
    permits = [caller.take() for _ in range(8)]
    waiting = [caller.wait() for _ in range(10_000)]
    await asyncio.sleep(0)
    assert caller.governor.snapshot().waiting == 10_000
    for task in waiting[::2]:
        task.cancel()
    for permit in permits:
        caller.governor.settle(permit)
    for task in waiting[1::2]:
        caller.governor.settle(await task)
    assert caller.governor.snapshot().waiting == 0


# --- one governor per quota -----------------------------------------------------------------------------------------


def test_a_quota_has_one_governor_while_somebody_holds_it() -> None:
    governor = governor_for("https://a", "secret", "m")
    assert governor_for("https://a", "secret", "m") is governor
    others = [
        governor_for(*identity)
        for identity in (
            ("https://b", "secret", "m"),
            ("https://a", "key", "m"),
            ("https://a", "secret", "n"),
        )
    ]
    assert len({id(each) for each in [governor, *others]}) == 4
    gone = weakref.ref(governor)
    del governor
    gc.collect()
    assert gone() is None


# --- why it is slow -------------------------------------------------------------------------------------------------


@in_fake_time
async def test_the_time_is_split_and_the_setting_that_helps_is_named() -> None:
    caller = Caller(slots=1, requests_per_minute=2)
    for _ in range(2):
        permit = caller.take()
        behind = caller.wait()
        await asyncio.sleep(5)  # the slot
        behind.cancel()
        await asyncio.gather(behind, return_exceptions=True)
        caller.governor.settle(permit)
    caller.governor.settle(await caller.wait())
    seconds = caller.governor.snapshot().seconds
    assert seconds["concurrency"] == pytest.approx(10)
    assert seconds["quota_requests"] == pytest.approx(51, abs=1)
    text = advice(caller.governor.snapshot(), max_concurrent_requests=1)
    assert text is not None
    assert "raise requests_per_minute" in text
    assert "84%" in text


@in_fake_time
async def test_the_limit_that_was_waited_for_is_named_whatever_holds_by_now() -> None:
    caller = Caller()
    caller.answer(RateLimits(6_000, 5_999))
    caller.governor.set_quota(2, None)
    caller.answer()
    permit = await caller.wait()
    caller.governor.set_quota(None, None)
    assert caller.governor.snapshot().requests_source == "server"
    text = advice(caller.governor.snapshot(), max_concurrent_requests=1)
    assert "waited for your own limit of 2 requests a minute: raise requests_per_minute" in str(text)
    caller.governor.settle(permit)


@in_fake_time
async def test_rows_that_pause_by_themselves_are_waited_for_where_nothing_else_goes_on() -> None:
    caller = Caller(slots=1)
    permit = caller.take()
    caller.governor.note_resting(1)
    await asyncio.sleep(2)
    caller.governor.settle(permit)
    await asyncio.sleep(3)
    caller.governor.note_resting(1)
    caller.governor.note_resting(-1)
    await asyncio.sleep(4)
    caller.governor.note_resting(-1)
    await asyncio.sleep(5)
    assert caller.governor.snapshot().seconds == pytest.approx({"server": 2, "backoff": 7, "idle": 5})


@in_fake_time
async def test_advice_for_a_run_looks_at_that_run_only() -> None:
    caller = Caller(slots=1, requests_per_minute=1)
    caller.answer()
    permit = await caller.wait()
    earlier = caller.governor.snapshot()
    behind = caller.wait()
    await asyncio.sleep(7)
    behind.cancel()
    await asyncio.gather(behind, return_exceptions=True)
    text = advice(caller.governor.snapshot(), max_concurrent_requests=1, earlier=earlier)
    assert text is not None
    assert "raise max_concurrent_requests" in text
    caller.governor.settle(permit)


def test_nothing_slow_no_advice() -> None:
    assert advice(Governor().snapshot(), max_concurrent_requests=64) is None


@in_fake_time
async def test_a_refusal_is_no_rows_own_while_others_are_answered() -> None:
    caller = Caller()
    caller.answer()
    assert caller.fail(REFUSED, "a") is False
    silent = Caller()
    silent.answer()
    await asyncio.sleep(100)  # no answer for longer than a window
    assert silent.fail(REFUSED, "a") is True


@in_fake_time
async def test_a_first_refusal_is_no_sign_of_a_quota_until_two_probes_are_refused_too() -> None:
    caller = Caller()
    for _ in range(5):
        caller.answer()
    caller.fail(REFUSED)
    await asyncio.sleep(1)
    caller.answer()  # the probe
    assert caller.governor.snapshot().requests_per_minute is None
    caller.fail(REFUSED)
    await asyncio.sleep(1)
    caller.fail(REFUSED)  # the probe: it may have had bad luck
    assert caller.governor.snapshot().requests_per_minute is None
    await asyncio.sleep(2)
    caller.fail(REFUSED)
    assert caller.governor.snapshot().requests_per_minute == 6
