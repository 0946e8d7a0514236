"""Which rows of an input a sample asks."""

from __future__ import annotations

import random
from collections.abc import Collection

from msgspec import Struct


class RowSample(Struct, frozen=True):
    """Rows by their positions in the input.

    Attributes:
        end: one past the last of them.
        is_random: drawn from the whole input; else they are its first rows.
    """

    positions: Collection[int]
    end: int
    is_random: bool


def draw_rows(size: int, rows: int, seed: int) -> RowSample:
    """``size`` of so many rows at random, each equally likely: the same again for the same seed, and a larger sample
    holds every row of a smaller one."""
    generator = random.Random(seed)  # noqa: S311  nothing is kept secret by it
    moved: dict[
        int, int
    ] = {}  # what a shuffle has put elsewhere (Fisher and Yates), of which only a part is done
    chosen: set[int] = set()
    for place in range(min(size, rows)):
        other = generator.randrange(place, rows)
        chosen.add(moved.get(other, other))
        moved[other] = moved.get(place, place)
    return RowSample(chosen, max(chosen, default=0) + 1, is_random=True)


def first_rows(size: int) -> RowSample:
    """The first rows, of an input of which nobody can say how long it is."""
    return RowSample(range(size), size, is_random=False)
