"""Bytes of a text file in blocks of whole lines, checked to be UTF-8."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from mistill.errors import InputError
from mistill.wording import Setting, words

# How a file begins that is something else than text in UTF-8.
_SIGNATURES = (
    (b"\xff\xfe", words("it looks like UTF-16: ", Setting("encoding", "utf-16"))),
    (b"\xfe\xff", words("it looks like UTF-16: ", Setting("encoding", "utf-16"))),
    (b"\x1f\x8b", "it looks gzip-compressed; add .gz to its name or format"),
    (b"\x28\xb5\x2f\xfd", "it looks zstd-compressed; add .zst to its name or format"),
    (b"PAR1", "it looks like Parquet; pass the format parquet"),
    (b"PK\x03\x04", words("it looks like Excel, or another zip: ", Setting("input_format", "xlsx"))),
    (b"ARROW1", "it looks like Arrow; pass the format arrow"),
)


class TextBlock(NamedTuple):
    """Some whole lines of a text file.

    Attributes:
        first_line: the number of the first, from 1.
        text: of all of them, UTF-8. ``torn``: by the number of a line whose bytes were not, what is wrong with it; it
            has U+FFFD in their place. No byte of a line end, a quote or a bracket is lost so.
        raw: the same lines as they stand in the file.
    """

    first_line: int
    text: bytes
    torn: Mapping[int, str]
    raw: bytes


def text_blocks(
    chunks: Iterable[bytes], name: str, *, first_line: int = 1, first_byte: int = 0
) -> Iterator[TextBlock]:
    """Chunks to blocks of whole lines.

    Only the last block can end without a newline. A byte order mark at the start is dropped. A block is as long as a
    chunk, or as one line where that is longer.

    Args:
        first_line: the number of the line that the chunks begin with, and ``first_byte``, from 0: of its first byte.

    Raises:
        InputError: the file is in another encoding than UTF-8, as far as can be seen; it names the line.
    """
    line, offset, is_utf8 = first_line, first_byte, False
    for block in _whole_lines(chunks):
        text, torn = block, _NOTHING_TORN
        if not block.isascii():
            try:
                block.decode()
            except UnicodeDecodeError as error:
                if not is_utf8 and not _is_mostly_utf8(block):
                    place = line + block.count(b"\n", 0, error.start)
                    raise not_utf8(error, f"{name} line {place}", offset + error.start) from error
                torn = dict(_torn_lines(block, line, offset))
                text = block.decode(errors="replace").encode()
            is_utf8 = True
            if offset == 0:
                text = text.removeprefix(codecs.BOM_UTF8)
        yield TextBlock(line, text, torn, block)
        line += block.count(b"\n")
        offset += len(block)


_NOTHING_TORN: Mapping[int, str] = {}


def _whole_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end == 0:
            pending.append(chunk)
            continue
        pending.append(chunk[:end])
        yield b"".join(pending)
        pending = [chunk[end:]] if end < len(chunk) else []
    if pending:
        yield b"".join(pending)


_REPLACED = re.compile("\ufffd+")
_ONE_BYTE_EACH = re.compile("[\\x00-\\x7f\ufffd]+")


def _is_mostly_utf8(text: bytes) -> bool:
    """Whether more characters in it are of several bytes, as UTF-8 has them, than bytes are none of it.

    A text in an encoding of one byte a character has hardly any such character, and never more.
    """
    if text.startswith(tuple(start for start, _ in _SIGNATURES)):
        return False
    read = text.decode(errors="replace")
    good = len(_ONE_BYTE_EACH.sub("", read)) + text.count("\ufffd".encode())
    return good > len(_REPLACED.findall(read)) - text.count("\ufffd".encode())


def _torn_lines(block: bytes, line: int, offset: int) -> Iterator[tuple[int, str]]:
    for number, one in enumerate(block.split(b"\n"), line):
        try:
            one.decode()
        except UnicodeDecodeError as error:
            yield number, _not_utf8(error, offset + error.start)
        offset += len(one) + 1


TAKE_REPLACED = words(
    "it is UTF-8 but for such bytes, which are no text: mend them, or take each as U+FFFD: ",
    Setting("encoding", "utf-8-replace"),
)
"""What to do with bytes that are no text, in a file that is UTF-8."""


def _not_utf8(error: UnicodeDecodeError, offset: int) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset}"


def not_utf8(error: UnicodeDecodeError, where: str, offset: int, *, is_utf8: bool = False) -> InputError:
    """What to say of bytes that are no UTF-8; ``offset`` counts from the start of the (decompressed) file.

    Args:
        is_utf8: what stands before them or around them shows that the file is UTF-8 all the same.
    """
    # Latin-1 but for 0x80 to 0x9f, which Windows has its quotes, dashes and the euro at, and Latin-1 nothing of use.
    hint: str = words("it may be Windows-1252: ", Setting("encoding", "cp1252"))
    if is_utf8 or _is_mostly_utf8(error.object):
        hint = TAKE_REPLACED
    if offset == error.start:  # the bytes at hand are the start of the file
        hint = next((text for start, text in _SIGNATURES if error.object.startswith(start)), hint)
    return InputError(f"{where}: {_not_utf8(error, offset)}", hint=hint)
