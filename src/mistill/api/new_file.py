"""A file that appears whole or not at all."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from mistill.directories import sync_directory


class NewFile:
    """What is written to a file that has no name yet. ``size``: bytes so far."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self.size += len(data)


@asynccontextmanager
async def new_file(path: Path) -> AsyncGenerator[NewFile]:
    """Has what the block writes at ``path`` when it ends well, synced; nothing of it when it does not.

    It is written to a file beside, with ``.part`` behind its name, which nobody else may read. One that a killed
    process left there is replaced.

    Raises:
        OSError: it cannot be written.
    """
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            yield NewFile(file)
            file.flush()
            await asyncio.to_thread(os.fsync, file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    await asyncio.to_thread(sync_directory, path.parent)
