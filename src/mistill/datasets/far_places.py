"""What is the same of stores and databases, which may be out of reach for some time."""

from __future__ import annotations

from typing import Final

from mistill.redaction import shown_words
from mistill.wording import START_AGAIN, words

WAITS_S = (0.5, 2.0, 8.0)
"""Before each further try, where a connection is broken (the library of a store has tried some times itself by then),
or a file is another process's for the moment."""

GOES_ON: Final = words(START_AGAIN, ": what is answered is kept, and costs nothing again")

_SHOWN = 300


def told(said: str, name: str) -> str:
    """A library's words in one line; the error's name where they have something secret in them, or there are none."""
    return (shown_words(said) or "")[:_SHOWN] or name
