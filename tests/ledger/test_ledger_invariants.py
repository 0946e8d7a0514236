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

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mistill.api.usage import Usage
from mistill.errors import ServerError
from mistill.ledger import (
    Attempt,
    InputRow,
    Job,
    JobRecord,
    JobState,
    Ledger,
    LedgerReader,
    LedgerRow,
    PlannedAttempt,
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
RECORD = JobRecord(path="/v1", model="m", host="h", lines=1, rows=1, bytes=1, timeout_hours=24)


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
        # Of jobs: by number, and of attempts in them which are open, and which may be billed.
        self.jobs: dict[int, Job] = {}
        self.rows_asked: dict[int, set[int]] = {}
        self.open: dict[int, dict[int, int]] = {}
        self.given_up: dict[int, dict[int, int]] = {}
        # What a row got since its last outcome, and by which settings; and when things were begun.
        self.clock = 0
        self.began: dict[int, int] = {}
        self.outcome_at: dict[int, int] = {}
        self.got: dict[int, list[tuple[int, bytes | None, int | None]]] = {}
        self.settings: int | None = None
        self.answered_live: set[int] = set()  # since the ledger was opened: no pass meets these again
        self.row_settings: dict[int, int | None] = {}

    @property
    def with_server(self) -> set[int]:
        return {row for attempts in self.open.values() for row in attempts.values()}

    @property
    def in_jobs(self) -> set[int]:
        """Until its job is over, and was of this start's settings, a row is taken to be with the server."""
        return {row for asked in self.rows_asked.values() for row in asked}

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
            waits = state.state != "completion"
            assert state.is_with_server or not (waits and state.row in self.with_server)
            assert not state.is_with_server or (waits and state.row in self.with_server | self.in_jobs)
            # A start meets neither rows that it has answered itself, nor, as a retry, those that are not its own.
            is_own = state.row not in self.answered_live and self.row_settings.get(state.row) == self.settings
            is_met = waits and is_own and not state.is_with_server
            assert state.has_answers or not (is_met and self._is_by_row and self._known(state.row))

    @rule(edits=EDITS, window=st.integers(1, 3), rows=st.integers(0, 6))
    def first_rows_only(self, edits: list[Edit], window: int, rows: int) -> None:
        self._edit(edits)
        self.runner.run(match(self.ledger, self.input[:rows], window, whole=False))
        self._count_rows(self.input[:rows])
        self.states = []

    @precondition(lambda self: self.states)
    @rule(ends=st.lists(ENDS, min_size=1, max_size=5), skipped=st.integers(0, 5))
    def ask(self, ends: list[str], skipped: int) -> None:
        for row, end in zip(self._due(skipped), ends, strict=False):
            (attempt,) = self.runner.run(self.ledger.begin_attempts([row]))
            self.attempts += 1
            self._begin(attempt.id)
            self.in_flight.append(attempt)
            if end != "nothing":
                self._finish(attempt, end)

    @precondition(lambda self: self.in_flight)
    @rule(which=st.integers(0, 20), end=st.sampled_from(["complete", "fail"]))
    def end_later(self, which: int, end: str) -> None:
        self._finish(self.in_flight[which % len(self.in_flight)], end)

    def _due(self, skipped: int) -> list[int]:
        rows = [s.row for s in self.states if self._expected_state(s.row) != "completion"]
        due = [row for row in rows if row not in self.with_server]
        return due[skipped:] + due[:skipped]

    def _begin(self, attempt: int) -> None:
        self.clock += 1
        self.began[attempt] = self.clock

    # Jobs: begun, read line by line, over, and perhaps answered late.

    @precondition(lambda self: self.states)
    @rule(size=st.integers(1, 4), skipped=st.integers(0, 5))
    def begin_job(self, size: int, skipped: int) -> None:
        planned = self._planned(self._due(skipped)[:size])
        job = self.runner.run(self.ledger.begin_job(f"job {self.clock}", RECORD, planned))
        self.clock += 1
        self.attempts += len(planned)
        self.began |= {attempt.id: self.clock for attempt in planned}
        self.jobs[job.id] = job
        self.rows_asked[job.id] = {attempt.row for attempt in planned}
        self.open[job.id] = {attempt.id: attempt.row for attempt in planned}
        self.given_up[job.id] = {}

    def _planned(self, rows: list[int]) -> list[PlannedAttempt]:
        numbers = self.ledger.take_attempt_ids(len(rows))
        return [PlannedAttempt(number, row, row, None, 7) for number, row in zip(numbers, rows, strict=True)]

    @precondition(lambda self: any(self.open.values()) or any(self.given_up.values()))
    @rule(which=st.integers(0, 20), end=ENDS, late=st.booleans())
    def a_line_comes(self, which: int, end: str, late: bool) -> None:
        waiting = [
            (job, number)
            for attempts in ((self.given_up, self.open) if late else (self.open, self.given_up))
            for job, numbers in attempts.items()
            for number in numbers
        ]
        job, number = waiting[which % len(waiting)]
        found = self.runner.run(self.ledger.attempts_of_lines(job, [number, number + 1000]))
        ((line,),) = found.values()
        assert line.awaits_answer
        if end == "nothing":
            return
        self.maybe_billed -= number in self.given_up[job]
        self.open[job].pop(number, None)
        self.given_up[job].pop(number, None)
        self._finish(line.attempt, end)
        found = self.runner.run(self.ledger.attempts_of_lines(job, [number]))
        assert found.keys() == (
            {number} if end == "fail" else set()
        )  # a server may send the answer after a failure

    @precondition(lambda self: self.jobs)
    @rule(which=st.integers(0, 20), state=st.sampled_from(["read", "doubtful", "dropped"]))
    def end_job(self, which: int, state: JobState) -> None:
        job = list(self.jobs.values())[which % len(self.jobs)]
        status = "not_sent" if state == "dropped" else "maybe_billed"
        changed = msgspec.structs.replace(job, state=state)
        ended = self.runner.run(self.ledger.end_open_attempts(changed, status))
        assert ended == len(self.open[job.id])
        if state != "dropped":
            self.maybe_billed += ended
            self.given_up[job.id] |= self.open[job.id]
        self.open[job.id] = {}
        self.jobs[job.id] = changed

    @precondition(lambda self: self.jobs)
    @rule()  # as an invariant it would take most of the time
    def it_is_known_who_is_with_the_server_and_what_came_back(self) -> None:
        assert [(job.id, job.state) for job in self.runner.run(self.ledger.jobs())] == [
            (job.id, job.state) for job in self.jobs.values()
        ]
        assert self.with_server <= set(self.ledger.rows_with_server) <= self.with_server | self.in_jobs
        rows = sorted(self.request_of)
        known = self.runner.run(self.ledger.known_attempts(rows))
        assert {
            row: [(one.attempt.id, None if one.answer is None else one.answer.body) for one in attempts]
            for row, attempts in known.items()
        } == {row: found for row in rows if (found := self._known(row))}

    def _known(self, row: int) -> list[tuple[int, bytes | None]]:
        if self._expected_state(row) == "completion":
            return []
        since = self.outcome_at.get(row, 0)
        got = [
            (number, body)
            for number, body, settings in self.got.get(row, [])
            if settings == self.settings and self.began[number] > since
        ]
        return sorted(got, key=lambda one: one[0])

    @property
    def _is_by_row(self) -> bool:
        return bool(self.jobs)

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
        if attempt in self.in_flight:
            self.in_flight.remove(attempt)
        self.runner.run(self._end(attempt, end))
        self._note_outcome(attempt, end)
        if end == "fail":
            self.failed.add(attempt.row)
        else:
            self.answers += 1
        if end == "complete" and (attempt.row not in self.completed or attempt.row in self.asked_again):
            self.completed[attempt.row] = self._body(attempt)
        if end != "answer":
            self.asked_again.discard(attempt.row)

    def _note_outcome(self, attempt: Attempt, end: str) -> None:
        self.clock += 1
        row = attempt.row
        if attempt.job is None:
            self.answered_live.add(row)
        if end != "fail" or attempt.job is not None:
            body = None if end == "fail" else self._body(attempt)
            self.got.setdefault(row, []).append((attempt.id, body, attempt.settings))
        if (end == "complete" and (row not in self.completed or row in self.asked_again)) or (
            end == "fail" and row not in self.completed
        ):
            self.outcome_at[row] = self.clock

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
        stay = self.asked_again & self.with_server
        chosen = {row.row for row in self._export() if row.state == state} - self.with_server
        reopened = self.runner.run(
            self.ledger.begin_retry(Selection.parse(f"state={state}"), {"manifest": {"max_tokens": 9}})
        )
        self.asked_again = chosen | stay  # one retry at a time
        assert reopened == len(self.asked_again)
        self.settings = 1
        self.row_settings = dict.fromkeys(chosen, 1) | {
            row: self.row_settings.get(row) for row in self.with_server
        }

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
            begun.append(
                asyncio.ensure_future(self.ledger.begin_job("lost", RECORD, self._planned([1] * writes)))
            )
            begun += [
                asyncio.ensure_future(self.ledger.end_open_attempts(job, "maybe_billed"))
                for job in self.jobs.values()
            ]
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
        self.settings = None
        self.answered_live = set()

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
        assert counts.with_server == sum(map(len, self.open.values()))
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
# The same walks each time, since one that fails may take minutes to be made small; without that it goes further.
TestLedgerMachine.settings = settings(
    max_examples=60, stateful_step_count=25, deadline=None, derandomize=True
)
