"""Bytes of an input file or of stdin, decompressed, in bounded pieces."""

from __future__ import annotations

import sys
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, ClassVar, cast

from mistill.datasets.compression import Compression
from mistill.datasets.sources.row import Row, UntypedInput
from mistill.datasets.sources.text_form import TextForm
from mistill.errors import InputError

_CHUNK_BYTES = 1 << 20


class InputFile:
    """One input file, or stdin for ``-``.

    Attributes:
        name: how the user wrote it.
        repeatable: it can be read again, as a regular file can; a pipe or stdin cannot.
        form: how its text is written.
    """

    def __init__(self, path: str | Path, compression: Compression | None, form: TextForm) -> None:
        self.name = str(path)
        self.is_stdin = self.name == "-"
        self.path = Path(path)
        self.repeatable = not self.is_stdin and self.path.is_file()
        self.form = form
        self._compression = compression
        self._started = False
        if self.is_stdin:
            self.name = "stdin"
        else:
            self._check_exists()

    def _check_exists(self) -> None:
        if self.path.is_dir():
            raise InputError(f"{self.name} is a directory", hint=f"name its files: '{self.path / '*.jsonl'}'")
        if not self.path.exists():
            raise InputError(f"{self.name}: no such file")

    def chunks(self) -> Iterator[bytes]:
        """The bytes in pieces of about 1 MiB, as they come; of text in another encoding that was named, its UTF-8.

        Raises:
            InputError: whatever goes wrong.
        """
        return self.form.to_utf8(self._chunks(), self.name)

    def _chunks(self) -> Iterator[bytes]:
        if self._started and not self.repeatable:
            raise InputError(f"{self.name} can be read only once")
        self._started = True
        try:
            with ExitStack() as stack:
                stream = self._open(stack)
                read = getattr(stream, "read1", stream.read)  # as much as is there, and no more
                while chunk := read(_CHUNK_BYTES):
                    yield chunk
        except EOFError as error:
            raise InputError(
                f"{self.name}: the compressed data ends too early", hint="the file was cut; copy it again"
            ) from error
        except (OSError, zlib.error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            hint = None if self._compression is None else "the file may be cut or damaged; copy it again"
            raise InputError(f"{self.name}: cannot be read: {reason}", hint=hint) from error

    def _open(self, stack: ExitStack) -> Any:
        """A stream of what is in the file, which ``stack`` closes; stdin stays open."""
        raw = _stdin() if self.is_stdin else stack.enter_context(self.path.open("rb"))
        return raw if self._compression is None else stack.enter_context(self._compression.open_reader(raw))


class FileReader(ABC):
    """What readers of files have in common: their rows can be counted.

    Attributes:
        name: how the user wrote it. ``repeatable``: as that of an `InputFile`.
    """

    name: str
    repeatable: bool

    @abstractmethod
    def rows(self, first_index: int) -> Iterator[Row]: ...

    def count(self, wanted: Callable[[], bool]) -> int | None:
        """How many rows, found by reading the file beside whoever reads its rows.

        ``None`` where it can be read only once or not at all, and where the number is no longer ``wanted``.
        """
        if not self.repeatable:
            return None
        if (total := self.total()) is not None:
            return total
        rows = 0
        try:
            for _ in self._each():
                if not wanted():
                    return None
                rows += 1
        except InputError:  # whoever reads the rows is told
            return None
        return rows

    def _each(self) -> Iterator[object]:
        """One thing for each row, for little work."""
        return self.rows(0)

    @abstractmethod
    def total(self) -> int | None: ...


class TextReader(UntypedInput, FileReader):
    """What readers of text files have in common: nothing is known of one before it is read.

    Attributes:
        unit: what the place of a row counts. ``first_unit``: from which number.
    """

    unit: ClassVar = "line"
    first_unit: ClassVar = 1

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self.name = file.name
        self.repeatable = file.repeatable

    @property
    def folders(self) -> Sequence[Path]:
        return () if self._file.is_stdin else (self._file.path.parent,)

    def columns(self) -> tuple[str, ...] | None:
        return None

    def total(self) -> None:
        return None

    def where(self, place: int) -> str:
        return f"{self.name} {self.unit} {place - 1 + self.first_unit}"


def _stdin() -> IO[bytes]:
    stdin = cast("Any", sys.stdin)
    if stdin is None:
        raise InputError("stdin is closed", hint="name a file instead of -")
    # Without its buffer, whose lock a thread that waits for input would hold when Python ends, and abort it.
    return getattr(stdin.buffer, "raw", stdin.buffer)
