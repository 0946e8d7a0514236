"""What every place has in common that is read from or written to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, ClassVar


class Target(ABC):
    """Where records are to go.

    Attributes:
        name: how the user wrote it, without what is secret in it; for messages.
        folder: of temporary files for it; ``None``: the system's.
    """

    name: str

    @property
    def folder(self) -> Path | None:
        return None

    @abstractmethod
    def check_writable(self) -> None:
        """Refuses a place that cannot be written, as far as that can be seen without writing.

        Raises:
            InputError: it is a directory, there is none for it, or it cannot be written to.
        """

    def check_columns(self, columns: Sequence[str]) -> None:  # noqa: B027  most formats have any
        """Refuses columns that what is there cannot have, where they are known before anything is written.

        Raises:
            InputError: it cannot have them by these names.
        """

    @abstractmethod
    def writing(self, made_of: Sequence[str | Path] = ()) -> AbstractContextManager[Any]:
        """The place for writing. What is there appears, or is replaced, when the block ends well; until then, and if it
        ends badly, it stays as it was. Only devices and streams take bytes as they come.

        Args:
            made_of: the files that are in it, ``-`` for stdin: whoever may not read these, or the file that it
                replaces, may not read it either, where that can be said of a place.

        Returns:
            What a format's writer writes to: an `OutputStream`, or a `TableOutput`.

        Raises:
            InputError: nothing can be written at that place.
            MistillError: writing fails later.
        """

    @abstractmethod
    def holds_something(self) -> bool:
        """Whether something would be lost by writing. Devices, pipes and empty files keep nothing."""

    def clear_away(self) -> None:  # noqa: B027  most places keep nothing of what was not finished
        """Removes what processes that were killed on writing have left beside it; never what another one writes."""


class Place(Target):
    """Where one file is, or is to be.

    Attributes:
        is_far: its bytes come over a network, so nobody may wait for them on an event loop, or read them twice.
        repeatable: it can be read again; a pipe or stdin cannot.
        folders: where the paths that its rows hold begin, besides the working directory.
    """

    is_far: ClassVar[bool] = False

    @property
    def repeatable(self) -> bool:
        return True

    @property
    def folders(self) -> Sequence[Path]:
        return ()

    @abstractmethod
    def check_readable(self) -> None:
        """
        Raises:
            InputError: there is no such file, it is a directory, or nobody may read it.
        """

    @abstractmethod
    def open(self) -> AbstractContextManager[IO[bytes]]:
        """Its bytes, from the first on.

        Raises:
            InputError, OSError: they cannot be read.
        """

    @abstractmethod
    def for_library(self) -> AbstractContextManager[str | IO[bytes]]:
        """The same for a library that goes back and forth in a file: a path, or a file object with ``seek``."""

    def check_unchanged(self) -> None:
        """For the end of reading.

        Raises:
            InputError: it is not what it was when it was opened: what was read is of two files.
        """

    @property
    def version(self) -> str | None:
        """What tells the content that was found from another one of the same name; ``None`` where nothing does without
        reading it."""
        return None
