"""The API key, cut out of what a server says: some echo it, whole, escaped or in part."""

from __future__ import annotations

import re
from collections.abc import Iterator

from mistill.errors import APIError, MalformedAnswer, MistillError

PLACEHOLDER = "[api key]"
_SHORTEST = 8
"""A key or a part of one is not recognised below this: "1" or "any", as given to local servers, is in every text."""
_ESCAPE = re.compile(
    r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([/\"'\\]))"  # of JSON, in JSON in JSON too; of Python
    r"|%([0-9a-fA-F]{2})"  # of URLs
)


class Redactor:
    """Cuts one key out of texts that are shown. What a program decides by has been read before."""

    def __init__(self, api_key: str) -> None:
        starts = range(len(api_key) - _SHORTEST + 1)
        self._parts = frozenset(api_key[start : start + _SHORTEST] for start in starts)

    def redact(self, text: str) -> str:
        """The text with a placeholder for every run of characters that is in the key too, as it is or escaped."""
        found = list(self._runs(text))
        if "\\" in text or "%" in text:
            plain, places = _unescaped(text)
            found += [(places[start], places[end]) for start, end in self._runs(plain)]
        kept: list[str] = []
        at = 0
        for start, end in sorted(found):
            if start >= at:
                kept += (text[at:start], PLACEHOLDER)
            at = max(at, end)
        return "".join((*kept, text[at:])) if kept else text

    def redact_error(self, error: MistillError) -> None:
        """The same, for everything of an error that may be a server's words."""
        if not self._parts:
            return
        error.message = self.redact(error.message)
        error.args = (error.message, *error.args[1:])
        if isinstance(error, APIError):
            error.code = error.code and self.redact(error.code)
            error.error_type = error.error_type and self.redact(error.error_type)
        if isinstance(error, APIError | MalformedAnswer) and error.correlation_id:
            error.correlation_id = self.redact(error.correlation_id)

    def _runs(self, text: str) -> Iterator[tuple[int, int]]:
        """Where something of the key stands, as (start, end)."""
        at = 0
        while at <= len(text) - _SHORTEST:
            start = at
            while text[at : at + _SHORTEST] in self._parts:
                at += 1
            if at > start:
                at += _SHORTEST - 1
                yield start, at
            else:
                at += 1


def _unescaped(text: str) -> tuple[str, list[int]]:
    """The text without its escapes, and where each of its characters, and its end, stands in ``text``."""
    characters: list[str] = []
    places: list[int] = []
    at = 0
    for escape in _ESCAPE.finditer(text):
        characters += text[at : escape.start()]
        places += range(at, escape.start())
        unicode, byte, itself, percent = escape.groups()
        code = unicode or byte or percent
        characters.append(chr(int(code, 16)) if code else itself)
        places.append(escape.start())
        at = escape.end()
    characters += text[at:]
    places += range(at, len(text) + 1)
    return "".join(characters), places
