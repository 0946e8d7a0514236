"""What rows cost by each lane, told from what others took."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.api.prices import Price, price_of
from mistill.api.usage import Usage
from mistill.estimates.beginnings import Beginnings
from mistill.estimates.lane_prices import LanePrices, RowSize
from mistill.estimates.lane_quotes import AnsweredRow, longest_answer_live, quotes_before, quotes_from


def small() -> Price:
    price = price_of("mistral-small-latest")
    assert price is not None
    return price


def prices_of(*answers: Usage, factor: float = 0.5) -> LanePrices:
    prices = LanePrices(small, factor)
    for usage in answers:
        prices.add_live(RowSize(usage.input_tokens), usage, small().cost(usage))
    return prices


@given(
    tokens=st.integers(1, 100_000),
    cached=st.floats(0, 1),
    written=st.integers(0, 50_000),
)
def test_live_is_cheaper_where_the_formula_says_so(tokens: int, cached: float, written: int) -> None:
    usage = Usage(tokens, written, int(cached * tokens))
    found = prices_of(usage).of(RowSize(tokens))
    price, h = small(), usage.cached_tokens / tokens
    left, right = price.output * written, price.input * tokens * (1.8 * h - 1)
    if not math.isclose(left, right, rel_tol=1e-6, abs_tol=1e-6):
        assert found.is_live_cheaper == (left < right)
    least = longest_answer_live(price, 0.5, input_tokens=tokens, cached_tokens=usage.cached_tokens)
    if abs(written - least) > 1e-6 * max(1, written):
        assert found.is_live_cheaper == (written < least)


def test_a_million_rows_cost_what_the_page_says() -> None:
    usage = Usage(3300, 100, 2970)
    quotes = quotes_from(
        [AnsweredRow(usage, small().cost(usage))] * 20, 1_000_000, small(), batch_factor=0.5, live_s=60
    )
    dollars = {quote.way: round(quote.expected or 0.0, 1) for quote in quotes}
    assert dollars == {"live_uncached": 555.0, "live": 154.1, "batch": 277.5, "cheapest": 154.1}
    assert [quote.seconds for quote in quotes] == [60, 60, None, 60]


def test_before_anything_is_answered_the_bounds_are_told() -> None:
    quotes = quotes_before(
        small(),
        input_tokens=1_000_000,
        cached_tokens=900_000,
        most_output_tokens=None,
        batch_factor=0.5,
        live_s=None,
    )
    assert [(quote.way, round(quote.low, 4), quote.high) for quote in quotes] == [
        ("live_uncached", 0.15, None),
        ("live", 0.0285, None),
        ("batch", 0.075, None),
        ("cheapest", 0.0285, None),
    ]


def test_what_is_cached_in_jobs_counts_once_they_say_so() -> None:
    row = Usage(1000, 10, 960)
    prices = prices_of(*[row] * 5)
    assert prices.of(RowSize(1000)).is_live_cheaper
    for _ in range(5):
        prices.add_in_job(RowSize(1000), row, small().times(0.5).cost(row))
    assert not prices.of(RowSize(1000)).is_live_cheaper
    assert prices.in_jobs.cached_share == 0.96


def test_a_dearer_tier_makes_live_dearer_and_no_job() -> None:
    usage = Usage(1000, 10, 700)
    prices = LanePrices(small, 0.5)
    prices.add_live(RowSize(1000), usage, small().times(1.75).cost(usage))
    found = prices.of(RowSize(1000))
    assert found.live == pytest.approx(small().times(1.75).cost(usage))
    assert found.in_job == pytest.approx(small().times(0.5).cost(Usage(1000, 10)))


def test_rows_with_limits_of_their_own_are_told_apart() -> None:
    prices = LanePrices(small, 0.5)
    for number in range(20):
        limit = (5, 500)[number % 2]
        usage = Usage(1000, limit, 960)
        prices.add_live(RowSize(1000, limit, 960), usage, small().cost(usage))
    assert prices.is_certain_for(RowSize(1000, 5, 960))
    assert prices.is_certain_for(RowSize(1000, 500, 960))
    assert prices.of(RowSize(1000, 5, 960)).is_live_cheaper
    assert not prices.of(RowSize(1000, 500, 960)).is_live_cheaper


def test_four_hits_out_of_four_are_no_certainty_where_much_hangs_on_them() -> None:
    few, many = LanePrices(small, 0.5), LanePrices(small, 0.5)
    for prices, rows in ((few, 4), (many, 40)):
        for number in range(rows):
            usage = Usage(1000, 100 + number % 3, 960)  # live 0.081, in a job 0.105 thousandths of a dollar
            prices.add_live(RowSize(1000, None, 960), usage, small().cost(usage))
    row = RowSize(1000, None, 960)
    assert few.of(row).is_live_cheaper
    assert not few.is_certain_for(row)
    assert many.is_certain_for(row)


def test_what_no_cache_could_make_cheaper_is_certain_at_once() -> None:
    prices = LanePrices(small, 0.5)
    for number in range(4):
        usage = Usage(1000, 400 + number, 960 * (number % 2))
        prices.add_live(RowSize(1000, None, 960), usage, small().cost(usage))
    assert prices.is_certain_for(RowSize(1000, None, 960))
    assert not prices.of(RowSize(1000, None, 960)).is_live_cheaper


def test_long_rows_may_go_the_other_way_than_short_ones() -> None:
    """What is the same costs a tenth; a row has to be short beside it."""
    rng = random.Random(1)
    prices = LanePrices(small, 0.5)
    for _ in range(12):
        own = rng.randrange(100, 4000)
        usage = Usage(2000 + own, 20, 1984)
        prices.add_live(RowSize(2000 + own, None, 1984), usage, small().cost(usage))
    assert prices.of(RowSize(2100, None, 1984)).is_live_cheaper
    assert not prices.of(RowSize(6000, None, 1984)).is_live_cheaper


def test_what_begins_alike_is_told_in_blocks_and_by_key() -> None:
    seen = Beginnings()
    body = b'{"model":"m","messages":[' + b"x" * 256 * 10
    first = seen.see(b"a", body)
    assert (first.warm_tokens, first.known_tokens, first.is_first) == (0, 0, True)
    second = seen.see(b"a", body[:-200])
    assert (second.warm_tokens, second.known_tokens, second.rows, second.is_first) == (0, 9 * 64, 1, True)
    seen.warm(second)
    third = seen.see(b"a", body)
    assert (third.warm_tokens, third.known_tokens, third.rows, third.is_first) == (9 * 64, 10 * 64, 1, False)
    assert seen.see(b"b", body)[:4] == (0, 0, 0, True)
    assert seen.see(b"a", body.replace(b"xxx", b"yyy", 1))[:4] == (0, 0, 0, False)
