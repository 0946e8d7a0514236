"""The ledger as a file: gone while a run is on it, under several names, readable by nobody else."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from mistill.api.usage import Usage
from mistill.errors import LedgerError, LedgerInUse
from mistill.ledger import InputRow, Ledger, LedgerReader
from mistill.ledger.database import explain

pytestmark = pytest.mark.skipif(
    os.name == "nt", reason="an open file cannot be moved there, and has no such modes"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder / "out.ledger"


async def first_row(ledger: Ledger) -> int:
    matcher = await ledger.match_input()
    (known,) = await matcher.known([b"digest"])
    if known is None:
        (known,) = await matcher.claim([InputRow(0, b"digest", b"fingerprint", b"{}")])
    await matcher.finish()
    return known.row


async def answer(ledger: Ledger, row: int, body: bytes = b"an answer") -> None:
    (attempt,) = await ledger.begin_attempts([row])
    ledger.answer(attempt, body, Usage(1, 2), 0.5)
    await ledger.complete(row, [attempt.id], finish_reason="stop", tokens=Usage(1, 2), cost=0.5)


def answers_in(path: Path) -> list[tuple[bytes, ...]]:
    with LedgerReader(path) as reader:
        return [row.answers for row in reader.rows()]


def replace_by_copy(path: Path) -> None:
    shutil.copy(path, path.with_name("copy"))
    path.with_name("copy").replace(path)


def replace_by_noise(path: Path) -> None:
    path.with_name("noise").write_bytes(os.urandom(5000))
    path.with_name("noise").replace(path)


async def send_on(ledger: Ledger, row: int) -> None:
    for _ in range(1000):  # it looks ten times a second
        await ledger.begin_attempts([row])
        await asyncio.sleep(0.001)


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


LINKS: dict[str, Callable[[Path, Path], None]] = {
    "soft": lambda to, at: at.symlink_to(to),
    "hard": lambda to, at: at.hardlink_to(to),
}
MEDDLERS: list[Callable[[Path], object]] = [
    lambda path: path.unlink(),
    lambda path: [left.unlink() for left in path.parent.iterdir()],
    lambda path: path.with_name(path.name + "-wal").unlink(),
    lambda path: path.with_name(path.name + ".lock").unlink(),
    lambda path: path.rename(path.with_name("moved")),
    lambda path: path.parent.rename(path.parent.with_name("moved")),
    lambda path: shutil.rmtree(path.parent),
    replace_by_copy,
    replace_by_noise,
]


@pytest.mark.parametrize("meddle", MEDDLERS)
async def test_a_ledger_that_is_gone_is_noticed_before_more_is_sent(
    path: Path, meddle: Callable[[Path], object]
) -> None:
    ledger = Ledger.open(path, {})
    row = await first_row(ledger)
    await ledger.flush()
    meddle(path)
    with pytest.raises(LedgerError, match=r"deleted, moved or replaced while its run went on.*put it back"):
        await send_on(ledger, row)
    with pytest.raises(LedgerError, match="deleted, moved or replaced"):
        await ledger.flush()
    ledger.close()


async def test_a_job_notices_at_once(path: Path) -> None:
    with Ledger.open(path, {}) as ledger:
        await ledger.flush()
        MEDDLERS[0](path)
        with pytest.raises(LedgerError, match="deleted"):
            await ledger.flush()


async def test_what_was_committed_is_there_when_the_folder_is_put_back(path: Path) -> None:
    ledger = Ledger.open(path, {})
    row = await first_row(ledger)
    await answer(ledger, row)
    moved = path.parent.rename(path.parent.with_name("moved"))
    with pytest.raises(LedgerError):
        await ledger.flush()
    ledger.close()
    moved.rename(path.parent)
    assert answers_in(path) == [(b"an answer",)]
    Ledger.open(path, {}).close()


async def test_the_files_of_another_run_at_the_same_place_are_left_alone(path: Path) -> None:
    old = Ledger.open(path, {})
    await first_row(old)
    path.parent.rename(path.parent.with_name("moved"))
    path.parent.mkdir()
    with Ledger.open(path, {}) as new:
        row = await first_row(new)
        await answer(new, row)
        with pytest.raises(LedgerError):
            await old.flush()
        old.close()
        with pytest.raises(LedgerInUse):
            Ledger.open(path, {})
        await answer(new, row)
    assert answers_in(path) == [(b"an answer",)]


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
@pytest.mark.parametrize("name", ["a.ledger", "z.ledger"])
async def test_one_ledger_under_two_names_is_one(
    path: Path, link: Callable[[Path, Path], None], name: str
) -> None:
    other = path.with_name(name)
    with Ledger.open(path, {}) as ledger:
        row = await first_row(ledger)
        await answer(ledger, row)
        link(path, other)
        with pytest.raises(LedgerInUse):
            Ledger.open(other, {})
        assert answers_in(other) == answers_in(path) == [(b"an answer",)]  # what is still in the log too
    assert answers_in(other) == [(b"an answer",)]
    with Ledger.open(other, {}) as ledger:
        assert await first_row(ledger) == row
        with pytest.raises(LedgerInUse):
            Ledger.open(path, {})
    assert answers_in(path) == [(b"an answer",)]


async def test_the_log_of_a_killed_run_is_found_under_the_other_name(path: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    killed.mkdir()
    with Ledger.open(path, {}) as ledger:
        await answer(ledger, await first_row(ledger))
        for name in ("out.ledger", "out.ledger-wal"):
            shutil.copy(path.with_name(name), killed)
    (killed / "a.ledger").hardlink_to(killed / "out.ledger")
    assert answers_in(killed / "a.ledger") == [(b"an answer",)]
    with Ledger.open(killed / "a.ledger", {}) as ledger:
        assert ledger.path == killed / "out.ledger"
    assert answers_in(killed / "a.ledger") == [(b"an answer",)]


async def test_a_name_in_another_directory_is_read_but_not_written(path: Path, tmp_path: Path) -> None:
    with Ledger.open(path, {}) as ledger:
        await answer(ledger, await first_row(ledger))
    other = tmp_path / "snapshot.ledger"
    other.hardlink_to(path)
    for name in (path, other):
        assert answers_in(name) == [(b"an answer",)]
        with pytest.raises(LedgerError, match=r"other names in other directories.*cp "):
            Ledger.open(name, {})
    shutil.copy(path, path.with_name("new"))
    path.with_name("new").replace(path)  # as the hint says
    Ledger.open(path, {}).close()


async def test_a_symlink_to_a_ledger_in_another_directory(path: Path, tmp_path: Path) -> None:
    other = tmp_path / "link.ledger"
    other.symlink_to(path)
    with Ledger.open(other, {}) as ledger:  # which is not there yet
        await answer(ledger, await first_row(ledger))
        assert answers_in(other) == [(b"an answer",)]
        with pytest.raises(LedgerInUse):
            Ledger.open(path, {})
    assert (names_in(tmp_path), names_in(path.parent)) == (["link.ledger", "run"], ["out.ledger"])
    assert answers_in(path) == [(b"an answer",)]
    with Ledger.open(other, {}, fresh=True) as ledger:
        assert ledger.backup is not None
    assert other.is_symlink()
    assert answers_in(ledger.backup) == [(b"an answer",)]


@pytest.mark.parametrize("fresh", [False, True])
def test_a_symlink_that_leads_back_to_itself_is_no_ledger(path: Path, fresh: bool) -> None:
    path.symlink_to(path)
    with pytest.raises(LedgerError, match="leads back to itself"):
        Ledger.open(path, {}, fresh=fresh)
    with pytest.raises(LedgerError, match="there is no ledger"):
        LedgerReader(path)
    assert names_in(path.parent) == ["out.ledger"]
    assert path.is_symlink()


@pytest.mark.parametrize("link", LINKS.values(), ids=LINKS)
def test_a_link_at_the_place_of_the_lock_costs_no_other_file(
    path: Path, link: Callable[[Path, Path], None]
) -> None:
    precious = path.with_name("precious")
    precious.write_text("dear to somebody")
    link(precious, path.with_name("out.ledger.lock"))
    with pytest.raises(LedgerError, match=r"cannot lock .* is no lock of ours"):
        Ledger.open(path, {})
    assert precious.read_text() == "dear to somebody"
    assert not path.exists()


def test_a_pipe_at_the_place_of_the_lock(path: Path) -> None:
    os.mkfifo(path.with_name("out.ledger.lock"))
    with pytest.raises(LedgerError, match="cannot lock"):
        Ledger.open(path, {})


@pytest.mark.parametrize("mask", [0o000, 0o022, 0o077])
async def test_nobody_else_may_read_a_new_ledger(path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with Ledger.open(path, {}) as ledger:
            await answer(ledger, await first_row(ledger))
            modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    finally:
        os.umask(before)
    assert modes == dict.fromkeys((f"out.ledger{end}" for end in ("", "-wal", "-shm", ".lock")), 0o600)


def test_an_old_ledger_keeps_its_rights(path: Path) -> None:
    Ledger.open(path, {}).close()
    path.chmod(0o640)
    Ledger.open(path, {}).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    with Ledger.open(path, {}, fresh=True) as ledger:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert ledger.backup is not None
        assert stat.S_IMODE(ledger.backup.stat().st_mode) == 0o640


@pytest.mark.parametrize(
    ("make", "where", "words"),
    [
        (Path.mkdir, "out.ledger", "is a directory"),
        (os.mkfifo, "out.ledger", "is a pipe"),
        (Path.mkdir, "out.ledger-wal", "out.ledger-wal is a directory"),
        (os.mkfifo, "out.ledger-wal", "out.ledger-wal is a pipe"),
    ],
)
def test_a_ledger_that_can_be_no_file_is_said_to_be_none(
    path: Path, make: Callable[[Path], None], where: str, words: str
) -> None:
    make(path.with_name(where))
    with pytest.raises(LedgerError, match=words):
        Ledger.open(path, {})


def test_a_file_system_without_shared_memory_is_named_with_what_to_do(tmp_path: Path) -> None:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMMAP  # as a FUSE mount with direct_io has it
    told = explain(tmp_path / "a.ledger", error)
    assert "cannot be mapped as shared memory" in told.message
    assert "on a disk of this machine" in str(told.hint)
