"""Strings that match a regular expression: enough of the syntax for the patterns that schemas have.

The standard library's own parser reads the expression. What it reads but cannot be built forwards
(look-around, word boundaries) is left out and the result checked, so it costs tries, not correctness.
"""

from __future__ import annotations

import random
import re
import string
from collections.abc import Callable
from functools import lru_cache

# The parser has no public name since sre_parse was deprecated; Hypothesis reads patterns through it too.
from re import _parser  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType]  it has no types
from typing import Any, cast

_TRIES = 200
_MORE_REPEATS = 3
_MAX_PIECES = 20_000
_WORD = string.ascii_letters + string.digits + "_"
_CATEGORIES: dict[str, str] = {
    "CATEGORY_DIGIT": string.digits,
    "CATEGORY_NOT_DIGIT": string.ascii_letters,
    "CATEGORY_SPACE": " ",
    "CATEGORY_NOT_SPACE": _WORD,
    "CATEGORY_WORD": _WORD,
    "CATEGORY_NOT_WORD": " -",
}
_PRINTABLE = "".join(chr(code) for code in range(32, 127))


class NoMatch(ValueError):
    """The expression cannot be read, or no string was found that matches it and the lengths."""


def sample_match(pattern: str, rng: random.Random, min_length: int = 0, max_length: int | None = None) -> str:
    """A string of ``min_length`` to ``max_length`` characters with ``pattern`` in it, or ``NoMatch``."""
    expression, tree = _parse(pattern)
    for attempt in range(_TRIES):
        text = _Builder(rng, repeats=_MORE_REPEATS + (attempt * min_length) // _TRIES).build(tree)
        if len(text) < min_length:
            padded = text + "".join(rng.choices(string.ascii_lowercase, k=min_length - len(text)))
            text = padded if expression.search(padded) else text
        if (
            len(text) >= min_length
            and (max_length is None or len(text) <= max_length)
            and expression.search(text)
        ):
            return text
    raise NoMatch(f"found no string for the pattern {pattern!r}")


@lru_cache(maxsize=256)
def _parse(pattern: str) -> tuple[re.Pattern[str], Any]:
    parse = cast("Callable[[str], Any]", _parser.parse)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]  nor this
    try:
        return re.compile(pattern), parse(pattern)
    except (re.error, OverflowError) as error:
        raise NoMatch(f"cannot read the pattern {pattern!r}: {error}") from error


class _Builder:
    def __init__(self, rng: random.Random, repeats: int) -> None:
        self._rng = rng
        self._repeats = repeats
        self._groups: dict[int, str] = {}
        self._pieces = 0

    def build(self, tree: Any) -> str:
        return "".join(self._piece(str(op), argument) for op, argument in tree)

    def _piece(self, op: str, argument: Any) -> str:
        match op:
            case "LITERAL":
                return chr(argument)
            case "NOT_LITERAL":
                return self._rng.choice([char for char in _WORD if ord(char) != argument])
            case "ANY":
                return self._rng.choice(_WORD)
            case "IN":
                return self._rng.choice(_characters(argument))
            case "BRANCH":
                return self.build(self._rng.choice(argument[1]))
            case "SUBPATTERN":
                group, _, _, inside = argument
                text = self.build(inside)
                if group is not None:
                    self._groups[group] = text
                return text
            case "ATOMIC_GROUP":
                return self.build(argument)
            case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
                return self._repeat(*argument)
            case "GROUPREF":
                return self._groups.get(argument, "")
            case _:
                return ""  # anchors and look-around: sample_match checks the result

    def _repeat(self, least: int, most: Any, inside: Any) -> str:
        # An open end is a constant of the parser's, larger than any text.
        most = min(int(most), least + self._repeats)
        self._pieces += least
        if self._pieces > _MAX_PIECES:
            raise NoMatch("a pattern that asks for more than this simulator makes up")
        return "".join(self.build(inside) for _ in range(self._rng.randint(least, most)))


def _characters(members: list[tuple[Any, Any]]) -> str:
    """The printable characters of a class such as ``[a-f0-9_]``; of its complement if it is negated."""
    found: set[str] = set()
    negated = False
    for op, argument in members:
        match str(op):
            case "NEGATE":
                negated = True
            case "LITERAL":
                found.add(chr(argument))
            case "RANGE":
                found.update(
                    chr(code) for code in range(argument[0], min(argument[1], argument[0] + 256) + 1)
                )
            case "CATEGORY":
                found.update(_CATEGORIES[str(argument)])
            case _:
                pass
    if negated:
        found = set(_PRINTABLE) - found
    if not found:
        raise NoMatch("a character class without a printable character")
    return "".join(sorted(found))
