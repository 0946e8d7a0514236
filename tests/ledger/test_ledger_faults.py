"""A full disk, a damaged file, a second run, another version: a clear error, and nothing lost or overwritten."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from mistill.api.usage import Usage
from mistill.errors import LedgerError, LedgerInUse, ManifestChanged
from mistill.ledger import InputRow, Ledger, LedgerReader

FILL_THE_DISK = """
import asyncio, resource, signal, sys
from mistill.errors import LedgerError
from mistill.ledger import InputRow, Ledger
from mistill.api.usage import Usage

async def main():
    ledger = Ledger.open(sys.argv[1], {})
    matcher = await ledger.match_input()
    digests = [n.to_bytes(16, "big") for n in range(100)]
    known = await matcher.known(digests)
    rows = [InputRow(n, digests[n], digests[n], b"{}") for n in range(100) if known[n] is None]
    claimed = iter(await matcher.claim(rows))
    states = [state or next(claimed) for state in known]
    await ledger.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))

    async def ask(state):
        (attempt,) = await ledger.begin_attempts([state.row])
        ledger.answer(attempt, b"x" * 20_000, Usage(), None)
        await ledger.complete(state.row, [attempt.id], finish_reason="stop", tokens=Usage(), cost=None)
        print(state.position, flush=True)

    for five in range(0, 100, 5):
        states_now = [state for state in states[five : five + 5] if state.state == "pending"]
        ends = await asyncio.gather(*(ask(state) for state in states_now), return_exceptions=True)
        assert all(type(end) is LedgerError for end in ends if end is not None), ends
    try:
        await ledger.begin_attempts([1])
    except LedgerError as error:
        print(error, file=sys.stderr)
    ledger.close()
    sys.exit(3)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.ledger"


async def answer_one(path: Path) -> None:
    with Ledger.open(path, {"model": "a"}) as ledger:
        await answer_one_in(ledger)


async def answer_one_in(ledger: Ledger) -> None:
    matcher = await ledger.match_input()
    await matcher.known([b"digest"])
    (state,) = await matcher.claim([InputRow(0, b"digest", b"fingerprint", b"{}")])
    await matcher.finish()
    (attempt,) = await ledger.begin_attempts([state.row])
    ledger.answer(attempt, b"an answer", Usage(1, 2), 0.5)
    await ledger.complete(state.row, [attempt.id], finish_reason="stop", tokens=Usage(1, 2), cost=0.5)


def answers_in(path: Path) -> list[tuple[bytes, ...]]:
    with LedgerReader(path) as reader:
        return [row.answers for row in reader.rows()]


