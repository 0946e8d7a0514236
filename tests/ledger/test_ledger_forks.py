"""A forked child: it holds no lock of its parent, writes nothing, and can use ledgers of its own."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from mistill.api.usage import Usage
from mistill.errors import LedgerError, LedgerInUse
from mistill.ledger import InputRow, Ledger, LedgerReader

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks"),
    # What Python 3.12 says of every fork beside a thread; the thread is the subject here.
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def in_child(work: Callable[[], object], timeout_s: float = 30) -> None:
    """Runs it in a forked child, and fails where it does, or hangs."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            assert status == 0, "see what the child printed"
            return
        time.sleep(0.001)
    os.kill(child, 9)
    os.waitpid(child, 0)
    raise AssertionError("the child hangs")


async def answer_rows(ledger: Ledger, count: int = 1) -> None:
    matcher = await ledger.match_input()
    digests = [number.to_bytes(16, "big") for number in range(count)]
    known = await matcher.known(digests)
    new = [
        InputRow(number, digests[number], digests[number], b"{}")
        for number in range(count)
        if known[number] is None
    ]
    claimed = await matcher.claim(new)
    await matcher.finish()
    for state in claimed:
        (attempt,) = await ledger.begin_attempts([state.row])
        ledger.answer(attempt, b"an answer", Usage(1, 2), None)
        await ledger.complete(state.row, [attempt.id], finish_reason="stop", tokens=Usage(1, 2), cost=None)


def count_answers(path: Path) -> int:
    with LedgerReader(path) as reader:
        return sum(bool(row.answers) for row in reader.rows())


def test_the_ledger_of_a_parent_is_refused_in_its_child(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path, {}) as ledger:
        parent = os.getpid()

        def work() -> None:
            for call in (ledger.flush, lambda: ledger.begin_attempts([1]), ledger.match_input):
                with pytest.raises(LedgerError, match=f"opened by process {parent}, and this is a fork"):
                    asyncio.run(call())
            ledger.close()
            with pytest.raises(LedgerInUse, match=f"process {parent}"):
                Ledger.open(path, {})

        in_child(work)
        asyncio.run(answer_rows(ledger, 3))  # the parent's goes on
    assert count_answers(path) == 3


def test_a_child_that_lives_on_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger.open(path, {})
    asyncio.run(answer_rows(ledger))
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(write)
        os.read(read, 1)  # until the parent is done
        sys.stdout.flush()
        os._exit(0)
    try:
        ledger.close()
        with Ledger.open(path, {}) as again:
            asyncio.run(answer_rows(again, 2))
        assert count_answers(path) == 2
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)


def test_a_child_that_ends_like_any_program_leaves_the_ledger_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path, {}) as ledger:
        asyncio.run(answer_rows(ledger))
        child = multiprocessing.get_context("fork").Process(target=count_answers, args=(path,))
        child.start()
        child.join(30)
        assert child.exitcode == 0
        asyncio.run(answer_rows(ledger, 5))
    assert count_answers(path) == 5


def test_a_reader_goes_on_in_the_child_through_a_connection_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    with Ledger.open(path, {}) as ledger:
        asyncio.run(answer_rows(ledger, 3))
        with LedgerReader(path) as reader:
            connection = reader._connection

            def work() -> None:
                assert reader._connection is not connection
                assert reader.counts().completions == 3
                reader.close()

            in_child(work)
            assert reader.counts().completions == 3


async def write_until(stop: threading.Event, ledger: Ledger) -> None:
    matcher = await ledger.match_input()
    for start in range(0, 10**9, 500):
        digests = [number.to_bytes(16, "big") for number in range(start, start + 500)]
        await matcher.known(digests)
        await matcher.claim(
            [InputRow(start + n, digest, digest, b"{}" * 50) for n, digest in enumerate(digests)]
        )
        await ledger.flush()
        if stop.is_set():
            return


def use_sqlite() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE mine (x)")


def fork_beside_a_writer(path: Path, children: int) -> None:
    stop = threading.Event()
    with Ledger.open(path, {}) as ledger:
        writer = threading.Thread(target=asyncio.run, args=(write_until(stop, ledger),))
        writer.start()
        try:
            for _ in range(children):
                in_child(use_sqlite)
        finally:
            stop.set()
            writer.join()


def test_children_of_a_busy_writer_can_use_sqlite(tmp_path: Path) -> None:
    """At a fork beside a thread that is inside SQLite, the child's first query would wait for that thread for ever.

    Without the care that is taken, one child in fifty hung. The parent is a new process: to fork this one, which has
    all that other tests have loaded, would take ten times as long.
    """
    parent = multiprocessing.get_context("spawn").Process(
        target=fork_beside_a_writer, args=(tmp_path / "busy", 200)
    )
    parent.start()
    parent.join()
    assert parent.exitcode == 0, "see what it printed"


def test_a_child_can_have_a_ledger_of_its_own(tmp_path: Path) -> None:
    def work() -> None:
        with Ledger.open(tmp_path / "own", {}) as own:
            asyncio.run(answer_rows(own, 3))

    with Ledger.open(tmp_path / "parent", {}) as ledger:
        in_child(work)
        asyncio.run(answer_rows(ledger))
    assert count_answers(tmp_path / "own") == 3
