"""Where mistill keeps what cannot be had again, and has no better place: ledgers of outputs that are elsewhere."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def state_dir() -> Path:
    """``MISTILL_STATE_DIR``, else ``mistill`` in ``XDG_STATE_HOME`` or in the platform's own place for data."""
    if override := os.environ.get("MISTILL_STATE_DIR"):
        return Path(override)
    if xdg := os.environ.get("XDG_STATE_HOME"):
        return Path(xdg) / "mistill"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "mistill" / "state"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "mistill"
    return Path.home() / ".local" / "state" / "mistill"
