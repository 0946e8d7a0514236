"""Content chunks of messages from what is at hand: a file, bytes, or a URL.

What is on this machine is put into the request as a ``data:`` URL (base64), its type known by its first bytes, never by
its name; a URL is passed on, for the server to fetch. Formats are those of https://docs.mistral.ai ("Vision", "Document
QnA", "Audio"); the bounds on sizes are ours, so that no body is built that a server would refuse for its length.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypeAlias
from urllib.parse import unquote, urlsplit

from mistill.errors import InputError

FileSource: TypeAlias = str | Path | bytes
"""A path, the bytes themselves, or an ``http(s)://``, ``file://`` or ``data:`` URL."""

Chunk: TypeAlias = dict[str, Any]

_MIB = 1024 * 1024
MAX_IMAGE_BYTES = 10 * _MIB
MAX_DOCUMENT_BYTES = 50 * _MIB
MAX_AUDIO_BYTES = 20 * _MIB

FileKind: TypeAlias = Literal["image", "document", "audio"]
"""What a chunk can hold besides text."""

_IMAGES = ("image/png", "image/jpeg", "image/webp", "image/gif")
_AUDIO = ("audio/mpeg", "audio/wav", "audio/flac", "audio/ogg", "audio/mp4", "audio/webm")
_TYPES: dict[FileKind, tuple[str, ...]] = {
    "image": _IMAGES,
    "document": ("application/pdf",),
    "audio": _AUDIO,
}
_MAX_BYTES: dict[FileKind, int] = {
    "image": MAX_IMAGE_BYTES,
    "document": MAX_DOCUMENT_BYTES,
    "audio": MAX_AUDIO_BYTES,
}
_SHOWN_CHARS = 80
_SIGNED_CHARS = 64
"""Of base64: where the type of what it holds shows."""
_FEWEST_CHARS = 24
_BASE64 = re.compile("[A-Za-z0-9+/]+={0,2}")
_LONGEST_SIGNATURE = 16


def text(content: str) -> Chunk:
    return {"type": "text", "text": content}


def image(
    source: FileSource,
    *,
    detail: Literal["low", "auto", "high"] | None = None,
    max_bytes: int = MAX_IMAGE_BYTES,
) -> Chunk:
    """An image: PNG, JPEG, WebP or GIF.

    Raises:
        InputError: it cannot be read, is no such image, or is larger than ``max_bytes``.
    """
    url = _url(source, "image", max_bytes)
    return {
        "type": "image_url",
        "image_url": {"url": url} if detail is None else {"url": url, "detail": detail},
    }


def document(source: FileSource, *, name: str | None = None, max_bytes: int = MAX_DOCUMENT_BYTES) -> Chunk:
    """A document: a PDF file, or the URL of any document that the server can read.

    Raises:
        InputError: it cannot be read, is no PDF, or is larger than ``max_bytes``.
    """
    chunk: Chunk = {
        "type": "document_url",
        "document_url": _url(source, "document", max_bytes),
    }
    if name is None and isinstance(source, Path):
        name = source.name
    return chunk if name is None else chunk | {"document_name": name}


def audio(source: FileSource, *, max_bytes: int = MAX_AUDIO_BYTES) -> Chunk:
    """Speech or sound: MP3, WAV, FLAC, Ogg, M4A or WebM.

    Raises:
        InputError: it cannot be read, is no such sound, or is larger than ``max_bytes``.
    """
    url = _url(source, "audio", max_bytes)
    # Base64 without a data: URL around it is what this chunk takes.
    return {"type": "input_audio", "input_audio": url.partition(",")[2] if url.startswith("data:") else url}


def with_chunks(messages: Sequence[Mapping[str, Any]], chunks: Sequence[Chunk]) -> list[dict[str, Any]]:
    """The messages with chunks after what the last user message says.

    Raises:
        InputError: there is no user message.
    """
    changed = [dict(message) for message in messages]
    asking = next((message for message in reversed(changed) if message["role"] == "user"), None)
    if asking is None:
        raise InputError("there is no user message for images, documents or sound to go along with")
    said: Any = asking.get("content") or []
    asking["content"] = [*([text(said)] if isinstance(said, str) else said), *chunks]
    return changed


def is_address(source: object) -> bool:
    """Whether it is of something that the server fetches itself."""
    return isinstance(source, str) and source[:8].lower().startswith(("http://", "https://"))


def _url(source: FileSource, what: FileKind, max_bytes: int) -> str:
    if isinstance(source, str) and is_address(source):
        return source
    data, media_type = load(source, what, max_bytes=max_bytes)
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def load(source: FileSource, what: FileKind, *, max_bytes: int | None = None) -> tuple[bytes, str]:
    """The bytes of what is on this machine, and their type, which the first of them tell.

    Args:
        source: as for `image`, but no address.
        max_bytes: the most it may have; as for a chunk unless given.

    Raises:
        InputError: it cannot be read, is of no type that such a chunk can hold, or is larger.
    """
    max_bytes = _MAX_BYTES[what] if max_bytes is None else max_bytes
    if isinstance(source, str) and source.lower().startswith("data:"):
        data = _decoded(source, what)
    elif isinstance(source, str | Path):
        data = _read(local_path(source), what, max_bytes)
    elif isinstance(source, bytes):  # pyright: ignore[reportUnnecessaryIsInstance]  a user may give anything
        data = source
    else:
        raise InputError(f"{what}: {type(source).__name__} is no path, bytes or URL")
    if len(data) > max_bytes:
        raise _too_large(what, len(data), max_bytes)
    if not data:
        raise InputError(f"{what}: it is empty")
    return data, _checked_type(mime_type(data), what)


