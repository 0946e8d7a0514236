"""A ledger whose log was lost after its run was killed: it is said, and nothing is paid again in silence."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mistill.errors import LedgerError
from mistill.ledger import Ledger, LedgerReader
from mistill.ledger.files import lock_of, log_of

KILLED = """
import asyncio, os, signal, sys
from mistill.api.usage import Usage
from mistill.ledger import InputRow, Ledger
async def main():
    ledger = Ledger.open(sys.argv[1], {})
    matcher = await ledger.match_input()
    rows = [InputRow(n, b"%016d" % n, b"%016d" % n, b"{}") for n in range(30)]
    await matcher.known([row.digest for row in rows])
    for state in await matcher.claim(rows):
        (attempt,) = await ledger.begin_attempts([state.row])
        ledger.answer(attempt, b"x" * 2000, Usage(1, 1), 0.0)
        await ledger.complete(state.row, [attempt.id], finish_reason="stop", tokens=Usage(1, 1), cost=0.0)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("killed") / "out.ledger"
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == -9, ended.stderr
    return path


@pytest.fixture
def path(killed: Path, tmp_path: Path) -> Path:
    for file in killed.parent.iterdir():
        shutil.copy(file, tmp_path)
    return tmp_path / killed.name


def answered(path: Path) -> int:
    with LedgerReader(path) as reader:
        return reader.counts().completions


def test_a_whole_log_is_read(path: Path) -> None:
    assert answered(path) == 30
    Ledger.open(path, {}).close()
    assert not log_of(path).exists()
    assert answered(path) == 30


def _remove(log: Path) -> None:
    log.unlink()


def _empty(log: Path) -> None:
    log.write_bytes(b"")


def _cut_in_half(log: Path) -> None:
    log.write_bytes(log.read_bytes()[: log.stat().st_size // 2])


def _cut_by_a_byte(log: Path) -> None:
    log.write_bytes(log.read_bytes()[:-1])


def _flip_in(place: float) -> Callable[[Path], None]:
    def flip(log: Path) -> None:
        data = bytearray(log.read_bytes())
        data[min(int(len(data) * place), len(data) - 1)] ^= 4
        log.write_bytes(data)

    return flip


LOSSES = [_remove, _empty, _cut_in_half, _cut_by_a_byte, *map(_flip_in, (0.0, 0.1, 0.5, 0.9, 1.0))]


@pytest.mark.parametrize("lose", LOSSES)
def test_a_lost_log_is_said_and_can_be_put_back(
    path: Path, killed: Path, lose: Callable[[Path], None]
) -> None:
    lose(log_of(path))
    for _ in range(2):
        with pytest.raises(LedgerError, match="lost the end of its log"):
            LedgerReader(path)
        with pytest.raises(LedgerError, match=r"of [\d,]+ transactions are gone"):
            Ledger.open(path, {})
    if lose in (_remove, _empty):
        shutil.copy(log_of(killed), log_of(path))
        assert answered(path) == 30


def test_one_goes_on_without_it_by_removing_the_lock(path: Path) -> None:
    _cut_in_half(log_of(path))
    with pytest.raises(LedgerError) as refused:
        Ledger.open(path, {})
    assert str(lock_of(path)) in str(refused.value.hint)
    lock_of(path).unlink()
    Ledger.open(path, {}).close()
    assert 0 < answered(path) < 30


def test_a_fresh_start_minds_no_lost_log(path: Path) -> None:
    _remove(log_of(path))
    ledger = Ledger.open(path, {}, fresh=True)
    ledger.close()
    assert answered(path) == 0
    Ledger.open(path, {}).close()


def test_a_new_ledger_is_one_without_its_log(path: Path) -> None:
    """What is copied without its log is no empty file that would become another run."""
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as connection:
        assert connection.execute("SELECT count(*) FROM meta").fetchone()[0] > 3
