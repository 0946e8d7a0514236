"""What people say of outcomes: kept beside a run that goes on, and of the outcome alone that they looked at."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistill.api.usage import Usage
from mistill.errors import InputError, LedgerError, LedgerInUse, ServerError
from mistill.ledger import InputRow, Ledger, LedgerReader, Selection
from mistill.ledger import database as database_of_ledger
from mistill.ledger.files import log_of
from mistill.ledger.marks import MAX_NOTE_CHARS, write_mark

ROWS = 6


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.ledger"


async def claim(ledger: Ledger, rows: int = ROWS) -> list[int]:
    matcher = await ledger.match_input()
    new = [InputRow(n, b"%016d" % n, b"%016d" % n, b"{}") for n in range(rows)]
    await matcher.known([row.digest for row in new])
    found = [state.row for state in await matcher.claim(new)]
    await matcher.finish()
    return found


async def answer(ledger: Ledger, row: int, body: bytes = b"{}") -> None:
    (attempt,) = await ledger.begin_attempts([row])
    ledger.answer(attempt, body, Usage(1, 2), 0.5)
    await ledger.complete(row, [attempt.id], finish_reason="stop", tokens=Usage(1, 2), cost=0.5)


async def answered(path: Path, rows: int = ROWS) -> None:
    with Ledger.open(path, {}) as ledger:
        for row in await claim(ledger, rows):
            await answer(ledger, row)


def said(path: Path) -> dict[int, tuple[str | None, str | None]]:
    with LedgerReader(path) as reader:
        return {
            row.position: (row.said.mark, row.said.note) for row in reader.rows(with_marks=True) if row.said
        }


def chosen(path: Path, where: str) -> list[int]:
    with LedgerReader(path) as reader:
        return [row.position for row in reader.rows(Selection.parse(where))]


async def test_marks_are_kept_and_choose_rows(path: Path) -> None:
    await answered(path)
    write_mark(path, 1, "good", None)
    write_mark(path, 2, "bad", "  half of it is missing\n")
    write_mark(path, 3, None, "odd: \x00 \u202e \ud800")
    assert said(path) == {
        1: ("good", None),
        2: ("bad", "half of it is missing"),
        3: (None, "odd: \x00 \u202e \ufffd"),
    }
    assert chosen(path, "mark=bad") == [2]
    assert chosen(path, "mark!=null") == [1, 2]
    assert chosen(path, "note!=null") == [2, 3]
    assert chosen(path, "mark!=bad and row<3") == [0, 1]
    with LedgerReader(path) as reader:
        assert reader.marks() == {"good": 1, "bad": 1, None: 1}
    write_mark(path, 2, "good", None)
    write_mark(path, 1, None, " ")
    assert said(path) == {2: ("good", None), 3: (None, "odd: \x00 \u202e \ufffd")}


async def test_what_cannot_be_marked_is_refused(path: Path) -> None:
    with Ledger.open(path, {}) as ledger:
        rows = await claim(ledger)
        await answer(ledger, rows[0])
    for position, mark, note, refusal in (
        (0, "fine", None, "there is no mark 'fine'"),
        (0, None, "x" * (MAX_NOTE_CHARS + 1), "10,001 characters are too many"),
        (1, "good", None, "row 1 has no outcome yet"),
        (ROWS, "good", None, f"there is no row {ROWS}"),
        (-1, "good", None, "there is no row -1"),
    ):
        with pytest.raises(InputError, match=refusal):
            write_mark(path, position, cast("Any", mark), note)
    with pytest.raises(InputError, match="row 0 has another outcome by now"):
        write_mark(path, 0, "good", None, outcome_at=1.0)
    with pytest.raises(InputError, match="there is no mark 'fine'"):
        Selection.parse("mark=fine")
    with pytest.raises(LedgerError, match="no ledger"):
        write_mark(path.with_name("none.ledger"), 0, "good", None)
    assert said(path) == {}


async def test_a_mark_is_of_the_outcome_that_was_looked_at(path: Path) -> None:
    await answered(path)
    write_mark(path, 4, "bad", "too short")
    with Ledger.open(path, {}) as ledger:
        assert await ledger.begin_retry(Selection.parse("mark=bad")) == 1
        await ledger.fail(5, ServerError("down", status=500), tokens=Usage())
        assert chosen(path, "mark=bad") == [4]  # the answer that it has is still that one
    with Ledger.open(path, {}) as ledger:
        await ledger.begin_retry(Selection.parse("mark=bad"))
        await answer(ledger, 5, b'{"longer": 1}')
    assert chosen(path, "mark=bad") == []
    with LedgerReader(path) as reader:
        (row,) = reader.rows(Selection.parse("row=4"), with_marks=True)
        assert row.said is None
        (earlier,) = reader.earlier_outcomes(row.row)
        before = reader.mark_of(row.row, earlier.ended_at)
    assert before is not None
    assert (before.mark, before.note) == ("bad", "too short")


async def test_a_run_goes_on_beside_those_who_mark_its_rows(path: Path) -> None:
    """Each mark comes between two commits of the run, and into the log that it writes."""
    with Ledger.open(path, {}) as ledger:
        rows = await claim(ledger, 20)
        for number, row in enumerate(rows):
            await answer(ledger, row, b"an answer " * 4000)
            await asyncio.to_thread(write_mark, path, number, "good", f"note {number}")
        assert len(said(path)) == 20
    assert not log_of(path).exists()
    assert said(path) == {number: ("good", f"note {number}") for number in range(20)}
    with Ledger.open(path, {}) as ledger:
        assert await ledger.has_completions()


async def test_a_mark_of_another_process_leaves_the_log_to_the_run(path: Path) -> None:
    """Also where the run holds no lock on its file any more: closing it elsewhere in its process drops it."""
    code = """
