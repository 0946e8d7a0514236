"""Folders and files of images, documents and sound as an input: a row for each file, which names it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from mistill.datasets.sources.row import Row
from mistill.errors import InputError

_KINDS: Final = {
    "image": ("png", "jpg", "jpeg", "webp", "gif"),
    "document": ("pdf",),
    "audio": ("mp3", "wav", "flac", "ogg", "oga", "opus", "m4a", "webm"),
}
_KIND_OF: Final = {f".{suffix}": kind for kind, suffixes in _KINDS.items() for suffix in suffixes}


def media_kind(name: str) -> str | None:
    """``image``, ``document`` or ``audio``, by the suffix of a file's name; ``None`` where it is another."""
    return _KIND_OF.get(os.path.splitext(name)[1].lower())  # noqa: PTH122  a name may be an address


class MediaFiles:
    """Files as rows with the columns ``file`` (its path), ``name`` and ``folder``, sorted; nothing of them is read.

    Of a folder it has all files in it and below that are of such a kind by their suffix, but for hidden ones. Their
    paths are as the folder's was given: from the working directory on, or absolute.

    Args:
        paths: files and folders.

    Attributes:
        kinds: those of its files.

    Raises:
        InputError: there is no such file.
    """

    repeatable = True

    def __init__(self, paths: Sequence[str]) -> None:
        for path in paths:
            if not Path(path).exists():
                raise InputError(f"{path}: no such file")
        self._paths = paths
        self.name = paths[0] if len(paths) == 1 else f"{paths[0]} …"
        self.kinds: frozenset[str] = frozenset(filter(None, map(media_kind, self._files())))
        if not self.kinds:
            raise InputError(
                f"{self.name} is a directory with no image, PDF or sound in it",
                hint=f"for data files, name them: '{Path(self.name) / '*.jsonl'}'",
            )

    @property
    def folders(self) -> Sequence[Path]:
        return ()

    def columns(self) -> tuple[str, ...]:
        return ("file", "name", "folder")

    def types(self) -> Mapping[str, Any]:
        return {}

    def features(self) -> Mapping[str, Any]:
        return {}

    def total(self) -> int:
        return sum(1 for _ in self._files())

    def where(self, place: int) -> str:
        return f"{self.name} row {place - 1}"

    def rows(self, first_index: int) -> Iterator[Row]:
        for place, file in enumerate(self._files(), 1):
            folder, name = os.path.split(file)
            yield Row.of({"file": file, "name": name, "folder": folder}, self, first_index + place - 1, place)

    def _files(self) -> Iterator[str]:
        for path in self._paths:
            if Path(path).is_dir():
                yield from _files_below(path)
            else:
                yield path


def _files_below(folder: str) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}") from error
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):  # a link may lead back
            yield from _files_below(entry.path)
        elif media_kind(entry.name) is not None and entry.is_file():
            yield entry.path


def holds_media(path: str) -> bool:
    """Whether a path is that of an input of this sort: a folder, or a file by its suffix."""
    return media_kind(path) is not None or Path(path).is_dir()
