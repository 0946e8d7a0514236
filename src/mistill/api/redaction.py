"""The API key, cut out of what a server says: some echo it, whole, escaped or in part."""

from __future__ import annotations

import re

from mistill.errors import APIError, MalformedAnswer, MistillError

PLACEHOLDER = "[api key]"
_SHORTEST = 8
"""A key or a part of one is not recognised below this: "1" or "any", as given to local servers, is in every text."""
_ESCAPE = re.compile(r"\\u([0-9a-fA-F]{4})|\\(/)")


class Redactor:
    """Cuts one key out of texts that are shown. What a program decides by has been read before."""

    def __init__(self, api_key: str) -> None:
        starts = range(len(api_key) - _SHORTEST + 1)
        self._parts = frozenset(api_key[start : start + _SHORTEST] for start in starts)

    def redact(self, text: str) -> str:
        """The text with a placeholder for every run of characters that is in the key too."""
        found = self._cut(text)
        if found is None and "\\" in text:
            found = self._cut(_ESCAPE.sub(_unescaped, text))
        return text if found is None else found

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

    def _cut(self, text: str) -> str | None:
        """``None`` where nothing of the key is in it."""
        kept: list[str] = []
        start = at = 0
        while at <= len(text) - _SHORTEST:
            if text[at : at + _SHORTEST] not in self._parts:
                at += 1
                continue
            kept += (text[start:at], PLACEHOLDER)
            at += 1
            while text[at : at + _SHORTEST] in self._parts:
                at += 1
            start = at = at - 1 + _SHORTEST
        return "".join((*kept, text[start:])) if kept else None


def _unescaped(escape: re.Match[str]) -> str:
    return escape[2] or chr(int(escape[1], 16))
