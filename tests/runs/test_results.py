"""What a run has answered is at hand: as records, as tables, while it goes on, after a resume, and from a path."""

from __future__ import annotations

import asyncio
import gc
import io
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library
from tests.runs.conftest import MODEL, Place, echoes

from mistill import MistralLLM, Run
from mistill.errors import (
    GenerationError,
    InputError,
    InvalidModel,
    LedgerError,
    LedgerInUse,
    ManifestChanged,
    MistillError,
    RunStopped,
    Stopped,
    Unauthorized,
)
from mistill.extras import install_command
from mistill.llms import Completion
from mistill.runs.report import read_report
from mistill.simulator import Fault, Simulator

TEXTS = [f"row {number}" for number in range(12)]
ROWS = [{"text": text, "n": number if number % 2 else None} for number, text in enumerate(TEXTS)]


# --- a run without an output ----------------------------------------------------------------------------------------


def test_a_run_without_an_output_keeps_its_answers_and_pays_once(place: Place, simulator: Simulator) -> None:
    run = place.run(ROWS, out=None)
    assert run.start().completions == 12
    assert run.start().sent == 0
    assert [record["generation"] for record in run.results()] == echoes(TEXTS)
    assert simulator.answered == 12


def test_its_ledger_is_there_as_long_as_the_run_or_a_report_of_it(place: Place) -> None:
    run: Any = place.run(ROWS, out=None)
    report: Any = run.start()
    folder = run.ledger_path.parent
    del run
    gc.collect()
    assert len(list(Run.open(report.ledger).results())) == 12
    del report
    gc.collect()
    assert not folder.exists()


CHILD = """
import os, sys
from mistill import MistralLLM, Run
llm = MistralLLM(model=sys.argv[2], endpoint=sys.argv[1])
run = Run([{"text": "a"}, {"text": "b"}], llm=llm, prompt="{{ text }}")
run.start()
if os.fork() == 0:
    print(len(list(run.results())), run.ledger_path.parent, flush=True)
    del run
    sys.exit()
os.wait()
print(len(list(run.results())))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_reads_it_and_leaves_it_to_its_parent_which_removes_it_at_its_end(
    simulator: Simulator,
) -> None:
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        "ignore::DeprecationWarning",
        "-c",
        CHILD,
        simulator.url,
        MODEL,
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    child, parent = ended.stdout.splitlines()
    assert (child.split()[0], parent, ended.stderr) == ("2", "2", "")
    assert not Path(child.split()[1]).exists()


LEFT_IN_A_CHILD = """
import os, sys
from mistill import MistralLLM, Run
llm = MistralLLM(model=sys.argv[2], endpoint=sys.argv[1], max_concurrent_requests=2)
run = Run([{"text": str(n)} for n in range(9)], llm=llm, prompt="{{ text }}")
outcomes = iter(run)
next(outcomes)
if os.fork() == 0:
    outcomes.close()
    os._exit(0)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0
print(1 + len(list(outcomes)), len(list(run.results())))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_loop_that_is_left_in_a_forked_child_goes_on_in_the_parent(simulator: Simulator) -> None:
    command = [sys.executable, "-W", "ignore", "-c", LEFT_IN_A_CHILD, simulator.url, MODEL]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.stdout == "9 9\n", ended.stderr


# --- records --------------------------------------------------------------------------------------------------------


def test_results_are_the_records_of_the_output(place: Place, simulator: Simulator) -> None:
    simulator.script([Fault.status(400)], when=lambda body: "row 3" in str(body))
    run = place.run(ROWS, columns={"generation": "answer"}, extra_columns=["cost"])
    run.start()
    assert list(run.results()) == place.records()
    assert [record["n"] for record in run.results()] == [row["n"] for row in ROWS]


def test_results_are_of_every_start(place: Place, simulator: Simulator) -> None:
    place.run(ROWS, sample=4).start()
    sampled = place.run(ROWS)
    texts = [record["text"] for record in sampled.results()]
    assert len(texts) == 4
    assert texts == [text for text in TEXTS if text in texts]
    sampled.start()
    assert list(sampled.results()) == list(Run.open(place.out).results()) == place.records()


