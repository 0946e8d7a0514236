"""Folders and files of images, documents and sound as an input: a row for each file, which names it."""

from __future__ import annotations

import logging
import mimetypes
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from mistill.addresses import scheme_of, shown
from mistill.datasets.formats import files_in
from mistill.datasets.sources.row import Row, UntypedInput
from mistill.errors import InputError

_KINDS: Final = {
    "image": ("png", "jpg", "jpeg", "webp", "gif"),
    "document": ("pdf",),
    "audio": ("mp3", "wav", "flac", "ogg", "oga", "opus", "m4a", "webm"),
}
_KIND_OF: Final = {f".{suffix}": kind for kind, suffixes in _KINDS.items() for suffix in suffixes}


SENT_SUFFIXES: Final = ", ".join(_KIND_OF)
"""Of files that can be sent, for messages."""

_MAX_SUFFIXES = 8
_log = logging.getLogger("mistill")


def media_kind(name: str) -> str | None:
    """``image``, ``document`` or ``audio``, by the suffix of a file's name; ``None`` where it is another."""
    return _KIND_OF.get(os.path.splitext(name)[1].lower())  # noqa: PTH122  a name may be an address


class MediaFiles(UntypedInput):
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
        kinds: set[str] = set()
        left_out: list[str] = []
        for path in self._files(of_all_kinds=True):
            if (kind := media_kind(path)) is None:
                left_out.append(path)
            else:
                kinds.add(kind)
        self.kinds = frozenset(kinds)
        if self.kinds:
            say_left_out(self.name, left_out)
        else:
            raise InputError(
                f"{self.name} is a directory with no image, PDF or sound in it",
                hint=f"for data files, name them: {files_in(str(Path(self.name)), left_out)}",
            )

    @property
    def folders(self) -> Sequence[Path]:
        return ()

    def columns(self) -> tuple[str, ...]:
        return ("file", "name", "folder")

    def total(self) -> int:
        return sum(1 for _ in self._files())

    def where(self, place: int) -> str:
        return f"{self.name} row {place - 1}"

    def rows(self, first_index: int) -> Iterator[Row]:
        for place, file in enumerate(self._files(), 1):
            folder, name = os.path.split(file)
            yield Row.of({"file": file, "name": name, "folder": folder}, self, first_index + place - 1, place)

    def _files(self, *, of_all_kinds: bool = False) -> Iterator[str]:
        for path in self._paths:
            if Path(path).is_dir():
                found = _files_below(path)
                yield from found if of_all_kinds else (file for file in found if media_kind(file) is not None)
            else:
                yield path


def refusal_of_media(path: str) -> InputError | None:
    """What to say of a file of images, sound or video that is of no kind that is sent, or is elsewhere; ``None`` of any
    other."""
    if scheme_of(path) is not None:
        return None if media_kind(path) is None else _not_here(path)
    suffix = Path(path).suffix.lower()
    guessed, _ = mimetypes.guess_type(f"a{suffix}")
    if guessed is None or guessed.partition("/")[0] not in ("image", "audio", "video"):
        return None
    return InputError(f"{path}: no {suffix} can be sent", hint=f"convert it; sent are {SENT_SUFFIXES}")


def _not_here(address: str) -> InputError:
    return InputError(
        f"{shown(address)}: files of images, documents and sound are rows where they are on this machine",
        hint="copy them here; or give a table with a column of https:// addresses, which Mistral fetches itself",
    )


def say_left_out(where: str, files: Sequence[str]) -> None:
    """Tells of files beside those of images and the like that are none, by their suffixes."""
    if files:
        suffixes = Counter(Path(file).suffix.lower() or "without a suffix" for file in files)
        told = ", ".join(f"{suffix} ({number:,})" for suffix, number in suffixes.most_common(_MAX_SUFFIXES))
        told += " …" if len(suffixes) > _MAX_SUFFIXES else ""
        plural = "s are" if len(files) > 1 else " is"
        _log.warning(
            "%s: %s file%s left out: %s; sent are %s", where, f"{len(files):,}", plural, told, SENT_SUFFIXES
        )


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
        elif entry.is_file():
            yield entry.path


def holds_media(path: str) -> bool:
    """Whether a path is that of an input of this sort: a folder, or a file by its suffix."""
    return scheme_of(path) is None and (media_kind(path) is not None or Path(path).is_dir())
