from __future__ import annotations

import asyncio
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from tests.delivery.fake_clock import run_in_fake_time
from tests.runs.conftest import Place

from mistill.api.prices import Price
from mistill.api.usage import Usage
from mistill.errors import InputError, Stopped
from mistill.estimates.budget import Budget, Reservation
from mistill.ledger import Spending
from mistill.progress.view import View
from mistill.simulator import Simulator

PRICE = Price(input=1.0, output=4.0, cached_input=0.1)


async def spend(
    budget: Budget, rng: random.Random, workers: int, most_output: int | None, rows: int
) -> list[Usage]:
    """Fake workers over rows of random size and time; returns what was billed, in order of settling."""
    left = iter(range(rows))
    billed: list[Usage] = []

    async def work() -> None:
        for _ in left:
            size = rng.randint(1, 400)
            try:
                reservation = await budget.reserve(size, most_output)
            except Stopped:
                return
            await asyncio.sleep(rng.random() * 5)
            if rng.random() < 0.1:
                budget.refund(reservation)
                continue
            usage = Usage(rng.randint(1, size), rng.randint(0, most_output or 2_000))
            budget.settle(reservation, usage)
            billed.append(usage)

    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(work())
    return billed


@settings(max_examples=1_000)
@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 40),
    most_output=st.integers(1, 2_000),
    max_tokens=st.integers(1, 60_000) | st.none(),
    max_cost=st.floats(1e-6, 0.2) | st.none(),
)
def test_no_budget_is_overrun_by_more_than_one_answer(
    seed: int, workers: int, most_output: int, max_tokens: int | None, max_cost: float | None
) -> None:
    budget = Budget(max_tokens_total=max_tokens, max_cost=max_cost, price=PRICE)
    billed = run_in_fake_time(spend(budget, random.Random(seed), workers, most_output, rows=60))
    if not billed:
        return
    tokens = [each.input_tokens + each.output_tokens for each in billed]
    assert budget.spent_tokens == sum(tokens)
    assert sum(tokens) - (max_tokens or math.inf) <= max(tokens)
    costs = [PRICE.cost(each) for each in billed]
    assert sum(costs) - (max_cost or math.inf) < max(costs) + 1e-12


def test_a_budget_is_used_up_before_it_stops() -> None:
    budget = Budget(max_tokens_total=20_000)
    billed = run_in_fake_time(spend(budget, random.Random(1), 16, 500, rows=10_000))
    assert sum(each.input_tokens + each.output_tokens for each in billed) >= 20_000


def test_answers_of_unknown_length_are_few_at_first_and_many_once_their_lengths_are_known() -> None:
    budget = Budget(max_tokens_total=400_000)
    in_flight = []
    while (reservation := budget.try_reserve(10, None)) is not None:
        in_flight.append(reservation)
    assert len(in_flight) == 4  # at 131,072 tokens each, the fifth could already be too many
    for reservation in in_flight:
        budget.settle(reservation, Usage(10, 100))
    for _ in range(16):
        reservation = budget.try_reserve(10, None)
        assert reservation is not None
        budget.settle(reservation, Usage(10, 100))
    assert all(budget.try_reserve(10, None) for _ in range(500))


def test_an_answer_without_usage_counts_as_the_mean() -> None:
    budget = Budget(max_cost=1.0, price=PRICE)
    first = budget.try_reserve(100, 1000)
    assert first is not None
    budget.settle(first, Usage(50, 200))
    second = budget.try_reserve(100, 1000)
    assert second is not None
    budget.settle(second, None)
    assert budget.spent_tokens == 250 + 50 + 200  # half a token a byte, as of the first
    assert budget.spent_cost == pytest.approx((50 + 50 + 2 * 200 * 4) / 1e6)


