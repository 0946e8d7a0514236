"""Bytes of a text file in blocks of whole lines, checked to be UTF-8."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

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


def text_blocks(chunks: Iterable[bytes], name: str) -> Iterator[tuple[int, bytes]]:
    """Chunks to blocks of whole lines, each with the number of its first line (from 1).

    Only the last block can end without a newline. A byte order mark at the start is dropped. A block is as long as a
    chunk, or as one line where that is longer.

    Raises:
        InputError: a block is not UTF-8; it names the line.
    """
    line, offset = 1, 0
    for block in _whole_lines(chunks):
        is_marked = False
        if not block.isascii():
            _check_utf8(block, name, line, offset)
            is_marked = offset == 0 and block.startswith(codecs.BOM_UTF8)
        yield line, block[len(codecs.BOM_UTF8) :] if is_marked else block
        line += block.count(b"\n")
        offset += len(block)


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


def _check_utf8(block: bytes, name: str, line: int, offset: int) -> None:
    try:
        block.decode()
    except UnicodeDecodeError as error:
        line += block.count(b"\n", 0, error.start)
        raise not_utf8(error, f"{name} line {line}", offset + error.start) from error


def not_utf8(error: UnicodeDecodeError, where: str, offset: int) -> InputError:
    """What to say of bytes that are no UTF-8; ``offset`` counts from the start of the (decompressed) file."""
    # Latin-1 but for 0x80 to 0x9f, which Windows has its quotes, dashes and the euro at, and Latin-1 nothing of use.
    hint: str = words("it may be Windows-1252: ", Setting("encoding", "cp1252"))
    if offset == error.start:  # the bytes at hand are the start of the file
        hint = next((text for start, text in _SIGNATURES if error.object.startswith(start)), hint)
    return InputError(
        f"{where}: not UTF-8: byte 0x{error.object[error.start]:02x} at offset {offset}", hint=hint
    )
