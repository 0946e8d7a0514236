"""A pull parser of JSON: walks lists and objects of a document that need not fit in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from mistill.datasets.sources.json_problems import NUL_TAIL_HINT, is_cut, nul_tail
from mistill.datasets.sources.json_text import json_decoder
from mistill.errors import InputError

_BLANKS = " \t\r\n"


class JsonScanner:
    """A pull parser over pieces of text: lists and objects are walked, what is in them is decoded one value at a time.

    Args:
        texts: the document, in pieces.
        name: of the document, for errors.
    """

    def __init__(self, texts: Iterator[str], name: str) -> None:
        self._texts = texts
        self._name = name
        self._decode = json_decoder().raw_decode
        self._text = ""
        self._at = 0
        self._lines_before = 0  # where the text at hand begins in the document
        self._columns_before = 0

    def peek(self) -> str:
        """The next character that is no blank, "" at the end. It is not taken."""
        while True:
            while self._at < len(self._text):
                char = self._text[self._at]
                if char not in _BLANKS:
                    return char
                self._at += 1
            if not self._refill():
                return ""

    def items(self) -> Iterator[Any]:
        """The values of the list that begins here."""
        self._take("[")
        if self.peek() == "]":
            self._take("]")
            return
        while True:
            yield self.value()
            if self.peek() == "]":
                self._take("]")
                return
            self._take(",")

    def members(self) -> Iterator[str]:
        """The keys of the object that begins here. The caller takes each value before it asks for the next key."""
        self._take("{")
        if self.peek() == "}":
            self._take("}")
            return
        while True:
            key = self.value() if self.peek() == '"' else None
            if key is None:
                raise self.refusal("a key in double quotes is missing")
            self._take(":")
            yield key
            if self.peek() == "}":
                self._take("}")
                return
            self._take(",")

    def value(self) -> Any:
        """The value that begins here, decoded."""
        self.peek()
        while True:
            try:
                value, end = self._decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if is_cut(error) and self._refill():
                    continue
                raise self.refusal(error.msg, at=error.pos) from error
            except (ValueError, RecursionError) as error:
                raise self.refusal(str(error)) from error
            if end == len(self._text) and self._refill():
                continue  # a number that goes on in the next piece looks whole
            self._at = end
            return value

    def _take(self, char: str) -> None:
        if self.peek() != char:
            raise self.refusal(f"{char!r} is missing")
        self._at += 1

    def _refill(self) -> bool:
        """Drop what was taken and read on: at least as much as is held, so that one long item costs linear time."""
        self._lines_before, self._columns_before = self._place(self._at)
        kept = self._text[self._at :]
        pieces = [kept]
        wanted = max(len(kept), 1)
        while wanted > 0 and (text := next(self._texts, None)) is not None:
            pieces.append(text)
            wanted -= len(text)
        self._text, self._at = "".join(pieces), 0
        return len(pieces) > 1

    def refusal(self, problem: str, at: int | None = None) -> InputError:
        """What is wrong at a place of the text at hand; at the next character unless given."""
        at = self._at if at is None else at
        line, column = self._place(at)
        if self._text[at:] and not self._text[at:].strip("\0"):
            return InputError(f"{self._name} line {line + 1}: {nul_tail(column + 1)}", hint=NUL_TAIL_HINT)
        hint = "the file is still being written, or was cut" if at >= len(self._text.rstrip()) else None
        return InputError(f"{self._name} line {line + 1} column {column + 1}: not JSON: {problem}", hint=hint)

    def _place(self, at: int) -> tuple[int, int]:
        """Lines and columns before ``at``, from the start of the document."""
        lines = self._text.count("\n", 0, at)
        if lines:
            return self._lines_before + lines, at - self._text.rindex("\n", 0, at) - 1
        return self._lines_before, self._columns_before + at