def test_an_answer_without_usage_is_taken_to_be_cached_as_much_as_others() -> None:
    budget = Budget(max_cost=1.0, price=PRICE)
    assert budget.estimated(Usage(100, 10, 80), 400, None) is None
    spent = budget.estimated(None, 800, None)
    assert spent is not None
    assert spent.usage == Usage(200, 10, 160)
    of_a_job = budget.estimated(
        None, 800, None, tokens_a_byte=8
    )  # that may be believed of it, and is no guess
    assert of_a_job is not None
    assert of_a_job.usage == spent.usage


def test_how_long_answers_of_a_job_are_is_known_with_the_first_of_them() -> None:
    """What is asked while a job is being read is held at such lengths, and not at nothing."""
    budget = Budget(max_cost=1.0, price=PRICE)
    for _ in range(20):
        budget.estimated(Usage(100, 900), 400, None)
    reservation = budget.try_reserve(100, None)
    assert reservation is not None
    assert reservation.output_tokens >= 900


@pytest.mark.parametrize(
    "usage",
    [
        Usage(0, 0),
        Usage(-1, 3),
        Usage(5, -1),
        Usage(-(10**9), -(10**9)),
        Usage(2**53, 3),
        Usage(5, 2**53),
        Usage(5, 100_000),
        Usage(10**7, 3),
    ],
)
def test_usage_that_cannot_be_counts_as_the_mean_and_is_said_once(
    usage: Usage, caplog: pytest.LogCaptureFixture
) -> None:
    budget = Budget(max_cost=1.0, price=PRICE)
    for reported in (Usage(50, 200), usage, usage):
        reservation = budget.try_reserve(100, 1000)
        assert reservation is not None
        spent = budget.settle(reservation, reported)
    assert spent.usage == Usage(50, 200)
    assert budget.spent_tokens == 3 * 250
    assert budget.spent_cost == pytest.approx((3 * 50 + 3 * 200 * 4) / 1e6)
    assert [record.message.partition(":")[2] for record in caplog.records] == [
        " an estimate of such answers is counted"
    ]


@given(st.lists(st.tuples(st.integers(-(2**70), 2**70), st.integers(-(2**70), 2**70)), max_size=60))
def test_no_usage_makes_a_budget_larger(reported: list[tuple[int, int]]) -> None:
    budget = Budget(max_tokens_total=10_000)
    requests = 0
    for input_tokens, output_tokens in reported:
        before = budget.spent_tokens
        try:
            reservation = budget.try_reserve(400, 10)
        except Stopped:
            break
        assert reservation is not None
        budget.settle(reservation, Usage(input_tokens, output_tokens))
        assert budget.spent_tokens >= before
        requests += 1
    assert requests <= 10_000


KNOWN = {
    "answers": 10,
    "input_tokens": 100,
    "output_tokens": 200,
    "longest_output_tokens": 50,
    "cost": 0.0009,
}


@pytest.mark.parametrize(
    ("before", "bound", "tokens"),
    [
        (Spending(), None, 0),
        (Spending(**KNOWN), 100, 300),  # type: ignore[arg-type]
        (Spending(**KNOWN, unknown=3, unknown_bytes=3_000), 100, 300 + 3 * (10 + 20)),  # type: ignore[arg-type]
        (Spending(**KNOWN, unknown=3, unknown_bytes=12), None, 300 + 12 + 3 * 20),  # type: ignore[arg-type]
        (Spending(unknown=3, unknown_bytes=900), 100, 900 + 3 * 100),
        (Spending(unknown=3, unknown_bytes=900), None, 900 + 3 * 500),
        (Spending(unknown=3, unknown_bytes=900), 0, 900),  # vectors
    ],
)
def test_requests_of_earlier_starts_that_may_be_on_the_bill_count(
    before: Spending, bound: int | None, tokens: int
) -> None:
    budget = Budget(max_tokens_total=10**7, before=before, price=PRICE)
    for _ in range(2):  # once, not with every request
        budget.try_reserve(10, bound)
        assert budget.spent_tokens == tokens
        assert tokens <= budget.spent_cost * 1e6 <= 4 * tokens


