"""The lanes side by side: what rows cost by each, before anything is sent, and from those that were answered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from msgspec import Struct

from mistill.api.prices import Price
from mistill.api.usage import Usage
from mistill.estimates.lane_prices import LanePrices, RowSize
from mistill.estimates.sample_totals import Doubt, Range, SampleTotal
from mistill.progress.formatting import money, seconds

ChosenLane = Literal["live", "batch", "cheapest"]
"""How rows are to go, as a run's option ``lane`` says it."""
Way = Literal["live_uncached", "live", "batch", "cheapest"]
"""Live as if nothing were cached, live with what is, by batch jobs, and each row by the lane that costs it least."""

_NAMES: dict[Way, str] = {
    "live_uncached": "live, nothing cached",
    "live": "live with the cache",
    "batch": "in batch jobs",
    "cheapest": "cheapest",
}
_MOST_ROWS = 50_000


class LaneQuote(Struct, frozen=True, kw_only=True):
    """What rows cost by one lane, in US dollars.

    The cheapest lane is quoted as live where so few rows are left that it makes no jobs of them.

    Attributes:
        way: which lane; see `Way`.
        low, high: the 95% interval where rows were answered. Before that: without any answer, and with the longest
            that there may be; ``high`` is ``None`` where nothing bounds them.
        expected: ``None`` before any row was answered.
        seconds: how long they take, at the least before any row was answered; ``None``: nobody knows, as of jobs.
        uses_jobs: some rows go into batch jobs, or may.
    """

    way: Way
    low: float
    expected: float | None = None
    high: float | None = None
    seconds: float | None = None
    uses_jobs: bool = False


class AnsweredRow(Struct, frozen=True, gc=False):
    """What an answered row took. ``cost``: US dollars. ``in_job``: it was answered in a batch job.

    ``is_first``: nothing of it can have been cached.
    """

    usage: Usage
    cost: float
    in_job: bool = False
    is_first: bool = False


def quotes_before(
    price: Price,
    *,
    input_tokens: int,
    cached_tokens: int,
    most_output_tokens: int | None,
    batch_factor: float | None,
    live_s: float | None,
    few: bool = False,
) -> list[LaneQuote]:
    """By what is to be sent.

    Args:
        cached_tokens: those of ``input_tokens`` that can be cached.
        most_output_tokens: of all answers; ``None``: nothing bounds them.
        batch_factor: what prices are multiplied with in jobs; ``None``: there are none.
        live_s: how long it takes live at the least, where that is known.
        few: so few rows that the cheapest lane makes no jobs of them.
    """
    least = Usage(input_tokens, 0, 0), Usage(input_tokens, 0, cached_tokens)
    uncached, cached = map(price.cost, least)
    answers = None if most_output_tokens is None else price.most(0, most_output_tokens)

    def quote(way: Way, low: float, factor: float = 1.0, takes_s: float | None = live_s) -> LaneQuote:
        high = None if answers is None else (low + answers) * factor
        return LaneQuote(way=way, low=low * factor, high=high, seconds=takes_s, uses_jobs=way == "batch")

    found = [quote("live_uncached", uncached), quote("live", cached)]
    if batch_factor is None:
        return found
    found.append(quote("batch", uncached, batch_factor, None))
    return [*found, _cheapest_of(found[1:2] if few else found[1:])]


def _cheapest_of(quotes: Sequence[LaneQuote]) -> LaneQuote:
    """Whichever it will be: live as long as answers are short, in jobs where they are long."""
    short = min(quotes, key=lambda quote: quote.low)
    highs = [quote.high for quote in quotes if quote.high is not None]
    ways = {short.way, min(quotes, key=lambda quote: quote.high or 0.0).way}
    uses_jobs = len(quotes) > 1 and not (ways == {"live"} and highs)
    return LaneQuote(
        way="cheapest",
        low=short.low,
        high=min(highs, default=None),
        seconds=None if uses_jobs else short.seconds,
        uses_jobs=uses_jobs,
    )


def longest_answer_live(
    price: Price, batch_factor: float, *, input_tokens: float, cached_tokens: float
) -> float:
    """Tokens of an answer up to which its row is cheaper live; below 0: no answer is so short."""
    saved = cached_tokens * price.cache_saves
    half = input_tokens * price.input * (1 - batch_factor)
    dearer = price.output * (1 - batch_factor)
    return (saved - half) / dearer if dearer > 0 else float("inf")


