"""A ledger that is damaged on the disk: what comes out is right, what is damaged is named and can be made good."""

from __future__ import annotations

import asyncio
import json
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.ledger.fuzz_damage import (
    MANIFEST,
    ROWS,
    Expected,
    ask,
    check_after_work,
    flip,
    make,
    match,
    request_of,
    try_one,
    work_on,
)

from mistill import MistralLLM, Run
from mistill.api.usage import Usage
from mistill.errors import LedgerError
from mistill.ledger import Damage, Ledger, LedgerReader, Selection
from mistill.ledger.checksums import add_checksum
from mistill.ledger.reader import count_rows
from mistill.runs.export import export_run
from mistill.runs.report import read_report
from mistill.runs.row_report import read_row
from mistill.simulator import Fault, Simulator
from mistill.testing import without_waiting

TRIES = 60  # of each group of seeds; `python -m tests.ledger.fuzz_damage` tries more


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "ledger"
    asyncio.run(make(path))
    return path


@pytest.mark.parametrize(("first_seed", "bits"), [(0, 1), (60, 1), (120, 1), (180, 1), (0, 4)])
def test_flipped_bits_never_give_another_answer(path: Path, first_seed: int, bits: int) -> None:
    sound, expected = path.read_bytes(), Expected(path)
    said: set[str] = set()
    for seed in range(first_seed, first_seed + TRIES):
        for left in path.parent.iterdir():
            left.unlink()
        path.write_bytes(flip(sound, bits, random.Random(seed)))
        said |= try_one(path, expected)
    assert {"answer", "record"} <= said


