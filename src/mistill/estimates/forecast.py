"""What the rest of a run will cost and how long it will take, from the rows that were answered already."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from msgspec import Struct

from mistill.api.prices import Price
from mistill.api.usage import Usage
from mistill.delivery.diagnostics import Snapshot, time_left_s
from mistill.estimates.lane_quotes import AnsweredRow, ChosenLane, LaneQuote, Way, quote_of, quotes_from
from mistill.estimates.sample_totals import Range, SampleTotal
from mistill.ledger import NOTHING_CACHED, CachedShares, LedgerRow


class Forecast(Struct, frozen=True, kw_only=True):
    """The rows that are left, forecast from a sample.

    The interval is that of a sum of ``rows_left`` draws whose mean is itself an estimate from ``sample`` rows: variance
    r·s² + r²·s²/n. It assumes that the rows left are like those of the sample.

    Attributes:
        sample, rows_left: rows answered, rows to go.
        is_random: the sample was drawn from the whole input; else it is its first rows.
        input_tokens, output_tokens: of the rows left.
        cost: US dollars, live; ``None`` where the model has no known price. ``batch_cost``: in batch jobs; ``None`` too
            where the server has none.
        lanes: the same for each lane, and without the cache of prompts; empty where no price is known.
        lane: which of them is meant. ``seconds``: live, at the quota that is known and the latency that was seen,
            whichever is slower; how long batch jobs take, nobody knows.
    """

    sample: int
    rows_left: int
    is_random: bool = False
    input_tokens: Range
    output_tokens: Range
    cost: Range | None
    seconds: Range
    batch_cost: Range | None = None
    lanes: list[LaneQuote] = []
    lane: ChosenLane = "live"


def forecast(
    answered: Iterable[LedgerRow],
    rows_left: int,
    *,
    is_random: bool,
    seconds_each: float,
    at_once: int,
    limits: Snapshot,
    requests_each: float = 1.0,
    lane: ChosenLane = "live",
    batch_tail: int = 0,
    price: Price | None = None,
    batch_factor: float | None = None,
    by_jobs: Collection[int] = (),
    cached: CachedShares = NOTHING_CACHED,
) -> Forecast | None:
    """The forecast, or ``None`` where no row is answered yet, or none is left.

    Args:
        is_random: how the sample was taken.
        seconds_each: mean seconds that a row of the sample took. ``at_once``: rows that may be under way together.
        limits: tells the quota, where one is known.
        requests_each: requests for a row: a part of one where a request asks several.
        lane: how they are to go. ``batch_tail``: of so few rows the cheapest lane makes no jobs.
        batch_factor: what a price is multiplied with in batch jobs; ``None``: there are none. ``by_jobs``: rows that
            they answered, at that price.
        price: of the model, where it is known. ``cached``: how much of the input was cached.
    """
    if not rows_left:
        return None
    inputs, outputs, costs = SampleTotal(), SampleTotal(), SampleTotal()
    taken: list[AnsweredRow] = []
    for row in answered:
        inputs.add(row.input_tokens)
        outputs.add(row.output_tokens)
        if row.cost is not None:
            in_job = row.leader in by_jobs
            costs.add(row.cost / batch_factor if batch_factor and in_job else row.cost)
            taken.append(_taken(row, row.cost, cached, in_job=in_job))
    if not inputs.count:
        return None
    input_tokens, output_tokens = inputs.total_of(rows_left), outputs.total_of(rows_left)
    took = _seconds(input_tokens, output_tokens, rows_left, seconds_each, at_once, limits, requests_each)
    lanes = [] if price is None else quotes_from(
        taken, rows_left, price, batch_factor=batch_factor, live_s=took.expected, few=rows_left <= batch_tail
    )  # fmt: skip
    cost = _range(lanes, "live")
    if cost is None and costs.count:
        cost = costs.total_of(rows_left)
    return Forecast(
        sample=inputs.count,
        rows_left=rows_left,
        is_random=is_random,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost=cost,
        batch_cost=_range(lanes, "batch"),
        lanes=lanes,
        lane=lane,
        seconds=took,
    )


def _taken(row: LedgerRow, cost: float, cached: CachedShares, *, in_job: bool) -> AnsweredRow:
    share = cached.in_jobs if in_job else cached.live
    usage = Usage(row.input_tokens, row.output_tokens, round(share * row.input_tokens))
    return AnsweredRow(usage, cost, in_job, is_first=row.leader == cached.first_row)


def _range(lanes: Sequence[LaneQuote], way: Way) -> Range | None:
    quote = quote_of(lanes, way)
    if quote is None or quote.expected is None or quote.high is None:
        return None
    return Range(quote.low, quote.expected, quote.high)


def _seconds(
    input_tokens: Range,
    output_tokens: Range,
    rows: int,
    seconds_each: float,
    at_once: int,
    limits: Snapshot,
    requests_each: float,
) -> Range:
    def seconds(tokens: float) -> float:
        return time_left_s(
            limits,
            rows=rows,
            requests=rows * requests_each,
            tokens=tokens,
            seconds_each=seconds_each,
            at_once=at_once,
        )

    return Range(
        seconds(input_tokens.low + output_tokens.low),
        seconds(input_tokens.expected + output_tokens.expected),
        seconds(input_tokens.high + output_tokens.high),
    )
