"""An alias moves from model to model: the run says so, counts whose answers are whose, and ends where it is pinned."""

from __future__ import annotations

import shlex
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
from tests.runs.conftest import MODEL, Place, sent

from mistill import MistralEmbeddings, Run
from mistill.api.dialects import MISTRAL
from mistill.api.prices import load_prices
from mistill.api.tariff import Tariff
from mistill.cli.options.wording import on_the_command_line
from mistill.errors import Stopped
from mistill.llms.generation import Server
from mistill.runs.model_watch import ModelWatch
from mistill.runs.report import AnsweredBy, RunReport, read_report
from mistill.simulator import Fault, Received, Simulator
from mistill.wording import Words, worded

OLD, NEW = "mistral-small-2603", "mistral-medium-3-5"
TEXTS = [f"row {number}" for number in range(20)]


def by_model(report: RunReport) -> dict[str | None, int]:
    return {one.model: one.answers for one in report.answers_by_model}


def chats(simulator: Simulator) -> list[Received]:
    return [request for request in simulator.requests if request.path == "/v1/chat/completions"]


@pytest.fixture
def begun(place: Place, simulator: Simulator) -> Place:
    """A run of which 12 rows are answered, by the old model; the alias moves then."""
    place.write(TEXTS)
    simulator.change(answered_by={MODEL: OLD})
    place.run(limit=12).start()
    simulator.change(answered_by={MODEL: NEW})
    return place


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if "is answered by" in record.getMessage()]


def test_answers_are_counted_by_model(begun: Place, caplog: pytest.LogCaptureFixture) -> None:
    report = begun.run().start()
    assert report.answers_by_model == [AnsweredBy(MODEL, OLD, 12), AnsweredBy(MODEL, NEW, 8)]
    assert f"answers by model: 12 {OLD}, 8 {NEW}" in str(report)
    (line,) = said(caplog)
    assert (
        f"{MODEL} is answered by {NEW} now, and no longer by {OLD}, of which this run has 12 answers" in line
    )
    assert report.describe()["answers_by_model"][0] == {"asked": MODEL, "model": OLD, "answers": 12}


