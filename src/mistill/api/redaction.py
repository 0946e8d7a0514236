"""The API key, cut out of what a server says: some echo it, whole, escaped or in part."""

from __future__ import annotations

import html
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Iterator

from mistill.errors import APIError, MalformedAnswer, MistillError

PLACEHOLDER = "[api key]"
_SHORTEST = 8
"""A key or a part of one is not recognised below this: "1" or "any", as given to local servers, is in every text."""
_UNMISTAKABLE = 16
_LETTER = re.compile(r"[A-Za-z]")
_DIGIT = re.compile(r"\d")
_ESCAPE = re.compile(
    r"\\+(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([/\"'\\]))"  # of JSON, in JSON in JSON too; of Python
    r"|%([0-9a-fA-F]{2})"  # of URLs
    r"|(&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8});)"  # of HTML
)


class Redactor:
    """Cuts one key out of texts that are shown. What a program decides by has been read before.

    Attributes:
        echo: what is cut out of whole answers, before they are read: the key as it is, if it is such that nothing else
            in an answer can be meant; else ``None``.
    """

    def __init__(self, api_key: str) -> None:
        self._parts = frozenset(
            form[start : start + _SHORTEST]
            for form in _forms(api_key)
            for start in range(len(form) - _SHORTEST + 1)
        )
        is_mixed = _LETTER.search(api_key) is not None and _DIGIT.search(api_key) is not None
        self.echo = api_key.encode() if is_mixed and len(api_key) >= _UNMISTAKABLE else None

    def clean(self, raw: bytes) -> bytes:
        """An answer's body without the key: it may stand where a text is kept, as in the model's name."""
        return raw if self.echo is None else raw.replace(self.echo, PLACEHOLDER.encode())

    def redact(self, text: str) -> str:
        """The text with a placeholder for every run of characters that is in the key too, as it is or escaped."""
        found = list(self._runs(text))
        if "\\" in text or "%" in text or "&" in text:
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


def _forms(api_key: str) -> Iterator[str]:
    """The key, and as it is written in base64, whatever stands before it there, and in hexadecimal."""
    yield api_key
    if len(api_key) < _SHORTEST:
        return
    key = api_key.encode()
    for before in range(3):
        start = -(-8 * before // 6)  # characters that have bits of what stands before
        for encode in (b64encode, urlsafe_b64encode):
            yield encode(bytes(before) + key).decode().rstrip("=")[start : (8 * (before + len(key))) // 6]
    yield key.hex()
    yield key.hex().upper()


def _unescaped(text: str) -> tuple[str, list[int]]:
    """The text without its escapes, and where each of its characters, and its end, stands in ``text``."""
    characters: list[str] = []
    places: list[int] = []
    at = 0
    for escape in _ESCAPE.finditer(text):
        characters += text[at : escape.start()]
        places += range(at, escape.start())
        unicode, byte, itself, percent, entity = escape.groups()
        code = unicode or byte or percent
        plain = chr(int(code, 16)) if code else html.unescape(entity) if entity else itself
        characters += plain
        places += [escape.start()] * len(plain)
        at = escape.end()
    characters += text[at:]
    places += range(at, len(text) + 1)
    return "".join(characters), places
