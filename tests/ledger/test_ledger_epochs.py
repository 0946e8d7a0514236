"""Who is no longer the owner of a ledger, though it does not know it, writes nothing and sends nothing."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from mistill.errors import LedgerError
from mistill.ledger import Ledger, LedgerReader
from mistill.ledger.database import write_meta

WAYS: dict[str, Callable[[Ledger], Awaitable[object]]] = {
    "plans an attempt": lambda ledger: ledger.begin_attempts([1]),
    "begins a start": lambda ledger: ledger.begin_start(b"{}"),
    "waits for the disk": lambda ledger: ledger.flush(),
}


def _epoch(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return int(connection.execute("SELECT value FROM meta WHERE key = 'epoch'").fetchone()[0])


def _take_over(path: Path) -> None:
    """What another owner does first. Its lock it has, since a network file system gave that of this one away."""
    with closing(sqlite3.connect(path)) as connection:
        write_meta(connection, "epoch", str(_epoch(path) + 1))
        connection.commit()


@pytest.mark.parametrize("way", WAYS)
def test_an_owner_that_was_replaced_finds_out_before_it_writes_or_sends_anything(
    tmp_path: Path, way: str
) -> None:
    path = tmp_path / "run.ledger"

    async def work() -> None:
        with Ledger.open(path, {"kind": "chat"}) as ledger:
            await ledger.flush()
            _take_over(path)
            with pytest.raises(LedgerError, match="another process has taken over"):
                await WAYS[way](ledger)
            with pytest.raises(LedgerError, match="another process has taken over"):
                await ledger.begin_attempts([2])

    asyncio.run(work())
    with LedgerReader(path) as reader:
        assert reader.counts().attempts == 0
        assert reader.starts() == []


def test_each_owner_has_an_epoch_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "run.ledger"
    seen: list[int] = []
    for _ in range(3):
        with Ledger.open(path, {"kind": "chat"}):
            seen.append(_epoch(path))
    assert seen == [1, 2, 3]
