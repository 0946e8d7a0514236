"""Where mistill keeps what can be had again: weights that were fetched, limits that were learned."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """``MISTILL_CACHE_DIR``, else ``mistill`` in ``XDG_CACHE_HOME`` or in the platform's own place for caches."""
    if override := os.environ.get("MISTILL_CACHE_DIR"):
        return Path(override)
    if xdg := os.environ.get("XDG_CACHE_HOME"):
        return Path(xdg) / "mistill"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "mistill" / "cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mistill"
    return Path.home() / ".cache" / "mistill"
