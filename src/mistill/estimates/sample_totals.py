"""From some rows to all: totals, with what is not known about them."""

from __future__ import annotations

import math

from msgspec import Struct

_Z_95 = 1.96


class Range(Struct, frozen=True):
    """An estimate and its 95% interval."""

    low: float
    expected: float
    high: float


class SampleTotal:
    """Mean and variance of what rows of a sample took, in one pass (Welford, 1962)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def variance(self) -> float:
        """Of one more row; of the first, nothing is known but that it is of such a size."""
        return self._squares / (self.count - 1) if self.count > 1 else self.mean**2

    def total_of(self, rows: int) -> Range:
        """Of so many more: a sum of draws whose mean is itself an estimate, with variance r·s² + r²·s²/n."""
        spread = _Z_95 * math.sqrt(rows * self.variance + rows**2 * self.variance / self.count)
        expected = rows * self.mean
        return Range(max(0.0, expected - spread), expected, expected + spread)
