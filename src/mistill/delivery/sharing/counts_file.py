"""What a host has counted, beside its socket, for the one that takes its place."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from mistill.delivery.governor import WindowCounts
from mistill.delivery.sharing.place import NEW
from mistill.runtime_folder import is_our_folder

_MAX_BYTES = 64 << 10
_COUNTS = msgspec.msgpack.Decoder(WindowCounts)


class CountsFile:
    """Reads and writes it. Nothing that fails here is anybody's failure: what was counted is then found out anew.

    Args:
        path: where it is; ``None``: nothing is kept.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    def read(self) -> WindowCounts | None:
        """What the last host had counted; it may be long ago."""
        if self._path is None or not is_our_folder(self._path.parent, make=False):
            return None
        try:
            with self._path.open("rb") as file:
                counts = _COUNTS.decode(file.read(_MAX_BYTES))
        except (OSError, ValueError, RecursionError):  # msgspec's errors are ValueErrors
            return None
        return counts if counts.is_sane else None

    def write(self, counts: WindowCounts) -> None:
        """By the host alone, so that nobody writes at the same time."""
        if self._path is None or not is_our_folder(self._path.parent, make=False):
            return
        beside = self._path.with_suffix(NEW)
        with suppress(OSError):
            with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(msgspec.msgpack.encode(counts))
            beside.replace(self._path)