import sys
from pathlib import Path
from mistill.ledger.marks import write_mark
write_mark(Path(sys.argv[1]), 0, "bad", None)
"""
    with Ledger.open(path, {}) as ledger:
        rows = await claim(ledger)
        await answer(ledger, rows[0])
        path.open("rb").close()
        await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(path)], check=True)
        await answer(ledger, rows[1])
    assert said(path) == {0: ("bad", None)}
    assert chosen(path, "state=completion") == [0, 1]


async def test_what_a_log_loses_after_a_mark_can_still_be_rescued(path: Path) -> None:
    ledger = Ledger.open(path, {})
    rows = await claim(ledger)
    for row in rows[:3]:
        await answer(ledger, row)
    await asyncio.to_thread(write_mark, path, 0, "bad", None)
    await answer(ledger, rows[3])
    os.truncate(log_of(path), 0)
    with pytest.raises(LedgerError, match="was cut or overwritten") as refused:
        await answer(ledger, rows[4])
    ledger.close()
    assert "all that was committed is in" in str(refused.value.hint)
    (copy,) = path.parent.glob("*.rescued-*")
    assert said(copy) == {0: ("bad", None)}
    assert chosen(copy, "state=completion") == [0, 1, 2, 3]


async def test_a_ledger_that_a_killed_run_has_left_can_be_marked(path: Path) -> None:
    code = """
import asyncio, os, signal, sys
from tests.ledger.test_marks import answer, claim
from mistill.ledger import Ledger
async def main():
    ledger = Ledger.open(sys.argv[1], {})
    for row in await claim(ledger):
        await answer(ledger, row)
    os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(main())
"""
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(path)])
    assert ended.returncode == -signal.SIGKILL
    assert log_of(path).exists()
    write_mark(path, 5, "good", None)
    assert said(path) == {5: ("good", None)}
    with Ledger.open(path, {}) as ledger:  # which is refused where a commit is lost
        assert await ledger.has_completions()


async def test_a_mark_that_is_cut_off_by_a_kill_leaves_the_ledger_as_it_was(path: Path) -> None:
    await answered(path)
    write_mark(path, 0, "good", None)
    code = """
import os, signal, sys
from mistill.ledger import database
connection = database.open_to_note(__import__("pathlib").Path(sys.argv[1]))
connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("DELETE FROM marks")
connection.execute("UPDATE records SET record = zeroblob(100000)")
os.kill(os.getpid(), signal.SIGKILL)
"""
    ended = await asyncio.to_thread(subprocess.run, [sys.executable, "-c", code, str(path)])
    assert ended.returncode == -signal.SIGKILL
    assert said(path) == {0: ("good", None)}
    write_mark(path, 1, "bad", None)
    assert said(path) == {0: ("good", None), 1: ("bad", None)}


async def test_who_uses_the_ledger_too_long_is_said(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await answered(path)
    monkeypatch.setattr(database_of_ledger, "_ANOTHER_WRITES_S", 0.01)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(LedgerInUse, match="row 0 was not marked: others are using the ledger"):
            write_mark(path, 0, "good", None)
        other.execute("ROLLBACK")
    assert said(path) == {}


async def test_a_damaged_mark_is_none(path: Path) -> None:
    await answered(path)
    write_mark(path, 0, "good", "as it should be")
    write_mark(path, 1, "good", None)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE marks SET mark = 'bad' WHERE row = 1")
    assert said(path) == {1: ("good", None)}
    assert (chosen(path, "mark=bad"), chosen(path, "mark=good")) == ([], [1])


@settings(max_examples=10)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, ROWS - 1), st.sampled_from(["good", "bad", None]), st.text(max_size=20)),
        max_size=8,
    )
)
def test_the_last_mark_of_a_row_is_its_mark(
    steps: list[tuple[int, Any, str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("marks") / "out.ledger"
    asyncio.run(answered(path))
    expected: dict[int, tuple[str | None, str | None]] = {}
    for position, mark, note in steps:
        write_mark(path, position, mark, note)
        expected[position] = (mark, note.strip() or None)
    assert said(path) == {row: both for row, both in expected.items() if both != (None, None)}


async def test_a_part_of_the_rows_is_read_by_its_place(path: Path) -> None:
    await answered(path)
    with LedgerReader(path) as reader:
        assert [row.position for row in reader.rows(first=2, until=4)] == [2, 3]
        assert [row.position for row in reader.rows(first=4, until=100)] == [4, 5]
        assert list(reader.rows(first=3, until=3)) == []
        assert reader.damages == []
        assert reader.positions_that(Selection.parse("row!=2"), 1, 5, 2) == [1, 3]


async def test_a_row_beyond_all_numbers_is_not_there(path: Path) -> None:
    await answered(path)
    with pytest.raises(InputError, match="there is no row 99999999999999999999"):
        write_mark(path, 99999999999999999999, "bad", None)
