"""Images, documents and sound that rows bring along: columns → content chunks after the text of a prompt.

What a column holds may be a path (``~`` is the home directory) or a ``file://`` URL, an address (``http://``,
``https://``), a ``data:`` URL, bytes (as base64, which is what they are in a row), what Hugging Face's Image and Audio
features hold (``bytes`` and ``path``, or ``array`` and ``sampling_rate``), or a list of these; null is nothing.

A file is read twice, and never kept: to tell by a digest which it is, and when its request leaves.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import wave
from array import array
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any, Final, Self, cast

from msgspec import Struct

from mistill.api.chat import ChatResponse
from mistill.api.token_estimate import audio_tokens, document_tokens, image_tokens
from mistill.datasets.column_names import first_repeated
from mistill.datasets.sources import Row
from mistill.delivery.dispatcher import Send
from mistill.errors import InputError, WrongFile
from mistill.llms import content
from mistill.llms.content import Chunk, FileKind, FileSource
from mistill.llms.generation import Prompt
from mistill.llms.types import Outcome
from mistill.prompts.prompt_template import PromptDescription
from mistill.prompts.row_errors import change_error, list_columns, row_error
from mistill.wording import Setting, words

_LONGEST_PATH = 4096
_FULL_SCALE = 32767
_SHOWN_CHARS = 80
_REPLACED = "\ufffd"
"""What became of bytes that are no UTF-8."""


class Attachment(Struct, frozen=True):
    """One of the things that go along with a prompt.

    Attributes:
        source: a file, an address, or a ``data:`` URL.
        digest: of its bytes; of an address, of that itself.
        tokens: about how many it takes.
        label: what it is called where it is shown.
    """

    kind: FileKind
    source: Path | str
    digest: bytes
    tokens: int
    label: str

    def chunk(self) -> Chunk:
        """As a request has it; a file is read.

        Raises:
            InputError: the file is another than it was, or is not there any more.
        """
        source: FileSource = self.source
        if isinstance(source, Path):
            source, _ = content.load(source, self.kind)
            if _digest(source) != self.digest:
                raise change_error(_named([self]))
        if self.kind == "document":
            path = self.source if isinstance(self.source, Path) else Path(self.label)
            return content.document(source, name=path.name or None)
        return content.image(source) if self.kind == "image" else content.audio(source)


def _named(files: Sequence[Attachment]) -> str:
    return " or ".join(f"{one.kind}: {one.label}" for one in files)


_CHUNK_TYPES: dict[FileKind, str] = {
    "image": "image_url",
    "document": "document_url",
    "audio": "input_audio",
}


OPTION_OF: Final[Mapping[str, str]] = {"image": "images", "document": "documents", "audio": "audio"}
"""What goes along → the option of a run that names its columns."""


def attached_options(description: PromptDescription) -> dict[str, list[str]]:
    """The options of a run that say which columns go along; none where there are none."""
    given = cast("Mapping[str, Any]", description)
    return {name: given[name] for name in OPTION_OF.values() if given.get(name)}


class AttachedPrompt(Struct, frozen=True):
    """A prompt, and what goes along with it: put together when it is sent, so that little is in memory before."""

    prompt: Prompt
    attachments: list[Attachment]

    async def outcomes(self, send: Send[ChatResponse]) -> tuple[Outcome]:
        """See `Prompt.outcomes`. Raises `InputError` where a file is not as it was."""
        whole = await asyncio.to_thread(self._whole)
        return await whole.outcomes(send)

    def _whole(self) -> Prompt:
        return self.prompt.with_chunks([one.chunk() for one in self.attachments])

    @property
    def digests(self) -> list[bytes]:
        return [one.digest for one in self.attachments]

    @property
    def files(self) -> str:
        """Its files, as they are called."""
        return _named([one for one in self.attachments if isinstance(one.source, Path)])

    @property
    def tokens(self) -> int:
        """About how many the attachments take."""
        return sum(one.tokens for one in self.attachments)


class AttachedColumns:
    """The columns whose values go along, in the order in which they do: images, documents, sound."""

    def __init__(self, images: Sequence[str], documents: Sequence[str], audio: Sequence[str]) -> None:
        given: dict[FileKind, Sequence[str]] = {"image": images, "document": documents, "audio": audio}
        self._columns: list[tuple[FileKind, str]] = [
            (kind, column) for kind, columns in given.items() for column in columns
        ]
        self._met: dict[int, tuple[Row, list[Attachment] | InputError]] = {}

    @classmethod
    def described(cls, description: PromptDescription) -> Self:
        """Those of a description, see `describe`."""
        return cls(*(attached_options(description).get(name, ()) for name in OPTION_OF.values()))

    def describe(self, description: PromptDescription) -> PromptDescription:
        """A description of messages, with these columns, where there are some."""
        found: dict[str, list[str]] = {}
        for kind, column in self._columns:
            found.setdefault(OPTION_OF[kind], []).append(column)
        return cast("PromptDescription", {**description, **found})

    def __bool__(self) -> bool:
        return bool(self._columns)

    def kinds_of(self, column: str) -> list[FileKind]:
        """As what a column goes along."""
        return [kind for kind, name in self._columns if name == column]

    def check_once(self) -> None:
        """Refuses a column that would go along twice, and be paid for twice.

        Raises:
            InputError: there is one.
        """
        if (repeated := first_repeated(self._columns)) is not None:
            kind, column = repeated
            raise InputError(
                words(Setting(OPTION_OF[kind]), f": the column {column!r} is named twice"),
                hint="name it once",
            )

    def check_columns(self, header: Sequence[str]) -> None:
        """Refuses a column that no row can have.

        Raises:
            InputError: it is not among these.
        """
        for kind, column in self._columns:
            if column not in header:
                names = list_columns(dict.fromkeys(header))
                raise InputError(f"the input has no column {column!r} with {_PLURAL[kind]}; it has {names}")

    def digests(self, rows: Sequence[Row]) -> list[bytes]:
        """16 bytes for each row that tell it, and the files that it names, from others. Reads the files.

        What is found is kept for `of`, for these very rows, until the next call.
        """
        self._met = {row.index: (row, self._met_in(row)) for row in rows}
        return [_digest(row.raw, *self._of_files(row)) for row in rows]

    def of(self, row: Row) -> list[Attachment]:
        """What goes along with a row.

        Raises:
            WrongFile: something is no such thing, or too large.
            InputError: a column or a file is missing. Both name the row.
        """
        found = self._met.get(row.index)
        # Another pass has another row there, whose files may be others by now.
        met = self._met_in(row) if found is None or found[0] is not row else found[1]
        if isinstance(met, InputError):
            raise met
        return met

    def shown(self, row: Row) -> list[Chunk]:
        """The same for people; no file is read."""
        return [
            {"type": _CHUNK_TYPES[kind], _CHUNK_TYPES[kind]: _label(value) or "bytes"}
            for kind, column in self._columns
            for value in _each(row.record.get(column))
        ]

    def _of_files(self, row: Row) -> Iterator[bytes]:
        _, met = self._met[row.index]
        if isinstance(met, InputError):
            yield b"cannot be read"
            return
        yield from (one.digest for one in met if isinstance(one.source, Path))

    def _met_in(self, row: Row) -> list[Attachment] | InputError:
        try:
            return list(self._attachments(row))
        except InputError as error:
            return error

    def _attachments(self, row: Row) -> Iterator[Attachment]:
        for kind, column in self._columns:
            if column not in row.record:
                raise row_error(
                    row,
                    f"it has no column {column!r} with {_PLURAL[kind]}; it has {list_columns(row.record)}",
                )
            for value in _each(row.record[column]):
                try:
                    yield _attachment(kind, column, value, row, is_bytes=column in row.binary)
                except InputError as error:
                    kind_of_error = WrongFile if isinstance(error, WrongFile) else InputError
                    raise kind_of_error(
                        f"{row.where}: column {column!r}: {error.message}", hint=error.hint, index=row.index
                    ) from error


_PLURAL: dict[FileKind, str] = {"image": "images", "document": "documents", "audio": "sound"}
_ONE: dict[FileKind, str] = {"image": "an image", "document": "a document", "audio": "sound"}


def _each(value: Any) -> Iterator[Any]:
    """The values in a column: several, one, or none."""
    if value is None:
        return
    if isinstance(value, list):
        for one in cast("list[Any]", value):
            yield from _each(one)
    else:
        yield value


def _attachment(kind: FileKind, column: str, value: Any, row: Row, *, is_bytes: bool) -> Attachment:
    source = _decoded(value) if is_bytes else _source(value, row)
    label = "" if is_bytes else _label(value)
    if isinstance(source, str) and content.is_address(source):
        return Attachment(kind, source, _digest(source.encode()), _TOKENS[kind](None), label)
    if isinstance(source, Path) and not _is_file(source):
        raise InputError(f"{kind}: there is no file {label!r}", hint=_where_it_may_be(label))
    try:
        data, media_type = content.load(source, kind)
    except InputError as error:
        named = error.message if label in error.message else f"{label}: {error.message}"
        found = content.kind_of(source)
        if found is None or found == kind:
            raise WrongFile(named, hint=error.hint) from error
        by = words(f"it is {_ONE[found]}, which goes along by ", Setting(OPTION_OF[found], [column]))
        raise WrongFile(named, hint=by) from error
    if isinstance(source, bytes):
        source = f"data:{media_type};base64,{base64.b64encode(data).decode()}"
    return Attachment(kind, source, _digest(data), _TOKENS[kind](data), label)


def _where_it_may_be(label: str) -> str:
    if _REPLACED in label:
        return "where the name of a file is not UTF-8, no row can hold it: rename the file"
    return "a path begins in the folder of the input file, or else in the working directory"


_TOKENS = {"image": image_tokens, "document": document_tokens, "audio": audio_tokens}


def _source(value: Any, row: Row) -> FileSource:
    """What a value stands for: a path, an address, a ``data:`` URL, or bytes."""
    if isinstance(value, dict):
        fields = cast("Mapping[str, Any]", value)
        if fields.get("bytes") is not None:
            return _decoded(fields["bytes"])
        if fields.get("array") is not None and "sampling_rate" in fields:
            return _wave_file(fields["array"], fields["sampling_rate"])
        value = fields.get("path")
    if not isinstance(value, str) or not value.strip():
        found = "a blank text" if isinstance(value, str) else f"a value of type {type(value).__name__}"
        raise WrongFile(f"{found} is no path, address or bytes")
    if value[:5].lower() == "data:" or content.is_address(value):
        return value
    if len(value) <= _LONGEST_PATH and _is_file(path := _path_of(value, row)):
        return path
    return _decoded(value) if content.is_base64_of_media(value) else content.local_path(value)


def _path_of(name: str, row: Row) -> Path:
    """From the folder of the input file, or else from the working directory."""
    beside = (folder / name for folder in row.origin.folders)
    return next((path for path in beside if _is_file(path)), content.local_path(name))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # no path of a file system
        return False


def _decoded(text: Any) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise WrongFile(f"its bytes are no base64: {error}") from error


def _wave_file(samples: Any, rate: Any) -> bytes:
    """Samples between -1 and 1 as a WAV file of 16 bits; several channels are several lists of them."""
    try:
        channels = samples if samples and isinstance(samples[0], list) else [samples]
        scaled = (
            max(-_FULL_SCALE, min(_FULL_SCALE, round(channel[at] * _FULL_SCALE)))
            for at in range(len(channels[0]))
            for channel in channels
        )
        written = BytesIO()
        with wave.open(written, "wb") as file:
            file.setparams((len(channels), 2, int(rate), 0, "NONE", ""))
            file.writeframes(array("h", scaled).tobytes())
    except Exception as error:  # whatever stands there in place of numbers
        raise WrongFile(f"its samples are no sound: {type(error).__name__}: {error}") from error
    return written.getvalue()


def _label(value: Any) -> str:
    """What to call it: its path or address; nothing, where it is bytes alone. The end of a long one tells more."""
    if isinstance(value, dict):
        value = cast("Mapping[str, Any]", value).get("path")
    if not isinstance(value, str) or value[:5].lower() == "data:" or content.is_base64_of_media(value):
        return ""
    return value if len(value) <= _SHOWN_CHARS else "…" + value[-_SHOWN_CHARS:]


def _digest(*parts: bytes) -> bytes:
    found = blake2b(digest_size=16)
    for part in parts:
        found.update(part)
    return found.digest()
