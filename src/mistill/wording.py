"""Texts that name settings and commands, in the words of the place where they are read: Python, or the command line.

A text that names a setting is made of parts, ``words("raise ", Setting("max_new_tokens"))``. It is a `str` in Python's
words; whoever shows it elsewhere words its parts anew (`worded`), so that nobody is told of an option that he does not
have. What the ledger keeps are the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self, TypeAlias

from msgspec import Struct


class Setting(Struct, frozen=True, tag=True, omit_defaults=True):
    """A setting that a text names.

    Attributes:
        name: the argument or attribute of Python.
        value: what to set it to, a JSON value; ``None``: the name alone is said.
    """

    name: str
    value: Any = None


class Phrase(Struct, frozen=True, tag=True):
    """What is done in different ways: a call in Python, a command on the command line."""

    python: str
    command_line: str


START_AGAIN = Phrase("start the same run again", "start the same command again")
"""What to do where a run goes on by being started once more."""

Part: TypeAlias = str | Setting | Phrase
Wording: TypeAlias = Callable[[Setting | Phrase], str]
"""How settings and phrases are said in one place."""


def in_python(part: Setting | Phrase) -> str:
    """``max_new_tokens``, ``fresh=True``."""
    if isinstance(part, Phrase):
        return part.python
    return part.name if part.value is None else f"{part.name}={part.value!r}"


class Words(str):
    """A text that names settings. By itself it reads in Python's words."""

    __slots__ = ("parts",)

    parts: tuple[Part, ...]

    def __new__(cls, parts: Sequence[Part]) -> Self:
        text = super().__new__(cls, _join(parts, in_python))
        text.parts = tuple(parts)
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return (Words, (self.parts,))


def words(*parts: Part) -> Words:
    """A text of these parts, in order. Words among them bring their own."""
    return Words([one for part in parts for one in parts_of(part)])


def parts_of(part: Part) -> tuple[Part, ...]:
    """The parts of a text: itself, where it names nothing."""
    return part.parts if isinstance(part, Words) else (part,)


def worded(text: str, wording: Wording) -> str:
    """A text as plain text in the words of a place."""
    return _join(text.parts, wording) if isinstance(text, Words) else text


def _join(parts: Sequence[Part], wording: Wording) -> str:
    return "".join(str(part) if isinstance(part, str) else wording(part) for part in parts)