def test_spent_before_counts() -> None:
    budget = Budget(max_tokens_total=100, before=Spending(answers=4, input_tokens=60, output_tokens=40))
    with pytest.raises(Stopped, match="max_tokens_total of 100") as stopped:
        budget.try_reserve(1, 1)
    assert stopped.value.reason == "budget"


def test_the_deadline_stops_what_comes_later() -> None:
    async def main() -> None:
        clock = asyncio.get_running_loop().time
        budget = Budget(deadline=10, clock=clock)
        reservation = await budget.reserve(1, 1)
        await asyncio.sleep(9)
        assert budget.time_left_s() == 1
        await asyncio.sleep(1)
        with pytest.raises(Stopped, match="deadline of 10 s") as stopped:
            await budget.reserve(1, 1)
        assert stopped.value.reason == "deadline"
        budget.settle(reservation, Usage(1, 1))  # what was sent in time is still counted
        assert budget.spent_tokens == 2

    run_in_fake_time(main())


def test_a_cancelled_wait_leaves_nothing_behind() -> None:
    async def main() -> None:
        budget = Budget(max_tokens_total=100)
        first = await budget.reserve(10, 100)
        waiting = asyncio.ensure_future(budget.reserve(10, 100))
        await asyncio.sleep(1)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        budget.refund(first)
        assert budget.try_reserve(10, 100) is not None

    run_in_fake_time(main())


@pytest.mark.parametrize(
    "limits", [{"max_cost": 0.0}, {"max_tokens_total": -1}, {"deadline": math.inf}, {"max_cost": math.nan}]
)
def test_a_limit_must_be_a_positive_number(limits: dict[str, float]) -> None:
    with pytest.raises(InputError, match=next(iter(limits))):
        Budget(**limits, price=PRICE)  # type: ignore[arg-type]


def test_a_limit_on_cost_that_is_set_later_needs_a_price_too() -> None:
    budget = Budget(max_tokens_total=7)
    with pytest.raises(InputError, match="needs the price"):
        budget.set_limits(1.0, 9)
    assert (budget.max_cost, budget.max_tokens_total) == (None, 7)


def test_a_limit_on_cost_needs_a_price() -> None:
    with pytest.raises(InputError, match="price"):
        Budget(max_cost=1.0)


def test_what_may_be_billed_counts_by_what_answers_have_cost() -> None:
    dearer = Spending(
        answers=10, input_tokens=1000, output_tokens=1000, cost=1.75 * PRICE.most(1000, 1000), unknown=10
    )
    for budget, factor in (
        (Budget(max_cost=1.0, price=PRICE, before=dearer), 1.75),
        (Budget(max_cost=1.0, price=PRICE, before=replace(dearer, cost=0.0)), 1.0),
    ):
        before = budget.spent_cost
        reservation = budget.try_reserve(100, 100)
        assert reservation is not None
        assert budget.spent_cost - before == pytest.approx(factor * PRICE.most(0, 10 * 100))
        before = budget.spent_cost
        budget.settle(reservation, None)
        assert budget.spent_cost - before == pytest.approx(factor * PRICE.most(100, 100))


def test_an_hour_of_sound_is_reserved_until_it_is_known_how_much_there_is() -> None:
    sound = replace(PRICE, minute=0.004)
    budget = Budget(max_cost=0.5, price=sound)
    held = [budget.try_reserve(10, 10), budget.try_reserve(10, 10), budget.try_reserve(10, 10)]
    assert [one is None for one in held] == [False, False, False]
    assert budget.try_reserve(10, 10) is None  # three hours may cost 0.72 $
    for one in held:
        assert one is not None
        budget.refund(one)
    for _ in range(20):
        one = budget.try_reserve(10, 10)
        assert one is not None
        budget.settle(one, Usage(10, 10, audio_seconds=30), 0.002)
    together = [budget.try_reserve(10, 10) for _ in range(100)]
    assert sum(one is not None for one in together) > 50  # twice 30 s each


