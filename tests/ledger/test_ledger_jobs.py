"""Jobs in a ledger: begun in one commit, ended in one commit, and at any moment between it is known who is where."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

import pytest
from msgspec.structs import replace
from tests.ledger.test_ledger_selection import MANIFEST, complete, rows_of

from mistill.api.usage import Usage
from mistill.errors import Disconnected, LedgerError, ManifestChanged, RateLimited, ServerError
from mistill.ledger import (
    WAITING,
    Job,
    JobRecord,
    Ledger,
    LedgerReader,
    PlannedAttempt,
    RowState,
    Selection,
)

RECORD = JobRecord(
    path="/v1/chat/completions",
    model="m",
    host="http://127.0.0.1",
    lines=3,
    rows=3,
    bytes=99,
    timeout_hours=24,
)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(tmp_path / "out.ledger", MANIFEST) as ledger:
        yield ledger


def again(ledger: Ledger) -> Ledger:
    ledger.close()
    return Ledger.open(ledger.path, MANIFEST)


def planned(ledger: Ledger, rows: Sequence[int], *, together: bool = False) -> list[PlannedAttempt]:
    numbers = ledger.take_attempt_ids(len(rows))
    request = numbers[0] if together else None
    return [
        PlannedAttempt(number, row, 1000 + row, request, 10 * row)
        for number, row in zip(numbers, rows, strict=True)
    ]


async def begin(ledger: Ledger, rows: Sequence[RowState | int], tag: str = "a") -> tuple[Job, list[int]]:
    attempts = planned(ledger, [row if isinstance(row, int) else row.row for row in rows])
    return await ledger.begin_job(tag, RECORD, attempts), [attempt.id for attempt in attempts]


async def answer(ledger: Ledger, job: Job, number: int, body: bytes = b"{}") -> None:
    for line in (await ledger.attempts_of_lines(job.id, [number]))[number]:
        ledger.answer(line.attempt, body, Usage(10, 5), 0.125)
    await ledger.flush()


async def waiting_of(ledger: Ledger, job: Job) -> list[int]:
    """Rows that wait for an outcome, of those that a job asked."""
    of_job = (
        f"({WAITING.sql}) AND EXISTS (SELECT 1 FROM attempts WHERE attempts.row = row_states.id AND job = ?)"
    )
    return sorted(await ledger.rows_that(Selection(of_job, (job.id,)), 99))


async def test_a_job_and_what_becomes_of_it_is_kept(ledger: Ledger) -> None:
    job, _ = await begin(ledger, await rows_of(ledger, 3))
    assert (job.id, job.tag, job.state) == (1, "a", "planned")
    assert job.record == replace(RECORD, planned_at=job.changed_at)
    record = replace(job.record, file_id="f", price=(0.1, 0.2, 0.01), errors=("half \ud83d",))
    noted = await ledger.note_job(replace(job, state="uploaded", record=record))
    other, _ = await begin(ledger, [], "b")
    noted = replace(noted, record=replace(record, errors=("half \ufffd",)))
    assert await ledger.jobs() == [noted, other]
    with LedgerReader(ledger.path) as reader:
        assert reader.jobs() == [noted, other]
    with again(ledger) as ledger:
        assert await ledger.jobs() == [noted, other]


async def test_rows_of_a_job_are_with_the_server_until_it_has_ended(ledger: Ledger) -> None:
    states = await rows_of(ledger, 4)
    job, numbers = await begin(ledger, states[:3])
    assert list(ledger.rows_with_server) == [1, 2, 3]
    assert [state.is_with_server for state in await rows_of(ledger, 4)] == [True, True, True, False]
    with again(ledger) as ledger:
        assert list(ledger.rows_with_server) == [1, 2, 3]
        await answer(ledger, job, numbers[0])
        error = ServerError("no", status=500)
        (failed,) = (await ledger.attempts_of_lines(job.id, [numbers[1]]))[numbers[1]]
        ledger.end_attempt(failed.attempt, "failed", error)
        assert await waiting_of(ledger, job) == [1, 2]
        assert await ledger.end_open_attempts(replace(job, state="read"), "not_sent") == 1
        assert await waiting_of(ledger, job) == [1, 2, 3]
        assert list(ledger.rows_with_server) == []
        known = await ledger.known_attempts([1, 2, 3, 4])
        first, second = known.pop(1), known.pop(2)
        assert known == {}
        assert first[0].answer is not None
        assert (first[0].answer.body, first[0].attempt.asked, first[0].attempt.job) == (b"{}", 1001, job.id)
        assert second[0].error is not None
        assert second[0].error.status == 500
        await ledger.complete(1, [numbers[0]], finish_reason="stop", tokens=Usage(10, 5), cost=0.125)
        assert await waiting_of(ledger, job) == [2, 3]
        assert 1 not in await ledger.known_attempts([1, 2])
        assert [job.state for job in await ledger.jobs()] == ["read"]


async def test_attempts_in_jobs_are_neither_in_flight_nor_on_the_bill(ledger: Ledger) -> None:
    states = await rows_of(ledger, 3)
    await ledger.begin_attempts([states[2].row], 7)
    job, numbers = await begin(ledger, states[:2])
    await answer(ledger, job, numbers[0])
    with LedgerReader(ledger.path) as reader:
        counts, spending = reader.counts(), reader.spending()
        (open_attempt,) = reader.attempts_of(2)
    assert (counts.open_attempts, counts.with_server, counts.maybe_billed, counts.attempts) == (1, 1, 0, 3)
    assert (counts.input_tokens, counts.cost) == (10, 0.125)
    assert (spending.answers, spending.unknown) == (1, 1)
    assert (open_attempt.job, open_attempt.input_tokens, open_attempt.status) == (job.id, None, None)
    with again(ledger) as ledger, LedgerReader(ledger.path) as reader:
        counts = reader.counts()
    assert (counts.open_attempts, counts.with_server, counts.maybe_billed) == (0, 1, 1)


async def test_a_line_for_several_rows_names_all_its_attempts(ledger: Ledger) -> None:
    states = await rows_of(ledger, 5)
    rows = [state.row for state in states]
    together, alone = planned(ledger, rows[:3], together=True), planned(ledger, rows[3:4])
    job = await ledger.begin_job("a", RECORD, [*together, *alone])
    other, _ = await begin(ledger, states[4:], "b")
    first, second = together[0].id, alone[0].id
    found = await ledger.attempts_of_lines(job.id, [first, second, first + 1, second + 1, 999])
    assert {number: [line.attempt.row for line in lines] for number, lines in found.items()} == {
        first: rows[:3],
        second: rows[3:4],
    }
    assert [line.weight for line in found[first]] == [10, 20, 30]
    ledger.answer(found[first][1].attempt, b"2", Usage(), None)
    found = await ledger.attempts_of_lines(job.id, [first])
    assert [line.awaits_answer for line in found[first]] == [True, False, True]
    assert await ledger.attempts_of_lines(other.id, [first, second]) == {}


async def test_what_was_given_up_can_be_answered_late(ledger: Ledger) -> None:
    job, (first, second) = await begin(ledger, (await rows_of(ledger, 2)))
    lost = Disconnected("no line came")
    assert await ledger.end_open_attempts(replace(job, state="doubtful"), "maybe_billed", lost) == 2
    known = await ledger.known_attempts([1, 2])
    assert [(row, one.error and one.error.kind) for row, (one,) in known.items()] == [
        (1, "disconnected"),
        (2, "disconnected"),
    ]
    assert [state.maybe_billed for state in await rows_of(ledger, 2)] == [True, True]
    await answer(ledger, job, first)
    states = await rows_of(ledger, 2)
    assert [(state.maybe_billed, state.has_answers) for state in states] == [(False, True), (True, True)]
    with again(ledger) as ledger:
        (late,) = (await ledger.attempts_of_lines(job.id, [first, second])).pop(second)
        ledger.end_attempt(late.attempt, "failed", RateLimited("slow", status=429))
        states = await rows_of(ledger, 2)
        assert [(state.maybe_billed, state.has_answers) for state in states] == [
            (False, True),
            (False, True),
        ]
    with LedgerReader(ledger.path) as reader:
        assert reader.counts().maybe_billed == 0


async def test_a_retry_leaves_rows_alone_that_are_with_the_server(ledger: Ledger) -> None:
    states = await rows_of(ledger, 3)
    for state in states:
        await complete(ledger, state, "stop", 5)
    everything = Selection.parse("state=completion")
    settings = {"manifest": {"temperature": 1}}
    assert await ledger.begin_retry(everything, settings) == 3
    job, _ = await begin(ledger, states[:1])
    assert job.record.settings == 1
    with again(ledger) as ledger:
        await ledger.end_retry()
        assert [state.state for state in await rows_of(ledger, 3)] == ["pending", "completion", "completion"]
        assert await ledger.begin_retry(everything) == 2
        await ledger.end_open_attempts(replace(job, state="dropped"), "not_sent")
        assert await ledger.begin_retry(everything) == 3


async def test_a_failed_row_that_a_job_asked_again_waits_for_its_outcome(ledger: Ledger) -> None:
    (state,) = await rows_of(ledger, 1)
    await ledger.fail(state.row, ServerError("no", status=500), tokens=Usage())
    job, (number,) = await begin(ledger, [state])
    await answer(ledger, job, number)
    await ledger.end_open_attempts(replace(job, state="read"), "not_sent")
    with again(ledger) as ledger:
        assert await waiting_of(ledger, job) == [state.row]
        assert len((await ledger.known_attempts([state.row]))[state.row]) == 1
        assert list(ledger.rows_with_answers) == [state.row]


async def test_a_ledger_without_a_job_has_no_index_for_them(ledger: Ledger) -> None:
    def indexes() -> set[str]:
        with closing(sqlite3.connect(ledger.path)) as connection:
            found = connection.execute("SELECT name FROM sqlite_master WHERE name LIKE 'attempts_%'")
            return {name for (name,) in found}

    states = await rows_of(ledger, 1)
    await complete(ledger, states[0], "stop", 5)
    assert indexes() == set()
    await begin(ledger, states)
    assert indexes() == {"attempts_job", "attempts_row"}


async def test_rows_that_wait_can_be_read_without_their_input(ledger: Ledger) -> None:
    done, failed, tried, open_row, answered, fresh = await rows_of(ledger, 6)
    await complete(ledger, done, "stop", 5)
    for state in (failed, tried):
        await ledger.fail(state.row, ServerError("no", status=500), tokens=Usage())
    first, _ = await begin(ledger, [open_row])
    second, numbers = await begin(ledger, [tried, answered], "b")
    for number in numbers:
        await answer(ledger, second, number)
    with LedgerReader(ledger.path) as reader:
        waiting = [row.row for row in reader.rows(WAITING)]
        assert waiting == [tried.row, answered.row, fresh.row]
        assert [row.row for row in reader.rows(WAITING, first=answered.position + 1)] == [fresh.row]
    await ledger.end_open_attempts(replace(first, state="read"), "maybe_billed")
    with LedgerReader(ledger.path) as reader:
        assert open_row.row in [row.row for row in reader.rows(WAITING)]


# --- damage -----------------------------------------------------------------------------------------------------------


async def two_jobs(path: Path) -> dict[int, int]:
    """Rows 1 to 3 in a job that is read, one line for two of them; rows 4 to 8 in one that is under way, of which the
    first is answered. Returns attempt → row."""
    with Ledger.open(path, MANIFEST) as ledger:
        states = await rows_of(ledger, 8)
        rows = [state.row for state in states]
        first = [*planned(ledger, rows[:2], together=True), *planned(ledger, rows[2:3])]
        job = await ledger.begin_job("first", RECORD, first)
        for number in (first[0].id, first[2].id):
            for line in (await ledger.attempts_of_lines(job.id, [number]))[number]:
                ledger.answer(line.attempt, f"to {line.attempt.row}".encode(), Usage(1, 2), 0.5)
        await ledger.end_open_attempts(replace(job, state="read"), "maybe_billed")
        second, numbers = await begin(ledger, rows[3:], "second")
        await answer(ledger, second, numbers[0], b"to 4")
        record = replace(second.record, job_id="j", file_id="f")
        await ledger.note_job(replace(second, state="running", record=record))
    return dict(enumerate(rows, 1))


async def check_all_can_end(path: Path, row_of: dict[int, int], jobs: list[Job]) -> set[str]:
    """Whatever is damaged: nothing stays with the server for ever, and no row has what is another's. Returns what was
    noticed."""
    noticed: set[str] = set()
    with LedgerReader(path) as reader:
        assert all(job in jobs for job in reader.jobs())
    with Ledger.open(path, MANIFEST) as ledger:
        for job in await ledger.jobs():
            before = next((one for one in jobs if one.tag == job.tag), None)
            if job != before:
                noticed.add(job.state)
                assert job.state in {"doubtful", "dropped"}
                assert job.record.job_id is job.record.file_id is None
            for number, lines in (await ledger.attempts_of_lines(job.id, sorted(row_of))).items():
                for line in lines:
                    assert not line.awaits_answer or line.attempt.row == row_of[line.attempt.id]
                    if line.awaits_answer and len(lines) == 1 and number == line.attempt.id:
                        ledger.answer(line.attempt, f"to {line.attempt.row}".encode(), Usage(), None)
            await ledger.end_open_attempts(replace(job, state="read"), "maybe_billed")
        assert list(ledger.rows_with_server) == []
        known = await ledger.known_attempts(sorted(ledger.rows_with_answers))
        for row, attempts in known.items():
            assert {attempt.answer.body for attempt in attempts if attempt.answer} <= {f"to {row}".encode()}
        if len(known) < len(row_of):
            noticed.add("to be asked again")
    with LedgerReader(path) as reader:
        assert reader.counts().with_server == 0
    return noticed


def used_bytes(path: Path) -> list[int]:
    """Where in the file lines of jobs, of what they asked and got, and of their indexes stand."""
    query = "SELECT rootpage FROM sqlite_master WHERE tbl_name IN ('jobs', 'attempts', 'answers')"
    with closing(sqlite3.connect(path)) as connection:
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        pages = [page for (page,) in connection.execute(query)]
    data = path.read_bytes()
    return [at for page in pages for at in range((page - 1) * page_bytes, page * page_bytes) if data[at]]


async def test_damage_never_gives_a_row_what_is_anothers_nor_keeps_it_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    row_of = await two_jobs(path)
    with LedgerReader(path) as reader:
        jobs = reader.jobs()
    sound, places = path.read_bytes(), used_bytes(path)
    assert await check_all_can_end(path, row_of, jobs) == set()
    noticed: set[str] = set()
    for seed in range(30):
        chance, data = random.Random(seed), bytearray(sound)
        data[chance.choice(places)] ^= 1 << chance.randrange(8)
        path = tmp_path / f"ledger {seed}"
        path.write_bytes(data)
        with suppress(LedgerError):
            noticed |= await check_all_can_end(path, row_of, jobs)
    assert {"doubtful", "to be asked again"} <= noticed


@pytest.mark.parametrize(
    ("statement", "states", "waiting"),
    [
        ("UPDATE jobs SET state = 'running' WHERE id = 1", ["doubtful", "running"], [1, 2, 3, 4]),
        ("UPDATE jobs SET record = replace(record, '\"j\"', '\"k\"') WHERE id = 2", ["read", "doubtful"], [5, 6, 7, 8]),
        ("UPDATE jobs SET record = '{' WHERE id = 2", ["read", "dropped"], [5, 6, 7, 8]),
        ("UPDATE jobs SET tag = CAST(x'ff' AS TEXT) WHERE id = 2", ["read", "dropped"], [5, 6, 7, 8]),
        ("UPDATE jobs SET id = 7 WHERE id = 2", ["read", "doubtful"], [5, 6, 7, 8]),
        ("DELETE FROM jobs WHERE id = 2", ["read"], [5, 6, 7, 8]),
        ("UPDATE attempts SET job = NULL WHERE id = 5", ["read", "running"], [5]),
        ("UPDATE attempts SET job = 1 WHERE id = 5", ["read", "running"], [5]),
        ("UPDATE attempts SET job = 99 WHERE id = 5", ["read", "running"], [5]),
    ],
)  # fmt: skip
async def test_of_a_damaged_job_nobody_waits_for_answers_for_ever(
    tmp_path: Path, statement: str, states: list[str], waiting: list[int]
) -> None:
    path = tmp_path / "ledger"
    await two_jobs(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(statement)
    with Ledger.open(path, MANIFEST) as ledger:
        assert [job.state for job in await ledger.jobs()] == states
        with_server = set(ledger.rows_with_server)
        matched = await rows_of(ledger, 8)
    maybe_billed = {state.row for state in matched if state.maybe_billed}
    assert with_server.isdisjoint(maybe_billed)
    assert with_server | maybe_billed == {5, 6, 7, 8}
    assert maybe_billed == set(waiting) & {5, 6, 7, 8}


async def test_an_index_of_jobs_that_lost_something_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    await two_jobs(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for name in ("attempts_job", "attempts_row"):
            (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (name,)).fetchone()
            # An index that knows fewer lines, under the words of the one that knows all.
            partial = sql.replace(" WHERE job IS NOT NULL", "") + " WHERE id < 3"
            connection.execute(f"DROP INDEX {name}")
            connection.execute(partial)
            connection.execute("PRAGMA writable_schema = ON")
            connection.execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (sql, name))
    with Ledger.open(path, MANIFEST) as ledger:
        assert set(await ledger.known_attempts(range(1, 9))) == {1, 2, 3, 4}
        (_, second) = await ledger.jobs()
        assert await ledger.end_open_attempts(replace(second, state="read"), "maybe_billed") == 4
        assert await waiting_of(ledger, second) == [4, 5, 6, 7, 8]


# --- beside others ----------------------------------------------------------------------------------------------------


async def test_readers_of_a_ledger_that_is_written_see_a_job_whole_or_not_at_all(ledger: Ledger) -> None:
    states = await rows_of(ledger, 60)
    done = threading.Event()
    seen: set[tuple[int, ...]] = set()

    def read() -> None:
        with LedgerReader(ledger.path) as reader:
            while not done.is_set():
                with reader.snapshot():
                    open_jobs = [job for job in reader.jobs() if not job.is_over]
                    seen.add((len(open_jobs), reader.counts().with_server))

    reading = [asyncio.create_task(asyncio.to_thread(read)) for _ in range(2)]
    for place in range(0, 60, 20):
        job, _ = await begin(ledger, states[place : place + 20], f"tag {place}")
        if place == 20:
            await ledger.end_open_attempts(replace(job, state="read"), "not_sent")
    done.set()
    await asyncio.gather(*reading)
    assert seen <= {(0, 0), (1, 20), (2, 40)}


async def test_a_ledger_of_format_4_has_jobs_once_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    shutil.copy(Path(__file__).parent / "data/format-4-cut.ledger", path)
    with closing(sqlite3.connect(path)) as connection:
        (manifest,) = connection.execute("SELECT value FROM meta WHERE key = 'manifest'").fetchone()
    with Ledger.open(path, json.loads(manifest)) as ledger:
        known = await ledger.known_attempts([1, 2, 3])
        assert [(row, [one.attempt.asked for one in found]) for row, found in known.items()] == [(2, [None])]
        job, (first, second) = await begin(ledger, [1, 3])
        await answer(ledger, job, first, b"late")
    with Ledger.open(path, json.loads(manifest)) as ledger:
        assert list(ledger.rows_with_server) == [3]
        assert sorted(ledger.rows_with_answers) == [1, 2]
        await answer(ledger, job, second, b"later")
        known = await ledger.known_attempts([1, 2, 3])
        assert [found[0].attempt.asked for found in known.values()] == [1001, None, 1003]
    with LedgerReader(path) as reader:
        assert reader.counts().damaged_attempts == 0


async def test_settings_may_change_while_no_job_may_cost_anything_and_its_files_are_not_forgotten(
    ledger: Ledger,
) -> None:
    job, _ = await begin(ledger, await rows_of(ledger, 2))
    ledger.close()
    with pytest.raises(ManifestChanged):
        Ledger.open(ledger.path, {"model": "another"})
    with Ledger.open(ledger.path, MANIFEST) as ledger:
        await ledger.end_open_attempts(replace(job, state="dropped"), "not_sent")
    with Ledger.open(ledger.path, {"model": "another"}) as ledger:
        other, _ = await begin(ledger, await rows_of(ledger, 1), "b")
        assert [(job.id, job.state) for job in await ledger.jobs()] == [(1, "dropped"), (2, "planned")]
        assert await ledger.attempts_of_lines(job.id, [1, 2]) == {}
        assert list(await ledger.attempts_of_lines(other.id, [1, 2])) == [1]
