"""A ledger as a kill has left it, looked at without touching it."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any


def query_copy(ledger: Path, copies: Path, query: str) -> list[Any]:
    """On a copy in ``copies``: what a kill left in the log is for the next start to find, not for us to tidy up."""
    copy = copies / ledger.name
    for suffix in ("", "-wal", "-journal"):
        source, target = Path(f"{ledger}{suffix}"), Path(f"{copy}{suffix}")
        target.unlink(missing_ok=True)
        if source.exists():
            shutil.copyfile(source, target)
    with closing(sqlite3.connect(copy)) as connection:
        return connection.execute(query).fetchall()
