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

    def total_of(self, rows: int, doubt: float = 0.0) -> Range:
        """Of so many more: a sum of draws whose mean is itself an estimate, with variance r·s² + r²·s²/n.

        Args:
            doubt: a standard deviation of the mean that the sample does not show.
        """
        variance = rows * self.variance + rows**2 * (self.variance / self.count + doubt**2)
        spread = _t_95(self.count - 1) * math.sqrt(variance)
        expected = rows * self.mean
        return Range(max(0.0, expected - spread), expected, expected + spread)


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
