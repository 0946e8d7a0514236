"""A ledger for runs that have no file to remember in: it is there as long as somebody holds it."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
import weakref
from pathlib import Path
from typing import Any


class TemporaryLedger:
    """A place for a ledger in a folder of its own, which is removed with the last object that holds this, and at the
    latest when the process ends. A forked child leaves it to its parent.

    Attributes:
        llm: the model of its run, for whoever asks some of its rows again.
    """

    def __init__(self, llm: Any) -> None:
        self.llm = llm
        self.path = Path(tempfile.gettempdir(), f"mistill-{secrets.token_hex(8)}", "run.ledger")
        self._finalizer = weakref.finalize(self, _remove, self.path.parent, os.getpid())
        _living[self.path] = self

    @staticmethod
    def at(path: Path) -> TemporaryLedger | None:
        """The one of this process that is at a path, for whoever opens it to hold; ``None``: that is no such ledger."""
        return _living.get(path)

    def make_folder(self) -> None:
        """Makes the folder, which nobody else may read, unless it is there."""
        self.path.parent.mkdir(mode=0o700, exist_ok=True)

    def held_by(self, holder: object) -> None:
        """It stays as long as ``holder`` lives, too."""
        weakref.finalize(holder, _let_go, self)

    def keep(self) -> None:
        """It stays for ever: somebody was told where it is, to go on with it in another process."""
        self._finalizer.detach()


_living: weakref.WeakValueDictionary[Path, TemporaryLedger] = weakref.WeakValueDictionary()


def _let_go(_: TemporaryLedger) -> None:
    """The finalizer of a holder: what holds is that it is an argument."""


def _remove(folder: Path, process: int) -> None:
    if os.getpid() == process:
        shutil.rmtree(folder, ignore_errors=True)
