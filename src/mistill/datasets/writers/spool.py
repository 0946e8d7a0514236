"""Lines on disk, for writers that must see every record before they can write the first."""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from mistill.datasets.places.output_stream import OutputStream, write_all


class Spool:
    """Lines on disk, written first and then read as often as needed. The file has no name and ends with the process."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self._file = file
        # Past the file's own buffer, so that on a full disk nothing is left in it to fail again at the end.
        self._out = OutputStream(f"{name} (its temporary copy)", partial(write_all, file.fileno()))

    def append(self, line: bytes) -> None:
        self._out.write(line + b"\n")

    def lines(self) -> Iterator[bytes]:
        """All lines, from the first."""
        self._out.emit_pending()
        self._file.seek(0)
        return iter(self._file)


@contextmanager
def open_spool(directory: Path | None, name: str) -> Generator[Spool]:
    """A spool in ``directory`` (None: the system's) for the output ``name``."""
    with tempfile.TemporaryFile(dir=directory) as file:
        yield Spool(file, name)
