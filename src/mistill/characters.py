"""Text as UTF-8 can carry it, wherever it came from, and no longer than it is wanted; numbers in it."""

from __future__ import annotations

from typing import Final

REPLACEMENT: Final = "\ufffd"
"""What stands for half a character."""


def whole_characters(text: str) -> str:
    """The text as a ``str`` and no subclass of it, with U+FFFD for each half of a character (a lone surrogate).

    Two halves that stand side by side are their character.
    """
    if type(text) is not str:
        text = str.__str__(text)
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def cut(text: str, most_chars: int) -> str:
    """A text of whole characters that is no longer than that, and says how much is left out."""
    if len(text) > most_chars:
        text = f"{text[:most_chars]}… ({len(text) - most_chars:,} more characters)"
    return whole_characters(text)


def number_in(text: str) -> float:
    """Of the digits 0 to 9: Python knows those of other scripts too, which are read wrong too easily.

    Raises:
        ValueError: it is none.
    """
    if not text.isascii():
        raise ValueError(text)
    return float(text)
