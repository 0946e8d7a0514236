"""Which rows a sample takes."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from mistill.estimates.row_sample import draw_rows

SIZES = st.integers(min_value=0, max_value=300)


@given(rows=SIZES, size=SIZES, more=SIZES, seed=st.integers())
def test_a_sample_is_of_its_size_within_the_input_and_part_of_every_larger_one(
    rows: int, size: int, more: int, seed: int
) -> None:
    sample, larger = draw_rows(size, rows, seed), draw_rows(size + more, rows, seed)
    assert len(sample.positions) == min(size, rows)
    assert all(0 <= position < rows for position in sample.positions)
    assert set(sample.positions) <= set(larger.positions)
    assert sample == draw_rows(size, rows, seed)
    assert all(position < sample.end for position in sample.positions)


def test_every_row_is_as_likely_as_the_others() -> None:
    counts = Counter(position for seed in range(4000) for position in draw_rows(5, 20, seed).positions)
    assert len(counts) == 20
    assert all(abs(count - 1000) < 150 for count in counts.values())  # five standard deviations


def test_a_sample_of_a_very_long_input_takes_little() -> None:
    assert len(draw_rows(20, 10**12, 0).positions) == 20
