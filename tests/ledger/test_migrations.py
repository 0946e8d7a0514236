"""Ledgers of older formats, as the version that wrote them left them: they open, go on, and pay nothing twice.

``data/format-1-*.ledger`` and those of the formats after it were written by the last versions of these formats,
against the simulator:

- ``chat``: 12 rows of 8 texts, deduplicated, with a system prompt; two rows were asked again with another temperature;
  one row was removed from the input.
- ``cut``: three rows of which one failed, one was in flight when the run was killed, one was answered and not yet
  counted.
- ``structured``: four rows with a schema and a parameter of their own, fields in columns.
- ``vectors``: five texts, of format 2 in two requests, else in one.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from mistill import MistralEmbeddings, MistralLLM, Run
from mistill.errors import LedgerError, LedgerInUse
from mistill.ledger import LedgerReader, Selection, database
from mistill.ledger.checksums import add_checksum
from mistill.ledger.lock import LedgerLock
from mistill.ledger.migrations import STEPS
from mistill.ledger.tables import FORMAT
from mistill.runs.report import read_report
from mistill.simulator import Simulator
from mistill.testing import without_waiting

DATA = Path(__file__).parent / "data"
NAMES = ["chat", "cut", "structured", "vectors"]
FORMATS = [1, 2, 3, 4, 5]
OUTPUTS = {"chat": "out.jsonl", "cut": "out.jsonl", "structured": "out.csv", "vectors": "out.jsonl"}
CHAT_ROWS = [{"id": number, "text": f"question {number % 8}"} for number in range(12)]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


@pytest.fixture(autouse=True)
def _no_waiting() -> Iterator[None]:
    with without_waiting():
        yield


class OldLedgers:
    """Ledgers of one old format."""

    def __init__(self, number: int) -> None:
        self.format = number

    def __call__(self, name: str, folder: Path) -> Path:
        """A copy of one, beside where its run would write."""
        path = folder / f"{OUTPUTS[name]}.ledger"
        shutil.copy(DATA / f"format-{self.format}-{name}.ledger", path)
        return path


@pytest.fixture(params=FORMATS, ids=lambda number: f"format {number}")
def old_ledger(request: pytest.FixtureRequest) -> OldLedgers:
    return OldLedgers(request.param)


def format_of(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


def run_of(name: str, folder: Path, simulator: Simulator) -> Run:
    """The run that wrote the ledger, as it is written today."""
    llm: Any = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    out = folder / OUTPUTS[name]
    if name == "chat":
        llm.generation_kwargs = {"temperature": 0.0}
        texts: Any = {"prompt": "Say {{ text }}", "system": "Be brief."}
        return Run(CHAT_ROWS, llm=llm, out=out, dedupe=True, columns={"generation": "answer"}, **texts)
    if name == "cut":
        return Run([{"prompt": f"p{number}"} for number in range(3)], llm=llm, out=out)
    if name == "structured":
        llm.structured_output = {"schema": SCHEMA}
        rows = [{"who": f"w{number}", "temp": 0.1 * number} for number in range(4)]
        own = {"temperature": "temp"}
        return Run(rows, llm=llm, out=out, prompt="A profile for {{ who }}", flatten=True, row_parameters=own)
    vectors = MistralEmbeddings(endpoint=simulator.url, output_dimension=4)
    return Run([{"text": f"text {number}"} for number in range(5)], llm=vectors, out=out)


def test_there_is_a_step_from_every_format_before_this_one(old_ledger: OldLedgers) -> None:
    assert sorted(STEPS) == list(range(1, FORMAT))
    assert list(range(1, FORMAT)) == FORMATS
    assert {format_of(DATA / f"format-{old_ledger.format}-{name}.ledger") for name in NAMES} == {
        old_ledger.format
    }


@pytest.mark.parametrize("name", NAMES)
def test_an_old_ledger_goes_on_and_pays_for_nothing_again(
    name: str, tmp_path: Path, simulator: Simulator, old_ledger: OldLedgers
) -> None:
    path = old_ledger(name, tmp_path)
    report = run_of(name, tmp_path, simulator).start()
    # Of the one that was cut: what failed and what was in flight is asked again, what was answered is not.
    assert report.sent == len(simulator.requests) == {"cut": 2}.get(name, 0)
    assert (report.failures, report.pending, report.output) == (0, 0, str(tmp_path / OUTPUTS[name]))
    assert format_of(path) == FORMAT
    assert run_of(name, tmp_path, simulator).start().sent == 0


def test_what_was_paid_before_a_kill_is_in_the_output(
    tmp_path: Path, simulator: Simulator, old_ledger: OldLedgers
) -> None:
    old_ledger("cut", tmp_path)
    report = run_of("cut", tmp_path, simulator).start()
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["generation"] for record in records] == ["Echo: p0", "paid before", "Echo: p2"]
    assert report.maybe_billed == 1
    assert report.cost is not None
    assert report.cost > 0.5  # the old answer's own cost is still counted


@pytest.mark.parametrize("name", NAMES)
def test_an_old_ledger_can_be_read_without_its_run(name: str, tmp_path: Path, old_ledger: OldLedgers) -> None:
    path = old_ledger(name, tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        rows, answers = (
            connection.execute(query).fetchone()[0]
            for query in (
                "SELECT count(*) FROM rows WHERE position IS NOT NULL",
                "SELECT count(*) FROM attempts WHERE status = 'answered'",
            )
        )
    report = read_report(path)
    assert (report.rows, bool(report.starts), format_of(path)) == (rows, old_ledger.format > 1, FORMAT)
    assert (report.latency_s is not None) == (answers > 0)
    with LedgerReader(path) as reader:
        assert len(list(reader.rows())) == rows


@pytest.mark.parametrize("name", NAMES)
def test_what_is_damaged_in_an_old_ledger_later_is_noticed(
    name: str, tmp_path: Path, old_ledger: OldLedgers
) -> None:
    path = old_ledger(name, tmp_path)
    with LedgerReader(path) as reader:
        rows = list(reader.rows())
        assert reader.damages == []
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("UPDATE answers SET body = x'00'")
    with LedgerReader(path) as reader:
        damaged = [row.position for row in reader.rows() if row.damaged == "answer"]
    assert damaged == [row.position for row in rows if row.answers]


def test_the_manifest_of_an_old_ledger_says_of_which_kind_it_is(
    tmp_path: Path, old_ledger: OldLedgers
) -> None:
    (chat, vectors) = (read_report(old_ledger(name, tmp_path)) for name in ("structured", "vectors"))
    assert (chat.kind, chat.settings["prompt"]["prompt"]) == ("chat", "A profile for {{ who }}")
    assert chat.options["flatten"] is True
    assert (vectors.kind, vectors.settings["output_dimension"]) == ("embedding", 4)


def test_some_rows_of_an_old_run_are_asked_again(
    tmp_path: Path, simulator: Simulator, old_ledger: OldLedgers
) -> None:
    path = old_ledger("chat", tmp_path)
    asked = Run.retry(
        tmp_path / "out.jsonl", "row=3", parameters={"temperature": 1.0}, llm={"endpoint": simulator.url}
    )
    assert asked.start().sent == 1
    assert simulator.requests[0].body["temperature"] == 1.0
    with LedgerReader(path) as reader:
        (row,) = reader.rows(Selection.parse("row=3"))
        assert len(reader.earlier_outcomes(row.row)) == 1


def test_a_migration_that_is_cut_off_leaves_the_old_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_ledger: OldLedgers
) -> None:
    path = old_ledger("chat", tmp_path)
    step = STEPS[old_ledger.format]

    def cut(connection: sqlite3.Connection) -> None:
        step(connection)
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setitem(STEPS, old_ledger.format, cut)
    with pytest.raises(LedgerError, match="disk full"):
        read_report(path)
    assert format_of(path) == old_ledger.format
    monkeypatch.undo()
    monkeypatch.setenv("MISTRAL_API_KEY", "a-key-for-tests")
    assert read_report(path).rows == 12


def test_an_old_ledger_in_use_is_not_touched(
    tmp_path: Path, old_ledger: OldLedgers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_OTHER_READER_S", 0.1)  # another reader would be done
    path = old_ledger("chat", tmp_path)
    lock = LedgerLock(path)
    try:
        with pytest.raises(LedgerInUse):
            read_report(path)
    finally:
        lock.release()
    assert format_of(path) == old_ledger.format


def test_a_newer_format_is_refused_and_left_as_it_is(
    tmp_path: Path, simulator: Simulator, old_ledger: OldLedgers
) -> None:
    path = old_ledger("chat", tmp_path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {FORMAT + 1}")
    before = path.read_bytes()
    with pytest.raises(LedgerError, match=f"has ledger format {FORMAT + 1}.*reads formats up to {FORMAT}"):
        run_of("chat", tmp_path, simulator).start()
    assert path.read_bytes() == before


def test_what_a_kill_cut_off_outside_of_the_log_is_undone_by_a_reader(
    tmp_path: Path, old_ledger: OldLedgers
) -> None:
    """A kill in the middle of a migration's commit leaves SQLite's journal, and half the pages written."""
    path = old_ledger("chat", tmp_path)
    code = """
