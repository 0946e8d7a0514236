"""A JSON document: a list of objects, or an object in which one value is such a list."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, cast

import msgspec

from mistill.datasets.encoding import encode_row
from mistill.datasets.sources.files import File, not_utf8
from mistill.datasets.sources.json_problems import is_cut, json_decoder, name_of_json
from mistill.datasets.sources.jsonl import JsonLines
from mistill.datasets.sources.row import Row, check_object
from mistill.errors import InputError

_BLANKS = " \t\r\n"
_HEAD_BYTES = 1 << 16


class JsonDocument:
    """A ``.json`` file, read item by item: memory holds one item and about a chunk of text, not the document.

    Many tools write JSON Lines under this suffix: where the first line is a whole object and more follows,
    the file is read as such.
    """

    def __init__(self, file: File) -> None:
        self._file = file
        self.name = file.name
        self.repeatable = file.repeatable

    def columns(self) -> None:
        return None

    def total(self) -> None:
        return None

    def where(self, place: int) -> str:
        return f"{self.name} item {place}"

    def rows(self, first_index: int) -> Iterator[Row]:
        chunks = self._file.chunks()
        head = _first_bytes(chunks)
        whole = chain([head], chunks)
        if _begins_like_lines(head):
            yield from JsonLines(self._file).rows_of(whole, first_index)
            return
        scanner = _Scanner(_texts(whole, self.name), self.name)
        for place, item in enumerate(self._items(scanner), 1):
            index = first_index + place - 1
            if not isinstance(item, dict):
                raise InputError(
                    f"{self.where(place)}: {name_of_json(item)}, where a row must be an object", index=index
                )
            yield Row(index, encode_row(cast("dict[str, Any]", item), self.where(place), index), self, place)

    def _items(self, scanner: _Scanner) -> Iterator[Any]:
        opening = scanner.peek()
        if opening == "[":
            yield from scanner.items()
        elif opening == "{":
            yield from self._items_of_one_list(scanner)
        elif opening:
            raise InputError(f"{self.name}: not a list of objects, nor an object that has one")
        if scanner.peek():
            raise scanner.refusal("there is more text after the end of the document")

    def _items_of_one_list(self, scanner: _Scanner) -> Iterator[Any]:
        found: str | None = None
        for key in scanner.members():
            if scanner.peek() != "[":
                scanner.value()
                continue
            if found is not None:
                raise InputError(
                    f"{self.name}: both {found!r} and {key!r} are lists, so which holds the rows is unclear",
                    hint="leave one, or write the rows as JSON Lines",
                )
            found = key
            yield from scanner.items()
        if found is None:
            raise InputError(
                f"{self.name}: an object without a list, so it holds no rows",
                hint="if the object is itself a row, pass the format jsonl",
            )


def _first_bytes(chunks: Iterator[bytes]) -> bytes:
    """Enough to see the first line and what follows it, if that is not too long; a pipe gives less at a
    time."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD_BYTES:
            break
    return head


def _texts(chunks: Iterable[bytes], name: str) -> Iterator[str]:
    """Chunks decoded as they come. Not by lines: a document may be one line."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    taken, line = 0, 1
    for chunk in chain(chunks, [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            before = taken + len(chunk) - len(error.object)
            raise not_utf8(error, f"{name} line {line}", before + error.start) from error
        taken += len(chunk)
        line += text.count("\n")
        yield text


def _begins_like_lines(head: bytes) -> bool:
    first, _, rest = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    if not rest.strip():
        return False
    try:
        check_object(first)
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True


class _Scanner:
    """A pull parser over pieces of text: lists and objects are walked, what is in them is decoded one value
    at a time."""

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
        """The keys of the object that begins here. The caller takes each value before it asks for the next
        key."""
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
        """Drop what was taken and read on: at least as much as is held, so that one long item costs linear
        time."""
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
        at = self._at if at is None else at
        line, column = self._place(at)
        hint = "the file is still being written, or was cut" if at >= len(self._text.rstrip()) else None
        return InputError(f"{self._name} line {line + 1} column {column + 1}: not JSON: {problem}", hint=hint)

    def _place(self, at: int) -> tuple[int, int]:
        """Lines and columns before ``at``, from the start of the document."""
        lines = self._text.count("\n", 0, at)
        if lines:
            return self._lines_before + lines, at - self._text.rindex("\n", 0, at) - 1
        return self._lines_before, self._columns_before + at