def test_results_may_be_read_while_the_run_goes_on_and_left_at_any_time(place: Place) -> None:
    place.write([f"row {number}" for number in range(2500)])
    run = place.run()
    for number, _ in enumerate(run):
        if number == 1500:
            records = run.results()
            assert next(records)["text"] == "row 0"
            records.close()  # type: ignore[attr-defined]
    assert len(list(run.results())) == 2500


def test_a_run_that_was_never_started_says_so_at_once(place: Place) -> None:
    run = place.run(ROWS)
    for call in (run.results, run.report, run.to_arrow):
        with pytest.raises(LedgerError, match=r"never started .*run\.start\(\)"):
            call()


def test_an_outcome_is_what_goes_out(place: Place, simulator: Simulator) -> None:
    simulator.script([Fault.status(400)], when=lambda body: "row 3" in str(body))
    run = place.run(ROWS, columns={"generation": "answer"})
    outcomes = list(run)
    while_it_went_on = {outcome.position: outcome.to_record() for outcome in outcomes}
    assert [while_it_went_on[position] for position in range(12)] == place.records()
    assert "read_record" not in repr(outcomes[0])


def test_it_is_found_by_its_output_or_its_ledger(place: Place) -> None:
    place.write(TEXTS)
    place.run(ledger=place.out.with_name("elsewhere.db")).start()
    by_ledger = Run.open(place.out.with_name("elsewhere.db"))
    beside = Run.open(place.out, ledger=place.out.with_name("elsewhere.db"))
    assert list(by_ledger.results()) == list(beside.results()) == place.records()
    place.run(out=place.out.with_name("other.jsonl")).start()
    assert Run.open(place.out.with_name("other.jsonl.ledger")).out == str(place.out.with_name("other.jsonl"))
    assert read_report(place.out.with_name("other.jsonl")).completions == 12


@pytest.mark.parametrize("read", [Run.open, read_report])
def test_what_is_no_run_is_told_in_a_line(tmp_path: Path, read: Any) -> None:
    (tmp_path / "answers.jsonl").write_text('{"a": 1}\n')
    (tmp_path / "torn.ledger").write_text("no database at all")
    (tmp_path / "empty.ledger").touch()
    for name in ("answers.jsonl", "nothing.jsonl", "."):
        with pytest.raises(InputError, match=r"no run is known for .*: there is no file") as raised:
            read(tmp_path / name)
        assert raised.value.__cause__ is None
    for name in ("torn.ledger", "empty.ledger"):
        with pytest.raises(LedgerError, match="is not a ledger") as raised:
            read(tmp_path / name)
        assert raised.value.__cause__ is None


# --- tables ---------------------------------------------------------------------------------------------------------


def test_tables_have_the_types_of_their_values(place: Place) -> None:
    library("pyarrow")
    run = place.run(ROWS, out=None)
    run.start()
    table = run.to_arrow()
    kinds = {field.name: str(field.type) for field in table.schema}
    assert (kinds["n"], kinds["generation"], kinds["input_tokens"]) == ("int64", "string", "int64")
    assert table.to_pylist() == list(run.results())


def test_pandas_keeps_whole_numbers_whole_beside_nulls(place: Place) -> None:
    pandas = library("pandas")
    big = 2**60 + 1
    rows = [{"text": "a", "n": big, "b": True}, {"text": "b", "n": None, "b": None}]
    run = place.run(rows, out=None)
    run.start()
    frame: Any = run.to_pandas()
    assert (str(frame["n"].dtype), str(frame["b"].dtype)) == ("Int64", "boolean")
    assert frame["n"][0] == big
    assert frame["n"][1] is pandas.NA
    assert str(frame["input_tokens"].dtype) == "int64"
    assert frame["generation"].tolist() == ["Echo: a", "Echo: b"]


