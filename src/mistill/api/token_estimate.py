"""About how many tokens a request has, before a server has counted them.

Text: a token for each `BYTES_PER_TOKEN` bytes of UTF-8, as is about right for European languages, code and JSON, and
`MESSAGE_TOKENS` for each message.

An image: Mistral's encoders scale it down to a largest side and make a token of each patch of pixels
(https://mistralai.github.io/mistral-common/usage/images). Which side and which patch a model has is not published for
each; 1,540 and 28 pixels are taken here for all. A document: 1,000 tokens a page, which is a guess. Sound: 12.5 tokens
a second (https://arxiv.org/abs/2507.13264, Voxtral). Usage tells what it really was. What is named by an address is not
looked at: it counts as a large image, one page or a minute.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 4
HOW = (
    f"a token for each {BYTES_PER_TOKEN} bytes of text, and {MESSAGE_TOKENS} for each message; "
    "for images, documents and sound by their size"
)
"""How it is made, in words."""

_PATCH = 28
_MAX_SIDE = 1540
_MOST_IMAGE_TOKENS = (_MAX_SIDE // _PATCH) ** 2
_PAGE_TOKENS = 1000
_TOKENS_PER_S = 12.5
_BYTES_PER_S = 16_000  # of compressed sound at 128 kbit/s
_LOOKED_AT_CHARS = 1 << 16
"""Of the base64 of an image: where its size stands is well before."""


def text_tokens(text: str) -> int:
    """Of a text."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // BYTES_PER_TOKEN)


def message_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Of messages as a request has them."""
    return sum(MESSAGE_TOKENS + _content_tokens(message) for message in messages)


def request_tokens(body: bytes) -> int:
    """Of a whole request to complete a chat: its messages, and its tools."""
    request = msgspec.json.decode(body)
    tools = request.get("tools")
    return message_tokens(request["messages"]) + (text_tokens(str(tools)) if tools else 0)


def _content_tokens(message: Mapping[str, Any]) -> int:
    content: Any = message.get("content")
    calls = message.get("tool_calls")
    tokens = text_tokens(str(calls)) if calls else 0
    if isinstance(content, str):
        return tokens + text_tokens(content)
    return tokens + sum(chunk_tokens(chunk) for chunk in cast("list[dict[str, Any]]", content or []))


def chunk_tokens(chunk: Mapping[str, Any]) -> int:
    """Of a content chunk as a request has it."""
    match chunk.get("type"):
        case "image_url":
            url = chunk["image_url"]
            return image_tokens(_data_of(url if isinstance(url, str) else url["url"], _LOOKED_AT_CHARS))
        case "document_url":
            return document_tokens(_data_of(chunk["document_url"]))
        case "input_audio":
            return audio_tokens(_data_of(chunk["input_audio"]))
        case _:
            return text_tokens(str(chunk.get("text") or ""))


def _data_of(source: Any, most: int | None = None) -> bytes | None:
    """The bytes in a ``data:`` URL or in base64 alone; ``None`` for the address of something."""
    if not isinstance(source, str) or source[:8].lower().startswith(("http://", "https://")):
        return None
    encoded = source.partition(",")[2] if source[:5].lower() == "data:" else source
    try:
        return base64.b64decode(encoded if most is None else encoded[:most])
    except (binascii.Error, ValueError):
        return None


def document_tokens(data: bytes | None) -> int:
    """Of a PDF; ``None``: of which only the address is known."""
    pages = 0 if data is None else data.count(b"/Type /Page") + data.count(b"/Type/Page")
    if data is not None:
        pages -= data.count(b"/Type /Pages") + data.count(b"/Type/Pages")
    return max(1, pages) * _PAGE_TOKENS


def audio_tokens(data: bytes | None) -> int:
    """Of sound; ``None``: of which only the address is known."""
    if data is None:
        return int(60 * _TOKENS_PER_S)
    per_s = int.from_bytes(data[28:32], "little") if data[8:12] == b"WAVE" else 0
    return max(1, int(len(data) / (per_s or _BYTES_PER_S) * _TOKENS_PER_S))


def image_tokens(data: bytes | None) -> int:
    """Of an image whose first bytes these are at least."""
    size = None if data is None else image_size(data)
    if size is None or not all(size):
        return _MOST_IMAGE_TOKENS
    scale = min(1.0, _MAX_SIDE / max(size))
    wide, high = (-(-int(side * scale) // _PATCH) or 1 for side in size)
    return wide * high


def image_size(data: bytes) -> tuple[int, int] | None:
    """Width and height in pixels of a PNG, JPEG, GIF or WebP; ``None`` where they do not stand there."""
    if data[:8] == b"\x89PNG\r\n\x1a\n":
        return _big(data, 16, 4), _big(data, 20, 4)
    if data[:4] == b"GIF8":
        return _little(data, 6, 2), _little(data, 8, 2)
    if data[:4] == b"RIFF":
        return _webp_size(data)
    return _jpeg_size(data) if data[:2] == b"\xff\xd8" else None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8 ":
            return _little(data, 26, 2) & 0x3FFF, _little(data, 28, 2) & 0x3FFF
        case b"VP8L":
            bits = _little(data, 21, 4)
            return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        case b"VP8X":
            return _little(data, 24, 3) + 1, _little(data, 27, 3) + 1
        case _:
            return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    """From the first start of a frame among a JPEG's segments."""
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return _big(data, at + 7, 2), _big(data, at + 5, 2)
        at += 2 + _big(data, at + 2, 2)
    return None


def _big(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "big")


def _little(data: bytes, at: int, length: int) -> int:
    return int.from_bytes(data[at : at + length], "little")
