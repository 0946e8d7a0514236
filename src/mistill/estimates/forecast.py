"""What the rest of a run will cost and how long it will take, from the rows that were answered already."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from typing import Literal

from msgspec import Struct

from mistill.delivery.diagnostics import Snapshot, time_left_s
from mistill.ledger import LedgerRow

_Z_95 = 1.96


class Range(Struct, frozen=True):
    """An estimate and its 95% interval."""

    low: float
    expected: float
    high: float

    def times(self, factor: float) -> Range:
        return Range(self.low * factor, self.expected * factor, self.high * factor)


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
        lane: which of the two is meant. ``seconds``: live, at the quota that is known and the latency that was seen,
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
    lane: Literal["live", "batch"] = "live"


def forecast(
    answered: Iterable[LedgerRow],
    rows_left: int,
    *,
    is_random: bool,
    seconds_each: float,
    at_once: int,
    limits: Snapshot,
    requests_each: float = 1.0,
    lane: Literal["live", "batch"] = "live",
    batch_factor: float | None = None,
    by_jobs: Collection[int] = (),
) -> Forecast | None:
    """The forecast, or ``None`` where no row is answered yet, or none is left.

    Args:
        is_random: how the sample was taken.
        seconds_each: mean seconds that a row of the sample took. ``at_once``: rows that may be under way together.
        limits: tells the quota, where one is known.
        requests_each: requests for a row: a part of one where a request asks several.
        lane: how they are to go. ``batch_factor``: what a price is multiplied with in batch jobs; ``None``: there are
            none. ``by_jobs``: rows that they answered, at that price.
    """
    if not rows_left:
        return None
    inputs, outputs, costs = _Sample(), _Sample(), _Sample()
    for row in answered:
        inputs.add(row.input_tokens)
        outputs.add(row.output_tokens)
        if row.cost is not None:
            costs.add(row.cost / batch_factor if batch_factor and row.leader in by_jobs else row.cost)
    if not inputs.count:
        return None
    input_tokens, output_tokens = inputs.total_of(rows_left), outputs.total_of(rows_left)
    cost = costs.total_of(rows_left) if costs.count else None
    return Forecast(
        sample=inputs.count,
        rows_left=rows_left,
        is_random=is_random,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cost=cost,
        batch_cost=None if cost is None or batch_factor is None else cost.times(batch_factor),
        lane=lane,
        seconds=_seconds(
            input_tokens, output_tokens, rows_left, seconds_each, at_once, limits, requests_each
        ),
    )


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


class _Sample:
    """Mean and variance in one pass (Welford, 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self._mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self._mean
        self._mean += step / self.count
        self._squares += step * (value - self._mean)

    def total_of(self, rows: int) -> Range:
        variance = self._squares / (self.count - 1) if self.count > 1 else self._mean**2
        spread = _Z_95 * math.sqrt(rows * variance + rows**2 * variance / self.count)
        expected = rows * self._mean
        return Range(max(0.0, expected - spread), expected, expected + spread)
