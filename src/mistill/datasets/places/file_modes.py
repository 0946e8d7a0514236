"""Who may read a new file: whom the umask lets, but nobody whom something that is in it shuts out."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from mistill.addresses import database_file

NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
"""How a file is opened that must not be there yet."""


def usual_mode(unused: Path) -> int:
    """The mode that a new file of that name gets, by this process's umask and the directory's default rights."""
    descriptor = os.open(unused, NEW_FILE, 0o666)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        unused.unlink()


def mode_within(mode: int, made_of: Sequence[str | Path], new: os.stat_result) -> int:
    """What is left of a mode for a new file, for nobody whom a source shuts out.

    A source's group is another one's "others": only where both files are of one group, its rights are the group's.

    Args:
        made_of: the sources: files, or tables in files.
    """
    for source in filter(None, map(stat_of_file, made_of)):
        others_read = source.st_mode & stat.S_IROTH
        group_reads = source.st_mode & stat.S_IRGRP if source.st_gid == new.st_gid else others_read
        mode &= ~(0 if others_read else stat.S_IRWXO) & ~(0 if group_reads else stat.S_IRWXG)
    return mode


def stat_of_file(name: str | Path) -> os.stat_result | None:
    """``None`` where there is no such file, or where it is a pipe: of those, nobody knows who may read them."""
    try:
        path = Path(database_file(str(name)) or name)
        found = os.fstat(sys.stdin.fileno()) if str(name) == "-" else path.stat()
    except (AttributeError, OSError, ValueError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None
