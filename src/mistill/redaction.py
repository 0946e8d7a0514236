"""Secrets, cut out of what a server or a library says: some echo them, whole, escaped or in part.

The API key is a client's, whose `Redactor` has it. Those of stores, databases and the like are this process's: what was
given (`hide`), and what the environment has for the libraries that reach them.
"""

from __future__ import annotations

import html
import os
import re
from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Final

from mistill.addresses import harmless_words
from mistill.errors import APIError, MalformedAnswer, MistillError

PLACEHOLDER = "[api key]"
HIDDEN = "[secret]"
"""In the place of any other secret."""
_SHORTEST = 8
"""A key or a part of one is not recognised below this: "1" or "any", as given to local servers, is in every text."""
_UNMISTAKABLE = 16
_LETTER = re.compile(r"[A-Za-z]")
_DIGIT = re.compile(r"\d")
_ESCAPE = re.compile(
    r"\\+(?:u([0-9a-fA-F]{4})|U00(0[0-9a-fA-F]{5}|10[0-9a-fA-F]{4})"  # of JSON, in JSON in JSON too; of Python
    r"|x([0-9a-fA-F]{2})|([/\"'\\]))"
    r"|%([0-9a-fA-F]{2})"  # of URLs
    r"|(&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[a-zA-Z]{2,8});)"  # of HTML
)


class Redactor:
    """Cuts one key out of texts that are shown. What a program decides by has been read before.

    Args:
        placeholder: what stands in its place.

    Attributes:
        echo: what is cut out of whole answers, before they are read: the key as it is, if it is such that nothing else
            in an answer can be meant; else ``None``.
    """

    def __init__(self, api_key: str, placeholder: str = PLACEHOLDER) -> None:
        self._placeholder = placeholder
        self._parts = frozenset(
            form[start : start + _SHORTEST]
            for form in _forms(api_key)
            for start in range(len(form) - _SHORTEST + 1)
        )
        is_mixed = _LETTER.search(api_key) is not None and _DIGIT.search(api_key) is not None
        self.echo = _encoded(api_key) if is_mixed and len(api_key) >= _UNMISTAKABLE else None

    def clean(self, raw: bytes) -> bytes:
        """An answer's body without the key: it may stand where a text is kept, as in the model's name."""
        return raw if self.echo is None else raw.replace(self.echo, self._placeholder.encode())

    def redact(self, text: str) -> str:
        """The text with a placeholder for every run of characters that is in the key too, as it is or escaped."""
        return _cut(text, self._runs, self._placeholder)

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


def _cut(text: str, find: Callable[[str], Iterable[tuple[int, int]]], placeholder: str) -> str:
    """The text with a placeholder for whatever is found in it, as it is or without its escapes, as (start, end)."""
    found = list(find(text))
    if "\\" in text or "%" in text or "&" in text:
        plain, places = _unescaped(text)
        found += [(places[start], places[end]) for start, end in find(plain)]
    kept: list[str] = []
    at = 0
    for start, end in sorted(found):
        if start >= at:
            kept += (text[at:start], placeholder)
        at = max(at, end)
    return "".join((*kept, text[at:])) if kept else text


def _encoded(secret: str) -> bytes:
    """Of any: a variable of the environment need not be UTF-8."""
    return secret.encode(errors="surrogatepass")


def _readings(secret: str) -> Iterator[str]:
    """The secret as it is, and as escapes are read that stand for less than a character: bytes of UTF-8 (of URLs, of
    Python's bytes) and halves of a pair (of JSON)."""
    yield secret
    if not secret.isascii():
        yield _encoded(secret).decode("latin-1")
        pairs = secret.encode("utf-16-be", errors="surrogatepass")
        yield "".join(chr(high << 8 | low) for high, low in zip(pairs[::2], pairs[1::2], strict=True))


def _forms(api_key: str) -> Iterator[str]:
    """The key, and as it is written in base64, whatever stands before it there, and in hexadecimal."""
    yield from _readings(api_key)
    if len(api_key) < _SHORTEST:
        return
    key = _encoded(api_key)
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
        unicode, wide, byte, itself, percent, entity = escape.groups()
        code = unicode or wide or byte or percent
        plain = chr(int(code, 16)) if code else html.unescape(entity) if entity else itself
        characters += plain
        places += [escape.start()] * len(plain)
        at = escape.end()
    characters += text[at:]
    places += range(at, len(text) + 1)
    return "".join(characters), places


# --- secrets of this process ------------------------------------------------------------------------------------------

_OF_ENVIRONMENT: Final = (
    "MISTRAL_API_KEY", "MISTILL_GOVERNOR_TOKEN", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "PGPASSWORD", "motherduck_token",
    "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_CLIENT_SECRET", "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
)  # fmt: skip
"""Variables that the libraries of places, and mistill, take a secret from."""
_SHORTEST_HIDDEN = 5
"""Shorter ones are words of other texts too."""
_SENT = re.compile(r"(?i)\b(Bearer|Basic|x-amz-security-token\W{0,3}:)(\W{0,3})[\w.~+/=-]{16,}")
"""How a request says who asks, whoever has made the secret: a role's, or one of a login, is nobody's setting."""
_given: set[str] = set()


def shown_words(text: str) -> str | None:
    """What a library or a server says, in one line, as it may be shown: each address in it without its secrets, and
    none of the others of this process; ``None`` where something of an address's is left in it."""
    return harmless_words(without_secrets(text))


def hide(secret: str | None) -> None:
    """A password, token or key, which `without_secrets` knows from now on, in this process."""
    if secret and len(secret) >= _SHORTEST_HIDDEN:
        _given.add(secret)


def without_secrets(text: str) -> str:
    """A text with a placeholder for whatever stands in it of the secrets that this process has for a place."""
    kept = (value for name in _OF_ENVIRONMENT if len(value := os.environ.get(name, "")) >= _SHORTEST_HIDDEN)
    for secret in sorted({*_given, *kept}):
        if len(secret) >= _SHORTEST:
            text = _redactor(secret).redact(text)
        else:
            text = _cut(text, partial(_words, secret), HIDDEN)
    return _SENT.sub(rf"\1\2{HIDDEN}", text)


def _words(secret: str, text: str) -> Iterator[tuple[int, int]]:
    """Where a short secret stands alone, as (start, end): within a word it is a part of that."""
    for reading in _readings(secret):
        for found in re.finditer(rf"(?<!\w){re.escape(reading)}(?!\w)", text):
            yield found.span()


@lru_cache(64)
def _redactor(secret: str) -> Redactor:
    return Redactor(secret, HIDDEN)


_SECRET_NAME = re.compile("(?i)key|secret|token|password|passwd|credential|sas|connection_string")


def hide_settings(settings: object) -> None:
    """What is secret, by its name, in settings for a library, however deep it stands. Of one that is a file's name, the
    library reads that."""
    if isinstance(settings, dict):
        for name, value in settings.items():  # pyright: ignore[reportUnknownVariableType]
            if isinstance(value, dict):
                hide_settings(value)  # pyright: ignore[reportUnknownArgumentType]
            elif isinstance(value, str) and _SECRET_NAME.search(str(name)) and not _is_file(value):  # pyright: ignore[reportUnknownArgumentType]
                hide(value)


def _is_file(value: str) -> bool:
    try:
        return Path(value).exists()
    except (OSError, ValueError):  # too long for one
        return False
