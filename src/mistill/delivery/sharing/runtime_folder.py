"""The folder in which processes of one user find each other."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path


def runtime_folder() -> Path | None:
    """``mistill`` in ``XDG_RUNTIME_DIR``, else ``mistill-UID`` where temporary files go; made if need be.

    ``None``: there is none that is a folder of this user's own, which nobody else can look into.
    """
    if not hasattr(os, "getuid"):
        return None
    candidates = [Path(tempfile.gettempdir()) / f"mistill-{os.getuid()}"]
    if (base := os.environ.get("XDG_RUNTIME_DIR")) and Path(base).is_dir():
        candidates.insert(0, Path(base) / "mistill")
    return next((folder for folder in candidates if _is_ours(folder)), None)


def _is_ours(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
