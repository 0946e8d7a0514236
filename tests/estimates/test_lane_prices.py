"""What rows cost by each lane, told from what others took."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.api.prices import Price, price_of
from mistill.api.usage import Usage
from mistill.estimates.lane_prices import LanePrices, RowSize
from mistill.estimates.lane_quotes import AnsweredRow, longest_answer_live, quotes_before, quotes_from
from mistill.prompts.beginnings import Beginning, Beginnings, Met


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
    prompt = b"x" * 256 * 10

    def see(key: bytes, prompt: bytes) -> tuple[Met, Beginning]:
        met = Met.of(key, prompt)
        seen.meet(met)
        seen.take(met)
        return met, seen.of(met)

    assert see(b"a", prompt)[1] == (0, 0, 0, 0, True)
    second, told = see(b"a", prompt[:-200])
    assert told == (0, 9 * 64, 1, 0, True)
    seen.warm(second)
    assert see(b"a", prompt)[1] == (9 * 64, 10 * 64, 1, 0, False)
    seen.cool(second)
    assert seen.of(second) == (0, 9 * 64, 2, 0, True)
    assert see(b"b", prompt)[1] == (0, 0, 0, 0, True)
    assert see(b"a", prompt.replace(b"xxx", b"yyy", 1))[1] == (0, 0, 0, 0, True)


def test_prompts_that_are_looked_at_before_their_turn_are_known_to_come() -> None:
    seen = Beginnings()
    mets = [Met.of(b"a", b"x" * 512 + b"%04d" % number * 64) for number in range(4)]
    for met in mets:
        seen.meet(met)
    told = list[tuple[int, int]]()
    for met in mets:
        seen.take(met)
        told.append((seen.of(met).others, seen.of(met).to_come))
    assert told == [(3, 3), (3, 2), (3, 1), (3, 0)]
    assert seen.likely_tokens(Met.of(b"b", b"y" * 768)) == 2 * 64


@pytest.mark.parametrize("each", [1, 2, 4])
def test_how_many_of_a_kind_are_to_come_is_told_by_how_often_the_others_came(each: int) -> None:
    """5,000 systems in any order, 40% of the rows seen; how many each has is not known to Good's estimate."""
    rng, seen = random.Random(each), Beginnings()
    rows = [number for number in range(5000) for _ in range(each)]
    rng.shuffle(rows)
    seen_rows, to_come = rows[: 2000 * each], Counter(rows[2000 * each :])
    for number in seen_rows:
        seen.meet(Met.of(b"%d" % number, b""))
    times = Counter(seen_rows)
    for often in range(1, each):
        alike = [number for number, found in times.items() if found == often]
        true = sum(to_come[number] for number in alike) / len(alike)
        assert seen.expected(often - 1, 3000 * each) == pytest.approx(true, abs=0.3)


def test_a_row_unlike_all_that_were_answered_is_not_taken_to_be_like_them() -> None:
    prices = LanePrices(small, 0.5)
    usage = Usage(1010, 5, 1000)
    for _ in range(400):
        prices.add_live(RowSize(1010, 5, 1000), usage, small().cost(usage))
    assert prices.is_like_others(RowSize(1010, 10, 1000))
    assert not prices.is_like_others(RowSize(1010, 2000, 1000))
    assert prices.is_like_others(
        RowSize(9000, 2000, 0, is_first=True)
    )  # a job costs less, however it is answered
    longer = Usage(1010, 1900, 1000)
    for _ in range(5):
        prices.add_live(RowSize(1010, 2000, 1000), longer, small().cost(longer))
    assert prices.is_like_others(RowSize(1010, 2000, 1000))
    assert not prices.of(RowSize(1010, 2000, 1000)).is_live_cheaper


def test_a_row_whose_own_part_is_far_longer_is_unlike_the_others() -> None:
    prices = LanePrices(small, 0.5)
    usage = Usage(2510, 5, 2500)
    for _ in range(400):
        prices.add_live(RowSize(2510, None, 2500), usage, small().cost(usage))
    assert prices.is_like_others(RowSize(2520, None, 2500))
    assert not prices.is_like_others(RowSize(3300, None, 2500))


@pytest.mark.parametrize("rows", [20, 60])
def test_the_interval_of_a_sample_holds_what_the_rest_costs(rows: int) -> None:
    """95% of the time, about, also where nearly all of a sample was found in the cache: of the rest less may be."""
    rng = random.Random(rows)
    held = Counter[str]()
    for _ in range(300):
        hits, spread = rng.uniform(0.8, 1.0), rng.uniform(0.1, 0.6)

        def draw(hits: float = hits, spread: float = spread) -> Usage:
            own, written = rng.lognormvariate(4, spread), rng.lognormvariate(3, spread)
            return Usage(2000 + round(own), round(written), 1984 if rng.random() < hits else 0)

        sample = [AnsweredRow(usage, small().cost(usage)) for usage in (draw() for _ in range(rows))]
        rest = [small().cost(draw()) for _ in range(1500)]
        for quote in quotes_from(sample, len(rest), small(), batch_factor=0.5, live_s=None):
            if quote.way in ("live", "cheapest"):
                assert quote.high is not None
                held[quote.way] += quote.low <= sum(rest) <= quote.high
    assert min(held.values()) >= 0.91 * 300