def test_a_move_in_the_middle_of_a_start_is_said_once(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(TEXTS)
    simulator.change(answered_by={MODEL: OLD})
    for outcome in place.run(llm_settings={"max_concurrent_requests": 1}):
        if outcome.position == 5:
            simulator.change(answered_by={MODEL: NEW})
    report = read_report(place.out)
    assert set(by_model(report)) == {OLD, NEW}
    assert sum(by_model(report).values()) == 20
    assert len(said(caplog)) == 1


def test_an_alias_that_is_only_named_back_has_not_moved(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(TEXTS)
    report = place.run(limit=10).start()
    assert "answers by model" not in str(report)
    simulator.change(answered_by={MODEL: OLD})
    assert place.run(pin=True).start().stopped is None
    assert said(caplog) == []


def test_a_pinned_run_asks_no_other_model(begun: Place, simulator: Simulator) -> None:
    seen = len(sent(simulator))
    report = begun.run(pin=True).start()
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "moved"
    assert OLD in str(report.stopped)
    assert NEW in str(report.stopped)
    assert "without pin" in str(report)
    assert "state=pending" in str(report)
    assert report.completions == 12  # what the other one answered is paid, kept, and no row's outcome
    asked = len(sent(simulator)) - seen
    assert by_model(report) == {OLD: 12, NEW: asked}
    # Still pinned: what was paid is not taken for an answer, and what comes is refused again.
    again = begun.run(pin=True).start()
    assert again.completions == 12
    # Without it, what was paid is used.
    paid = set(sent(simulator)[seen:])
    seen = len(sent(simulator))
    assert begun.run().start().completions == 20
    assert sorted(sent(simulator)[seen:]) == sorted(set(TEXTS[12:]) - paid)


def test_a_pinned_run_goes_on_once_the_model_is_back(begun: Place, simulator: Simulator) -> None:
    begun.run(pin=True).start()
    simulator.change(answered_by={MODEL: OLD})
    report = begun.run(pin=True, extra_columns=["model"]).start()
    assert report.stopped is None
    assert {record["model"] for record in begun.records()} == {OLD}


def test_the_rows_of_the_new_model_can_be_asked_of_the_old_one(begun: Place, simulator: Simulator) -> None:
    begun.run().start()
    simulator.change(answered_by={})
    report = Run.retry(begun.out, f"model={NEW}", llm={"model": OLD}, pin=True).start()
    assert report.stopped is None
    assert AnsweredBy(OLD, OLD, 8) in report.answers_by_model
    assert "is answered by" not in str(report)


def test_a_run_that_is_killed_has_counted(place: Place, simulator: Simulator) -> None:
    simulator.change(answered_by={MODEL: OLD}, latency_s=0.05)
    place.write([f"row {number}" for number in range(5_000)])
    script = f"""
from mistill import MistralLLM, Run
llm = MistralLLM(model={MODEL!r}, endpoint={place.endpoint!r}, api_key="any")
Run({str(place.input)!r}, llm=llm, out={str(place.out)!r}, prompt="{{{{ text }}}}").start()
"""
    process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
    simulator.wait_until(lambda: len(simulator.requests) > 300)
    process.send_signal(signal.SIGKILL)
    process.wait()
    report = read_report(place.out)
    assert by_model(report) == {OLD: report.completions + _answers_without_outcome(place.ledger)}


def _answers_without_outcome(ledger: Path) -> int:
    with sqlite3.connect(ledger) as connection:
        (number,) = connection.execute(
            "SELECT count(*) FROM attempts WHERE status = 'answered' AND row NOT IN (SELECT row FROM outcomes)"
        ).fetchone()
    connection.close()
    return int(number)


@pytest.mark.parametrize(
    "change", ["DELETE FROM meta WHERE key = ?", "UPDATE meta SET value = 7 WHERE key = ?"]
)
def test_what_was_not_counted_or_is_damaged_is_counted_by_the_bodies(begun: Place, change: str) -> None:
    with sqlite3.connect(begun.ledger) as connection:
        assert connection.execute(change, ("answers_by_model",)).rowcount == 1
    connection.close()
    assert by_model(read_report(begun.out)) == {OLD: 12}  # nobody has opened it to write
    assert by_model(begun.run().start()) == {OLD: 12, NEW: 8}


def test_vectors_too(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    llm = MistralEmbeddings(model="mistral-embed", endpoint=place.endpoint)
    simulator.change(answered_by={"mistral-embed": "mistral-embed-2312"})
    place.run(llm=llm, limit=5).start()
    with sqlite3.connect(place.ledger) as connection:
        connection.execute("DELETE FROM meta WHERE key = 'answers_by_model'")
    connection.close()
    simulator.change(answered_by={"mistral-embed": "mistral-embed-2712"})
    report = place.run(llm=llm, pin=True).start()
    assert isinstance(report.stopped, Stopped)
    assert report.completions == 5
    assert by_model(report) == {"mistral-embed-2312": 5, "mistral-embed-2712": 15}
    assert place.run(llm=llm).start().completions == 20


def test_servers_that_name_no_model_are_no_matter(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:3])
    message = {"role": "assistant", "content": "fine"}
    body = {"id": "a", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    usage = {"prompt_tokens": 5, "completion_tokens": 1, "total_tokens": 6}
    simulator.script([Fault.status(200, body | {"usage": usage})] * 3)
    report = place.run(pin=True).start()
    assert report.stopped is None
    assert by_model(report) == {None: 3}
    assert "answers by model" not in str(report)


def test_batch_jobs_count_too_and_end_a_pinned_run(begun: Place, simulator: Simulator) -> None:
    report = begun.run(pin=True, lane="batch").start()
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "moved"
    assert report.completions == 12
    assert by_model(report) == {OLD: 12, NEW: 1}  # one line goes first
    assert begun.run().start().completions == 20  # what the jobs answered is paid
    assert len(chats(simulator)) == 12 + 7


def test_a_server_that_names_each_answers_node_does_not_fill_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = Server(MODEL, MISTRAL, Tariff(MODEL), None)
    watch = ModelWatch(server, {OLD: 3}, pins=False)
    for number in range(1_000):
        assert watch.see(f"node-{number}") is None
    assert 2 < len(caplog.records) < 10
    assert "by turns" in caplog.records[-1].getMessage()


def test_two_models_that_answer_by_turns_are_told_as_that(caplog: pytest.LogCaptureFixture) -> None:
    watch = ModelWatch(Server(MODEL, MISTRAL, Tariff(MODEL), None), {}, pins=False)
    for _ in range(10):
        watch.see(OLD)
        watch.see(NEW)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2
    assert f"{MODEL} is answered by {NEW} now, and no longer by {OLD}" in told[0]
    assert "by turns" in told[1]


def test_a_name_that_others_stand_behind_is_no_model_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    own = load_prices({"models": {"mistral-small-2603": {"input": 1, "output": 1, "aliases": ["small"]}}})
    watch = ModelWatch(Server("small", MISTRAL, Tariff("small", prices=own), None), {"small": 5}, pins=True)
    assert watch.see(OLD) is None
    assert watch.answers == OLD
    assert caplog.records == []


def test_a_command_that_is_advised_can_be_pasted(caplog: pytest.LogCaptureFixture) -> None:
    watch = ModelWatch(Server(MODEL, MISTRAL, Tariff(MODEL), None), {OLD: 1}, pins=False)
    watch.see("a model; rm -rf 'x'")
    (record,) = caplog.records
    assert isinstance(record.msg, Words)
    command = worded(record.msg, on_the_command_line).split("mistill retry … ")[1].split("; --pin")[0]
    assert shlex.split(command) == ["--where", "model=a model; rm -rf 'x'", "--model", OLD]


@pytest.mark.parametrize("lane", ["live", "batch"])
def test_what_a_pinned_start_has_refused_never_becomes_its_model(
    place: Place, simulator: Simulator, lane: Literal["live", "batch"]
) -> None:
    place.write([f"row {number}" for number in range(120)])
    simulator.change(answered_by={MODEL: OLD}, latency_s=0.01)
    place.run(limit=5, pin=True).start()
    simulator.change(answered_by={MODEL: NEW})
    for _ in range(4):
        report = place.run(pin=True, lane=lane).start()
        assert isinstance(report.stopped, Stopped)
        assert (report.stopped.reason, report.completions) == ("moved", 5)
    answers = by_model(read_report(place.out))
    assert answers[NEW] > answers[OLD]
    assert Run.collect_jobs(place.out).start().completions == 5  # nor by a look
    assert place.run(lane=lane).start().completions == 120


def test_a_run_whose_answers_had_the_aliass_name_is_pinned_to_the_first_model_that_is_named(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    place.run(limit=10).start()  # answered by the alias, as the server says
    simulator.change(answered_by={MODEL: OLD})
    place.run(limit=15, pin=True).start()
    simulator.change(answered_by={MODEL: NEW})
    report = place.run(pin=True).start()
    assert isinstance(report.stopped, Stopped)
    assert (report.stopped.reason, report.completions) == ("moved", 15)


def test_a_name_is_shown_and_kept_as_it_can_be(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:3])
    simulator.change(answered_by={MODEL: "\x1b[31m" + "m" * 10_000 + "\n"})
    report = place.run().start()
    (one,) = report.answers_by_model
    assert one.model is not None
    assert one.model.startswith("\\x1b[31mmm")
    assert len(one.model) < 110
    assert max(map(len, str(report).splitlines())) < 400


def test_a_model_without_a_name_is_none(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:3])
    simulator.change(answered_by={MODEL: ""})
    report = place.run(max_cost=1.0).start()
    assert (report.completions, report.stopped) == (3, None)
    assert report.cost is not None