def test_polars_and_hugging_face(place: Place) -> None:
    library("polars")
    library("datasets")
    run = place.run(ROWS, out=None)
    run.start()
    frame = run.to_polars()
    assert frame.to_dicts() == list(run.results())
    dataset: Any = run.to_dataset()
    assert list(dataset) == list(run.results())
    assert dataset.filter(lambda row: row["n"] == 3)[0]["generation"] == "Echo: row 3"


def test_a_hugging_face_dataset_comes_back_with_its_features(place: Place) -> None:
    datasets: Any = library("datasets")
    image: Any = library("PIL.Image")
    buffer = io.BytesIO()
    image.new("RGB", (2, 2), (9, 8, 7)).save(buffer, format="PNG")
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "image": datasets.Image(),
            "tags": datasets.List(datasets.ClassLabel(names=["a", "b"])),
            "said": datasets.Translation(languages=["de", "en"]),
            "inner": {"kind": datasets.ClassLabel(names=["x", "y"])},
        }
    )
    picture = {"bytes": buffer.getvalue(), "path": "a.png"}
    row = {
        "label": 1,
        "image": picture,
        "tags": ["b"],
        "said": {"de": "ja", "en": "yes"},
        "inner": {"kind": "y"},
    }
    dataset = datasets.Dataset.from_list([{"text": "a"} | row, {"text": "b"} | row], features=features)
    out = place.out.with_name("out.parquet")
    run = place.run(dataset, out=out)
    run.start()
    place.run(dataset, out=out).start()  # a start that finds all done
    from_a_path = Run.open(out).to_dataset()
    again = place.run(str(out), out=place.out, earlier="first_")
    again.start()
    for found in (run.to_dataset(), from_a_path, datasets.Dataset.from_parquet(str(out)), again.to_dataset()):
        assert {name: found.features[name] for name in features} == features
        assert found[0]["image"].getpixel((0, 0)) == (9, 8, 7)
        assert found.features["label"].int2str(found[1]["label"]) == "pos"
        assert found.features["input_tokens"] == datasets.Value("int64")


@pytest.mark.parametrize(
    ("missing", "call", "command"),
    [
        ("pyarrow", "to_arrow", re.escape(install_command("arrow"))),
        ("pandas", "to_pandas", "pip install pandas"),
        ("polars", "to_polars", "pip install polars"),
        ("datasets", "to_dataset", "pip install datasets"),
    ],
)
def test_a_library_that_is_missing_is_named_with_what_installs_it(
    place: Place, monkeypatch: pytest.MonkeyPatch, missing: str, call: str, command: str
) -> None:
    run = place.run(ROWS[:1], out=None)
    run.start()
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=rf"{call}\(\) needs {missing} \({command}"):
        getattr(run, call)()


def test_a_run_that_has_just_begun_is_an_empty_one_to_whoever_looks(place: Place) -> None:
    ends: list[str] = []
    for fresh in (False, True, True):
        run, is_over = place.run(ROWS, fresh=fresh), threading.Event()

        def look(run: Run = run, is_over: threading.Event = is_over) -> None:
            while not is_over.is_set():
                try:
                    list(run.results())
                    run.report()
                except MistillError as error:
                    ends.append(str(error))

        looking = threading.Thread(target=look)
        looking.start()
        try:
            run.start()
        finally:
            is_over.set()
            looking.join()
        assert not list(place.out.parent.glob("*.new-*"))
    assert {end for end in ends if "it was never started" not in end} == set()


# --- how it ends ----------------------------------------------------------------------------------------------------


def _refused(place: Place, simulator: Simulator) -> Run:
    simulator.script([Fault.status(401)] * 12)
    return place.run(ROWS, llm_settings={"max_concurrent_requests": 1})


def test_a_refused_key_raises_and_nothing_on_an_old_file_goes_on(place: Place, simulator: Simulator) -> None:
    run = _refused(place, simulator)
    with pytest.raises(RunStopped, match=r"0 of .* rows are answered, and kept") as raised:
        run.start()
    assert isinstance(raised.value.__cause__, Unauthorized)
    assert raised.value.summary is run.summary
    assert raised.value.hint == "check the key: set MISTRAL_API_KEY, or give api_key"


