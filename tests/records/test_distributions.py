"""What fields of answers are like: categories, numbers, lengths, of whatever types come."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistill.records.distributions import Distributions, FieldDistribution, spread_of

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=100),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def fields_of(values: list[Any]) -> dict[str, FieldDistribution]:
    seen = Distributions()
    for value in values:
        seen.see(value)
    return {field.name: field for field in seen.fields()}


def test_each_field_is_what_most_of_its_values_are() -> None:
    cities = ["Paris", "Lyon", None, "Paris"]
    found = fields_of([
        {"kind": "refund" if n % 3 else "praise", "price": n / 7, "score": n % 5, "is_new": n % 2 == 0,
         "text": f"a text of its own {n}", "tags": ["a"] * (n % 4), "at": {"city": cities[n % 4]}}
        for n in range(60)
    ])  # fmt: skip
    assert {name: field.kind for name, field in found.items()} == {
        "kind": "categories",
        "price": "numbers",
        "score": "categories",
        "is_new": "categories",
        "text": "lengths",
        "tags": "lengths",
        "tags[]": "categories",
        "at.city": "categories",
    }
    assert found["kind"].categories == [("refund", 40), ("praise", 20)]
    assert found["score"].categories == [(str(number), 12) for number in range(5)]
    assert (found["tags"].unit, found["text"].unit) == ("items", "characters")
    assert (found["at.city"].nulls, found["at.city"].seen) == (15, 60)
    assert found["tags[]"].categories == [("a", 90)]


def test_texts_without_a_schema_are_labels_where_few_are_different() -> None:
    assert fields_of(["yes", "no", "yes", "yes"])[""].categories == [("yes", 3), ("no", 1)]
    spread = fields_of(["one", "three", "eleven"])[""].spread
    assert spread is not None
    assert (spread.low, spread.median, spread.high) == (3, 5, 6)


def test_rare_values_are_counted_together() -> None:
    field = fields_of([f"v{n // 4}" for n in range(100)])[""]
    assert len(field.categories) == 15
    assert (field.more_categories, field.rest) == (10, 40)


def test_a_vector_is_its_length() -> None:
    found = fields_of([[0.25] * 1024, [0.5] * 1024])
    assert list(found) == [""]
    assert (found[""].unit, found[""].spread and found[""].spread.median) == ("items", 1024)


def test_one_number_far_away_does_not_squeeze_the_others() -> None:
    spread = spread_of([*range(100), 10**6])
    assert spread.bins[-1][:2] == (pytest.approx(95, abs=6), 10**6 + 1)
    assert sum(times > 0 for _, _, times in spread.bins) > 15


def test_fields_beyond_the_first_forty_are_named_and_not_kept() -> None:
    seen = Distributions()
    for n in range(100):
        seen.see({f"field {n}": 1})
    assert len(seen.fields()) == 40
    assert len(seen.left_out) == 60


@settings(max_examples=60)
@given(st.lists(JSON, max_size=20))
def test_nothing_that_json_can_hold_is_too_much(values: list[Any]) -> None:
    for field in fields_of(values).values():
        shown = sum(times for _, times in field.categories) + field.rest
        if field.spread is not None:
            shown = sum(times for _, _, times in field.spread.bins)
        assert 0 < shown == field.seen - field.nulls - field.others


@given(st.lists(st.integers(-(10**9), 10**9) | st.floats(-1e12, 1e12), min_size=1))
def test_every_number_is_in_one_bin(numbers: list[float]) -> None:
    spread = spread_of(numbers)
    assert sum(times for _, _, times in spread.bins) == len(numbers)
    assert spread.low == min(numbers)
    assert spread.high == max(numbers)
    edges = [low for low, _, _ in spread.bins] + [spread.bins[-1][1]]
    assert edges == sorted(edges)
    assert edges[0] <= spread.low <= spread.median <= spread.high <= edges[-1]
    assert all(math.isfinite(edge) for edge in edges)