def test_a_full_disk_stops_the_run_and_what_was_committed_is_resumed(path: Path) -> None:
    done: set[str] = set()
    for _ in range(3):  # it stays full: every start tells so again, and none loses what another wrote
        child = subprocess.run(
            [sys.executable, "-W", "error", "-c", FILL_THE_DISK, path],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert child.returncode == 3, child.stderr
        assert "make room" in child.stderr
        done |= set(child.stdout.split())
        with LedgerReader(path) as reader:
            completed = {str(row.position) for row in reader.rows() if row.state == "completion"}
            assert reader.counts().rows == 100
        assert done <= completed
    assert 0 < len(done) < 100  # some were written before the disk was full, and not all


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
async def test_a_read_only_directory_cannot_be_run_in_but_can_be_read(path: Path) -> None:
    await answer_one(path)
    path.parent.chmod(0o500)
    try:
        with pytest.raises(LedgerError, match="may write"):
            Ledger.open(path, {"model": "a"})
        assert answers_in(path) == [(b"an answer",)]
    finally:
        path.parent.chmod(0o700)


def test_a_missing_directory(path: Path) -> None:
    with pytest.raises(LedgerError, match="directory exists"):
        Ledger.open(path.parent / "none" / "out.ledger", {})
    with pytest.raises(LedgerError, match="no ledger at"):
        LedgerReader(path)


@pytest.mark.parametrize(
    "content", [b"not a database, " * 1000, b"{}\n", b"SQLite format 3\0" + b"\xff" * 5000]
)
def test_a_file_that_is_no_ledger_is_refused_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    for opened in (lambda: Ledger.open(path, {}), lambda: LedgerReader(path)):
        with pytest.raises(LedgerError, match="not a ledger"):
            opened()
    assert path.read_bytes() == content
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_another_sqlite_file_is_refused_and_left_alone(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="not a ledger"):
        Ledger.open(path, {})
    assert path.read_bytes() == before


async def test_another_format_is_refused_and_left_alone(path: Path) -> None:
    await answer_one(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    for opened in (lambda: Ledger.open(path, {"model": "a"}), lambda: LedgerReader(path)):
        with pytest.raises(LedgerError, match="format 99"):
            opened()


def test_a_file_that_lost_its_end_is_refused(path: Path) -> None:
    asyncio.run(answer_one(path))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    for opened in (lambda: Ledger.open(path, {"model": "a"}), lambda: LedgerReader(path)):
        with pytest.raises(LedgerError, match="damaged"):
            opened()
    assert path.read_bytes() == whole[: len(whole) // 2]


def test_damage_inside_is_told_when_it_is_met(path: Path) -> None:
    asyncio.run(answer_one(path))
    whole = path.read_bytes()
    path.write_bytes(whole[:4096] + b"\xff" * (len(whole) - 4096))
    with pytest.raises(LedgerError, match="damaged"):
        answers_in(path)
    with pytest.raises(LedgerError, match="damaged"):
        Ledger.open(path, {"model": "a"})


def test_an_empty_file_is_a_ledger_that_was_about_to_be_made(path: Path) -> None:
    path.touch()
    Ledger.open(path, {}).close()


async def test_one_run_at_a_time(path: Path) -> None:
    with Ledger.open(path, {}) as ledger:
        with pytest.raises(LedgerInUse, match=f"process {os.getpid()}"):
            Ledger.open(path, {})
        with pytest.raises(LedgerInUse):
            Ledger.open(path, {}, fresh=True)
        await ledger.flush()
    Ledger.open(path, {}).close()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_the_lock_of_a_killed_run_is_free(path: Path) -> None:
    script = (
        "import sys, time; from mistill.ledger import Ledger;"
        "held = Ledger.open(sys.argv[1], {}); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(LedgerInUse, match=f"process {child.pid}"):
            Ledger.open(path, {})
        child.kill()
    Ledger.open(path, {}).close()


@pytest.mark.skipif(
    not Path("/proc/self/stat").exists(), reason="nothing says here whether a process is stopped"
)
def test_who_is_stopped_and_holds_a_ledger_is_told_with_what_to_do(path: Path) -> None:
    script = (
        "import sys, time; from mistill.ledger import Ledger;"
        "held = Ledger.open(sys.argv[1], {}); print('open', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, path], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"open\n"
            child.send_signal(signal.SIGSTOP)
            os.waitpid(child.pid, os.WUNTRACED)
            told = f"process {child.pid}, which is stopped: `kill -CONT {child.pid}` lets it go on"
            with pytest.raises(LedgerInUse, match=told):
                Ledger.open(path, {})
        finally:
            child.kill()


async def test_other_settings_are_refused_and_named(path: Path) -> None:
    await answer_one(path)
    with pytest.raises(ManifestChanged, match=r'model: "a" → "b"; parameters\.top_p: null → 0\.5') as refused:
        Ledger.open(path, {"model": "b", "parameters": {"top_p": 0.5}})
    assert refused.value.changes == {"model": ("a", "b"), "parameters.top_p": (None, 0.5)}
    assert "fresh=True" in str(refused.value)
    assert answers_in(path) == [(b"an answer",)]


async def test_fresh_keeps_the_old_ledger_under_another_name(path: Path) -> None:
    await answer_one(path)
    names: set[Path] = set()
    for n in range(2):
        with Ledger.open(path, {"n": n}, fresh=True) as ledger:
            assert ledger.backup is not None
            names.add(ledger.backup)
        assert answers_in(path) == []
    assert len(names) == 2
    assert [(b"an answer",)] in [answers_in(name) for name in names]


async def test_fresh_takes_along_what_a_killed_run_left_in_the_log(path: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed" / "out.ledger"
    killed.parent.mkdir()
    with Ledger.open(path, {}) as ledger:
        await answer_one_in(ledger)
        for name in ("out.ledger", "out.ledger-wal"):
            shutil.copy(path.with_name(name), killed.parent)
    with Ledger.open(killed, {}, fresh=True) as ledger:
        assert ledger.backup is not None
    assert answers_in(ledger.backup) == [(b"an answer",)]


def test_fresh_over_something_that_is_no_ledger_keeps_it_too(path: Path) -> None:
    path.write_bytes(b"precious")
    with Ledger.open(path, {}, fresh=True) as ledger:
        assert ledger.backup is not None
        assert ledger.backup.read_bytes() == b"precious"