def local_path(source: str | Path) -> Path:
    """The file that a path or a ``file://`` URL names; ``~`` is the home directory, where no file is called so."""
    if isinstance(source, str) and source[:7].lower() == "file://":
        return Path(unquote(urlsplit(source).path, errors="surrogateescape"))
    path = Path(source)
    if str(path).startswith("~") and not path.exists():
        with suppress(RuntimeError):  # there is no such user
            return path.expanduser()
    return path


def kind_of(source: FileSource) -> FileKind | None:
    """What the first bytes of something on this machine say that it is; ``None``: none of these, or nothing to read."""
    head = b""
    with suppress(OSError, ValueError):
        if isinstance(source, bytes):
            head = source[:_LONGEST_SIGNATURE]
        elif isinstance(source, str) and source[:5].lower() == "data:":
            head = base64.b64decode(source.partition(",")[2][:_SIGNED_CHARS])
        else:
            with local_path(source).open("rb") as file:
                head = file.read(_LONGEST_SIGNATURE)
    found = mime_type(head)
    return next((kind for kind, types in _TYPES.items() if found in types), None)


def check_image_url(url: str, max_bytes: int = MAX_IMAGE_BYTES) -> None:
    """As `image`, for a ``data:`` URL that stands in a message already; its first bytes alone are decoded.

    Raises:
        InputError: it is no such image, or is larger than ``max_bytes``.
    """
    if url[:5].lower() != "data:":
        return
    comma = url.find(",")
    size = (len(url) - comma - 1) * 3 // 4
    if size > max_bytes:
        raise _too_large("image", size, max_bytes)
    start = url[: comma + 1 + _LONGEST_SIGNATURE * 2]  # a multiple of four, as base64 needs it
    _checked_type(mime_type(_decoded(start, "image")), "image")


def _checked_type(found: str | None, what: FileKind) -> str:
    if found is None or found not in _TYPES[what]:
        names = ", ".join(one.partition("/")[2] for one in _TYPES[what])
        other = next((kind for kind, types in _TYPES.items() if found in types), None)
        hint = f"what is taken: {names}" + (f"; this goes along by content.{other}()" if other else "")
        raise InputError(f"{what}: its bytes are {found or 'of no known type'}", hint=hint)
    return found


def _read(path: Path, what: str, max_bytes: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise _too_large(what, size, max_bytes)
        return path.read_bytes()
    except (OSError, ValueError) as error:  # a name may hold what no path can
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{what}: {str(path)[:_SHOWN_CHARS]} cannot be read: {reason}") from error


def _decoded(url: str, what: str) -> bytes:
    head, comma, data = url.partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise InputError(f"{what}: a data: URL must be base64", hint="data:TYPE;base64,…")
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InputError(f"{what}: the data: URL is not base64: {error}") from error


def _too_large(what: str, size: int, max_bytes: int) -> InputError:
    return InputError(
        f"{what}: {size / _MIB:.1f} MiB are more than {max_bytes / _MIB:g} MiB",
        hint="make it smaller, or give a URL",
    )


def mime_type(data: bytes) -> str | None:
    """By the first bytes; ``None`` for what is none of the formats above."""
    head = data[:_LONGEST_SIGNATURE]
    if head[:4] == b"RIFF":
        return {b"WEBP": "image/webp", b"WAVE": "audio/wav"}.get(head[8:12])
    if head[4:8] == b"ftyp":
        return "audio/mp4" if head[8:11] in (b"M4A", b"M4B", b"mp4", b"iso") else None
    return next((kind for signature, kind in _SIGNATURES.items() if head.startswith(signature)), None)


_SIGNATURES = {
    b"\x89PNG\r\n\x1a\n": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF87a": "image/gif",
    b"GIF89a": "image/gif",
    b"%PDF-": "application/pdf",
    b"ID3": "audio/mpeg",
    b"\xff\xfb": "audio/mpeg",
    b"\xff\xf3": "audio/mpeg",
    b"\xff\xf2": "audio/mpeg",
    b"fLaC": "audio/flac",
    b"OggS": "audio/ogg",
    b"\x1a\x45\xdf\xa3": "audio/webm",
}


def is_base64_of_media(text: str) -> bool:
    """Whether a text is the base64 of an image, a document or sound, by its first bytes."""
    if len(text) < _FEWEST_CHARS or len(text) % 4:
        return False
    try:
        start = base64.b64decode(text[:_SIGNED_CHARS], validate=True)
    except (binascii.Error, ValueError):
        return False
    return mime_type(start) is not None and _BASE64.fullmatch(text) is not None
