"""About how many tokens a request has."""

from __future__ import annotations

import base64
import struct

import pytest

from mistill.api.token_estimate import (
    audio_tokens,
    chunk_tokens,
    document_tokens,
    image_size,
    image_tokens,
    message_tokens,
    text_tokens,
)

PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 640, 480)
GIF = b"GIF89a" + struct.pack("<HH", 640, 480)
JPEG = b"\xff\xd8\xff\xe0\0\x04ab\xff\xc2\0\x0b\x08" + struct.pack(">HH", 480, 640) + b"\x03"
LOSSY = b"RIFF....WEBPVP8 " + b"." * 10 + struct.pack("<HH", 640, 480)
LOSSLESS = b"RIFF....WEBPVP8L....\x2f" + struct.pack("<I", 639 | 479 << 14)
EXTENDED = b"RIFF....WEBPVP8X" + b"." * 8 + (639).to_bytes(3, "little") + (479).to_bytes(3, "little")


@pytest.mark.parametrize("data", [PNG, GIF, JPEG, LOSSY, LOSSLESS, EXTENDED])
def test_an_images_size_is_read_where_its_format_has_it(data: bytes) -> None:
    assert image_size(data) == (640, 480)


@pytest.mark.parametrize("data", [b"", b"\xff\xd8\xff\xe0", b"RIFF....WEBPVP9 ", b"text", JPEG[:8]])
def test_what_has_no_size_counts_as_a_large_image(data: bytes) -> None:
    assert image_size(data) is None
    assert image_tokens(data) == image_tokens(None) == 55 * 55


def test_an_image_counts_by_its_area_once_it_is_scaled_down() -> None:
    assert image_tokens(PNG) == 23 * 18
    assert image_tokens(GIF[:6] + struct.pack("<HH", 30_800, 15_400)) == 55 * 28
    assert image_tokens(GIF[:6] + struct.pack("<HH", 1, 1)) == 1


def test_a_text_counts_by_its_bytes() -> None:
    assert [text_tokens(text) for text in ("", "abcd", "abcde", "é" * 4)] == [0, 1, 2, 2]
    messages = [
        {"role": "system", "content": "abcd"},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
    ]
    assert message_tokens(messages) == 4 + 1 + 4 + 1


def test_documents_count_by_their_pages_and_sound_by_its_length() -> None:
    assert document_tokens(b"%PDF /Type /Pages /Type /Page /Type/Page") == 2000
    assert document_tokens(None) == document_tokens(b"%PDF") == 1000
    wave = b"RIFF....WAVEfmt " + bytes(12) + (8000).to_bytes(4, "little") + bytes(80_000 - 32)
    assert audio_tokens(wave) == 125
    assert audio_tokens(None) == 750


@pytest.mark.parametrize("url", [PNG, "https://example.com/a.png", "data:image/png;base64,???"])
def test_chunks_are_counted_as_they_stand_in_a_request(url: bytes | str) -> None:
    written = f"data:image/png;base64,{base64.b64encode(url).decode()}" if isinstance(url, bytes) else url
    tokens = image_tokens(url if isinstance(url, bytes) else None)
    assert chunk_tokens({"type": "image_url", "image_url": written}) == tokens
    assert chunk_tokens({"type": "image_url", "image_url": {"url": written}}) == tokens
