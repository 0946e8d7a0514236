"""`LaneChoice` and `LaneAccount` by themselves: which way each row goes, and what is said of it."""

from __future__ import annotations

import asyncio
import logging

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runs.lane_bench import CACHED, FAILED, HALF, TOKENS, bench, kind_of, outcome_of, price

from mistill.api.usage import Usage
from mistill.estimates.lane_prices import LanePrices, RowSize
from mistill.ledger import RowUsage
from mistill.llms.types import Outcome
from mistill.runs.lanes.lane_account import LaneAccount

LONG = 500
"""Tokens of an answer that makes a job the cheaper lane, whatever is cached."""


# --- which way rows go ------------------------------------------------------------------------------------------------


async def test_the_first_rows_tell_and_the_others_wait_for_them() -> None:
    start = bench()
    for number in range(5):
        assert await start.ask(start.row(number))
    assert start.told == "5 rows live, to learn which lane is cheaper"
    sixth = asyncio.ensure_future(start.choice.goes_live([start.row(5)]))
    for _ in range(20):
        await asyncio.sleep(0)
    assert not sixth.done()
    start.settle()
    assert await asyncio.wait_for(sixth, 5)
    assert start.told.startswith("6 rows live with the cache, about")
    assert start.progress.lane_sample == 5


async def test_rows_that_fail_tell_nothing_so_that_some_more_are_asked() -> None:
    start = bench(output_tokens=LONG)
    for number in range(5):
        await start.ask(start.row(number))
    start.settle(lambda _: FAILED)
    for number in range(5, 8):  # half as many again
        assert await start.ask(start.row(number))
    assert start.told == "8 rows live, to learn which lane is cheaper"
    start.settle()
    for number in range(8, 12):  # three are enough for a guess, and four for certainty
        await start.ask(start.row(number))
        start.settle()
    assert start.lanes[8:] == [True, False, False, False]
    assert start.progress.lane_sample == 9


@settings(max_examples=25)
@given(st.integers(1, 70))
async def test_where_answers_are_short_all_rows_go_live(output_tokens: int) -> None:
    """0.6·o < 0.15·860·(1.8·832/860 - 1), so o < 159, if little is missed."""
    start = bench(output_tokens=output_tokens)
    await start.work_through(30, at_once=4)
    assert start.lanes == [True] * 30


@settings(max_examples=25)
@given(st.integers(200, 5000), st.integers(1, 8))
async def test_where_answers_are_long_all_but_the_first_go_into_jobs(
    output_tokens: int, at_once: int
) -> None:
    """Half of 0.6·o is more than what a cache that misses nothing saves: o > 0.8·860·0.25."""
    start = bench(output_tokens=output_tokens)
    await start.work_through(30, at_once=at_once)
    assert start.lanes == [True] * 5 + [False] * 25
    assert start.progress.lane_sample == 5
    assert start.told.startswith("5 rows live with the cache; 25 rows in jobs")


@settings(max_examples=30)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=40), st.integers(1, 8), st.booleans())
async def test_each_row_is_counted_once_by_the_lane_that_it_goes(
    lengths: list[int], at_once: int, has_jobs: bool
) -> None:
    start = bench(output_tokens=lengths.__getitem__, rows=len(lengths), has_jobs=has_jobs, batch_tail=10)
    await start.work_through(len(lengths), at_once=at_once)
    assert len(start.lanes) == len(lengths)
    account = start.choice._account  # pyright: ignore[reportPrivateUsage]  what is told is made of it
    assert (account.live, account.in_jobs) == (start.lanes.count(True), start.lanes.count(False))
    assert start.settled == account.live
    assert start.lanes[:5] == [True] * min(5, len(lengths))
    assert 5 <= start.progress.lane_sample <= account.live or len(lengths) < 5


@pytest.mark.parametrize(("rows", "live"), [(50, 50), (55, 55), (56, 5)])
async def test_rows_that_the_sample_leaves_go_live_where_they_are_no_more_than_the_tail(
    rows: int, live: int
) -> None:
    start = bench(output_tokens=LONG, rows=rows, has_jobs=False, batch_tail=50)
    await start.work_through(rows)
    assert start.lanes.count(True) == live
    assert (start.told == f"{rows} rows live: too few for jobs") is (live == rows)


async def test_where_there_is_a_wait_anyway_no_rows_are_too_few_for_jobs() -> None:
    waits_anyway = bench(output_tokens=LONG, rows=50, has_jobs=True, batch_tail=50)
    await waits_anyway.work_through(50)
    assert waits_anyway.lanes.count(True) == 5


@pytest.mark.parametrize(("output_tokens", "goes_live"), [(5, True), (LONG, False)])
async def test_a_start_that_goes_on_knows_what_the_earlier_ones_saw(
    output_tokens: int, goes_live: bool
) -> None:
    usage = Usage(TOKENS, output_tokens, CACHED)
    cost = price().cost(usage)
    before = [RowUsage(False, TOKENS, output_tokens, CACHED, cost, False) for _ in range(5)]
    start = bench(output_tokens=output_tokens, known=before, answered=5)
    assert await start.ask(start.row(1)) is goes_live
    assert start.progress.lane_sample == 0


async def test_without_a_cache_no_row_goes_live_nor_is_one_looked_at() -> None:
    start = bench(prompt_cache=False)
    assert start.choice.never_live
    await start.work_through(10)
    assert start.lanes == [False] * 10
    assert start.told == "10 rows in jobs"


