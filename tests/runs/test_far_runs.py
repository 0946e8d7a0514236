"""Runs whose input or output is elsewhere: their ledgers stay on this machine."""

from __future__ import annotations

import json
import logging
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.databases import PostgreSQL, Tables
from tests.libraries import library
from tests.runs.conftest import MODEL, Place, echoes, sent
from tests.stores import BUCKET, S3, Web

from mistill import Run, export_run
from mistill.cli import main
from mistill.datasets import far_places
from mistill.errors import InputError, LedgerInUse, MistillError
from mistill.kinds.kept_settings import find_run, ledger_beside, output_of
from mistill.ledger.lock import LedgerLock
from mistill.simulator import Simulator
from mistill.steering.client import Control

OUT = f"s3://{BUCKET}/team a/out.jsonl"
TEXTS = ["one", "two", "three"]


@pytest.fixture(autouse=True)
def _state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTILL_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setattr(far_places, "WAITS_S", (0.0,))


@pytest.fixture
def python_handles_it() -> Iterator[None]:
    """What runs the tests may ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def lines(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def answers(s3: S3) -> list[str]:
    return [json.loads(line)["generation"] for line in s3.get("team a/out.jsonl").splitlines()]


def test_a_run_from_a_store_to_a_store_goes_on_where_it_was(
    place: Place,
    s3: S3,
    simulator: Simulator,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    source = s3.put("in.jsonl", lines(TEXTS[:2]))
    run = place.run(source, out=OUT)
    run.start()
    assert answers(s3) == echoes(TEXTS[:2])
    assert run.ledger_path == tmp_path / "state/ledgers/s3/bucket/team a/out.jsonl.ledger"
    assert run.ledger_path.parent.stat().st_mode & 0o777 == 0o700
    assert f"its run remembers on this machine, in {run.ledger_path}" in caplog.text

    caplog.clear()
    monkeypatch.chdir(tmp_path / "state")  # found from anywhere
    s3.put("in.jsonl", lines(TEXTS))
    place.run(source, out=OUT).start()
    assert answers(s3) == echoes(TEXTS)
    assert sent(simulator) == TEXTS
    assert "s3://bucket/in.jsonl is not what it was at the last start" in caplog.text
    assert "remembers" not in caplog.text


def test_a_ledger_stays_where_it_is_wanted(place: Place, s3: S3, tmp_path: Path) -> None:
    place.write(TEXTS)
    run = place.run(out=OUT, ledger=tmp_path / "mine.ledger")
    run.start()
    assert (tmp_path / "mine.ledger").is_file()
    assert not (tmp_path / "state").exists()
    assert [record["text"] for record in Run.open(OUT, ledger=tmp_path / "mine.ledger").results()] == TEXTS


def test_a_key_that_no_file_could_be_called_is_an_output(place: Place, s3: S3) -> None:
    place.write(TEXTS)
    out = f"s3://{BUCKET}/{'x' * 300}.jsonl"
    place.run(out=out).start()
    assert place.run(out=out).start().sent == 0
    assert [record["text"] for record in Run.open(out).results()] == TEXTS


def test_an_output_of_another_machine_is_not_replaced(place: Place, s3: S3) -> None:
    place.write(TEXTS)
    s3.put("team a/out.jsonl", b"dear\n")
    with pytest.raises(InputError, match=r"exists.*another machine, bring its ledger from there.*ledger="):
        place.run(out=OUT).start()
    place.run(out=OUT, fresh=True).start()
    assert answers(s3) == echoes(TEXTS)


def test_one_run_at_a_time_writes_an_output(place: Place, s3: S3, tmp_path: Path) -> None:
    place.write(TEXTS)
    beside = ledger_beside(OUT)
    beside.parent.mkdir(parents=True)
    lock = LedgerLock(beside)
    with pytest.raises(LedgerInUse, match="another run writes s3://"):
        place.run(out=OUT, ledger=tmp_path / "mine.ledger").start()
    lock.release()


def test_an_input_is_no_output(place: Place, s3: S3) -> None:
    source = s3.put("team a/out.jsonl", lines(TEXTS))
    with pytest.raises(InputError, match="is an input"):
        place.run(source, out=OUT)
    with pytest.raises(InputError, match="is an input"):
        place.run(f"s3://{BUCKET}/team a/*.jsonl", out=OUT)


@pytest.mark.parametrize(
    "address",
    [
        OUT,
        "s3://b//a/../x/.jsonl",
        "az://c/50% é?.jsonl",
        "hf://datasets/me/it@v1/a.parquet",
        "gs://b/a:b|c.csv",
        f"s3://b/{'é' * 300}/{'x' * 900}.jsonl",
    ],
)
def test_a_ledger_says_whose_it_is(address: str) -> None:
    ledger = ledger_beside(address)
    assert ".." not in ledger.parts
    assert output_of(ledger) == address
    ledger.parent.mkdir(parents=True)
    ledger.touch()
    assert find_run(address) == find_run(ledger) == (address, ledger)


def test_exports_and_retries_write_where_they_are_told(place: Place, s3: S3) -> None:
    place.write(TEXTS)
    run = place.run(out=OUT)
    run.start()
    export_run(OUT, f"s3://{BUCKET}/out.csv", keep=["generation"])
    assert s3.get("out.csv").decode().splitlines() == ["generation", *echoes(TEXTS)]
    with pytest.raises(InputError, match="exists"):
        export_run(OUT, f"s3://{BUCKET}/out.csv")
    run.retry("row=1", prompt="again {{ text }}").start()
    assert answers(s3) == echoes(["one", "again two", "three"])


def test_an_upload_that_fails_costs_no_answer(
    place: Place,
    s3: S3,
    simulator: Simulator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.write(TEXTS)
    s3fs = library("s3fs")
    with monkeypatch.context() as broken:
        call = s3fs.S3FileSystem._call_s3

        async def failing(self: Any, method: str, *args: Any, **settings: Any) -> Any:
            if method == "put_object":
                raise ConnectionResetError("reset by peer")
            return await call(self, method, *args, **settings)

        broken.setattr(s3fs.S3FileSystem, "_call_s3", failing)
        with pytest.raises(Exception, match=r"could not be written: reset by peer \(no answer is lost"):
            place.run(out=OUT).start()
    assert s3.names() == []
    place.run(out=OUT).start()
    assert answers(s3) == echoes(TEXTS)
    assert len(simulator.requests) == 3


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals go to no thread here")
@pytest.mark.usefixtures("python_handles_it")
def test_while_an_output_is_sent_there_is_nothing_to_steer_and_ctrl_c_leaves_it(
    place: Place,
    web: Web,
    simulator: Simulator,
) -> None:
    place.write(TEXTS)
    run, told, is_over = place.run(out=f"{web.url}/out.jsonl"), list[str](), threading.Event()

    def order_and_interrupt() -> None:
        web.while_put = None
        try:
            Control(run.ledger_path, begins_within_s=0).pause()
        except InputError as error:
            told.append(str(error))
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        is_over.wait(30)

    web.while_put = order_and_interrupt
    with pytest.raises(KeyboardInterrupt, match="3 answered"):
        run.start()
    is_over.set()
    assert "its output is being written (there is nothing left to steer" in told[0]
    assert run.summary is not None
    assert run.summary.stopped is not None
    assert run.summary.stopped.message == "interrupted while the output was written"
    assert place.run(out=f"{web.url}/out.jsonl").start().stopped is None
    assert len(simulator.requests) == 3


def test_an_input_that_breaks_off_keeps_what_was_answered(
    place: Place,
    web: Web,
    simulator: Simulator,
) -> None:
    texts = [f"{number} " + "x" * 40_000 for number in range(200)]
    address = web.has("/in.jsonl", lines(texts))
    run = place.run(address, prompt="{{ text.split()[0] }}", on_stop="return")
    web.breaks_from, given_up_s = 4_000_000, time.monotonic() + 10

    def wait() -> None:
        while not simulator.requests and time.monotonic() < given_up_s:
            time.sleep(0.01)

    web.wait_to_break = wait
    report = run.start()
    web.breaks_from = None
    assert "the connection broke after" in str(report.stopped)
    before = len(simulator.requests)
    assert 0 < before < 200
    report = place.run(address, prompt="{{ text.split()[0] }}").start()
    assert (report.completions, len(simulator.requests)) == (200, 200)


def test_no_secret_is_in_what_a_run_says_or_keeps(
    place: Place,
    web: Web,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    secret = "s3cr3t-of-a-signature"
    web.has("/in.jsonl", lines(TEXTS))
    host = web.url.removeprefix("http://")
    addresses = [f"http://me:{secret}@{host}/{name}.jsonl?X-Amz-Signature={secret}" for name in ("in", "out")]
    web.statuses["/out.jsonl"] = 403
    given = [
        "--out",
        addresses[1],
        "--model",
        MODEL,
        "--endpoint",
        place.endpoint,
        "--prompt",
        "{{ text }}",
        "--json",
    ]
    assert main(["run", addresses[0], *given]) == 3
    del web.statuses["/out.jsonl"]
    assert main(["run", addresses[0], *given]) == 0
    assert len(web.files["/out.jsonl"].splitlines()) == 3
    assert main(["status", addresses[1]]) == 0
    told = capfd.readouterr()
    assert secret not in told.out + told.err
    kept = [path for path in tmp_path.rglob("*") if path.is_file() or path.is_dir()]
    assert any(path.name == "out.jsonl.ledger" for path in kept)
    for path in kept:
        assert secret not in str(path)
        assert path.is_dir() or secret.encode() not in path.read_bytes()


def test_a_secret_is_in_no_repr_or_log(
    place: Place,
    web: Web,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, logger="mistill")
    web.has("/in.jsonl", lines(TEXTS))
    run = place.run(f"{web.url}/in.jsonl?sig=s3cr3t", out=f"{web.url}/out.jsonl?sig=s3cr3t")
    report = run.start()
    assert "s3cr3t" not in f"{run!r}{run.out}{report}{run._repr_html_()}{caplog.text}"


# --- databases --------------------------------------------------------------------------------------------------------


def test_a_run_from_a_table_to_a_table_goes_on_where_it_was(
    place: Place,
    tables: Tables,
    simulator: Simulator,
    tmp_path: Path,
) -> None:
    library("pyarrow")
    tables.execute("CREATE TABLE rows (id integer PRIMARY KEY, text text)")
    tables.execute("INSERT INTO rows VALUES (1, 'one'), (2, 'two')")
    run = place.run(tables.address("rows"), out=tables.address("answers"))
    run.start()
    assert tables.execute("SELECT id, generation FROM answers ORDER BY id") == [
        (1, "Echo: one"),
        (2, "Echo: two"),
    ]
    is_elsewhere = tables.database.startswith("postgresql")
    assert run.ledger_path.is_relative_to(tmp_path / "state") is is_elsewhere
    assert is_elsewhere or run.ledger_path.name.endswith(".answers.ledger")

    tables.execute("INSERT INTO rows VALUES (3, 'three')")
    tables.execute("DELETE FROM rows WHERE id = 1")
    place.run(tables.address("rows"), out=tables.address("answers")).start()
    assert tables.execute("SELECT id, generation FROM answers ORDER BY id") == [
        (2, "Echo: two"),
        (3, "Echo: three"),
    ]
    assert sorted(sent(simulator)) == sorted(TEXTS)

    with pytest.raises(InputError, match="exists"):
        place.run(
            tables.address("rows"), out=tables.address("answers"), ledger=tmp_path / "other.ledger"
        ).start()
    with pytest.raises(InputError, match="is an input"):
        place.run(tables.address("rows"), out=tables.address("rows"))


def test_the_run_of_a_table_in_a_file_is_found_by_what_people_type(
    place: Place,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    place.write(TEXTS)
    out = "sqlite:///crm.db?table=labels"
    place.run(out=out).start()
    assert f"{out} is a table, and its run remembers in crm.db.labels.ledger" in caplog.text
    caplog.clear()
    place.run(out=out).start()
    assert "remembers" not in caplog.text  # it was said
    for name in (out, "crm.db.labels.ledger"):
        assert find_run(name)[1] == Path("crm.db.labels.ledger")
    for name in ("crm.db", "sqlite:///crm.db", "sqlite:///crm.db?table=lables"):
        with pytest.raises(
            InputError, match=rf"no run is known for {re.escape(name)}.*name it: {re.escape(out)}"
        ):
            find_run(name)
    place.run(out="sqlite:///crm.db?table=of%20mails").start()
    with pytest.raises(InputError, match=r"one of them: .*table=labels, sqlite:///crm.db\?table=of mails"):
        find_run("crm.db")


@pytest.mark.parametrize("is_sharded", [False, True])
def test_a_table_that_cannot_have_the_columns_is_refused_before_the_first_request(
    place: Place, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, is_sharded: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "one", "Error": 1}\n')
    how = {"on": "processes:1"} if is_sharded else {}
    for given in ({}, {"drop": ["Error"], "columns": {"generation": "Text"}}, {"earlier": "first_"}):
        with pytest.raises(InputError, match=r"duplicate column name: (error|Text) .*leave columns out"):
            place.run("rows.jsonl", out="sqlite:///a.db?table=t", **given, **how)
    for given in ({"drop": ["Error"]}, {"columns": {"error": "why"}}, {"keep": ["text", "generation"]}):
        place.run("rows.jsonl", out="sqlite:///a.db?table=t", **given, **how)
    assert sent(simulator) == []
    assert not Path("a.db").exists()


def test_columns_of_later_rows_that_a_table_cannot_have_cost_no_answer(
    place: Place, simulator: Simulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.jsonl").write_text('{"text": "one"}\n{"text": "two", "Text": 1}\n')
    out = "sqlite:///a.db?table=t"
    with pytest.raises(MistillError, match=r"duplicate column name: Text .*no answer is lost.*drop"):
        place.run("rows.jsonl", out=out).start()
    asked = len(sent(simulator))
    place.run("rows.jsonl", out=out, drop=["Text"]).start()
    assert len(sent(simulator)) == asked
    assert export_run(out, "duckdb:///b.duckdb?table=t", keep=["generation"]).records == 2


def test_the_password_of_a_database_is_in_no_ledger_or_report(
    place: Place,
    postgresql: Tables,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    postgresql.execute("CREATE TABLE rows AS SELECT 'one' AS text")
    model = ["--model", MODEL, "--endpoint", place.endpoint, "--prompt", "{{ text }}"]
    out = postgresql.address("answers")
    assert main(["run", postgresql.address("rows"), "--out", out, *model]) == 0
    assert main(["status", out, "--json"]) == 0
    told = capfd.readouterr()
    assert PostgreSQL.PASSWORD not in told.out + told.err
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()]
    assert files
    for path in files:
        assert PostgreSQL.PASSWORD.encode() not in path.read_bytes() + str(path).encode()


def test_what_looks_at_runs_finds_one_whose_output_is_elsewhere(
    place: Place,
    s3: S3,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from mistill.viewer.catalogue import Catalogue

    monkeypatch.chdir(tmp_path)
    place.write(TEXTS)
    place.run(out=OUT).start()
    assert Catalogue(OUT).single is not None
    assert main(["report", OUT]) == 0
    assert (tmp_path / "out.report.html").is_file()
