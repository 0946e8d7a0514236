"""What the fields of many answers are like: how often which value came, how numbers are spread, how long texts are.

Answers are looked at one at a time, and what is kept of them does not grow with their length.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from statistics import fmean
from typing import Any, Final, Literal, TypeAlias, cast

from msgspec import Struct

from mistill.characters import whole_characters

FieldKind: TypeAlias = Literal["categories", "numbers", "lengths"]

_MOST_FIELDS: Final = 40
_DEEPEST: Final = 6
_MOST_CATEGORIES: Final = 30
"""A field that has more values than these is no choice of categories."""
_MOST_SHARE: Final = 0.5
"""Nor is one most of whose answers have a value of their own."""
_MOST_SHOWN: Final = 15
_MOST_COUNTED: Final = 2_000
_LONGEST_CATEGORY: Final = 80
_FEW_NUMBERS: Final = 12
_BINS: Final = 20
_LARGEST: Final = 1e100
"""Numbers beyond have no place on an axis, and no mean."""
_TAIL: Final = 3.0
"""So many times the spread of 99% the largest number may lie away before it gets the last bin to itself."""


class Spread(Struct, frozen=True):
    """How numbers are spread.

    Attributes:
        bins: from where to where (that excluded, but in the last), and how many. The last may be wider than the others.
        is_whole: all numbers are whole, and so are the ends of the bins.
    """

    low: float
    mean: float
    median: float
    p90: float
    high: float
    bins: list[tuple[float, float, int]]
    is_whole: bool = False


class FieldDistribution(Struct, frozen=True):
    """What one field of the answers is like.

    Attributes:
        name: ``category``, ``address.city``, ``tags[]`` for each item of a list; empty where answers are no objects.
        kind: ``lengths`` are those of texts, in characters, or of lists, in items; ``unit`` says which.
        seen: how many values. ``nulls``: how many of them were null. ``others``: how many were of another type.
        categories: value → how often, the most frequent first. ``more_categories``: how many further values there
            are, and ``rest`` how often these came.
        spread: of numbers and lengths.
    """

    name: str
    kind: FieldKind
    unit: str
    seen: int
    nulls: int
    others: int
    categories: list[tuple[str, int]] = []
    more_categories: int = 0
    rest: int = 0
    spread: Spread | None = None


class Distributions:
    """Looks at answers, one at a time.

    Attributes:
        left_out: fields beyond the first, of which nothing is known.
    """

    def __init__(self) -> None:
        self._fields: dict[str, _Field] = {}
        self.left_out: set[str] = set()

    def see(self, value: Any) -> None:
        """The value of one answer: JSON, a text, or a vector."""
        self._see("", value, 0)

    def fields(self) -> list[FieldDistribution]:
        """Those that have anything to tell, in the order in which they came."""
        found = (field.distribution(name) for name, field in self._fields.items())
        return [one for one in found if one is not None]

    def _see(self, name: str, value: Any, depth: int) -> None:
        if isinstance(value, dict) and depth < _DEEPEST:
            for key, one in cast("dict[str, Any]", value).items():
                self._see(f"{name}.{key}" if name else str(key), one, depth + 1)
            return
        field = self._field(name)
        if field is None:
            return
        field.see(value)
        if isinstance(value, list) and depth < _DEEPEST:
            items = cast("list[Any]", value)
            if not (items and all(type(one) in (int, float) for one in items)):  # else it is a vector
                for one in items:
                    self._see(f"{name}[]", one, depth + 1)

    def _field(self, name: str) -> _Field | None:
        field = self._fields.get(name)
        if field is None and len(self._fields) < _MOST_FIELDS:
            field = self._fields[name] = _Field()
        if field is None and len(self.left_out) < _MOST_COUNTED:
            self.left_out.add(name)
        return field


class _Field:
    def __init__(self) -> None:
        self._nulls = self._objects = 0
        self._flags = Counter[str]()
        self._numbers: list[float] = []
        self._texts = Counter[str]()
        self._is_choice = True
        self._text_lengths: list[int] = []
        self._list_lengths: list[int] = []

    def see(self, value: Any) -> None:
        if value is None:
            self._nulls += 1
        elif isinstance(value, bool):
            self._flags["true" if value else "false"] += 1
        elif isinstance(value, int | float):
            self._see_number(value)
        elif isinstance(value, str):
            self._see_text(value)
        elif isinstance(value, list):
            self._list_lengths.append(len(cast("list[Any]", value)))
        else:
            self._objects += 1

    def _see_number(self, value: float) -> None:
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if abs(number) < _LARGEST:  # nor is that NaN
            self._numbers.append(number)
        else:
            self._objects += 1

    def _see_text(self, text: str) -> None:
        self._text_lengths.append(len(text))
        if not self._is_choice:
            return
        if len(text) > _LONGEST_CATEGORY or len(self._texts) >= _MOST_COUNTED:
            self._is_choice = False
            self._texts.clear()
            return
        self._texts[whole_characters(text)] += 1

    def distribution(self, name: str) -> FieldDistribution | None:
        """By the type that most values have; ``None`` where it has none."""
        sizes = {
            "flags": self._flags.total(),
            "numbers": len(self._numbers),
            "texts": len(self._text_lengths),
            "lists": len(self._list_lengths),
        }
        most = max(sizes, key=sizes.__getitem__)
        if not sizes[most]:
            return None
        all_seen = sum(sizes.values()) + self._nulls + self._objects
        others = all_seen - self._nulls - sizes[most]

        def found(kind: FieldKind, unit: str, **rest: Any) -> FieldDistribution:
            return FieldDistribution(name, kind, unit, all_seen, self._nulls, others, **rest)

        if most == "flags":
            return found("categories", "values", categories=self._flags.most_common())
        if most == "numbers":
            distinct = Counter(self._numbers)
            if len(distinct) <= _FEW_NUMBERS and len(distinct) <= _MOST_SHARE * sizes[most]:
                values = [(_plain(number), times) for number, times in sorted(distinct.items())]
                return found("categories", "values", categories=values)
            return found("numbers", "", spread=spread_of(self._numbers))
        if most == "lists":
            return found("lengths", "items", spread=spread_of(self._list_lengths))
        if self._is_choice and len(self._texts) <= max(1, min(_MOST_CATEGORIES, _MOST_SHARE * sizes[most])):
            shown = self._texts.most_common(_MOST_SHOWN)
            rest = self._texts.total() - sum(times for _, times in shown)
            more = len(self._texts) - len(shown)
            return found("categories", "values", categories=shown, more_categories=more, rest=rest)
        return found("lengths", "characters", spread=spread_of(self._text_lengths))


def _plain(number: float) -> str:
    return f"{number:g}" if number.is_integer() and abs(number) < 10**6 else repr(number)


def spread_of(numbers: Iterable[float]) -> Spread:
    """How some numbers, one at least, are spread. Whole numbers get bins of whole numbers."""
    ordered = sorted(numbers)
    low, high = ordered[0], ordered[-1]
    p99 = _share(ordered, 0.99)
    has_tail = high - low > _TAIL * (p99 - low) and p99 > low
    end = p99 if has_tail else high
    is_whole = all(float(one).is_integer() for one in ordered)
    edges = _edges(low, end, is_whole=is_whole)
    bins = [0] * (len(edges) - 1)
    place = 0
    for number in ordered:
        while place < len(bins) - 1 and number >= edges[place + 1]:
            place += 1
        bins[place] += 1
    found = [(edges[place], edges[place + 1], times) for place, times in enumerate(bins)]
    if has_tail:
        found[-1] = (found[-1][0], high + is_whole, found[-1][2])
    return Spread(low, fmean(ordered), _share(ordered, 0.5), _share(ordered, 0.9), high, found, is_whole)


def _share(ordered: Sequence[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _edges(low: float, high: float, *, is_whole: bool) -> list[float]:
    if is_whole:
        step = max(1, math.ceil((high - low + 1) / _BINS))
        edges = [low + step * place for place in range(math.ceil((high - low + 1) / step) + 1)]
        return edges if all(one < two for one, two in pairwise(edges)) else [low, high + 1]
    edges = [*(low + (high - low) * place / _BINS for place in range(_BINS)), high]
    if any(one >= two for one, two in pairwise(edges)):  # too close to be told apart
        return [low, high]
    return edges
