"""A ledger or its log that is cut or overwritten in place: noticed before more is paid for, and nothing is lost."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistill.api.usage import Usage
from mistill.errors import LedgerError
from mistill.ledger import InputRow, Ledger, LedgerReader
from mistill.ledger.files import lock_of, log_of, rescued_copy
from mistill.ledger.write_ahead_log import LogInUse

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the advice is for another shell")

ROWS = 12
BODY = b"an answer " * 400


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "it's a run"
    folder.mkdir()
    return folder / "out.ledger"


async def claim_rows(ledger: Ledger) -> list[int]:
    matcher = await ledger.match_input()
    rows = [InputRow(n, b"%016d" % n, b"%016d" % n, b"{}") for n in range(ROWS)]
    await matcher.known([row.digest for row in rows])
    return [state.row for state in await matcher.claim(rows)]


async def answer(ledger: Ledger, row: int) -> None:
    (attempt,) = await ledger.begin_attempts([row])
    ledger.answer(attempt, BODY, Usage(1, 2), 0.5)
    await ledger.complete(row, [attempt.id], finish_reason="stop", tokens=Usage(1, 2), cost=0.5)


async def send_on(ledger: Ledger, row: int) -> None:
    for _ in range(100_000):
        await ledger.begin_attempts([row])


def answers_in(path: Path) -> list[tuple[bytes, ...]]:
    with LedgerReader(path) as reader:
        return [row.answers for row in reader.rows() if row.answers]


def cut(to: float) -> Callable[[Path], None]:
    return lambda file: os.truncate(file, int(file.stat().st_size * to))


def cut_and_grow(to: float) -> Callable[[Path], None]:
    def cut_and_grow(file: Path) -> None:
        size = file.stat().st_size
        os.truncate(file, int(size * to))
        os.truncate(file, size)

    return cut_and_grow


def overwrite(start: int, count: int) -> Callable[[Path], None]:
    def overwrite(file: Path) -> None:
        with file.open("r+b") as opened:
            opened.seek(start)
            opened.write(b"\0" * count)

    return overwrite


def cut_by_a_byte(file: Path) -> None:
    os.truncate(file, file.stat().st_size - 1)


HURTS: dict[str, tuple[Callable[[Path], Path], Callable[[Path], None]]] = {
    "log to nothing": (log_of, cut(0)),
    "log to a half": (log_of, cut(0.5)),
    "log by a byte": (log_of, cut_by_a_byte),
    "log grown again": (log_of, cut_and_grow(0)),
    "log without header": (log_of, overwrite(0, 32)),
    "log with other salts": (log_of, overwrite(16, 8)),
    "ledger to nothing": (Path, cut(0)),
    "ledger to a half": (Path, cut(0.5)),
    "ledger by a byte": (Path, cut_by_a_byte),
    "ledger grown again": (Path, cut_and_grow(0)),
    "ledger without first page": (Path, overwrite(0, 4096)),
    "ledger with another header": (Path, overwrite(68, 4)),
}


@pytest.mark.parametrize(("which", "hurt"), HURTS.values(), ids=HURTS)
async def test_it_is_noticed_and_all_that_was_committed_is_put_back_by_what_is_advised(
    path: Path, which: Callable[[Path], Path], hurt: Callable[[Path], None]
) -> None:
    ledger = Ledger.open(path, {})
    rows = await claim_rows(ledger)
    for row in rows[:-1]:
        await answer(ledger, row)
    hurt(which(path))
    noticed_by = answer if which is log_of else send_on  # the log is looked at before every commit
    with pytest.raises(LedgerError, match="was cut or overwritten while its run went on") as refused:
        await noticed_by(ledger, rows[-1])
    ledger.close()

    assert str(which(path)) in refused.value.message
    _, _, rest = str(refused.value.hint).partition("put it in the ledger's place, ")
    await asyncio.to_thread(subprocess.run, rest.rpartition(", and ")[0], shell=True, check=True)
    assert answers_in(path) == [(BODY,)] * (ROWS - 1)
    with Ledger.open(path, {}) as again:
        await answer(again, rows[-1])
    assert answers_in(path) == [(BODY,)] * ROWS
    assert sorted(file.name for file in path.parent.iterdir()) == [path.name]


@pytest.mark.parametrize("which", [log_of, Path])
async def test_the_next_start_names_the_copy_and_sends_nothing(
    path: Path, which: Callable[[Path], Path]
) -> None:
    ledger = Ledger.open(path, {})
    await claim_rows(ledger)
    await ledger.flush()
    cut(0)(which(path))
    with pytest.raises(LedgerError, match="cut"):
        await ledger.flush()
    ledger.close()
    copy = rescued_copy(path)
    for opened in (lambda: LedgerReader(path), lambda: Ledger.open(path, {})):
        with pytest.raises(LedgerError) as refused:
            opened()
        assert str(copy) in str(refused.value.hint)
    assert lock_of(path).exists()


def kill_into(folder: Path, path: Path) -> Path:
    """The files as a run leaves them that is killed now."""
    folder.mkdir()
    for file in (path, log_of(path), lock_of(path)):
        shutil.copy(file, folder)
    return folder / path.name


async def test_a_ledger_that_was_cut_beside_its_log_is_refused_by_the_next_start(
    path: Path, tmp_path: Path
) -> None:
    with Ledger.open(path, {}) as ledger:
        rows = await claim_rows(ledger)
        for row in rows[:-1]:
            await answer(ledger, row)
        before_checkpoint = kill_into(tmp_path / "before", path)
        with closing(sqlite3.connect(path)) as connection:  # as SQLite does by itself from time to time
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        in_checkpoint = shutil.copytree(before_checkpoint.parent, tmp_path / "in") / path.name
        shutil.copy(path, in_checkpoint)
        os.truncate(in_checkpoint, before_checkpoint.stat().st_size)
        await answer(ledger, rows[-1])
        killed = kill_into(tmp_path / "killed", path)
    for short in (before_checkpoint, in_checkpoint):  # as it should be: its end is in the log
        assert len(answers_in(short)) == ROWS - 1
    assert len(answers_in(killed)) == ROWS
    cut(0.6)(killed)
    for opened in (lambda: LedgerReader(killed), lambda: Ledger.open(killed, {})):
        with pytest.raises(LedgerError, match=r"is damaged: .* bytes are left of"):
            opened()


async def test_a_log_beside_an_empty_ledger_is_kept(path: Path, tmp_path: Path) -> None:
    with Ledger.open(path, {}) as ledger:
        await claim_rows(ledger)
        killed = kill_into(tmp_path / "killed", path)
    log = log_of(killed).read_bytes()
    cut(0)(killed)
    for opened in (lambda: LedgerReader(killed), lambda: Ledger.open(killed, {})):
        with pytest.raises(LedgerError, match="is the log of a ledger"):
            opened()
    with Ledger.open(killed, {}, fresh=True) as fresh:
        assert fresh.backup is not None
        assert log_of(fresh.backup).read_bytes() == log


async def test_a_log_that_says_nothing_is_begun_anew_where_its_loss_was_accepted(
    path: Path, tmp_path: Path
) -> None:
    with Ledger.open(path, {}) as ledger:
        await claim_rows(ledger)
        killed = kill_into(tmp_path / "killed", path)
    overwrite(0, 32)(log_of(killed))
    with pytest.raises(LedgerError, match="lost the end of its log"):
        LedgerReader(killed)
    lock_of(killed).unlink()
    with Ledger.open(killed, {}) as ledger:
        await answer(ledger, (await claim_rows(ledger))[0])
    assert answers_in(killed) == [(BODY,)]


STEPS = st.lists(st.sampled_from(["commit", "large", "checkpoint"]), max_size=12)


def take(step: str, connection: sqlite3.Connection) -> None:
    if step == "checkpoint":
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        return
    connection.execute("INSERT INTO kept VALUES (randomblob(?))", (60_000 if step == "large" else 3000,))


@settings(max_examples=60)
@given(steps=STEPS, share=st.floats(0, 1, exclude_max=True))
def test_a_log_is_followed_through_all_that_sqlite_does_and_nothing_else(
    steps: list[str], share: float
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        closing(sqlite3.connect(f"{folder}/a", isolation_level=None)) as one,
    ):
        for setting in (
            "journal_mode = WAL",
            "synchronous = OFF",
            "cache_size = 4",
            "wal_autocheckpoint = 30",
        ):
            one.execute(f"PRAGMA {setting}")
        one.execute("CREATE TABLE kept (body)")
        path = Path(folder, "a-wal")
        with closing(LogInUse(path)) as log:
            for step in ["commit", *steps]:
                take(step, one)
                assert log.follows(), step
            # In one commit, between the looks before and after it.
            os.truncate(path, int(path.stat().st_size * share))
            take("large", one)
            begun_anew = int.from_bytes(path.read_bytes()[12:16]) > 0
            # One that began anew is cut perhaps only where nothing of it is any more.
            assert begun_anew or not log.follows()