def test_so_it_does_from_a_loop_and_from_a_coroutine(place: Place, simulator: Simulator) -> None:
    with pytest.raises(RunStopped):
        list(_refused(place, simulator))
    with pytest.raises(RunStopped):
        asyncio.run(_refused(place, simulator).astart())


def test_an_unknown_model_raises(place: Place) -> None:
    llm = MistralLLM(model="no-such-model", endpoint=place.endpoint)
    with pytest.raises(RunStopped) as raised:
        place.run(ROWS, llm=llm).start()
    assert isinstance(raised.value.__cause__, InvalidModel)
    report = place.run(ROWS, llm=llm, on_stop="return").start()
    assert isinstance(report.stopped, InvalidModel)


def test_what_was_asked_for_returns(place: Place) -> None:
    assert place.run(ROWS, sample=3).start().completions == 3
    assert isinstance(place.run(ROWS, max_tokens_total=1).start().stopped, Stopped)


INTERRUPTED = """
import asyncio, sys
from mistill import MistralLLM, Run
llm = MistralLLM(model=sys.argv[2], endpoint=sys.argv[1], max_concurrent_requests=4)
rows = [{"text": str(n)} for n in range(40)]
run = Run(rows, llm=llm, prompt="{{ text }}", on_stop=sys.argv[4], grace=3600)
async def main():
    run.start()
ways = {
    "start": run.start,
    "loop": lambda: list(run),
    "astart": lambda: asyncio.run(run.astart()),
    "start in a loop": lambda: asyncio.run(main()),
}
try:
    ways[sys.argv[3]]()
    print("returned", end=" ")
except KeyboardInterrupt:
    print("interrupted", end=" ")
print(run.summary.stopped.reason, run.summary.completions, run.summary.maybe_billed, len(list(run.results())))
"""


@pytest.mark.parametrize(
    ("way", "on_stop", "end"),
    [
        ("start", "raise", "interrupted interrupted"),
        ("start", "return", "returned interrupted"),
        ("loop", "raise", "interrupted interrupted"),
        ("loop", "return", "returned interrupted"),
        ("astart", "raise", "interrupted cancelled"),
        ("start in a loop", "raise", "interrupted interrupted"),
    ],
)
def test_ctrl_c_waits_for_what_was_paid_and_then_raises(
    simulator: Simulator, way: str, on_stop: str, end: str
) -> None:
    simulator.change(latency_s=0.5)
    command = [sys.executable, "-W", "error", "-c", INTERRUPTED, simulator.url, MODEL, way, on_stop]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        simulator.wait_until(lambda: simulator.in_flight > 0)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    how, reason, completions, maybe_billed, results = out.split()
    assert f"{how} {reason}" == end, err
    assert (int(completions), int(results), maybe_billed) == (simulator.answered, simulator.answered, "0")


async def test_astart_leaves_the_loop_to_others(place: Place, simulator: Simulator) -> None:
    simulator.change(latency_s=0.2)
    first, second = place.run(ROWS, out=None), place.run(ROWS, out=None)
    reports = await asyncio.gather(first.astart(), second.astart(), asyncio.sleep(0))
    assert [report.completions for report in reports if report] == [12, 12]


