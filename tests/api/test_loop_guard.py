"""What is a loop and what is not, however the text was cut into pieces."""

from __future__ import annotations

import base64
import json
import random
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistill.api.loop_guard import LONGEST_IN_STRING, MAX_BLANK, MAX_NUMBER, MAX_SPACE, MAX_STRING, LoopGuard

MOST_UNSEEN = MAX_STRING + LONGEST_IN_STRING
"""Any of these loops is known for one once it has gone on for so many characters."""


def cut(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(min(place, len(text)) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def cries(text: str, piece: int = 100) -> bool:
    """Whether it is taken for a loop anywhere on its way."""
    guard = LoopGuard()
    return any(guard.feed(text[start : start + piece]) for start in range(0, len(text), piece))


NUMBERS = st.integers(-(10**300), 10**300) | st.floats(allow_nan=False, allow_infinity=False)
REPEATED = st.builds(
    lambda text, times: (text * times)[: MAX_STRING // 8],
    st.text(min_size=1, max_size=200),
    st.integers(1, 200),
)
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=60) | REPEATED
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
    max_leaves=6,
)


@given(
    VALUES,
    st.integers(0, 40),
    st.sampled_from([None, 0, 1, 2, 4, "\t"]),
    st.booleans(),
    st.lists(st.integers(0, 4000), max_size=12),
)
def test_no_json_is_taken_for_a_loop(
    value: Any, times: int, indent: Any, in_ascii: bool, places: list[int]
) -> None:
    text = json.dumps({"before": value, "again": [value] * times}, indent=indent, ensure_ascii=in_ascii)
    guard = LoopGuard()
    assert not any(guard.feed(piece) for piece in cut(text, places))
    assert guard.characters == len(text)


def nested(levels: int) -> Any:
    return [] if not levels else [nested(levels - 1), 1]


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([0] * 50_000),
        json.dumps([[0.0] * 100] * 100, indent=4),
        json.dumps([{"name": "none", "score": 0}] * 2_000),
        json.dumps(["nothing found"] * 5_000, indent=2),
        json.dumps(nested(200), indent=4),
        json.dumps({"table": "| 0 | 0 | 0 | 0 |\n" * 400}),
        json.dumps({"csv": ("0," * 29 + "0\n") * 130}),
        json.dumps({"file": base64.b64encode(random.Random(1).randbytes(60_000)).decode()}),
        json.dumps({"zeros": base64.b64encode(bytes(6_000)).decode()}),
        json.dumps({"rule": "-" * 5_000, "blank": "\n" * 900}),
        json.dumps({"quotes": '"' * 4_000, "slashes": "\\" * 4_000}),
        json.dumps({"googol": 10**400, "third": 1 / 3}),
        json.dumps({"long": " ".join(f"sentence {number}." for number in range(20_000))}),
    ],
    ids=lambda text: text[:24],
)
def test_long_answers_that_are_meant_are_no_loops(text: str) -> None:
    assert not cries(text)
    assert not cries(text[:20_000], piece=7)


BEGINNINGS = st.sampled_from(["", '{"a": 1, "b": [1, 2], ', '{"q": "\\"\\\\", ', '[{"x": "y"}, '])
LOOPS: dict[str, tuple[str, str, int]] = {
    "space": ("", " ", MAX_SPACE),
    "lines": ("", "\n\t  ", MAX_SPACE + 4),
    "digits": ('"n": 0.', "3", MAX_NUMBER),
    "period": ('"n": 0.', "142857", MAX_NUMBER + 6),
    "blank": ('"s": "well', "\\n", MAX_BLANK + 4),
    "spaces": ('"s": "well', " ", MAX_BLANK),
    "zeros": ('"s": "', "0", MAX_STRING),
    "words": ('"s": "', "and so on, ", MAX_STRING + 11),
    "quoted": ('"s": "', 'he said \\"no\\" and \\\\ ', MAX_STRING + 21),
    "paragraph": ('"s": "', "".join(f"line {n} of it; " for n in range(60)), MAX_STRING + 1024),
}


@pytest.mark.parametrize("kind", LOOPS)
@settings(max_examples=20)
@given(beginning=BEGINNINGS, size=st.integers(1, 700))
def test_a_loop_is_known_within_a_bound(kind: str, beginning: str, size: int) -> None:
    opening, again, bound = LOOPS[kind]
    begun = beginning + opening
    text = begun + again * (MOST_UNSEEN // len(again) + 1_000)
    guard = LoopGuard()
    for start in range(0, len(text), size):
        if guard.feed(text[start : start + size]):
            break
    assert guard.is_looping
    assert guard.characters <= len(begun) + bound + size
    assert guard.characters >= len(begun) + MAX_NUMBER


def test_what_has_come_to_its_end_is_no_loop_any_more() -> None:
    guard = LoopGuard()
    assert guard.feed('{"s": "' + "0" * MAX_STRING)
    assert not guard.feed('", ')
    assert not guard.feed('"n": ' + "7" * (MAX_NUMBER - 1))
    assert guard.feed("7")
    assert not guard.feed("}")
    assert not guard.feed(" " * (MAX_SPACE - 1))
    assert guard.feed("\n")


def test_a_quote_that_is_escaped_in_two_pieces_ends_no_string() -> None:
    guard = LoopGuard()
    guard.feed('{"s": "a\\')
    guard.feed('" ')
    guard.feed("0," * (MAX_STRING // 2))
    assert guard.is_looping  # within a string; between tokens these would be items of a list
