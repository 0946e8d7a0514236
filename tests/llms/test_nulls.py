from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.llms.plain_values import without_nulls

KEYS = st.sampled_from(["a", "content", "arguments"])
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.integers() | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (0, 0),
        ({"a": None}, {}),
        ({"a": {"b": None, "c": False}}, {"a": {"c": False}}),
        ([None, {"a": None}], [None, {}]),
        ({"a": [{"b": None}, None]}, {"a": [{}, None]}),
        ({"a": "", "b": [], "c": {}}, {"a": "", "b": [], "c": {}}),
    ],
)
def test_keys_that_are_null_go(value: object, expected: object) -> None:
    assert without_nulls(value) == expected


def test_messages_of_a_columnar_file() -> None:
    call = {"id": None, "function": {"name": "f", "arguments": {"city": None}, "description": None}}
    message = {
        "role": "assistant",
        "content": None,
        "name": None,
        "tool_calls": [call, {"id": "x", "function": {"name": "g", "arguments": None}}],
    }
    assert without_nulls(message, keep=("content",), opaque=("arguments",)) == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"function": {"name": "f", "arguments": {"city": None}}},
            {"id": "x", "function": {"name": "g"}},
        ],
    }


def test_what_is_kept_is_looked_into() -> None:
    message = {"content": [{"type": "text", "text": "hi", "image_url": None}]}
    assert without_nulls(message, keep=("content",)) == {"content": [{"type": "text", "text": "hi"}]}


@given(VALUES)
def test_no_key_is_null_afterwards_and_once_is_enough(value: Any) -> None:
    def check(one: Any) -> None:
        if isinstance(one, dict):
            assert None not in one.values()
        for inner in one.values() if isinstance(one, dict) else one if isinstance(one, list) else ():
            check(inner)

    clean = without_nulls(value)
    check(clean)
    assert without_nulls(clean) == clean


@given(VALUES)
def test_an_opaque_value_is_as_it_was(value: Any) -> None:
    assert without_nulls([{"arguments": value}], opaque=("arguments",)) == (
        [{}] if value is None else [{"arguments": value}]
    )
