"""What a page is made of. All texts are plain: the template escapes them, and nothing in them is markup."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct

Tone: TypeAlias = Literal["plain", "good", "bad", "muted"]


class Figure(Struct, frozen=True):
    """One number that stands out. ``detail``: in small letters below it."""

    label: str
    value: str
    detail: str = ""
    tone: Tone = "plain"


class Figures(Struct, frozen=True, tag="figures"):
    """Numbers side by side."""

    figures: list[Figure]


class Lines(Struct, frozen=True, tag="lines"):
    """Sentences, one a line, each with what it begins with at a glance, or without."""

    lines: list[tuple[str, str]]
    tone: Tone = "plain"


class Facts(Struct, frozen=True, tag="facts"):
    """Names and what they stand for."""

    facts: list[tuple[str, str]]


class Table(Struct, frozen=True, tag="table"):
    """Rows of cells under a head.

    Attributes:
        title: its caption.
        numbers: places of the columns that hold numbers, which end at one line.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    numbers: frozenset[int] = frozenset()

    @classmethod
    def of_numbers(cls, title: str, columns: list[str], rows: list[list[str]]) -> Table:
        """A table whose first column names what the numbers in the others are of."""
        return cls(title, columns, rows, frozenset(range(1, len(columns))))


class Text(Struct, frozen=True, tag="text"):
    """A long text as it is, line by line: a prompt, a schema. On a screen one scrolls in it, in print it is whole."""

    title: str
    text: str


class Chart(Struct, frozen=True, tag="chart"):
    """A drawing, and the table of what it shows.

    Attributes:
        title: what it shows. ``summary``: what there is to see in it, in a sentence or two.
        spec: in Vega-Lite; see ``charts``.
        table: the same in numbers.
    """

    title: str
    summary: str
    spec: dict[str, Any]
    table: Table


class Example(Struct, frozen=True, tag="example"):
    """One row: what it is called, and texts with their names, such as a prompt and its answer."""

    title: str
    texts: list[tuple[str, str]]
    tone: Tone = "plain"


class Group(Struct, frozen=True, tag="group"):
    """Blocks under a heading of their own."""

    title: str
    blocks: list[Block]


Block: TypeAlias = "Figures | Lines | Facts | Table | Text | Chart | Example | Group"


class Section(Struct, frozen=True):
    """A part of a page. ``name``: by which links lead to it."""

    name: str
    title: str
    blocks: list[Block]


class Page(Struct, frozen=True):
    """A whole page.

    Attributes:
        title, subtitle: at its top.
        sections: those without a block are left out.
        foot: where it comes from, at its end.
        subject: tells pages about one ledger from those about others.
    """

    title: str
    subtitle: str
    sections: list[Section]
    foot: list[str]
    subject: str = ""
