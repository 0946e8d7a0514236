"""The folder in which processes of one user find each other."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path


def runtime_folder(fits: Callable[[Path], bool] = lambda _: True) -> Path | None:
    """The first of the `runtime_folders` that can be used; made if need be.

    ``fits`` says whether its path can be. ``None``: there is none that is a folder of this user's own, which nobody
    else can look into.
    """
    return next((each for each in runtime_folders() if fits(each) and is_our_folder(each, make=True)), None)


def runtime_folders() -> Iterator[Path]:
    """Where it may be: ``mistill`` in ``XDG_RUNTIME_DIR``, which is not set in each terminal; where that is as a rule;
    ``mistill-UID`` where temporary files go, which may be another place in each terminal."""
    if not hasattr(os, "getuid"):
        return
    user = os.getuid()
    if base := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(base, "mistill")
    yield Path(f"/run/user/{user}/mistill")
    yield Path(f"/tmp/mistill-{user}")  # noqa: S108  it is looked at before it is used
    yield Path(tempfile.gettempdir(), f"mistill-{user}")


def is_our_folder(folder: Path, *, make: bool) -> bool:
    """Whether it is this user's own, and nobody else can look into it. ``make``: it is made where there is none."""
    try:
        if make and folder.parent.is_dir():
            folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
