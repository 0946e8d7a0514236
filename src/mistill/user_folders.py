"""Folders of a user's, for what belongs to no output: one for what can be had again, one for the rest."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """For what can be had again: weights that were fetched, limits that were learned.

    ``MISTILL_CACHE_DIR``, else ``mistill`` in ``XDG_CACHE_HOME`` or in the platform's own place for caches.
    """
    return _folder("CACHE", windows="cache", macos="Caches", elsewhere=".cache")


def state_dir() -> Path:
    """For what cannot be had again, and has no better place: ledgers of outputs that are elsewhere.

    ``MISTILL_STATE_DIR``, else ``mistill`` in ``XDG_STATE_HOME`` or in the platform's own place for data.
    """
    return _folder("STATE", windows="state", macos="Application Support", elsewhere=".local/state")


def _folder(kind: str, *, windows: str, macos: str, elsewhere: str) -> Path:
    if override := os.environ.get(f"MISTILL_{kind}_DIR"):
        return Path(override)
    if xdg := os.environ.get(f"XDG_{kind}_HOME"):
        return Path(xdg) / "mistill"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "mistill" / windows
    if sys.platform == "darwin":
        return Path.home() / "Library" / macos / "mistill"
    return Path.home() / elsewhere / "mistill"