async def test_a_cancelled_astart_waits_for_what_is_in_flight(place: Place, simulator: Simulator) -> None:
    simulator.change(latency_s=0.3)
    run = place.run(ROWS, out=None, llm_settings={"max_concurrent_requests": 2}, grace=3600.0)
    task = asyncio.create_task(run.astart())
    await asyncio.to_thread(simulator.wait_until, lambda: simulator.in_flight > 0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert run.summary is not None
    assert (run.summary.completions, run.summary.maybe_billed) == (simulator.answered, 0)
    simulator.change(latency_s=0)
    assert (await run.astart()).completions == 12
    assert simulator.answered == 12


async def test_a_timeout_of_astart_cuts_off_what_outlasts_its_grace(
    place: Place, simulator: Simulator
) -> None:
    simulator.change(latency_s=3600)
    run = place.run(ROWS, out=None, grace=0.05)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await run.astart()
    assert run.summary is not None
    assert run.summary.maybe_billed == run.summary.sent > 0


def test_a_stop_while_it_is_starting_is_a_stop(place: Place, simulator: Simulator) -> None:
    async def main() -> None:
        task = asyncio.create_task(run.astart())
        await asyncio.sleep(0)  # it has begun, and no more
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run = place.run(ROWS, out=None)
    asyncio.run(main())
    assert run.summary is not None
    assert run.summary.completions == simulator.answered < 12


def test_one_object_is_one_run_at_a_time(place: Place) -> None:
    run = place.run(ROWS)
    outcomes: Any = iter(run)
    next(outcomes)
    with pytest.raises(LedgerInUse, match="going on already"):
        run.start()
    outcomes.close()
    assert run.start().completions == 12


# --- as it is shown -------------------------------------------------------------------------------------------------


def test_a_report_prints_as_on_the_command_line_and_shows_in_a_notebook_escaped(
    place: Place, simulator: Simulator
) -> None:
    simulator.script(["<script>alert(1)</script>"])
    run: Any = place.run(ROWS[:1])
    assert "not started" in run._repr_html_()
    report: Any = run.start()
    lines = str(report).splitlines()
    assert lines[0] == "1 row: 1 answered"
    assert lines[-2:] == [f"output: {place.out}", f"ledger: {place.ledger}"]
    for shown in (report._repr_html_(), run._repr_html_(), Run.open(place.out)._repr_html_()):  # type: ignore[attr-defined]
        assert "1 row: 1 answered" in shown
        assert "&lt;script&gt;alert(1)" in shown
        assert "<script" not in shown


def test_a_report_says_what_to_do_in_the_words_of_python(place: Place, simulator: Simulator) -> None:
    simulator.script([Fault.status(400)], when=lambda body: "row 3" in str(body))
    report = place.run(ROWS).start()
    assert "the same run again asks failed rows again" in str(report)
    assert "mistill rows" not in str(report)


def test_a_completion_shows_its_text_and_not_its_body(place: Place) -> None:
    completion: Any = Completion(text="a <b>bold</b> answer", raw=b"x" * 1000, finish_reason="stop")
    assert "xxx" not in repr(completion)
    assert "text='a <b>bold</b> answer'" in repr(completion)
    assert "a &lt;b&gt;bold&lt;/b&gt; answer" in completion._repr_html_()


def test_what_a_notebook_shows_is_short_and_turns_nothing(place: Place, simulator: Simulator) -> None:
    long = "\u202egnp.exe \x1b[2J" + "x" * 1_000_000
    completion: Any = Completion(text=long, model="\u202em")
    simulator.script([long])
    run: Any = place.run(ROWS[:1])
    report: Any = run.start()
    for shown in (completion._repr_html_(), report._repr_html_(), run._repr_html_()):
        assert r"\u202egnp.exe \x1b[2J" in shown
        assert "\u202e" not in shown
        assert len(shown) < 50_000


def test_rows_count_from_0_in_every_message(place: Place) -> None:
    rows: list[Any] = [{"text": "fine"}, {"text": None}]
    report = place.run(rows).start()
    assert report.causes[0].row == 1
    assert "row 1 of the list" in report.causes[0].error.message
    with pytest.raises(GenerationError, match="the first is row 1"):
        place.llm().generate(["fine", [{"role": "user", "content": "x" * 10_000_000}]])


def test_another_setting_is_named_as_it_is_given(place: Place) -> None:
    place.write(TEXTS)
    place.run().start()
    with pytest.raises(ManifestChanged) as raised:
        place.run(parameters={"max_new_tokens": 5}).start()
    assert "max_new_tokens: none → 5" in str(raised.value)
    assert "fresh=True" in str(raised.value)