def quotes_from(
    answered: Sequence[AnsweredRow],
    rows: int,
    price: Price,
    *,
    batch_factor: float | None,
    live_s: float | None,
    few: bool = False,
) -> list[LaneQuote]:
    """Of so many more rows, from those that were answered.

    Args:
        price: of the model, at the standard tier.
        batch_factor, live_s, few: as for `quotes_before`.
    """
    factor = 1.0 if batch_factor is None else batch_factor
    prices = LanePrices(lambda: price, factor)
    answered = answered[:_MOST_ROWS]
    for one in answered:
        size = RowSize(one.usage.input_tokens, is_first=one.is_first)
        (prices.add_in_job if one.in_job else prices.add_live)(size, one.usage, one.cost)
    totals: dict[Way, SampleTotal] = {way: SampleTotal() for way in _NAMES}
    live_rows = 0
    firsts = sum(one.is_first for one in answered)
    # Of one that nothing was cached of, the others are not like it; of several, there are more of them to come.
    for one in [one for one in answered if firsts != 1 or not one.is_first] or answered:
        size = RowSize(one.usage.input_tokens)
        took = prices.of_answer(size, one.usage, live=None if one.in_job else one.cost)
        goes_live = batch_factor is None or prices.of(size).is_live_cheaper
        live_rows += goes_live
        totals["live_uncached"].add(prices.uncached(one.usage))
        totals["live"].add(took.live)
        totals["batch"].add(took.in_job)
        totals["cheapest"].add(took.live if goes_live else took.in_job)
    if batch_factor is None:
        del totals["batch"]
    is_live = live_rows == totals["live"].count
    if few:
        totals["cheapest"], is_live = totals["live"], True
    doubt = prices.doubt_of_cache
    doubts: dict[Way, Doubt] = {"live": doubt}
    if is_live:
        doubts["cheapest"] = doubt
    uses_jobs = {"batch": True, "cheapest": not is_live}
    return [
        _quote(way, total.total_of(rows, doubts.get(way)), live_s, uses_jobs=uses_jobs.get(way, False))
        for way, total in totals.items()
        if total.count
    ]


def _quote(way: Way, cost: Range, live_s: float | None, *, uses_jobs: bool) -> LaneQuote:
    return LaneQuote(
        way=way,
        low=cost.low,
        expected=cost.expected,
        high=cost.high,
        seconds=None if uses_jobs else live_s,
        uses_jobs=uses_jobs,
    )


def quote_of(quotes: Sequence[LaneQuote], way: Way) -> LaneQuote | None:
    """That of one way, where it is there."""
    return next((quote for quote in quotes if quote.way == way), None)


def quote_lines(quotes: Sequence[LaneQuote], way: Way, *, at_least: bool) -> Iterator[str]:
    """The same as text, a line each.

    Args:
        way: which it is to be. ``at_least``: times are no more than that.
    """
    shown = [
        quote
        for quote in quotes
        if quote.way != "live_uncached" or way == "live_uncached" or _has_cache(quotes)
    ]
    costs = [_cost(quote) for quote in shown]
    width = max(map(len, costs), default=0)
    for quote, cost in zip(shown, costs, strict=True):
        mark = ">" if quote.way == way else " "
        yield f"{mark} {_NAMES[quote.way]:22}{cost:{width}}  {_time(quote, at_least=at_least)}".rstrip()


def _has_cache(quotes: Sequence[LaneQuote]) -> bool:
    live, uncached = quote_of(quotes, "live"), quote_of(quotes, "live_uncached")
    return live is not None and uncached is not None and live.low < uncached.low


def _cost(quote: LaneQuote) -> str:
    if quote.expected is not None:
        return f"{money(quote.expected)} ({money(quote.low)} to {money(quote.high)})"
    if quote.high is None:
        return f"{money(quote.low)} and the answers"
    return money(quote.low) if quote.high == quote.low else f"{money(quote.low)} to {money(quote.high)}"


def _time(quote: LaneQuote, *, at_least: bool) -> str:
    if quote.uses_jobs:
        return (
            "as Mistral has room for jobs, hours as a rule"
            if quote.way == "batch"
            else "with jobs, hours as a rule"
        )
    if quote.seconds is None:
        return ""
    return f"{seconds(quote.seconds)}{' at least' if at_least else ''}"
