"""Lines of text as a piece of a notebook's page."""

from __future__ import annotations

from html import escape
from typing import Final

from mistill.characters import cut, whole_characters
from mistill.visible import visible

_MOST_CHARS: Final = 20_000
"""A notebook keeps what it shows: an answer of ten megabytes would stay in its file."""

# Notebooks give `pre` the font of their pages, and break words in two.
_STYLE = "font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere; word-break: normal"


def preformatted(text: str) -> str:
    """The text in HTML, line by line as it is. Lines that are too long are wrapped, a text that is too long is cut."""
    return f'<pre style="{_STYLE}">{in_html(cut(text, _MOST_CHARS))}</pre>'


def in_html(text: str) -> str:
    """A text as it is read in HTML: nothing in it is markup, or turns what stands beside it."""
    return escape(visible(whole_characters(text)))
