"""Whatever happens to a ledger, in whatever order: nothing lost, nothing twice, every answer its own row's."""

from __future__ import annotations

import asyncio
import hashlib
import json
import shutil
import sqlite3
import tempfile
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mistill.api.usage import Usage
from mistill.errors import ServerError
from mistill.ledger import (
    Attempt,
    InputRow,
    Ledger,
    LedgerReader,
    LedgerRow,
    RowState,
    Selection,
)

Row = tuple[int, int]  # what the request shows, and what only the record has
FEW = st.integers(0, 3)
ROWS = st.tuples(FEW, FEW)
Edit = tuple[str, int, Row]
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["add", "remove", "edit", "move", "reverse", "duplicate"]), st.integers(0, 11), ROWS
    ),
    max_size=3,
)
ENDS = st.sampled_from(["complete", "complete", "complete", "fail", "answer", "nothing"])
PAID = Usage(input_tokens=3, output_tokens=5)
COST = 0.5


def digest(*parts: object) -> bytes:
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).digest()


def input_row(position: int, row: Row) -> InputRow:
    return InputRow(position, digest("record", row), digest("request", row[0]), json.dumps(row).encode())


async def match(ledger: Ledger, rows: list[Row], window: int, *, whole: bool) -> list[RowState]:
    matcher = await ledger.match_input()
    states: list[RowState] = []
    for start in range(0, len(rows), window):
        part = [input_row(start + n, row) for n, row in enumerate(rows[start : start + window])]
        known = await matcher.known([row.digest for row in part])
        missed = iter(await matcher.claim([r for r, state in zip(part, known, strict=True) if state is None]))
        states += [state or next(missed) for state in known]
    if whole:
        await matcher.finish()
    await ledger.flush()
    return states


class LedgerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directories = [tempfile.mkdtemp()]
        self.input: list[Row] = []
        self.states: list[RowState] = []  # of the last whole pass, if the input is still the same
        self.in_flight: list[Attempt] = []
        self.maybe_billed = 0
        self.attempts = 0
        self.answers = 0
        self.rows_of: Counter[int] = Counter()  # request -> rows of the ledger with it
        self.completed: dict[int, bytes] = {}  # row -> answer
        self.request_of: dict[int, int] = {}
        self.failed: set[int] = set()
        self.asked_again: set[int] = set()

    @property
    def path(self) -> Path:
        return Path(self.directories[-1], "out.ledger")

    @initialize(rows=st.lists(ROWS, min_size=2, max_size=6))
    def start(self, rows: list[Row]) -> None:
        self.input = rows
        self.ledger = Ledger.open(self.path, {"model": "m"})

    # A run, over the input as people edited it since the last.

    @rule(edits=EDITS, window=st.integers(1, 5))
    def whole_pass(self, edits: list[Edit], window: int) -> None:
        self._edit(edits)
        self.states = self.runner.run(match(self.ledger, self.input, window, whole=True))
        self._count_rows(self.input)
        assert [state.position for state in self.states] == list(range(len(self.input)))
        for state, row in zip(self.states, self.input, strict=True):
            assert self.request_of.setdefault(state.row, row[0]) == row[0]
            assert state.state == self._expected_state(state.row)

    @rule(edits=EDITS, window=st.integers(1, 3), rows=st.integers(0, 6))
    def first_rows_only(self, edits: list[Edit], window: int, rows: int) -> None:
        self._edit(edits)
        self.runner.run(match(self.ledger, self.input[:rows], window, whole=False))
        self._count_rows(self.input[:rows])
        self.states = []

    @precondition(lambda self: self.states)
    @rule(ends=st.lists(ENDS, min_size=1, max_size=5), skipped=st.integers(0, 5))
    def ask(self, ends: list[str], skipped: int) -> None:
        unanswered = [s.row for s in self.states if self._expected_state(s.row) != "completion"]
        for row, end in zip(unanswered[skipped:] + unanswered[:skipped], ends, strict=False):
            (attempt,) = self.runner.run(self.ledger.begin_attempts([row]))
            self.attempts += 1
            self.in_flight.append(attempt)
            if end != "nothing":
                self._finish(attempt, end)

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 20), end=st.sampled_from(["complete", "fail"]))
    def end_later(self, which: int, end: str) -> None:
        self._finish(self.in_flight[which % len(self.in_flight)], end)

    def _edit(self, edits: list[Edit]) -> None:
        for kind, place, row in edits:
            at = place % len(self.input) if self.input else 0
            if kind == "add":
                self.input.insert(at, row)
            elif kind == "remove":
                del self.input[at : at + 1]
            elif kind == "edit":
                self.input[at : at + 1] = [row]
            elif kind == "move":
                self.input = self.input[at:] + self.input[:at]
            elif kind == "reverse":
                self.input.reverse()
            elif kind == "duplicate":
                self.input = (self.input * 2)[:12]

    def _finish(self, attempt: Attempt, end: str) -> None:
        self.in_flight.remove(attempt)
        self.runner.run(self._end(attempt, end))
        if end == "fail":
            self.failed.add(attempt.row)
        else:
            self.answers += 1
        if end == "complete" and (attempt.row not in self.completed or attempt.row in self.asked_again):
            self.completed[attempt.row] = self._body(attempt)
        if end != "answer":
            self.asked_again.discard(attempt.row)

    async def _end(self, attempt: Attempt, end: str) -> None:
        if end == "fail":
            error = ServerError("no", status=500)
            self.ledger.end_attempt(attempt, "failed", error)
            await self.ledger.fail(attempt.row, error, tokens=Usage())
            return
        self.ledger.answer(attempt, self._body(attempt), PAID, COST)
        if end == "complete":
            await self.ledger.complete(
                attempt.row, [attempt.id], finish_reason="stop", tokens=PAID, cost=COST
            )
        else:
            await self.ledger.flush()

    def _body(self, attempt: Attempt) -> bytes:
        return f"{attempt.id} answers {self.request_of[attempt.row]}".encode()

    @rule(state=st.sampled_from(["completion", "failure"]))
    def ask_again(self, state: str) -> None:
        in_input = {row.row for row in self._export() if row.state == state}
        reopened = self.runner.run(
            self.ledger.begin_retry(Selection.parse(f"state={state}"), {"manifest": {"max_tokens": 9}})
        )
        assert reopened == len(in_input)
        self.asked_again = in_input  # one retry at a time

    # The ends of a process.

    @rule()
    def close_and_open(self) -> None:
        self.ledger.close()
        self._open()

    @rule(rows=st.lists(ROWS, max_size=3), writes=st.integers(0, 3))
    def crash(self, rows: list[Row], writes: int) -> None:
        """What waits for its commit is lost; what was committed is not."""
        gate, reached = threading.Event(), threading.Event()

        def hold(_: object) -> None:
            reached.set()
            gate.wait()

        async def leave_uncommitted() -> None:
            held = self.ledger._commits.run(hold)
            reached.wait()
            begun: list[asyncio.Future[Any]] = [
                asyncio.ensure_future(self.ledger.begin_attempts([1])) for _ in range(writes)
            ]
            for attempt in self.in_flight[:writes]:
                self.ledger.answer(attempt, b"lost", PAID, COST)
                begun.append(
                    self.ledger.complete(
                        attempt.row, [attempt.id], finish_reason="stop", tokens=PAID, cost=COST
                    )
                )
            matching = asyncio.ensure_future(match(self.ledger, self.input + rows, 2, whole=True))
            for _ in range(3):
                await asyncio.sleep(0)
            self._copy_files()
            gate.set()
            await asyncio.gather(held, matching, *begun)

        self.runner.run(leave_uncommitted())
        self.ledger.close()
        self.directories.append(self.directories.pop(0))  # the copy is what the disk had
        self._open()

    def _copy_files(self) -> None:
        directory = tempfile.mkdtemp()
        for name in ("out.ledger", "out.ledger-wal"):
            shutil.copy(self.path.with_name(name), directory)
        self.directories.insert(0, directory)

    def _open(self) -> None:
        self.ledger = Ledger.open(self.path, {"model": "m"})
        self.maybe_billed += len(self.in_flight)
        self.in_flight = []
        self.states = []

    def _count_rows(self, rows: list[Row]) -> None:
        self.rows_of |= Counter(request for request, _ in rows)  # the larger count of each

    def _expected_state(self, row: int) -> str:
        if row in self.asked_again:
            return "pending"
        return "completion" if row in self.completed else "failure" if row in self.failed else "pending"

    def _export(self) -> list[LedgerRow]:
        with LedgerReader(self.path) as reader:
            return list(reader.rows())

    @invariant()
    def nothing_is_lost(self) -> None:
        with LedgerReader(self.path) as reader:
            counts = reader.counts()
        with closing(sqlite3.connect(self.path)) as connection:
            (rows,) = connection.execute("SELECT count(*) FROM rows").fetchone()
        assert rows == self.rows_of.total()
        assert counts.no_longer_in_input <= rows - counts.rows  # those that something was paid for
        assert counts.attempts == self.attempts
        assert counts.maybe_billed == self.maybe_billed
        assert counts.cost == self.answers * 0.5
        assert counts.completions + counts.failures + counts.pending == counts.rows

    @precondition(lambda self: self.states)
    @invariant()
    def the_output_is_the_input_answered(self) -> None:
        exported = self._export()
        assert [tuple(json.loads(row.record)) for row in exported] == self.input
        assert [row.position for row in exported] == list(range(len(self.input)))
        assert len({row.row for row in exported}) == len(exported)
        for row in exported:
            answers = (self.completed[row.row],) if row.row in self.completed else ()
            assert row.answers == answers
            assert row.asked_again == (row.row in self.asked_again)

    @precondition(lambda self: self.states)
    @invariant()
    def paid_answers_come_back(self) -> None:
        """Of the rows with one content, as many are answered in the input as were ever answered and fit in it."""
        wanted = Counter(request for request, _ in self.input)
        answered = Counter(self.request_of[row] for row in self.completed)
        in_input = Counter(self.request_of[row.row] for row in self._export() if row.answers)
        for request, count in wanted.items():
            unanswered = self.rows_of[request] - answered[request]
            assert in_input[request] >= min(count, self.rows_of[request]) - unanswered

    def teardown(self) -> None:
        if hasattr(self, "ledger"):
            self.ledger.close()
        self.runner.close()
        for directory in self.directories:
            shutil.rmtree(directory)


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
