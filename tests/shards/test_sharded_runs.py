"""A run in shards: what comes out, what is read of it, and what is refused, as of a run in one ledger."""

from __future__ import annotations

import json
import math
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from mistill import InputError, LedgerError, ManifestChanged, MistralLLM, Run, export_run, read_row
from mistill.delivery.diagnostics import Snapshot
from mistill.errors import LedgerInUse
from mistill.kinds.options import RetryArguments
from mistill.ledger import LedgerReader
from mistill.ledger.checksums import add_checksum
from mistill.ledger.lock import LedgerLock
from mistill.ledger.marks import write_mark
from mistill.ledger.shard_files import plan_of, shard_of
from mistill.ledger.shards_reader import ShardsReader
from mistill.ledger.tables import START_SUM
from mistill.progress.view import View
from mistill.runs.opening import output_held
from mistill.runs.report import RunReport, last_start, read_report, rows_left
from mistill.runs.report_text import status_lines
from mistill.runs.shard_run import ShardRun
from mistill.shards.workers import Begun, Control
from mistill.simulator import Settings, Simulator
from mistill.wording import in_python

_ROWS = 60


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(Settings(latency_s=0.001)) as simulator:
        yield simulator


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": f"row {n}"}) + "\n" for n in range(_ROWS)))
    return path


def _run(source: Any, out: Path | str | None, simulator: Simulator, **options: Any) -> Run:
    llm = MistralLLM(
        model="mistral-small-latest", endpoint=simulator.url, api_key=SecretStr("a-key-for-tests")
    )
    options.setdefault("prompt", "{{ text }}")
    return Run(source, llm=llm, out=out, **options)


def _each_shard(source: Any, out: Path, simulator: Simulator, shards: int, **options: Any) -> RunReport:
    """Every shard, as so many users' processes would start them; in this one, so that it is quick."""
    for number in range(shards):
        _run(source, out, simulator, shard=f"{number}/{shards}", **options).start()
    return read_report(out)


def _ids(out: Path) -> list[int]:
    paths = sorted(out.iterdir()) if out.is_dir() else [out]
    return [json.loads(line)["id"] for path in paths for line in path.read_text().splitlines()]


