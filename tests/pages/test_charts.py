"""Charts of whatever numbers a run's answers have."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.libraries import library

from mistill.pages.charts import Bin, drawn, histogram
from mistill.records.distributions import spread_of


@pytest.mark.parametrize(
    "numbers",
    [[10**20], [-(10**20)], [2**64], [2**63 - 1], [1, 2, 3], [0.5, 1e99], [-1e99, 1e99], [5e-324]],
    ids=str,
)
def test_a_histogram_of_any_numbers_is_drawn(numbers: Sequence[float]) -> None:
    library("vl_convert")
    spread = spread_of(numbers)
    bins = [Bin(*one) for one in spread.bins]
    chart = drawn(histogram(bins, "n", "rows", is_whole=spread.is_whole), "Numbers", "how they are spread", 1)
    assert chart is not None
    assert chart.startswith("<svg")
    assert "NaN" not in chart
