"""Many tasks, several loops, one file: each is told only what is on disk, and the thread ends with the ledger."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mistill.api.usage import Usage
from mistill.errors import LedgerError
from mistill.ledger import InputRow, Ledger, LedgerReader


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
