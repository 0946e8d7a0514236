"""Directories, and files in them, whatever happens to the machine or is done to them meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path


def sync_directory(path: Path) -> None:
    """What has been renamed into it is still there after a power cut, where the system can see to that."""
    # A directory cannot be synced everywhere, and the content of its files already is.
    with suppress(OSError):
        directory = os.open(path, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def identity(path: Path) -> tuple[int, int] | None:
    """Which file or directory has the name; ``None``: none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one of that name: only then can nobody lock another one there."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except OSError:
        return False
