"""Bytes of an input file, wherever it is, decompressed, in bounded pieces."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from mistill.datasets.compression import Compression
from mistill.datasets.places import Place
from mistill.datasets.places.local_file import LocalFile
from mistill.datasets.sources.row import Row, UntypedInput
from mistill.datasets.sources.text_form import TextForm
from mistill.errors import InputError

if TYPE_CHECKING:
    from mistill.datasets.sources.slices import Stretch

_CHUNK_BYTES = 1 << 20


class InputFile:
    """One input file, or stdin.

    Attributes:
        name: how the user wrote it.
        place: where it is.
        repeatable: it can be read again, as a regular file can; a pipe or stdin cannot.
        form: how its text is written.
        stretch: which part of it is read; ``None``: all of it.
    """

    def __init__(
        self,
        place: Place,
        compression: Compression | None,
        form: TextForm,
        stretch: Stretch | None = None,
    ) -> None:
        self.place = place
        self.name = place.name
        self.repeatable = place.repeatable
        self.form = form
        self.stretch = stretch
        self._compression = compression
        self._started = False
        place.check_readable()

    @property
    def path_to_cut(self) -> Path | None:
        """Of a file of this machine whose bytes can be read from the middle on, and are the text itself."""
        is_plain = self._compression is None and self.form.encoding is None and self.stretch is None
        return Path(self.name) if is_plain and self.repeatable and isinstance(self.place, LocalFile) else None

    @property
    def folders(self) -> Sequence[Path]:
        """Where paths in its rows begin."""
        stretch = self.stretch
        return self.place.folders if stretch is None or stretch.folders is None else stretch.folders

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
                left = math.inf
                if self.stretch is not None:
                    stream.seek(self.stretch.begin)
                    left = self.stretch.end - self.stretch.begin
                while chunk := read(min(_CHUNK_BYTES, left)):
                    left -= len(chunk)
                    yield chunk
            self.place.check_unchanged()
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
        raw = stack.enter_context(self.place.open())
        return raw if self._compression is None else stack.enter_context(self._compression.open_reader(raw))


class FileReader(ABC):
    """What readers of files have in common: their rows can be counted.

    Attributes:
        name: how the user wrote it. ``repeatable``: as that of an `InputFile`.
    """

    def __init__(self, file: InputFile) -> None:
        self._file = file
        self.name = file.name
        self.repeatable = file.repeatable
        self.is_far = file.place.is_far

    @property
    def place(self) -> Place:
        return self._file.place

    @property
    def folders(self) -> Sequence[Path]:
        return self._file.folders

    @abstractmethod
    def rows(self, first_index: int) -> Iterator[Row]: ...

    def count(self, wanted: Callable[[], bool]) -> int | None:
        """How many rows, found by reading the file beside whoever reads its rows.

        ``None`` where it can be read only once or not at all, where it would come over a network a second time, and
        where the number is no longer ``wanted``.
        """
        if not self.repeatable:
            return None
        if (total := self.total()) is not None:
            return total
        if self.is_far:
            return None
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


class TextReader(FileReader, UntypedInput):
    """What readers of text files have in common: nothing is known of one before it is read.

    Attributes:
        unit: what the place of a row counts. ``first_unit``: from which number.
    """

    unit: ClassVar = "line"
    first_unit: ClassVar = 1

    def columns(self) -> tuple[str, ...] | None:
        return None

    def total(self) -> None:
        return None

    def where(self, place: int) -> str:
        return f"{self.name} {self.unit} {place - 1 + self.first_unit}"
