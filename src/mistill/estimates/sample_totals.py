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


class Doubt(Struct, frozen=True):
    """What a sample does not show of its mean.

    Attributes:
        deviation: a standard deviation. ``most_less``, ``most_more``: by which it can be wrong at all.
    """

    deviation: float
    most_less: float
    most_more: float


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

    def total_of(self, rows: int, doubt: Doubt | None = None) -> Range:
        """Of so many more: a sum of draws whose mean is itself an estimate, with variance r·s² + r²·s²/n."""
        sure = _t_95(self.count - 1)
        spread = sure * math.sqrt(rows * self.variance + rows**2 * self.variance / self.count)
        less = more = 0.0
        if doubt is not None:
            less, more = (
                rows * min(sure * doubt.deviation, most) for most in (doubt.most_less, doubt.most_more)
            )
        expected = rows * self.mean
        low = max(0.0, expected - math.hypot(spread, less))
        return Range(low, expected, expected + math.hypot(spread, more))


def _t_95(freedom: int) -> float:
    """Student's t, of whose values 95% are within so much: by Cornish and Fisher's expansion (Abramowitz and Stegun,
    26.7.5), 0.3% too small for 5 degrees of freedom."""
    z, n = _Z_95, max(1, freedom)
    return (
        z
        + (z**3 + z) / (4 * n)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    )