import os, signal, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA cache_size = 1")  # so that pages reach the file before the commit
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE records SET record = zeroblob(100000)")
connection.execute("PRAGMA user_version = 2")
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -signal.SIGKILL
    assert path.with_name(path.name + "-journal").stat().st_size > 0
    report = read_report(path)
    assert (report.rows, report.completions, report.samples[0]["text"]) == (12, 12, "question 0")
    assert format_of(path) == FORMAT


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_old_ledger_that_cannot_be_written_is_read_all_the_same(
    tmp_path: Path, old_ledger: OldLedgers
) -> None:
    path = old_ledger("chat", tmp_path)
    path.chmod(0o400)
    tmp_path.chmod(0o500)
    try:
        assert read_report(path).rows == 12
        assert format_of(path) == old_ledger.format
    finally:
        tmp_path.chmod(0o700)


def test_an_old_ledger_is_read_from_a_copy_where_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old_ledger: OldLedgers
) -> None:
    path = old_ledger("chat", tmp_path)
    before = path.read_bytes()
    monkeypatch.setattr(os, "access", lambda _, mode, **__: mode != os.W_OK)  # as it is for anybody but root
    assert (read_report(path).rows, path.read_bytes()) == (12, before)


def test_parameters_of_old_retries_become_settings_of_their_rows(
    tmp_path: Path, old_ledger: OldLedgers
) -> None:
    path = old_ledger("chat", tmp_path)
    with LedgerReader(path) as reader:
        asked_again = [row for row in reader.rows() if row.settings is not None]
        (number,) = {row.settings for row in asked_again}
        assert number is not None
        settings = json.loads(reader.retry_settings()[number])
        (earlier,) = reader.earlier_outcomes(asked_again[0].row)
        attempts = reader.attempts_of(asked_again[0].leader)
    assert settings["manifest"]["parameters"] == settings["llm"]["generation_kwargs"] == {"temperature": 0.5}
    assert settings["manifest"]["prompt"]["system"] == "Be brief."
    assert earlier.settings is None
    assert [attempt.settings for attempt in attempts] == [None, number]


