"""Notices JSON that never ends while it is being written: white space, the digits of a number or the text of a string
that repeat themselves until the token limit.

What is a loop has to be still going on, within one token of JSON, at the end of what has come:

- between tokens: `MAX_SPACE` characters of nothing but white space; indentation to 200 levels has fewer;
- in a number: `MAX_NUMBER` characters that are one piece of up to `LONGEST_IN_NUMBER` again and again;
- in a string: `MAX_BLANK` characters of nothing but white space, written as it is or as ``\\n``, ``\\r``, ``\\t``;
- in a string: `MAX_STRING` characters that are one piece of up to `LONGEST_IN_STRING` again and again.

So what repeats itself across tokens is none, however long it is: equal items of a list, equal objects, tables of zeros.
Nor is what has come to its end, whatever it is: a run of base64 for zeros with a quote behind it is a value.
"""

from __future__ import annotations

import re
from typing import Final

MAX_SPACE: Final = 1024
MAX_NUMBER: Final = 512
MAX_BLANK: Final = 2048
MAX_STRING: Final = 8192
LONGEST_IN_NUMBER: Final = 64
LONGEST_IN_STRING: Final = 1024

_SPACE = " \t\r\n"
_OF_NUMBERS = "0123456789+-.eE"
_BLANK = re.compile(
    r"[nrt]?(?:[ \t\r\n\u00a0]|\\[nrt])*\\?"
)  # cut out of a string, it may begin or end in an escape


class LoopGuard:
    """Reads an answer as it comes.

    Attributes:
        characters: how many have come.
        is_looping: they end in a loop.
    """

    def __init__(self) -> None:
        self.characters = 0
        self.is_looping = False
        self._is_in_string = False
        self._open = ""
        """The end of what has come since the last quote that opened or closed a string."""
        self._held = ""
        """A backslash whose other half has not come."""

    def feed(self, piece: str) -> bool:
        """The next piece of the answer's text, however it was cut; whether all of it ends in a loop."""
        if not piece:
            return self.is_looping
        self.characters += len(piece)
        piece, self._held = self._held + piece, ""
        # As long as the piece: where a quote stands in it, it stands in the other.
        plain = piece
        if "\\" in piece:
            plain = piece.replace("\\\\", "__").replace('\\"', "__")
            if plain.endswith("\\"):
                plain, piece, self._held = plain[:-1], piece[:-1], "\\"
        last_quote = plain.rfind('"')
        if last_quote >= 0:
            self._is_in_string ^= bool(plain.count('"') % 2)
            self._open = piece[last_quote + 1 :]
        else:
            self._open += piece
        self._open = self._open[-MAX_STRING:]
        self.is_looping = self._loops_in_string() if self._is_in_string else self._loops_between()
        return self.is_looping

    def _loops_between(self) -> bool:
        come = self._open
        if len(come) - len(come.rstrip(_SPACE)) >= MAX_SPACE:
            return True
        of_number = len(come) - len(come.rstrip(_OF_NUMBERS))
        return of_number >= MAX_NUMBER and _repeats(come[-MAX_NUMBER:], LONGEST_IN_NUMBER)

    def _loops_in_string(self) -> bool:
        come = self._open
        if len(come) >= MAX_BLANK and _BLANK.fullmatch(come, len(come) - MAX_BLANK):
            return True
        return len(come) >= MAX_STRING and _repeats(come, LONGEST_IN_STRING)


def _repeats(text: str, longest: int) -> bool:
    """Whether all of ``text`` is one piece of at most so many characters again and again.

    If it is, its last ``longest`` characters stand at most so far before their end once more, and the distance to there
    is the length of such a piece (theorem of Fine and Wilf).
    """
    window = text[-2 * longest : -1]
    at = window.find(text[-longest:])
    if at < 0:
        return False
    period = longest - at
    return text[period:] == text[:-period]
