"""What is printed: lines for a person on stderr, what was asked for on stdout.

What came from elsewhere (an answer, a server's words, a model's name, a row) may hold what a terminal obeys: it is made
visible before it is printed.
"""

from __future__ import annotations

import re
import sys
from typing import NamedTuple

import click

# Control characters but for line feed and tab (C0, DEL, C1, where ESC and its one-byte twin CSI are), line separators,
# and those that turn the direction of text (https://www.unicode.org/reports/tr9, explicit formatting characters).
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


class Colored(NamedTuple):
    """A part of a line in a colour."""

    text: str
    color: str


def visible(text: str) -> str:
    """The text with what a terminal would obey written out: ``\\x1b`` for an escape."""
    return _OBEYED.sub(lambda found: f"{found[0]!a}"[1:-1], text)


def visible_json(text: str) -> str:
    """JSON whose strings hold nothing that a terminal would obey; it means the same."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def say(*parts: str | Colored) -> None:
    """A line for a person, on stderr: stdout is for records."""
    click.echo(_line(parts), err=True)


def show(*parts: str | Colored) -> None:
    """A line of what was asked for, on stdout."""
    click.echo(_line(parts))


def say_error(message: str, hint: str | None = None) -> None:
    """One or two lines on stderr."""
    say(Colored("error: ", "red"), message)
    if hint:
        say(Colored("hint: ", "cyan"), hint)


def _line(parts: tuple[str | Colored, ...]) -> str:
    return "".join(
        visible(part) if isinstance(part, str) else click.style(visible(part.text), fg=part.color)
        for part in parts
    )


def is_terminal(*, stderr: bool = False) -> bool:
    """Whether somebody looks at stdout, or at stderr. Either may be closed."""
    stream = sys.stderr if stderr else sys.stdout
    return stream is not None and stream.isatty()  # pyright: ignore[reportUnnecessaryComparison]  None where it is closed