def test_attempts_of_old_runs_of_vectors_are_counted_by_request(
    tmp_path: Path, old_ledger: OldLedgers
) -> None:
    assert read_report(old_ledger("vectors", tmp_path)).attempts == (2 if old_ledger.format == 2 else 1)
    assert read_report(old_ledger("cut", tmp_path)).open_attempts == 1


@pytest.mark.parametrize("name", NAMES)
def test_attempts_of_an_old_ledger_are_sound_and_what_is_changed_of_them_later_is_noticed(
    name: str, tmp_path: Path, old_ledger: OldLedgers
) -> None:
    path = old_ledger(name, tmp_path)
    before = read_report(path)
    assert before.damaged_attempts == 0
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute(
            "UPDATE attempts SET input_tokens = 1 WHERE id = (SELECT max(id) FROM attempts WHERE status = 'answered')"
        )
    report = read_report(path)
    assert (report.damaged_attempts, report.attempts) == (1, before.attempts + (name == "vectors"))
    assert report.input_tokens < before.input_tokens


def test_what_was_damaged_before_a_migration_is_damaged_after_it(tmp_path: Path) -> None:
    path = OldLedgers(2)("chat", tmp_path)  # the first that has checksums
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        add_checksum(connection)
        connection.execute("UPDATE outcomes SET finish_reason = 'stip' WHERE row = 3")
    with LedgerReader(path) as reader:
        damaged = [row.position for row in reader.rows() if row.damaged == "outcome"]
    assert damaged
