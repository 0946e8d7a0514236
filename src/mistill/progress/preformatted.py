"""Lines of text as a piece of a notebook's page."""

from __future__ import annotations

from html import escape

# Notebooks give `pre` the font of their pages, and break words in two.
_STYLE = "font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere; word-break: normal"


def preformatted(text: str) -> str:
    """The text in HTML, line by line as it is, escaped; a line that is too long is wrapped."""
    return f'<pre style="{_STYLE}">{escape(text)}</pre>'
