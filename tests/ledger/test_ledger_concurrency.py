"""Many tasks, several loops, one file: each is told only what is on disk, and the thread ends with the ledger."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from mistill.api.usage import Usage
from mistill.errors import LedgerError
from mistill.ledger import InputRow, Ledger, LedgerReader, database


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "out.ledger", {}) as ledger:
        yield ledger


async def rows_of(ledger: Ledger, count: int) -> list[int]:
    matcher = await ledger.match_input()
    digests = [n.to_bytes(16, "big") for n in range(count)]
    await matcher.known(digests)
    states = await matcher.claim([InputRow(n, digests[n], digests[n], b"{}") for n in range(count)])
    await matcher.finish()
    return [state.row for state in states]


async def ask(ledger: Ledger, row: int) -> None:
    (attempt,) = await ledger.begin_attempts([row])
    ledger.answer(attempt, b"to %d" % row, Usage(1, 1), None)
    await ledger.complete(row, [attempt.id], finish_reason="stop", tokens=Usage(1, 1), cost=None)


async def test_many_tasks_at_once(ledger: Ledger) -> None:
    rows = await rows_of(ledger, 2000)
    async with asyncio.TaskGroup() as tasks:
        for row in rows:
            tasks.create_task(ask(ledger, row))
    with LedgerReader(ledger.path) as reader:
        assert [row.answers for row in reader.rows()] == [(b"to %d" % row,) for row in rows]


def test_several_event_loops_share_a_ledger(ledger: Ledger) -> None:
    rows = asyncio.run(rows_of(ledger, 300))

    async def ask_all(part: list[int]) -> None:
        await asyncio.gather(*(ask(ledger, row) for row in part))

    threads = [threading.Thread(target=asyncio.run, args=(ask_all(rows[n::3]),)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with LedgerReader(ledger.path) as reader:
        assert [row.answers for row in reader.rows()] == [(b"to %d" % row,) for row in rows]
        assert reader.counts().attempts == 300


async def test_who_is_told_can_read_it(ledger: Ledger) -> None:
    """Nobody is told before the commit: another connection sees the write at that very moment."""
    (row, other) = await rows_of(ledger, 2)
    with LedgerReader(ledger.path) as reader:
        for n in range(60):
            attempts = [ledger.begin_attempts([row]), ledger.begin_attempts([other])]
            await asyncio.gather(*attempts)
            assert reader.counts().attempts == 2 * n + 2
        await ask(ledger, row)
        assert reader.counts().completions == 1


async def test_a_cancelled_attempt_was_not_sent(ledger: Ledger) -> None:
    (row,) = await rows_of(ledger, 1)
    (failing,) = await ledger.begin_attempts([row])
    gate = threading.Event()
    held = ledger._commits.run(lambda _: gate.wait())
    ledger.end_attempt(failing, "failed")
    beginning = asyncio.create_task(ledger.begin_attempts([row]))
    await asyncio.sleep(0)  # it waits for its commit now
    beginning.cancel()
    with pytest.raises(asyncio.CancelledError):
        await beginning
    gate.set()
    await held
    path = ledger.path
    ledger.close()
    Ledger.open(path, {}).close()
    with LedgerReader(path) as reader:
        assert reader.counts().maybe_billed == 0


async def test_reading_goes_on_while_a_run_writes(ledger: Ledger) -> None:
    rows = await rows_of(ledger, 50)
    with LedgerReader(ledger.path) as reader:
        reading = reader.rows()
        assert next(reading).state == "pending"
        await asyncio.gather(*(ask(ledger, row) for row in rows))
        assert {row.state for row in reading} == {"pending"}  # one reading sees one moment
        assert reader.counts().completions == 50


async def test_closing_commits_what_was_asked_for_and_ends_the_thread(tmp_path: Path) -> None:
    before = threading.active_count()
    ledger = Ledger.open(tmp_path / "out.ledger", {})
    (row,) = await rows_of(ledger, 1)
    (attempt,) = await ledger.begin_attempts([row])
    ledger.answer(attempt, b"paid", Usage(), None)
    done = ledger.complete(row, [attempt.id], finish_reason="stop", tokens=Usage(), cost=None)
    ledger.close()
    ledger.close()
    assert threading.active_count() == before
    await done
    with LedgerReader(ledger.path) as reader:
        assert [row.answers for row in reader.rows()] == [(b"paid",)]
    with pytest.raises(LedgerError, match="closed"):
        await ledger.begin_attempts([row])


async def test_a_job_that_fails_is_told_to_everyone_and_nothing_of_its_group_is_written(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.ledger"
    with Ledger.open(path, {}) as ledger:
        (row,) = await rows_of(ledger, 1)
        gate, reached = threading.Event(), threading.Event()
        held = ledger._commits.run(lambda _: (reached.set(), gate.wait()))
        reached.wait()  # what follows is in the next group
        waiting = [asyncio.create_task(ledger.begin_attempts([row])) for _ in range(3)]
        await asyncio.sleep(0)
        broken = ledger._commits.run(lambda connection: connection.execute("SELECT nonsense"))
        gate.set()
        await held
        for failing in (*waiting, broken):
            with pytest.raises(LedgerError, match="nonsense"):
                await failing
        with pytest.raises(LedgerError, match="nonsense"):
            await ledger.flush()
    with LedgerReader(path) as reader:
        assert reader.counts().attempts == 0


def test_whoever_looks_while_a_fresh_ledger_takes_an_old_ones_place_finds_one_of_them(tmp_path: Path) -> None:
    path, found, is_over = tmp_path / "ledger.db", set[bytes](), threading.Event()
    Ledger.open(path, {"n": -1}).close()

    def look() -> None:
        while not is_over.is_set():
            with LedgerReader(path) as reader:
                found.add(reader.manifest())

    with ThreadPoolExecutor(2) as pool:
        looks = [pool.submit(look) for _ in range(2)]
        for n in range(60):
            Ledger.open(path, {"n": n}, fresh=True).close()
        is_over.set()
        for each in looks:
            each.result()
    assert found <= {b'{"n": %d}' % n for n in range(-1, 60)}
    assert len(found) > 1


_IN_THE_MIDDLE = """
import sys
from pathlib import Path
from mistill.ledger.lock import LedgerLock
path = Path(sys.argv[1])
journal = path.with_name(path.name + "-journal")
lock = LedgerLock(path)
journal.write_bytes(b"what is to be undone")
print("begun", flush=True)
sys.stdin.readline()
journal.unlink()
print("done", flush=True)
sys.stdin.readline()
"""


def test_whoever_looks_in_the_middle_of_a_change_reads_when_it_is_done_though_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    Ledger.open(path, {"n": 1}).close()
    command = [sys.executable, "-c", _IN_THE_MIDDLE, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "begun\n"
        said: list[str] = []

        def go_on(_: float) -> None:
            if not said and other.stdin is not None and other.stdout is not None:
                other.stdin.write("\n")
                other.stdin.flush()
                said.append(other.stdout.readline())

        monkeypatch.setattr(database, "time", SimpleNamespace(sleep=go_on, monotonic=time.monotonic))
        with LedgerReader(path) as reader:
            assert reader.manifest() == b'{"n": 1}'
        assert said == ["done\n"]
        other.communicate("\n")


def test_a_file_that_is_gone_for_a_moment_is_not_said_to_be_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, access, looks = tmp_path / "ledger.db", os.access, list[Path]()
    Ledger.open(path, {"n": 1}).close()

    def look(of: Path, mode: int, **how: bool) -> bool:
        """In the moment between the end of one name and the beginning of the next."""
        if of != path or looks:
            return access(of, mode, **how)
        looks.append(of)
        path.replace(tmp_path / "old.db")
        found = access(of, mode, **how)
        Ledger.open(path, {"n": 2}).close()
        return found

    monkeypatch.setattr(os, "access", look)
    with LedgerReader(path) as reader:
        assert reader.manifest() == b'{"n": 2}'
    assert looks == [path]
