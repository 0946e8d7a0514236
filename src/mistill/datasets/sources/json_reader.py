"""A JSON document: a list of objects, or an object in which one value is such a list."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, cast

import msgspec

from mistill.datasets.sources.input_file import TextReader
from mistill.datasets.sources.json_problems import name_of_json
from mistill.datasets.sources.json_scanner import JsonScanner
from mistill.datasets.sources.json_text import check_object, repair_line
from mistill.datasets.sources.jsonl_reader import JsonLinesReader
from mistill.datasets.sources.row import Row
from mistill.datasets.sources.text_blocks import not_utf8
from mistill.errors import InputError
from mistill.wording import Setting, words

_HEAD_BYTES = 1 << 16


class JsonDocumentReader(TextReader):
    """A ``.json`` file, read item by item: memory holds one item and about a chunk of text, not the document.

    Many tools write JSON Lines under this suffix: where the first line is a whole object and more follows,
    the file is read as such.
    """

    unit = "row"
    first_unit = 0

    def rows(self, first_index: int) -> Iterator[Row]:
        chunks = self._file.chunks()
        head = _first_bytes(chunks)
        whole = chain([head], chunks)
        if _begins_like_lines(head):
            yield from JsonLinesReader(self._file).rows_of(whole, first_index)
            return
        scanner = JsonScanner(_texts(whole, self.name), self.name)
        for place, item in enumerate(self._items(scanner), 1):
            index = first_index + place - 1
            if not isinstance(item, dict):
                raise InputError(
                    f"{self.where(place)}: {name_of_json(item)}, where a row must be an object", index=index
                )
            yield Row.of(cast("dict[str, Any]", item), self, index, place)

    def _items(self, scanner: JsonScanner) -> Iterator[Any]:
        opening = scanner.peek()
        if opening == "[":
            yield from scanner.items()
        elif opening == "{":
            yield from self._items_of_one_list(scanner)
        elif opening:
            raise InputError(f"{self.name}: not a list of objects, nor an object that has one")
        if scanner.peek():
            raise scanner.refusal("there is more text after the end of the document")

    def _items_of_one_list(self, scanner: JsonScanner) -> Iterator[Any]:
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
                hint=words("if the object is itself a row, give ", Setting("input_format", "jsonl")),
            )


def _first_bytes(chunks: Iterator[bytes]) -> bytes:
    """Enough to see the first line and what follows it, if that is not too long; a pipe gives less at a time."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _HEAD_BYTES:
            break
    return head


def _texts(chunks: Iterable[bytes], name: str) -> Iterator[str]:
    """Chunks decoded as they come. Not by lines: a document may be one line."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    taken, line, is_utf8 = 0, 1, False
    for chunk in chain(chunks, [b""]):
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            before = taken + len(chunk) - len(error.object)
            raise not_utf8(error, f"{name} line {line}", before + error.start, is_utf8=is_utf8) from error
        taken += len(chunk)
        line += text.count("\n")
        is_utf8 = is_utf8 or not text.isascii()
        yield text


def _begins_like_lines(head: bytes) -> bool:
    first, _, rest = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")
    if not rest.strip():
        return False
    try:
        check_object(repair_line(first))
    except (msgspec.MsgspecError, RecursionError):
        return False
    return True