async def test_where_jobs_cost_as_much_there_is_no_reason_for_them() -> None:
    start = bench(output_tokens=LONG, factor=1.0, prompt_cache=False)
    assert not start.choice.never_live
    await start.work_through(20)
    assert start.lanes == [True] * 20


async def test_no_more_rows_go_live_than_there_is_time_for() -> None:
    """One after the other, a second each: at 5 of 95 answered, 15 s are left, of which 12 are for rows that go live."""
    start = bench(rows=100, time_left_s=lambda: 20.0 - start.settled)
    for number in range(30):
        await start.ask(start.row(number))
        if number >= 4:
            start.settle()
    # 5 + 12, and at 10 answered it is looked again: 10 s are left, of which 8 are for further ones.
    assert start.lanes == [True] * 18 + [False] * 12


async def test_a_row_that_is_taken_back_is_asked_again_and_counts_once() -> None:
    start = bench()
    first = start.row(0)
    assert await start.ask(first)
    start.choice.take_back([first])
    start.choice.take_back([first])  # as often as one likes
    assert start.told == "0 rows live, to learn which lane is cheaper"
    start.choice.note_end_of_rows()
    assert await start.ask(first)
    assert start.told == "1 row live, to learn which lane is cheaper"


async def test_why_all_rows_go_live_is_told() -> None:
    start = bench()
    start.choice.goes_all_live("this endpoint has no batch jobs")
    assert start.told == "all rows live: this endpoint has no batch jobs"


# --- what is said of them ---------------------------------------------------------------------------------------------


def account(size: int = 1) -> LaneAccount:
    return LaneAccount(kind_of(), price, HALF, size)


def prices_of(*answers: Usage) -> LanePrices:
    prices = LanePrices(price, HALF)
    for usage in answers:
        prices.add_live(RowSize(usage.input_tokens), usage, price().cost(usage))
    return prices


@given(
    st.lists(st.floats(0.01, 600), min_size=1, max_size=20),
    st.integers(1, 1_000_000),
    st.integers(1, 1000),
)
def test_rows_take_as_long_as_they_did_by_so_many_at_once(
    latencies: list[float], rows: int, at_once: int
) -> None:
    found = account(at_once)
    assert found.live_s(rows) is None
    found.time(FAILED)
    found.time(Outcome(completions=(None,)))
    assert found.live_s(rows) is None
    for latency_s in latencies:
        found.time(outcome_of(Usage(TOKENS, 5, CACHED), latency_s))
    each_s = sum(latencies) / len(latencies)
    assert found.live_s(rows) == pytest.approx(max(each_s, rows * each_s / at_once))


def test_the_lanes_are_told_side_by_side_for_the_rows_that_are_left(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "mistill")
    usage, found = Usage(3300, 100, 2970), account(10)
    for _ in range(20):
        found.keep(usage, price().cost(usage), in_job=False, is_first=False)
        found.time(outcome_of(usage, 0.5))
    found.keep(usage, None, in_job=False, is_first=False)  # of no known price: in no quote
    found.quote(prices_of(*[usage] * 20), 1_000_000, few=False)
    head, *lines = [record.getMessage() for record in caplog.records]
    assert head == (
        "by 20 rows answered live, 90% of their input cached: what the 1,000,000 rows left cost, by lane"
    )
    assert [line.split("$")[0].strip() for line in lines] == [
        "live, nothing cached",
        "live with the cache",
        "in batch jobs",
        "> cheapest",
    ]
    dollars = [line.split("$")[1].split()[0] for line in lines]
    assert [round(float(each)) for each in dollars] == [555, 154, 278, 154]
    assert "13 h 53 min" in lines[1]  # 1,000,000 · 0.5 s / 10
    assert found.has_quoted


@pytest.mark.parametrize(("rows_left", "of"), [(None, "each 1,000 rows"), (1, "the 1 row left")])
def test_how_many_rows_a_quote_is_of(
    caplog: pytest.LogCaptureFixture, rows_left: int | None, of: str
) -> None:
    caplog.set_level(logging.WARNING, "mistill")
    usage, found = Usage(TOKENS, 5, CACHED), account()
    found.keep(usage, price().cost(usage), in_job=False, is_first=False)
    found.quote(prices_of(usage), rows_left, few=True)
    told = [record.getMessage() for record in caplog.records]
    assert told[0].endswith(f": what {of} cost, by lane")
    assert told[-1] == "they are too few for jobs, and go live"


def test_without_a_price_nothing_is_quoted_and_nothing_waited_for(caplog: pytest.LogCaptureFixture) -> None:
    found = account()
    found.keep(Usage(TOKENS, 5, CACHED), None, in_job=False, is_first=False)
    found.quote(LanePrices(price, HALF), 10, few=False)
    assert found.has_quoted
    assert caplog.records == []


@pytest.mark.parametrize(
    ("has_quoted", "too_few", "is_learning", "told"),
    [
        (False, False, True, "3 rows live, to learn which lane is cheaper"),
        (False, True, True, "3 rows live, to learn which lane is cheaper"),
        (False, False, False, "3 rows live; 7 rows in jobs"),
        (True, True, True, "3 rows live: too few for jobs"),
        (True, False, True, "3 rows live; 7 rows in jobs"),
    ],
)
def test_how_many_rows_go_which_way_in_words(
    has_quoted: bool, too_few: bool, is_learning: bool, told: str
) -> None:
    found = account()
    found.live, found.in_jobs, found.has_quoted = 3, 7, has_quoted
    assert found.told(LanePrices(price, HALF), too_few=too_few, is_learning=is_learning) == told
