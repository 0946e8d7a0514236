"""What fields of answers are like can be drawn, whatever numbers JSON has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tests.libraries import library

from mistill.pages.blocks import Chart
from mistill.pages.charts import drawn
from mistill.pages.distribution_blocks import distribution_blocks
from mistill.records.distributions import Distributions

NEAR = st.builds(
    lambda middle, step: [middle, middle + step, middle - step],
    st.floats(-1e99, 1e99) | st.integers(-(2**70), 2**70),
    st.sampled_from([0, 1, 5e-324, 1e-17, 4096, 1e90]),
)


def charts_of(values: list[Any]) -> list[Chart]:
    seen = Distributions()
    for value in values:
        seen.see(value)
    return [block for block in distribution_blocks(seen.fields(), 0) if isinstance(block, Chart)]


@settings(max_examples=15)
@given(st.lists(st.integers() | st.floats(), min_size=1, max_size=4) | NEAR)
@example([2**64])
@example([-(2**63) - 5000])
@example([1e99])
@example([1e99, -1e99])
@example([2**64, 2**64 + 5000])
@example([5e-324, 1e-323])
@example([0.1, 0.10000000000000002])
def test_a_distribution_of_any_numbers_is_drawn(numbers: list[float]) -> None:
    library("vl_convert")
    for number, chart in enumerate(charts_of(numbers)):
        assert "<svg" in (drawn(chart.spec, chart.title, chart.summary, number) or "")


@pytest.mark.parametrize(("number", "told"), [(2**64, "1.84e+19"), (-(2**64), "-1.84e+19")])
def test_a_number_that_no_64_bits_hold_is_a_bar_with_its_name(number: int, told: str) -> None:
    (chart,) = charts_of([number])
    assert chart.table.rows == [[told, "1", "100%"]]
    (bar,) = chart.spec["data"]["values"]
    assert bar["value"] == 1
    assert told in str(chart.spec["layer"][0]["encoding"]["y"]["axis"]["labelExpr"])


def test_few_whole_numbers_are_each_named_on_the_axis() -> None:
    (chart,) = charts_of([1, 2, 4])
    assert chart.spec["encoding"]["x"]["axis"]["values"] == [1, 2, 3, 4]


def test_what_cannot_be_drawn_leaves_its_table() -> None:
    library("vl_convert")
    assert drawn({"mark": 2**64}, "title", "summary", 1) is None