def test_a_reservation_is_given_back_once() -> None:
    budget = Budget(max_tokens_total=100)
    reservation = budget.try_reserve(1, 1)
    assert reservation is not None
    budget.refund(reservation)
    with pytest.raises(AssertionError):
        budget.settle(reservation, None)


def test_what_waits_for_the_budget_is_told_from_what_is_in_flight(place: Place, simulator: Simulator) -> None:
    place.write([str(n) for n in range(8)])
    simulator.change(latency_s=0.2)
    views: list[View] = []
    report = place.run(max_tokens_total=200_000, on_progress=views.append).start()
    assert report.completions == 8
    assert max(view.in_flight for view in views) <= 2  # at 131,072 tokens each, the third could be too many
    assert "budget" in {view.waiting_for for view in views}
    spent = report.last_start.seconds_by_cause
    assert spent["budget"] > 0.5 * 4 * 0.2  # of four rounds of two, at the server's latency, all but the last
    assert "max_new_tokens" in str(report.advice)


async def spend_and_limit(
    budget: Budget, rng: random.Random, workers: int, most_output: int, rows: int, limit: int
) -> tuple[list[Usage], int]:
    """As `spend`, without a limit at first, which is set at some moment. What was billed, and how much of it had left
    before that moment."""
    left, open_reservations = iter(range(rows)), dict[int, Reservation | None]()
    sizes, billed, ended, goes_on = dict[int, int](), list[Usage](), list[Usage](), asyncio.Event()
    left_before, is_set = 0, False
    goes_on.set()

    async def work() -> None:
        nonlocal left_before
        for row in left:
            await goes_on.wait()
            sizes[row] = size = rng.randint(1, 400)
            try:
                open_reservations[row] = (
                    await budget.reserve(size, most_output) if budget.is_limited else None
                )
            except Stopped:
                return
            was_set = is_set
            await asyncio.sleep(rng.random() * 5)
            usage = Usage(rng.randint(1, size), rng.randint(0, most_output))
            reservation = open_reservations.pop(row)
            if reservation is not None:
                budget.settle(reservation, usage)
            billed.append(usage)
            if not is_set:
                ended.append(usage)
            if not was_set:
                left_before += usage.input_tokens + usage.output_tokens

    async def set_limit() -> None:
        nonlocal is_set
        await asyncio.sleep(rng.random() * 20)
        is_set = True
        budget.set_limits(None, limit)
        for row, reservation in open_reservations.items():
            assert reservation is None
            open_reservations[row] = budget.hold_open(sizes[row], most_output)
        before = Spending(
            answers=len(ended),
            input_tokens=sum(each.input_tokens for each in ended),
            output_tokens=sum(each.output_tokens for each in ended),
        )
        goes_on.clear()
        await asyncio.sleep(rng.random())  # the ledger is read
        budget.take_up(before)
        goes_on.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(set_limit())
        for _ in range(workers):
            group.create_task(work())
    return billed, left_before


@settings(max_examples=300)
@given(
    seed=st.integers(0, 2**32),
    workers=st.integers(1, 40),
    most_output=st.integers(1, 2_000),
    limit=st.integers(1, 60_000),
)
def test_a_budget_that_is_set_on_the_way_knows_all_that_was_spent_and_is_not_overrun_by_more_than_one_answer(
    seed: int, workers: int, most_output: int, limit: int
) -> None:
    budget = Budget()
    billed, left_before = run_in_fake_time(
        spend_and_limit(budget, random.Random(seed), workers, most_output, 60, limit)
    )
    tokens = [each.input_tokens + each.output_tokens for each in billed]
    assert budget.spent_tokens == sum(tokens)
    assert sum(tokens) < max(limit, left_before) + max(tokens) + 1