def change(path: Path, *statements: str) -> None:
    """Writes to the ledger past its checksums."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        for trigger in ("row_changed", "outcome_replaced"):
            (text,) = connection.execute(
                "SELECT sql FROM sqlite_master WHERE name = ?", (trigger,)
            ).fetchone()
            statements = (f"DROP TRIGGER {trigger}", *statements, text)
        for statement in statements:
            connection.execute(statement)


SWAP = (
    "UPDATE answers SET attempt = attempt - 3 WHERE attempt IN (1, 2); "
    "UPDATE answers SET attempt = -attempt WHERE attempt < 0"
)


@pytest.mark.parametrize(
    ("statement", "damages"),
    [
        ("UPDATE answers SET body = replace(body, 'question', 'Question') WHERE attempt = 1", {(0, "answer")}),
        ("UPDATE answers SET body = CAST(body AS TEXT) WHERE attempt = 1", {(0, "answer")}),
        (SWAP, {(0, "answer"), (1, "answer")}),  # whole lines, checksums and all
        ("DELETE FROM answers WHERE attempt = 5", {(3, "answer")}),  # one of several
        ("UPDATE outcomes SET answer = 2 WHERE row = 1", {(0, "outcome")}),
        ("UPDATE outcomes SET answer = 7 WHERE row = 6", {(5, "outcome")}),  # its own earlier answer
        ("UPDATE outcomes SET output_tokens = 21 WHERE row = 1", {(0, "outcome")}),
        ("UPDATE outcomes SET cost = NULL WHERE row = 1", {(0, "outcome")}),
        ("UPDATE outcomes SET finish_reason = CAST(x'ff' AS TEXT) WHERE row = 1", {(0, "outcome")}),
        ("UPDATE records SET record = CAST('{}' AS BLOB) WHERE row = 1", {(0, "record")}),
        ("UPDATE records SET row = 100 WHERE row = 1", {(0, "record")}),
        ("DELETE FROM records WHERE row = 1", {(0, "record")}),
        ("UPDATE rows SET same_as = 2 WHERE id = 1", {(0, "row")}),
        ("UPDATE rows SET same_as = NULL WHERE id = 21", {(20, "row")}),
        ("UPDATE rows SET asked_again = 1 WHERE id = 1", {(0, "row")}),
        ("UPDATE rows SET id = 100 WHERE id = 1", {(0, "row")}),
        ("DELETE FROM rows WHERE id = 1; UPDATE meta SET value = value WHERE key = ''", set()),  # then not finished
    ],
)  # fmt: skip
def test_what_is_damaged_is_named_and_made_good(
    path: Path, statement: str, damages: set[tuple[int, str]]
) -> None:
    expected = Expected(path)
    change(path, *statement.split("; "))
    with LedgerReader(path) as reader:
        rows = list(reader.rows())
        found = {(damage.position, damage.part) for damage in reader.damages}
        if damages:
            with pytest.raises(LedgerError, match=f"damaged in the ledger .*: row {min(damages)[0]}"):
                reader.check_damages("out.jsonl was written")
    copies = {
        (position + 20, part) for position, part in damages if part in {"answer", "outcome"} and position < 4
    }
    assert found == damages | copies  # which show what their leader has
    affected = {position for position, _ in found}
    assert [row for row in rows if row.damaged is None] == [
        row for row in expected.rows if row.position not in affected and (damages or row.position)
    ]
    assert all(
        row.state == "failure" and f"damaged_{row.damaged}" in (row.error or "")
        for row in rows
        if row.damaged
    )
    asyncio.run(work_on(path))
    check_after_work(path)
    with LedgerReader(path) as reader:
        assert len(list(reader.rows())) == ROWS
        assert reader.counts().is_finished


async def test_a_damaged_answer_can_be_selected_and_asked_again(path: Path) -> None:
    change(path, "UPDATE answers SET body = x'00' WHERE attempt = 2")
    with Ledger.open(path, MANIFEST) as ledger:
        assert await ledger.begin_retry(Selection.parse("error=damaged_answer"), {"manifest": {}}) == 1
        (state,) = [
            state for state in await match(ledger) if state.state == "pending" and state.same_as is None
        ]
        assert state.position == 1
        await ask(ledger, state, request_of(1))
    check_after_work(path)
    with LedgerReader(path) as reader:
        (failed,) = [cause.kind for cause in reader.failures()]
        assert failed == "invalid_output"  # the one that was there before


async def test_a_damaged_record_is_written_anew_and_paid_for_no_more(path: Path) -> None:
    change(path, "UPDATE records SET record = x'00' WHERE row = 3")
    with Ledger.open(path, MANIFEST) as ledger:
        assert (
            await ledger.begin_retry(Selection.parse("error=damaged_record")) == 0
        )  # nothing can be sent of it
        states = await match(ledger)
    assert [state.position for state in states if state.state != "completion"] == [7, 20, 21, 22, 23][:1]
    check_after_work(path)


_DAMAGE = "UPDATE answers SET body = x'00' WHERE CAST(body AS TEXT) = 'damaged'"


async def test_a_damaged_paid_answer_is_not_used(path: Path) -> None:
    with Ledger.open(path, MANIFEST) as ledger:
        state = next(state for state in await match(ledger) if state.state == "failure")
        for body in (b"damaged", b"sound"):
            (attempt,) = await ledger.begin_attempts([state.row])
            ledger.answer(attempt, body, Usage(), None)
        await ledger.flush()
    change(
        path,
        "DELETE FROM outcomes WHERE state = 'failure'",
        "UPDATE answers SET body = x'00' WHERE body = x'64616d61676564'",
    )
    with Ledger.open(path, MANIFEST) as ledger:
        (known,) = (await ledger.known_attempts([state.row]))[state.row]
        assert known.answer is not None
        assert known.answer.body == b"sound"


def test_a_row_asked_in_vain_for_its_damaged_answer_keeps_its_lineage(path: Path) -> None:
    change(path, "UPDATE answers SET body = x'00' WHERE attempt = 7")  # the first answer of row 5
    with LedgerReader(path) as reader:
        (row,) = reader.rows(Selection.parse("row=5"))
        (earlier,) = reader.earlier_outcomes(row.row)
    assert (row.damaged, earlier.state, earlier.answers) == (None, "completion", ())


@pytest.mark.parametrize("key", ["manifest", "settings"])
@pytest.mark.parametrize("how", ["UPDATE meta SET value = value || ' '", "DELETE FROM meta"])
def test_a_damaged_manifest_is_refused(path: Path, key: str, how: str) -> None:
    change(path, f"{how} WHERE key = '{key}'")
    with LedgerReader(path) as reader, pytest.raises(LedgerError, match=f"damaged: its {key}"):
        getattr(reader, key)()


@pytest.mark.parametrize(
    "how",
    [
        "CREATE VIEW row_states AS SELECT * FROM rows",
        "CREATE VIEW row_states AS SELECT 0 AS position",
    ],
)
def test_a_damaged_schema_is_refused(path: Path, how: str) -> None:
    change(path, "DROP VIEW row_states", how)
    opened: list[Callable[[], object]] = [lambda: LedgerReader(path), lambda: Ledger.open(path, MANIFEST)]
    for open_it in opened:
        with pytest.raises(LedgerError, match="damaged: its tables"):
            open_it()


def test_what_somebody_added_to_a_ledger_is_no_damage(path: Path) -> None:
    change(path, "CREATE INDEX mine ON attempts (status)", "CREATE TABLE notes (text)")
    with LedgerReader(path) as reader:
        assert len(list(reader.rows())) == ROWS
        assert reader.damages == []


@pytest.mark.parametrize("table", ["answers", "records", "outcomes"])
def test_where_a_page_cannot_be_read_the_rest_comes_out(path: Path, table: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        (page,) = (
            connection.execute(
                "SELECT max(pageno) FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,)
            ).fetchone()
            if _has_dbstat(connection)
            else (None,)
        )
    if page is None:
        pytest.skip("this SQLite cannot tell which page is which")
    data = bytearray(path.read_bytes())
    data[(page - 1) * 4096 : (page - 1) * 4096 + 8] = b"\xff" * 8
    path.write_bytes(data)
    with LedgerReader(path) as reader:
        rows = list(reader.rows())
        assert reader.damages
        with pytest.raises(LedgerError, match="damaged"):
            reader.check_damages()
    assert len({row.position for row in rows} | {damage.position for damage in reader.damages}) == ROWS


def _has_dbstat(connection: sqlite3.Connection) -> bool:
    return any("DBSTAT" in option for (option,) in connection.execute("PRAGMA compile_options"))


def test_all_damaged_rows_are_counted_and_some_are_named(path: Path) -> None:
    change(path, "UPDATE answers SET body = x'00'")
    with LedgerReader(path) as reader:
        list(reader.rows())
        with pytest.raises(
            LedgerError, match=r"23 rows are damaged.*row 0 \(answer\), .* and 18 more"
        ) as raised:
            reader.check_damages()
    assert "Run.retry(out, 'error=damaged_answer')" in (raised.value.hint or "")
    assert str(Damage(3, "row")) == "row 3"


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with without_waiting():
        yield


def finished_run(folder: Path, simulator: Simulator) -> Run:
    rows = [{"id": number, "text": f"row {number}"} for number in range(20)]
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    run = Run(rows, llm=llm, out=folder / "out.jsonl", prompt="{{ text }}")
    run.start()
    return run


def records_in(folder: Path, name: str = "out.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_run_names_what_is_damaged_writes_the_rest_and_asks_again(
    tmp_path: Path, simulator: Simulator
) -> None:
    run = finished_run(tmp_path, simulator)
    before = records_in(tmp_path)
    change(run.ledger_path, "UPDATE answers SET body = replace(body, 'Echo', 'Ecco') WHERE attempt IN (3, 5)")
    with pytest.raises(
        LedgerError, match=r"out.jsonl was written; but 2 rows are damaged .* \(answer\), row "
    ):
        run.start()
    (damaged, also_damaged) = (record for record in records_in(tmp_path) if record["error"] is not None)
    assert damaged["error"].startswith("damaged_answer: the answer of row ")
    assert [record for record in records_in(tmp_path) if record["error"] is None] == [
        record for record in before if record["id"] not in {damaged["id"], also_damaged["id"]}
    ]
    report = run.start()
    assert (report.sent, report.failures, report.completions) == (2, 0, 20)
    assert [record["generation"] for record in records_in(tmp_path)] == [f"Echo: row {n}" for n in range(20)]


def test_an_outcome_that_says_nothing_any_more_is_named_and_made_anew_for_free(
    tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    run = finished_run(tmp_path, simulator)
    before = records_in(tmp_path)
    change(run.ledger_path, "UPDATE outcomes SET state = 'completiOn' WHERE row IN (3, 9)")
    with pytest.raises(LedgerError, match="2 rows are damaged"):
        export_run(tmp_path / "out.jsonl", tmp_path / "again.jsonl")
    report = run.start()
    assert (report.sent, report.completions) == (0, 20)
    assert "2 outcomes are damaged in the ledger" in caplog.text
    assert records_in(tmp_path) == before


def test_an_export_names_what_is_damaged_and_a_retry_asks_it_again(
    tmp_path: Path, simulator: Simulator
) -> None:
    run = finished_run(tmp_path, simulator)
    change(run.ledger_path, "UPDATE answers SET body = x'00' WHERE attempt = 7")
    with pytest.raises(LedgerError, match=r"1 rows are damaged.*Run\.retry\(out, 'error=damaged_answer'\)"):
        export_run(tmp_path / "out.jsonl", tmp_path / "again.jsonl")
    assert sum(record["error"] is None for record in records_in(tmp_path, "again.jsonl")) == 19
    retry = Run.retry(tmp_path / "out.jsonl", "error=damaged_answer", llm={"endpoint": simulator.url})
    assert retry.start().sent == 1
    assert export_run(tmp_path / "out.jsonl", tmp_path / "again.jsonl", overwrite=True).records == 20
    assert all(record["error"] is None for record in records_in(tmp_path, "again.jsonl"))


def test_a_damaged_record_is_read_again_from_the_input_at_once_and_for_free(
    tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    run = finished_run(tmp_path, simulator)
    before = records_in(tmp_path)
    change(run.ledger_path, "UPDATE records SET record = replace(record, 'row', 'Row') WHERE row = 4")
    report = run.start()
    assert (report.sent, report.completions, report.stopped) == (0, 20, None)
    assert records_in(tmp_path) == before
    assert "read again from the input: row 3 (record)" in caplog.text
    assert run.start().sent == 0


def test_a_damaged_record_whose_input_is_read_once_is_made_good_by_the_next_start(
    tmp_path: Path, simulator: Simulator
) -> None:
    run = finished_run(tmp_path, simulator)
    before = records_in(tmp_path)
    change(run.ledger_path, "UPDATE records SET record = x'00' WHERE row = 4")
    rows = [{name: record[name] for name in ("id", "text")} for record in before]
    settings: dict[str, Any] = {"prompt": "{{ text }}", "out": tmp_path / "out.jsonl"}
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    with pytest.raises(LedgerError, match=r"row 3 \(record\)"):
        Run(iter(rows), llm=llm, **settings).start()
    assert Run(iter(rows), llm=llm, **settings).start().sent == 0
    assert records_in(tmp_path) == before


def test_a_row_whose_record_is_damaged_is_not_asked_by_a_retry(tmp_path: Path, simulator: Simulator) -> None:
    run = finished_run(tmp_path, simulator)
    change(run.ledger_path, "UPDATE records SET record = x'7b7d' WHERE row = 4")
    retry = Run.retry(tmp_path / "out.jsonl", "row=3", llm={"endpoint": simulator.url})
    with pytest.raises(LedgerError, match=r"row 3 \(record\) .*start the run again with its input"):
        retry.start()
    assert run.start().sent == 0
    assert len(simulator.requests) == 20  # the input has the row, and its answer was good
    assert [record["generation"] for record in records_in(tmp_path)] == [f"Echo: row {n}" for n in range(20)]


FIGURES = [
    "input_tokens = 5",
    "input_tokens = input_tokens + 4294967297",
    "output_tokens = NULL",
    "output_tokens = 'many'",
    "cost = cost / 2",
    "cost = NULL",
    "cached_tokens = 1",
    "status = 'failed'",
    "status = 'not_sent'",
    "status = 'anwered'",
    "status = NULL",
    "ended_at = ended_at - 1.5",
    "sent_at = sent_at - 3600",
    "settings = 1",
    "request = 1",
    "row = 3",
    "checksum = 0",
]


@pytest.mark.parametrize("figure", FIGURES)
def test_a_changed_figure_of_an_attempt_is_named_and_counts_at_its_worst(
    tmp_path: Path, simulator: Simulator, figure: str
) -> None:
    finished_run(tmp_path, simulator)
    ledger = tmp_path / "out.jsonl.ledger"
    before = read_report(ledger)
    change(ledger, f"UPDATE OR IGNORE attempts SET {figure} WHERE id = 2")
    report = read_report(ledger)
    assert (report.damaged_attempts, report.maybe_billed, report.open_attempts) == (1, 1, 0)
    assert report.attempts == before.attempts
    assert report.input_tokens < before.input_tokens
    assert report.output_tokens < before.output_tokens
    assert len(report.rows_of_damaged_attempts) == 1
    assert "damaged in the ledger: 1 attempt (of row " in str(report)
    with LedgerReader(ledger) as reader:
        assert [spent.damaged for spent in (reader.spending(),)] == [1]
        assert reader.spending().unknown == 1
        assert reader.spending().answers == before.attempts - 1


def test_any_two_figures_of_an_attempt_may_be_changed_and_it_is_noticed(
    tmp_path: Path, simulator: Simulator
) -> None:
    finished_run(tmp_path, simulator)
    ledger = tmp_path / "out.jsonl.ledger"
    columns = ("input_tokens", "output_tokens", "cached_tokens", "sent_at", "cost")
    with closing(sqlite3.connect(ledger, isolation_level=None)) as connection:
        add_checksum(connection)
        for one in columns:
            for other in columns:
                for number in (1, 2, 16, 1000):
                    connection.execute("BEGIN")
                    connection.execute(
                        f"UPDATE attempts SET {one} = {one} + {number}, {other} = {other} - {number} WHERE id = 2"
                    )
                    damaged = count_rows(connection).damaged_attempts
                    connection.execute("ROLLBACK")
                    assert damaged == 1, (one, other, number)


def test_an_attempt_with_a_damaged_error_is_shown_as_such(tmp_path: Path, simulator: Simulator) -> None:
    simulator.script([Fault.named("503")])
    finished_run(tmp_path, simulator)
    ledger = tmp_path / "out.jsonl.ledger"
    with LedgerReader(ledger) as reader:
        (failed,) = [row.position for row in reader.rows() if len(reader.attempts_of(row.leader)) > 1]
    assert [attempt.damaged for attempt in read_row(tmp_path / "out.jsonl", failed).attempts] == [
        False,
        False,
    ]
    change(ledger, "UPDATE attempts SET error = replace(error, '503', '403') WHERE error IS NOT NULL")
    shown = read_row(tmp_path / "out.jsonl", failed).attempts
    assert [(attempt.damaged, attempt.error) for attempt in shown] == [(True, None), (False, None)]
    assert read_report(ledger).damaged_attempts == 0  # no figure of it is


def test_what_was_in_flight_in_a_kill_is_sound_when_it_is_marked(path: Path) -> None:
    async def begin() -> None:
        with Ledger.open(path, MANIFEST) as ledger:
            await ledger.begin_attempts([1])

    asyncio.run(begin())
    Ledger.open(path, MANIFEST).close()
    with LedgerReader(path) as reader:
        assert reader.counts().damaged_attempts == 0
        assert reader.counts().maybe_billed >= 1