def test_a_driver_works_through_all_shards_and_a_second_start_asks_nothing(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers.jsonl"
    before = simulator.answered
    report = _run(rows, out, simulator, on="processes:2", shards=3).start()
    assert (report.rows, report.completions, report.sent) == (_ROWS, _ROWS, _ROWS)
    assert report.shards is not None
    assert (report.shards.number, report.shards.finished) == (3, 3)
    assert report.is_finished
    assert _ids(out) == list(range(_ROWS))
    out.unlink()
    again = _run(rows, out, simulator, on="processes:1").start()
    assert (again.sent, simulator.answered - before) == (0, _ROWS)
    assert _ids(out) == list(range(_ROWS))
    assert len(again.starts) == 2


def test_shards_that_are_started_one_by_one_write_parts_and_are_read_as_one_run(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers"
    report = _each_shard(rows, out, simulator, 4)
    assert [path.name for path in sorted(out.iterdir())] == [f"part-{n:05}.jsonl" for n in range(4)]
    assert _ids(out) == list(range(_ROWS))
    assert (report.completions, report.to_go, len(report.starts)) == (_ROWS, 0, 4)
    results = Run.open(out)
    assert [record["generation"] for record in results.results()] == [f"Echo: row {n}" for n in range(_ROWS)]
    row = read_row(out, 41)
    assert (row.row, row.record["id"], row.outcome.answers) == (41, 41, ["Echo: row 41"])
    assert [attempt.status for attempt in row.attempts] == ["answered"]
    assert export_run(out, tmp_path / "some.csv", where="row>=29, row<32").records == 3
    assert [line.split(",")[0] for line in (tmp_path / "some.csv").read_text().splitlines()] == [
        "id",
        "29",
        "30",
        "31",
    ]
    audit = results.audit(bill=False)
    assert sum(line.requests for line in audit.lines) == _ROWS
    results.mark(41, "good")
    assert read_report(out).starts == report.starts
    with LedgerReader(tmp_path / "answers.ledger") as reader:
        assert reader.marks() == {"good": 1}
        assert reader.last_position == _ROWS - 1
        assert reader.draw_positions(_ROWS, _ROWS) == list(range(_ROWS))
        assert [row.position for row in reader.rows_at([3, 29, 30, 59])] == [3, 29, 30, 59]
        (stretch,) = reader.stretches(0, 1e11, 1)
        assert (stretch.sent, stretch.answered) == (_ROWS, _ROWS)
        (row,) = reader.rows(first=41, until=42)
        assert row.digest is not None
        assert reader.positions_of([row.digest]) == {row.digest: 41}


def test_whoever_finishes_the_last_shard_writes_the_one_file(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers.jsonl"
    for number in (2, 0):
        _run(rows, out, simulator, shard=f"{number}/3").start()
        assert not out.exists()
        report = read_report(out)
        assert not report.is_finished
        assert report.input_rows == _ROWS
    _run(rows, out, simulator, shard="1/3").start()
    assert _ids(out) == list(range(_ROWS))


def test_a_shard_that_ends_while_another_writes_the_one_file_writes_it_with_its_own_answers(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "answers.jsonl"
    monkeypatch.setattr("mistill.runs.shard_run._SAY_AFTER_S", 0.0)
    with Simulator(Settings(latency_s=0.001, poison="row 41")) as simulator:
        _each_shard(rows, out, simulator, 2)
        before = out.read_text()
        assert [row["id"] for row in map(json.loads, before.splitlines()) if row["error"]] == [41]
        simulator.change(poison=None)
        again = threading.Thread(target=_run(rows, out, simulator, shard="1/2").start, daemon=True)
        with output_held(
            str(out), tmp_path / "another.ledger"
        ):  # by one that has read before row 41 was answered
            again.start()
            deadline = time.monotonic() + 60
            while (
                "this one waits for it" not in caplog.text
                and again.is_alive()
                and time.monotonic() < deadline
            ):
                again.join(0.01)
            assert again.is_alive(), "it has left its answer out of the file"
            out.write_text(before)
        again.join(60)
    assert [row["error"] for row in map(json.loads, out.read_text().splitlines())] == [None] * _ROWS
    assert caplog.text.count("this one waits for it") == 1
    assert f"another run writes {out}" in caplog.text


@pytest.mark.parametrize("name", ["answers.jsonl", "answers"])
@pytest.mark.parametrize("again", [{"on": "processes:1"}, {"shard": "1/2"}])
def test_what_was_left_on_writing_is_cleared_away_by_a_start_that_writes_nothing(
    rows: Path, tmp_path: Path, simulator: Simulator, name: str, again: dict[str, str]
) -> None:
    out = tmp_path / name
    _each_shard(rows, out, simulator, 2)
    left = (out / "part-00001.jsonl" if out.is_dir() else out).with_suffix(".jsonl.0a1b2c3d.partial")
    left.touch()
    assert _run(rows, out, simulator, **again).start().sent == 0
    assert not left.exists()


def test_a_condition_on_rows_and_a_limit_are_of_the_whole_run(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers"
    report = _each_shard(rows, out, simulator, 4, where="id>=30", limit=7)
    assert _ids(out) == list(range(30, 37))
    assert report.is_finished
    report = _each_shard(rows, out, simulator, 4, where="id>=30")
    assert _ids(out) == list(range(30, 60))
    assert report.completions == report.attempts == 30


@pytest.mark.parametrize("is_driven", [True, False])
def test_rows_that_a_limit_leaves_out_are_not_to_go(
    is_driven: bool, rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "out"
    if is_driven:  # what it has read by then is not of all shards
        options: dict[str, Any] = {"max_tokens_total": 200, "parameters": {"max_new_tokens": 20}}
        report = _run(rows, out, simulator, on="processes:1", shards=4, limit=40, **options).start()
    else:
        for shard in (0, 2):
            _run(rows, out, simulator, shard=f"{shard}/4", limit=40).start()
        report = read_report(out)
    assert report.completions
    assert not report.is_finished
    assert (report.input_rows, report.to_go) == (40, 40 - report.completions)
    with LedgerReader(tmp_path / "out.ledger") as reader:
        assert rows_left(reader, reader.counts()) == 40 - report.completions
    assert report.shards is not None
    assert (report.shards.rows, report.shards.wanted) == (_ROWS, 40)


def test_a_retry_of_some_rows_says_nothing_of_how_many_there_are(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    options: dict[str, Any] = {"max_tokens_total": 200, "parameters": {"max_new_tokens": 20}}
    _run(rows, tmp_path / "out", simulator, on="processes:1", shards=4, **options).start()
    retry = Run.retry(tmp_path / "out", "row=0", llm={"api_key": SecretStr("k")}, system="Be brief.")
    report = retry.start()
    assert report.rows < _ROWS
    assert report.input_rows == _ROWS


def test_failed_rows_are_told_by_their_place_in_the_whole_input(tmp_path: Path, simulator: Simulator) -> None:
    source = tmp_path / "in.jsonl"
    source.write_text(
        "".join(json.dumps({"id": n, "text": "a"} if n != 17 else {"id": n}) + "\n" for n in range(20))
    )
    report = _each_shard(source, tmp_path / "answers", simulator, 4, id_column="id")
    (cause,) = report.causes
    assert (cause.count, cause.row, cause.row_id) == (1, 17, "id 17")
    with LedgerReader(tmp_path / "answers.ledger") as reader:
        assert reader.first_failures(3) == {cause.kind: [17]}


def test_rows_of_shards_that_are_not_begun_have_no_outcome_either(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    _run(rows, tmp_path / "out", simulator, shard="1/3").start()
    with pytest.raises(LedgerError, match="40 rows have no outcome"):
        export_run(tmp_path / "out", tmp_path / "all.jsonl")


@pytest.mark.parametrize("on", ["processes:2", None])
def test_a_column_that_later_shards_lack_costs_their_rows_alone(
    tmp_path: Path, simulator: Simulator, on: str | None
) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "answers"
    rows = [{"id": n, "text": "x"} | ({"topic": "y"} if n < 20 else {}) for n in range(_ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = {"prompt": "{{ topic }}: {{ text }}"}
    if on is None:
        report = _each_shard(path, out, simulator, 4, **options)
    else:
        report = _run(path, out, simulator, on=on, shards=4, **options).start()
    assert (report.completions, report.failures, report.is_finished) == (20, 40, True)
    assert [(cause.count, cause.row) for cause in report.causes] == [(40, 20)]
    assert _ids(out) == list(range(_ROWS))


@pytest.mark.parametrize("shard", range(4))
def test_a_column_that_no_row_has_is_told_of_the_first_by_every_shard(
    rows: Path, tmp_path: Path, simulator: Simulator, shard: int
) -> None:
    before = simulator.answered
    with pytest.raises(InputError, match=r"in\.jsonl line 1: the prompt template needs a column 'topic'"):
        _run(rows, tmp_path / "out", simulator, shard=f"{shard}/4", prompt="{{ topic }}").start()
    assert simulator.answered == before


def test_a_shard_whose_rows_are_all_refused_ends_nothing_where_others_were_answered(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl"
    texts = ["good"] * 30 + ["bad"] * 30 + ["good"] * 30
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with Simulator(Settings(latency_s=0.001, poison="bad")) as simulator:
        report = _each_shard(path, tmp_path / "out", simulator, 3)
    assert (report.completions, report.failures, report.pending) == (60, 30, 0)
    assert report.stopped is None


def _killed(ledger: Path) -> None:
    """As if whoever wrote its starts was killed in each."""
    with closing(sqlite3.connect(ledger)) as connection:
        add_checksum(connection)
        connection.execute("UPDATE starts SET ended_at = NULL")
        connection.execute(f"UPDATE starts SET checksum = {START_SUM}")
        connection.commit()


class Unsteered:
    """Where nobody steers the work on a shard, or looks at it."""

    def see(self, view: View, governor: Snapshot) -> None:
        pass

    def take(self, control: Control) -> None:
        pass


def test_rows_that_failed_before_a_worker_died_are_not_asked_again_by_the_next(
    rows: Path, tmp_path: Path
) -> None:
    with Simulator(Settings(latency_s=0.001, poison="row 1")) as simulator:

        def work(start: int) -> int:
            """The worker of a driver, in its start of this number; how many requests it has sent."""
            before = len(simulator.requests)
            run = _run(rows, tmp_path / "out", simulator, shard="0/1")
            assert isinstance(run, ShardRun)
            run.work(Begun(0, start=start), Unsteered())
            assert run.summary is not None
            assert run.summary.failures == 11
            return len(simulator.requests) - before

        assert work(1) == _ROWS
        _killed(shard_of(tmp_path / "out.ledger", 0))
        assert work(1) == 0
        _killed(shard_of(tmp_path / "out.ledger", 0))
        # A start of its own asks them, however many were killed before, and however many have died in it already.
        assert work(2) == 11
        _killed(shard_of(tmp_path / "out.ledger", 0))
        assert work(2) == 0
        _run(rows, tmp_path / "out", simulator, shard="0/1").start()
        assert len(simulator.requests) == _ROWS + 22


def test_another_plan_is_refused_and_so_are_other_settings(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers"
    _run(rows, out, simulator, shard="0/4").start()
    with pytest.raises(InputError, match=r"cut into 4 shards, not 5") as refused:
        _run(rows, out, simulator, shard="1/5").start()
    assert "start over with on and fresh=True" in str(refused.value.hint)
    with pytest.raises(InputError, match=r"cut into 4 shards, not 5") as refused:
        _run(rows, out, simulator, on="processes:1", shards=5).start()
    assert "start over with fresh=True" in str(refused.value.hint)
    with pytest.raises(InputError, match="of the whole run") as refused:
        _run(rows, out, simulator, shard="1/4", fresh=True)
    assert "start over with on and fresh=True" in str(refused.value.hint)
    with pytest.raises(ManifestChanged, match="answers belongs to a run with other settings: system: "):
        _run(rows, out, simulator, shard="1/4", system="Be brief.").start()
    with pytest.raises(ManifestChanged, match="answers belongs to a run with other settings: system: "):
        _run(rows, out, simulator, on="processes:1", system="Be brief.").start()
    with pytest.raises(InputError, match="where: None → 'id>3'"):
        _run(rows, out, simulator, on="processes:1", where="id>3").start()


def test_a_plan_by_which_nothing_was_sent_binds_nobody(
    rows: Path, tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "answers"
    with pytest.raises(InputError, match="needs a column 'nothing'"):
        _run(rows, out, simulator, on="processes:1", shards=4, prompt="{{ nothing }}").start()
    with rows.open("a") as file:
        file.write('{"id": 60, "text": "row 60"}\n')
    report = _run(rows, out, simulator, on="processes:1", shards=2).start()
    assert (report.completions, report.sent) == (_ROWS + 1, _ROWS + 1)
    assert "since nothing was sent yet: what was there is in" in caplog.text
    with pytest.raises(InputError, match="cut into 2 shards, not 4"):
        _run(rows, out, simulator, on="processes:1", shards=4).start()


def test_while_a_shard_is_at_work_its_run_does_not_become_another_one(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "out"
    with Simulator(Settings(outage="503")) as down:
        _run(rows, out, down, shard="0/2", deadline=0.2, on_stop="return").start()
    lock = LedgerLock(shard_of(tmp_path / "out.ledger", 0))
    for options in ({"shard": "1/2"}, {"on": "processes:1"}):
        with pytest.raises(LedgerInUse, match=r"a shard of .*out.ledger is at work in process"):
            _run(rows, out, simulator, prompt="other: {{ text }}", **options).start()
    lock.release()
    _run(rows, out, simulator, prompt="other: {{ text }}", shard="1/2").start()  # nothing was answered yet


def test_of_two_that_begin_a_run_by_other_settings_at_the_same_time_one_is_refused(
    rows: Path, tmp_path: Path
) -> None:
    with Simulator(Settings(latency_s=0.5)) as slow:
        for attempt in range(5):
            out, together = tmp_path / f"out{attempt}", threading.Barrier(2)
            refused: list[Run] = []

            def start(run: Run, together: threading.Barrier = together, refused: list[Run] = refused) -> None:
                together.wait()
                try:
                    run.start()
                except (LedgerInUse, ManifestChanged):
                    refused.append(run)

            runs = [
                _run(rows, out, slow, prompt=f"{number}: {{{{ text }}}}", shard=f"{number}/2", limit=31)
                for number in range(2)
            ]
            threads = [threading.Thread(target=start, args=(run,)) for run in runs]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(refused) == 1
            assert read_report(out).completions in (30, 1)


def test_a_fresh_start_keeps_all_shards_under_another_name(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers"
    _run(rows, out, simulator, shard="0/2").start()
    report = _run(rows, out, simulator, on="processes:1", fresh=True, system="Be brief.", shards=1).start()
    assert (report.completions, report.sent) == (_ROWS, _ROWS)
    (kept,) = tmp_path.glob("answers.ledger.bak-*")
    assert read_report(None, ledger=kept).completions == _ROWS // 2


def test_only_parts_that_the_run_wrote_are_removed(rows: Path, tmp_path: Path, simulator: Simulator) -> None:
    out = tmp_path / "out"
    _run(rows, out, simulator, on="processes:1", shards=3).start()
    own = {"part-00000.jsonl.gz", "part-00000.notes.md", "part-00007.csv"}
    for name in own:
        (out / name).write_text("of the user")
    _run(rows, out, simulator, on="processes:1", shards=3).start()
    _run(rows, out, simulator, on="processes:1", shards=2, fresh=True, output_format="csv").start()
    assert {path.name for path in out.iterdir()} == own | {"part-00000.csv", "part-00001.csv"}


def test_a_part_is_known_by_its_folder_and_by_how_the_run_left_it(
    rows: Path, tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    options: dict[str, Any] = {"on": "processes:1", "ledger": tmp_path / "run.ledgers"}
    _run(rows, one, simulator, shards=4, **options).start()
    other.mkdir()
    (other / "part-00002.jsonl").write_text("of the user")
    with pytest.raises(InputError, match="is no output of this run"):
        _run(rows, other, simulator, shard="0/1", ledger=tmp_path / "new.ledgers").start()
    _run(rows, other, simulator, shards=1, fresh=True, **options).start()
    assert _names(other) == {"part-00000.jsonl", "part-00002.jsonl"}
    (one / "part-00003.jsonl").write_text("by hand")
    caplog.clear()
    _run(rows, one, simulator, shards=2, fresh=True, **options).start()
    assert _names(one) == {"part-00000.jsonl", "part-00001.jsonl", "part-00003.jsonl"}
    (told,) = [record.getMessage() for record in caplog.records if "stay" in record.getMessage()]
    assert told.startswith(f"{one}: part-00003.jsonl stay")


def test_parts_are_known_where_output_and_ledgers_were_moved_together(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    (tmp_path / "here").mkdir()
    _run(rows, tmp_path / "here" / "out", simulator, on="processes:1", shards=3).start()
    (tmp_path / "here").rename(tmp_path / "there")
    out = tmp_path / "there" / "out"
    Run.retry(out, "row<1").start()
    _run(rows, out, simulator, on="processes:1", shards=2, fresh=True).start()
    assert _names(out) == _part_names(2)


@pytest.mark.parametrize("name", ["mine", "run.ledgers.new"])
def test_a_folder_of_somebodys_own_is_not_put_aside(
    rows: Path, tmp_path: Path, simulator: Simulator, name: str
) -> None:
    ledger = tmp_path / ("mine" if name == "mine" else "run.ledgers")
    (tmp_path / name).mkdir()
    (tmp_path / name / "letter.txt").write_text("of the user")
    with pytest.raises(InputError, match="is no folder of a run in shards") as refused:
        _run(rows, tmp_path / "out", simulator, on="processes:1", ledger=ledger, fresh=True).start()
    assert "name one that is not there yet" in str(refused.value)
    assert {path.name for path in tmp_path.iterdir()} == {name, "in.jsonl"}
    assert _names(tmp_path / name) == {"letter.txt"}


@pytest.mark.parametrize("kind", ["file", "ledger", "shards"])
def test_what_has_the_name_of_a_ledger_that_is_made_anew_is_left(
    rows: Path, tmp_path: Path, simulator: Simulator, kind: str
) -> None:
    ledger, other = tmp_path / "mine", tmp_path / "mine.new"
    _run(rows, tmp_path / "out", simulator, on="processes:1", shards=2, ledger=ledger).start()
    if kind == "file":
        other.write_text("of the user")
    else:
        placed = {"on": "processes:1", "shards": 2} if kind == "shards" else {}
        _run(rows, tmp_path / "other.jsonl", simulator, ledger=other, **placed).start()
    before = {path: path.stat().st_ino for path in (ledger, other)}
    with pytest.raises(InputError, match=r"mine\.new is there"):
        _run(rows, tmp_path / "out", simulator, on="processes:1", shards=2, ledger=ledger, fresh=True).start()
    assert {path: path.stat().st_ino for path in (ledger, other)} == before
    assert not list(tmp_path.glob("mine.bak-*"))


def _part_names(shards: int, suffix: str = "jsonl") -> set[str]:
    return {f"part-{number:05}.{suffix}" for number in range(shards)}


def _names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_parts_of_shards_that_were_started_one_by_one_are_replaced(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "out"
    starts = [_run(rows, out, simulator, shard=f"{number}/4") for number in range(4)]
    threads = [threading.Thread(target=run.start) for run in starts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert _names(out) == _part_names(4)
    (out / "part-00007.jsonl").write_text("of the user")
    _run(rows, out, simulator, on="processes:1", shards=2, fresh=True).start()
    assert _names(out) == _part_names(2) | {"part-00007.jsonl"}


def test_parts_are_known_after_a_fresh_start_that_was_refused(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out, whole = tmp_path / "out", rows.read_text()
    _each_shard(rows, out, simulator, 4)
    rows.write_text(whole + '{"id":')
    for _ in range(2):
        with pytest.raises(InputError):
            _run(rows, out, simulator, on="processes:1", shards=2, fresh=True).start()
    rows.write_text(whole)
    for shard in range(2):  # without being fresh: what was there is set aside
        assert _names(out) == _part_names(4)
        _run(rows, out, simulator, shard=f"{shard}/2").start()
    assert _names(out) == _part_names(2)
    assert _ids(out) == list(range(_ROWS))


def test_a_fresh_start_that_was_killed_as_it_set_aside_knows_the_parts(
    rows: Path, tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, folder = tmp_path / "out", tmp_path / "out.ledger"
    _each_shard(rows, out, simulator, 4)
    rename = Path.rename

    def dies(path: Path, target: Path) -> Path:
        if target == folder:
            raise KeyboardInterrupt
        return rename(path, target)

    with monkeypatch.context() as killed:
        killed.setattr(Path, "rename", dies)
        with pytest.raises(KeyboardInterrupt):
            _run(rows, out, simulator, on="processes:1", shards=2, fresh=True).start()
    assert not folder.exists()
    _run(rows, out, simulator, on="processes:1", shards=2, fresh=True).start()
    assert _names(out) == _part_names(2)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".new")]


def test_a_shard_that_writes_in_another_format_removes_its_own_part_only(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "out"
    _each_shard(rows, out, simulator, 2)
    _run(rows, out, simulator, shard="1/2", output_format="csv").start()
    assert _names(out) == {"part-00000.jsonl", "part-00001.csv"}


def test_shards_that_end_what_a_driver_began_are_what_is_said_of_the_run(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"max_tokens_total": 200, "parameters": {"max_new_tokens": 20}}
    stopped = _run(rows, out, simulator, on="processes:1", shards=4, **options).start()
    assert stopped.stopped is not None
    del options["max_tokens_total"]
    report = _each_shard(rows, out, simulator, 4, **options)
    assert (report.to_go, report.stopped, len(report.starts)) == (0, None, 5)
    assert [start.number for start in report.starts] == [1, 2, 3, 4, 5]
    assert str(out) in str(report.output)
    with LedgerReader(tmp_path / "out.ledger") as reader:
        last = last_start(reader)
    assert last is not None
    assert (last.number, last.stopped) == (5, None)
    _killed(tmp_path / "out.ledger" / "run.ledger")
    report = read_report(out)  # its parts are no starts of their own
    assert (report.has_died, report.stopped, len(report.starts)) == (False, None, 5)


def test_a_fresh_start_leaves_shards_alone_that_are_at_work(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "out"
    _run(rows, out, simulator, shard="0/2").start()
    lock = LedgerLock(shard_of(tmp_path / "out.ledger", 0))
    with pytest.raises(LedgerInUse, match="is at work in process"):
        _run(rows, out, simulator, on="processes:1", fresh=True).start()
    lock.release()
    assert len(_ids(out)) == _ROWS // 2


def test_a_fresh_start_puts_a_ledger_of_the_other_layout_aside(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out, ledger = tmp_path / "out.jsonl", tmp_path / "out.jsonl.ledger"
    _run(rows, out, simulator).start()
    with pytest.raises(InputError, match="that is not in shards") as refused:
        _run(rows, out, simulator, shard="0/2")
    assert "start over with on and fresh=True" in str(refused.value.hint)

    lock = LedgerLock(ledger)
    with pytest.raises(LedgerInUse):
        _run(rows, out, simulator, on="processes:1", fresh=True).start()
    lock.release()
    report = _run(rows, out, simulator, on="processes:1", shards=2, fresh=True).start()
    assert (report.sent, _ids(out)) == (_ROWS, list(range(_ROWS)))
    (kept,) = tmp_path.glob("out.jsonl.ledger.bak-*")
    assert read_report(None, ledger=kept).completions == _ROWS
    kept.unlink()

    with pytest.raises(InputError, match="of a run in shards") as refused:
        _run(rows, out, simulator)
    assert "start over with fresh=True" in str(refused.value.hint)
    _run(rows, out, simulator, fresh=True).dry_run()
    lock = LedgerLock(shard_of(ledger, 1))
    with pytest.raises(LedgerInUse, match="is at work in process"):
        _run(rows, out, simulator, fresh=True).start()
    lock.release()
    report = _run(rows, out, simulator, fresh=True).start()
    assert (report.sent, report.shards, _ids(out)) == (_ROWS, None, list(range(_ROWS)))
    (kept,) = tmp_path.glob("out.jsonl.ledger.bak-*")
    assert read_report(None, ledger=kept).completions == _ROWS


def test_a_fresh_start_puts_nothing_aside_that_is_no_ledger(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out, dear = tmp_path / "out.jsonl", tmp_path / "out.jsonl.ledger"
    dear.write_text("dear")
    with pytest.raises(InputError, match="is a file, and no ledger"):
        _run(rows, out, simulator, on="processes:1", fresh=True)
    assert dear.read_text() == "dear"
    dear.unlink()
    dear.mkdir()
    (dear / "plan.json").write_text("dear")
    with pytest.raises(InputError, match="is no folder of a run in shards"):
        _run(rows, out, simulator, fresh=True).start()
    assert (dear / "plan.json").read_text() == "dear"


@pytest.mark.parametrize("removed", [".", "run.ledger"])
def test_what_a_run_remembers_is_removed_while_it_goes_on(
    rows: Path, tmp_path: Path, simulator: Simulator, removed: str
) -> None:
    run = _run(rows, tmp_path / "out", simulator, on="processes:1", shards=2)
    raised: list[BaseException] = []

    def start() -> None:
        with pytest.raises(LedgerError) as found:
            run.start()
        raised.append(found.value)

    answered = simulator.answered
    simulator.change(latency_s=0.3)
    thread = threading.Thread(target=start)
    try:
        thread.start()
        simulator.wait_until(lambda: simulator.answered > answered, timeout_s=60)
        (tmp_path / "out.ledger" / removed).rename(tmp_path / "elsewhere")
        thread.join()
    finally:
        simulator.change(latency_s=0.001)
    (error,) = raised
    assert str(tmp_path / "out.ledger") in str(error)
    assert "was deleted, moved or replaced while" in str(error)
    assert "if it was moved, put it back and start the same run again" in str(error)


def test_a_sample_of_all_shards_is_forecast_for_all(rows: Path, tmp_path: Path, simulator: Simulator) -> None:
    report = _run(rows, tmp_path / "answers.jsonl", simulator, on="processes:1", shards=3, sample=9).start()
    assert report.completions == 9
    assert report.forecast is not None
    assert report.forecast.rows_left == _ROWS - 9


def test_a_dry_run_of_shards_offers_no_lanes(rows: Path, tmp_path: Path, simulator: Simulator) -> None:
    found = _run(rows, tmp_path / "out", simulator, on="processes:2").dry_run()
    assert {quote.way for quote in found.lanes} <= {"live", "live_uncached"}
    assert "lane=" not in str(found)
    assert "batch" not in str(found)


def test_a_dry_run_of_a_shard_is_of_its_rows_and_of_the_cut_that_is_there(
    rows: Path, tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out"
    assert _run(rows, out, simulator, shard="1/3").dry_run().rows == _ROWS
    assert "the input is cut by the first start: this is of all its rows, in 3 shards" in caplog.text
    assert not (tmp_path / "out.ledger").exists()
    _run(rows, out, simulator, shard="0/3").start()
    found = _run(rows, out, simulator, shard="1/3").dry_run()
    assert (found.rows, found.prompts[0].prompt[-1]["content"]) == (_ROWS // 3, f"row {_ROWS // 3}")
    assert _run(rows, out, simulator, shard="1/3", limit=25).dry_run().rows == 25 - _ROWS // 3
    for options in ({"shard": "1/4"}, {"on": "processes:1", "shards": 4}):
        with pytest.raises(InputError, match="it is cut into 3 shards, not 4"):
            _run(rows, out, simulator, **options).dry_run()
    assert _run(rows, out, simulator, on="processes:1", shards=4, fresh=True).dry_run().rows == _ROWS


def test_who_names_the_ledger_of_the_whole_means_the_run(
    rows: Path, tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "answers.jsonl"
    _each_shard(rows, out, simulator, 3)
    whole = tmp_path / "answers.jsonl.ledger" / "run.ledger"
    for path, ledger in ((whole, None), (out, whole)):
        report = read_report(path, ledger=ledger)
        assert (report.completions, report.ledger) == (_ROWS, str(whole.parent))
        assert len(list(Run.open(path, ledger=ledger).results())) == _ROWS
    assert read_row(whole, 33).record["id"] == 33
    report = _run(rows, out, simulator, on="processes:1", ledger=whole).start()
    assert (report.completions, report.sent) == (_ROWS, 0)
    monkeypatch.chdir(whole.parent)
    assert read_report("run.ledger").completions == _ROWS


def test_rows_of_a_shard_are_asked_again_by_the_run_alone(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers.jsonl"
    report = _run(rows, out, simulator, shard="0/2", parameters={"max_new_tokens": 1}).start()
    shard = shard_of(tmp_path / "answers.jsonl.ledger", 0)
    assert f"Run.retry({str(out)!r}, 'finish_reason=length', " in str(report)
    with pytest.raises(
        InputError, match="is one shard of a run, and rows are asked again of all of it"
    ) as refused:
        Run.retry(shard, "row<3")
    assert f"rows count over all shards: Run.retry({str(out)!r}, …)" in str(refused.value.hint)
    with pytest.raises(InputError, match="is the ledger of one shard"):
        _run(rows, out, simulator, on="processes:1", ledger=shard)


def test_a_folder_without_parts_yet_is_not_said_to_be_of_before(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    with Simulator(Settings(latency_s=60)) as slow:
        report = _run(rows, tmp_path / "out", slow, on="processes:1", shards=2, deadline=1, grace=0).start()
    assert not list((tmp_path / "out").iterdir())
    status = "\n".join(map(str, status_lines(report, in_python)))
    assert "of before" not in status
    assert "gets the part of each shard when that has ended" in status


def test_who_starts_a_run_in_shards_as_another_is_told_how_it_goes_on(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "out"
    _run(rows, out, simulator, shard="0/3").start()
    others: list[tuple[Path, dict[str, Any]]] = [
        (out, {}),
        (tmp_path / "other.jsonl", {"ledger": tmp_path / "out.ledger"}),
    ]
    for other, options in others:
        with pytest.raises(
            InputError, match=r"out.ledger is the ledger of a run in shards.*on=.*shard='0/3'"
        ):
            _run(rows, other, simulator, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shard": "4/4"}, "shards count from 0: the last of 4 is 3/4"),
        ({"shard": "a"}, "one of so many, such as 0/16"),
        ({"on": "processes:0"}, "it must be so many processes, such as processes:4"),
        ({"on": "processes:2", "shard": "0/2"}, "on.* works on all shards, and .*shard"),
        ({"shards": 2, "shard": "0/2"}, "says in how many"),
        ({"shards": 2}, "says in how many"),
        ({}, "is a folder, and this run writes one file"),
        ({"on": "processes:2", "lane": "batch"}, "batch jobs are the server's work"),
        ({"shard": "0/2", "sample": 3}, "is of the whole run"),
        ({"shard": "0/2", "fresh": True}, "is of the whole run"),
        ({"shard": "0/2", "max_cost": 1.0}, "is of the whole run"),
        ({"shard": "0/2", "max_tokens_total": 1}, "is of the whole run"),
    ],
)
def test_what_cannot_be_had_in_shards_is_refused_before_anything_is_sent(
    options: dict[str, Any], message: str, rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    with pytest.raises(InputError, match=message):
        _run(rows, f"{tmp_path / 'answers'}/", simulator, **options)
    assert not list(tmp_path.glob("answers*"))


@pytest.mark.parametrize(
    "options", [{"on": "processes:2"}, {"on": "processes:2", "shards": 3}, {"shard": "0/2"}]
)
def test_an_empty_input_is_said(
    options: dict[str, Any], tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    empty, out = tmp_path / "empty.jsonl", tmp_path / "answers.jsonl"
    empty.touch()
    for _ in range(2):
        assert _run(empty, out, simulator, **options).start().rows == 0
        assert caplog.messages == [f"the input is empty: {empty} has no row"]
        caplog.clear()


def test_there_are_no_more_shards_than_rows_and_tiny_ones_are_said(
    tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps({"id": n, "text": f"row {n}"}) + "\n" for n in range(3)))
    report = _run(path, out, simulator, on="processes:1", shards=100).start()
    assert report.shards is not None
    assert (report.shards.number, report.is_finished, _ids(out)) == (3, True, [0, 1, 2])
    (said,) = caplog.messages
    assert said.startswith("3 rows cut into 3 shards, of 100 that were asked for: each is a run of its own")
    assert said.endswith("leave out shards")
    caplog.clear()
    assert _run(path, out, simulator, on="processes:1", shards=100).start().sent == 0
    assert _run(path, out, simulator, on="processes:1", shards=3).start().sent == 0
    assert caplog.messages == []
    for options in ({"on": "processes:1", "shards": 4}, {"shard": "3/100"}):
        with pytest.raises(InputError, match="it is cut into 3 shards"):
            _run(path, out, simulator, **options).start()


def test_shards_need_a_place_that_all_workers_see(rows: Path, tmp_path: Path, simulator: Simulator) -> None:
    with pytest.raises(InputError, match="has to remember where each of its workers sees it"):
        _run(rows, None, simulator, on="processes:1")
    with pytest.raises(InputError, match="can be read only once") as refused:
        _run(iter([{"text": "a"}]), tmp_path / "answers", simulator, shard="0/2").start()
    assert "write it into a file" in str(refused.value.hint)
    assert "on='processes:4'" in str(refused.value.hint)
    _run(rows, tmp_path / "plain.jsonl", simulator).start()
    with pytest.raises(InputError, match="of a run that is not in shards"):
        _run(rows, tmp_path / "plain.jsonl", simulator, on="processes:1")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "dear.txt").write_text("dear")
    with pytest.raises(InputError, match="no output of this run"):
        _run(rows, tmp_path / "mine", simulator, on="processes:1").start()


def test_shards_that_were_started_one_by_one_are_steered_so(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "out"
    _each_shard(rows, out, simulator, 5)
    run = Run.open(out)
    with pytest.raises(InputError, match=r"no start of the run in .*out.ledger goes on"):
        run.control().pause()
    paths = [shard_of(tmp_path / "out.ledger", number) for number in (0, 1, 2, 4)]
    locks = [LedgerLock(path) for path in paths]
    named = "shard-00000.ledger, shard-00001.ledger, shard-00002.ledger, …"
    with pytest.raises(
        InputError, match=rf"each that is at work \({named}\) was started by itself"
    ) as refused:
        run.control().pause()
    assert str(refused.value.hint) == f"steer each by its own ledger: Run.open({str(paths[0])!r}).control()"
    for lock in locks:
        lock.release()


def test_rows_of_a_program_are_written_down_once_and_cut(tmp_path: Path, simulator: Simulator) -> None:
    given = [{"id": n, "text": f"row {n}"} for n in range(10)]
    out = tmp_path / "answers.jsonl"
    report = _run(iter(given), out, simulator, on="processes:1", shards=2).start()
    assert report.completions == 10
    assert _ids(out) == list(range(10))


def test_a_loop_over_outcomes_is_refused_with_what_to_do(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    with pytest.raises(InputError, match="come to their end in other processes"):
        iter(_run(rows, tmp_path / "answers", simulator, on="processes:1"))


def test_a_refused_key_stops_all_of_it(rows: Path, tmp_path: Path, simulator: Simulator) -> None:
    with Simulator(Settings(api_keys=frozenset({SecretStr("another")}))) as strict:
        report = _run(rows, tmp_path / "a", strict, on="processes:2", shards=4, on_stop="return").start()
    assert report.stopped is not None
    assert report.stopped.kind == "unauthorized"
    assert report.completions == 0


def test_the_command_line_works_on_a_shard_and_says_how_all_stand(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers"
    command = [sys.executable, "-m", "mistill"]
    given = [str(rows), "--out", f"{out}/", "--model", "mistral-small-latest", "--prompt", "{{ text }}"]
    server = ["--endpoint", simulator.url]
    done = subprocess.run(
        [*command, "run", *given, *server, "--shard", "0/3"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    status = subprocess.run([*command, "status", str(out)], capture_output=True, text=True, check=False)
    assert "shards: 1 of 3 finished\n" in status.stdout
    assert (
        f"{out} gets the part of each shard when that has ended; all rows by now: mistill rows"
        in status.stdout
    )
    assert f"{_ROWS} rows" in status.stdout


def test_a_retry_asks_rows_of_several_shards_again_and_writes_their_parts_anew(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers"
    _each_shard(rows, out, simulator, 4)
    before = simulator.answered
    retry = Run.retry(out, "row>=13, row<32", llm={"api_key": SecretStr("k")}, system="Be brief.")
    report = retry.start()
    assert simulator.answered - before == 19
    assert report.last_start.retry is not None
    assert (report.last_start.retry.rows, report.last_start.sent) == (19, 19)
    assert _ids(out) == list(range(_ROWS))
    asked = [row for row in range(_ROWS) if read_row(out, row).outcome.settings]
    assert asked == list(range(13, 32))
    with pytest.raises(InputError, match="there is no column 'nothing'"):
        Run.retry(out, "nothing=1")
    spent = report.input_tokens + report.output_tokens
    options: RetryArguments = {"parameters": {"max_new_tokens": 20}, "on_stop": "return"}
    options["max_tokens_total"] = spent + 40
    again = Run.retry(out, "row>=13", llm={"api_key": SecretStr("k")}, **options).start()
    assert f"max_tokens_total of {spent + 40} are used" in str(again.stopped)
    assert 40 <= again.input_tokens + again.output_tokens - spent < 40 + 15


def test_a_retry_works_on_several_shards_at_once_which_are_steered_as_one(
    rows: Path, tmp_path: Path, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "answers"
    _each_shard(rows, out, simulator, 10)
    answered = simulator.answered
    changes: RetryArguments = {"on_stop": "return", "grace": 0, "system": "Be brief."}
    llm = {"api_key": SecretStr("k"), "max_concurrent_requests": 4}
    retry = Run.retry(out, "row>=0", llm=llm, **changes)
    reports: list[RunReport] = []
    thread = threading.Thread(target=lambda: reports.append(retry.start()))
    simulator.change(latency_s=60.0)
    try:
        thread.start()
        simulator.wait_until(lambda: simulator.in_flight == 4, timeout_s=60)
        retry.set(max_concurrent_requests=20)  # more than the rows of three shards
        simulator.wait_until(lambda: simulator.in_flight == 20, timeout_s=60)
    finally:
        simulator.change(latency_s=0.001)
        retry.stop()
        thread.join()
    (report,) = reports
    assert report.stopped is not None
    assert [record.message.partition(": ")[2] for record in caplog.records if " set " in record.message] == [
        "set max_concurrent_requests 4 → 20, in each process"
    ]
    again = retry.start()
    assert (again.stopped, again.last_start.sent) == (None, _ROWS)
    assert again.last_start.max_concurrent_requests == 4
    assert simulator.answered - answered == _ROWS


@pytest.mark.parametrize("is_killed", [True, False])
def test_a_retry_that_was_cut_short_several_times_asks_each_row_once(
    is_killed: bool, rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers"
    _each_shard(rows, out, simulator, 4)
    before = simulator.answered

    def retry(system: str, **options: Any) -> RunReport:
        llm = {"api_key": SecretStr("k"), "max_concurrent_requests": 1}
        changes: dict[str, Any] = {
            "parameters": {"max_new_tokens": 20},
            "on_stop": "return",
            "system": system,
        }
        report = Run.retry(out, "row>=0", llm=llm, **changes, **options).start()
        if is_killed and report.stopped is not None:
            _killed(tmp_path / "answers.ledger" / "run.ledger")
        return report

    spent = read_report(out)
    for _ in range(2):
        more = spent.input_tokens + spent.output_tokens + 300
        spent = retry("Be brief.", max_tokens_total=more)
        assert spent.stopped is not None
    assert 30 < simulator.answered - before < _ROWS
    retry("Be brief.")
    assert simulator.answered - before == _ROWS
    retry("Be brief.")  # it had come to its end
    assert simulator.answered - before == 2 * _ROWS
    spent = read_report(out)
    retry("Be clear.", max_tokens_total=spent.input_tokens + spent.output_tokens + 300)
    before = simulator.answered
    Run.retry(out, "row<5", llm={"api_key": SecretStr("k")}, system="Be kind.").start()
    retry("Be clear.")  # another one was in between: all of it anew
    assert simulator.answered - before == 5 + _ROWS


def test_a_retry_of_one_file_writes_it_anew(rows: Path, tmp_path: Path, simulator: Simulator) -> None:
    out = tmp_path / "answers.jsonl"
    _each_shard(rows, out, simulator, 3)
    out.unlink()
    report = Run.retry(out, "row=59", llm={"api_key": SecretStr("k")}).start()
    assert (report.sent, report.output) == (1, str(out))
    assert _ids(out) == list(range(_ROWS))


def test_a_reader_of_shards_answers_every_question_of_a_reader() -> None:
    questions = {name for name in vars(LedgerReader) if not name.startswith("_")}
    shared = {"check_damages", "check_shard", "damages", "busy", "latency_counts"}
    assert questions - shared <= vars(ShardsReader).keys()


def test_latencies_of_all_shards_are_those_of_their_answers(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out, shares = tmp_path / "answers", [0.0, 0.01, 0.5, 0.9, 1.0]
    _each_shard(rows, out, simulator, 3)
    every: list[float] = []
    for path in sorted((tmp_path / "answers.ledger").glob("shard-*.ledger")):
        with LedgerReader(path) as reader:
            every += reader.latencies_s([(number + 1) / 20 for number in range(20)])
            assert sum(reader.latency_counts().values()) == 20
    every.sort()
    with LedgerReader(tmp_path / "answers.ledger") as reader:
        found = reader.latencies_s(shares)
    expected = [every[max(0, math.ceil(share * _ROWS) - 1)] for share in shares]
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_what_is_cached_of_all_shards_is_a_share_of_all_their_input(tmp_path: Path) -> None:
    path, out = tmp_path / "in.jsonl", tmp_path / "answers"
    texts = (
        ["short"] * 10 + ["bad"] * 10 + ["a text that is a good deal longer than the others are " * 9] * 10
    )
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    with Simulator(Settings(latency_s=0.001, poison="bad", cached_share=0.25)) as simulator:
        _run(path, out, simulator, shard="0/3").start()
        _run(path, out, simulator, shard="1/3").start()  # not one answer
        simulator.change(cached_share=0.75)
        _run(path, out, simulator, shard="2/3").start()
    read = cached = 0
    for number in range(3):
        with closing(sqlite3.connect(shard_of(tmp_path / "answers.ledger", number))) as ledger:
            query = "SELECT total(input_tokens), total(cached_tokens) FROM attempts WHERE status = 'answered'"
            of_shard = ledger.execute(query).fetchone()
        read, cached = read + of_shard[0], cached + of_shard[1]
    with LedgerReader(tmp_path / "answers.ledger") as reader:
        found = reader.cached_shares()
    assert (found.live, found.live_tokens) == (pytest.approx(cached / read), read)
    assert found.live > 0.7


def test_a_shard_that_begins_within_a_snapshot_is_not_in_it(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out = tmp_path / "answers"
    _run(rows, out, simulator, shard="0/3").start()
    with LedgerReader(tmp_path / "answers.ledger") as reader:
        with reader.snapshot():
            before = reader.counts(), reader.last_position, len(list(reader.rows()))
            with reader.snapshot():
                _run(rows, out, simulator, shard="1/3").start()
            assert (reader.counts(), reader.last_position, len(list(reader.rows()))) == before
            assert before[2] == 20
        assert len(list(reader.rows())) == 40


def test_a_plan_that_nobody_can_read_is_said(rows: Path, tmp_path: Path, simulator: Simulator) -> None:
    out = tmp_path / "answers"
    _run(rows, out, simulator, shard="0/2").start()
    (tmp_path / "answers.ledger" / "plan.json").write_text("{")
    with pytest.raises(LedgerError, match=r"the plan .*plan\.json cannot be read"):
        read_report(out)
    (tmp_path / "answers.ledger" / "plan.json").write_text('{"format": 2, "shards": [{"rows": 1}]}')
    with pytest.raises(LedgerError, match=r"has format 2, and this version of mistill reads format 1"):
        read_report(out)


@pytest.mark.parametrize("mistake", ["none", "negative"])
def test_a_plan_that_makes_no_sense_is_refused(
    rows: Path, tmp_path: Path, simulator: Simulator, mistake: str
) -> None:
    out = tmp_path / "answers.jsonl"
    _run(rows, out, simulator, on="processes:1", shards=3).start()
    plan = plan_of(tmp_path / "answers.jsonl.ledger")
    said = json.loads(plan.read_text())
    shards = {"negative": [{"rows": -5, "slices": []}, *said["shards"][1:]], "none": []}[mistake]
    plan.write_text(json.dumps(said | {"shards": shards}))
    looks: list[Callable[[], Any]] = [
        lambda: read_report(out),
        lambda: export_run(out, tmp_path / "to.jsonl"),
        lambda: write_mark(plan.parent, 39, "bad", None),
        lambda: _run(rows, out, simulator, on="processes:1").start(),
    ]
    for look in looks:
        with pytest.raises(LedgerError, match=r"plan\.json cannot be read"):
            look()


@pytest.mark.parametrize("whose", ["another shard", "another run"])
def test_a_ledger_in_the_place_of_a_shard_that_is_not_its_own_is_refused(
    rows: Path, tmp_path: Path, simulator: Simulator, whose: str
) -> None:
    out, other = tmp_path / "answers.jsonl", tmp_path / "other.jsonl"
    _run(rows, out, simulator, on="processes:1", shards=3).start()
    ledgers = tmp_path / "answers.jsonl.ledger"
    if whose == "another shard":
        foreign, told = shard_of(ledgers, 0), "of shard 0"
    else:
        _run(rows, other, simulator, on="processes:1", shards=3, prompt="No {{ text }}").start()
        foreign, told = shard_of(tmp_path / "other.jsonl.ledger", 1), "a run with other settings"
    kept = shard_of(ledgers, 1).read_bytes()
    shard_of(ledgers, 1).write_bytes(foreign.read_bytes())
    looks: list[Callable[[], Any]] = [
        lambda: read_report(out),
        lambda: export_run(out, tmp_path / "to.jsonl"),
        lambda: read_row(out, 25),
        lambda: list(Run.open(out).results()),
        lambda: write_mark(ledgers, 25, "bad", None),
    ]
    with pytest.raises(LedgerError, match=told):
        _run(rows, out, simulator, shard="1/3").start()
    for look in looks:
        with pytest.raises(LedgerError, match=r"shard-00001\.ledger is not the ledger of shard 1") as refused:
            look()
        assert told in str(refused.value)
    assert not (tmp_path / "to.jsonl").exists()
    shard_of(ledgers, 1).write_bytes(kept)
    assert read_report(out).completions == _ROWS
    shard_of(ledgers, 1).unlink()  # as the hint says
    assert _run(rows, out, simulator, on="processes:1").start().sent == 20
    assert _ids(out) == list(range(_ROWS))


def test_where_a_plan_is_gone_nothing_is_cut_anew(rows: Path, tmp_path: Path, simulator: Simulator) -> None:
    out, plan = tmp_path / "answers", tmp_path / "answers.ledger" / "plan.json"
    _each_shard(rows, out, simulator, 2)
    answered = simulator.answered
    plan.rename(tmp_path / "plan.json")
    gone = (
        r"answers\.ledger has ledgers of shards, and plan\.json is not there any more.*restore it from a copy"
    )
    for options in ({"shard": "0/2"}, {"on": "processes:1"}, {"on": "processes:1", "shards": 3}):
        with pytest.raises(LedgerError, match=gone):
            _run(rows, out, simulator, **options).start()
    with pytest.raises(LedgerError, match=gone):
        read_report(out)
    (tmp_path / "plan.json").rename(plan)
    assert _run(rows, out, simulator, on="processes:1").start().sent == 0
    assert simulator.answered == answered


def test_an_output_folder_that_is_lost_on_the_way_is_told_with_what_to_do(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    out, raised = tmp_path / "answers", list[InputError]()
    run = _run(rows, out, simulator, on="processes:1", shards=1)

    def start() -> None:
        with pytest.raises(InputError) as refused:
            run.start()
        raised.append(refused.value)

    simulator.change(latency_s=0.5)
    thread = threading.Thread(target=start)
    try:
        thread.start()
        simulator.wait_until(lambda: out.is_dir() and simulator.in_flight > 0, timeout_s=60)
        out.rmdir()
        thread.join()
    finally:
        simulator.change(latency_s=0.001)
    told = str(raised[0])
    assert f"there is no directory {out}" in told
    assert f"mkdir -p '{out}'; {_ROWS} rows answered so far, and kept" in told
    assert "once that is mended, start the same run again" in told


def test_after_a_ledger_that_could_not_be_read_all_are_read_again(
    rows: Path, tmp_path: Path, simulator: Simulator
) -> None:
    _each_shard(rows, tmp_path / "answers", simulator, 2)
    folder = tmp_path / "answers.ledger"
    last = shard_of(folder, 1)
    whole = last.read_bytes()
    at_work = [LedgerLock(shard_of(folder, number)) for number in range(2)]
    with ShardsReader(folder) as reader:
        last.write_bytes(b"of another kind")
        with pytest.raises(LedgerError), reader.snapshot():
            pass
        last.write_bytes(whole)
        with reader.snapshot():
            assert reader.counts().completions == _ROWS
    for lock in at_work:
        lock.release()


def test_nobody_else_may_read_what_shards_remember(tmp_path: Path, simulator: Simulator) -> None:
    folder = tmp_path / "answers.ledger"
    folder.mkdir()  # by the user, for all to see
    source = [{"id": number, "text": f"row {number}"} for number in range(4)]
    _run(source, tmp_path / "answers", simulator, on="processes:1", shards=2).start()
    kept = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert kept.keys() >= {"plan.json", "parts", "input.jsonl", "run.ledger", "shard-00001.ledger"}
    assert kept.pop("parts") == 0o700
    assert set(kept.values()) == {0o600}
