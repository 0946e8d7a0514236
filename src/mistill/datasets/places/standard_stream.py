"""Stdin and stdout, as a place."""

from __future__ import annotations

import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from mistill.datasets.places.output_stream import OutputStream
from mistill.datasets.places.place import Place
from mistill.errors import InputError
from mistill.visible import visible_records


class StandardStream(Place):
    """Stdin, or stdout: ``-``."""

    name = "stdin"

    @property
    def repeatable(self) -> bool:
        return False

    def check_readable(self) -> None:
        pass

    @contextmanager
    def open(self) -> Generator[IO[bytes]]:
        """It stays open."""
        stdin = cast("Any", sys.stdin)
        if stdin is None:
            raise InputError("stdin is closed", hint="name a file instead of -")
        # Without its buffer, whose lock a thread that waits for input would hold when Python ends, and abort it.
        yield getattr(stdin.buffer, "raw", stdin.buffer)

    def for_library(self) -> NoReturn:
        raise InputError("stdin cannot be read back and forth", hint="save it as a file")

    def check_writable(self) -> None:
        pass

    @contextmanager
    def writing(self, made_of: Sequence[str | Path] = ()) -> Generator[OutputStream]:  # noqa: ARG002  as of any place
        stdout = cast("Any", sys.stdout)
        if stdout is None:
            raise InputError("stdout is closed", hint="name a file instead of -")
        stdout.flush()
        write = stdout.buffer.write
        # A terminal obeys what is in foreign text. What is emitted at once are whole records.
        output = OutputStream(
            "stdout", (lambda data: write(visible_records(data))) if stdout.isatty() else write
        )
        yield output
        output.emit_pending()
        stdout.buffer.flush()

    def holds_something(self) -> bool:
        return False
