"""Runs by batch jobs: the same run, at half the price."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import Any

import pytest
from pydantic import BaseModel
from tests.runs.conftest import Place, echoes

from mistill import Run, RunReport
from mistill.errors import RunStopped, Stopped
from mistill.llms import MistralEmbeddings
from mistill.simulator import Fault, Settings, Simulator
from mistill.simulator.catalogue import vector

TEXTS = [f"text {number}" for number in range(30)]


def chat_requests(simulator: Simulator) -> list[str]:
    """The prompts that were asked live."""
    return [
        request.body["messages"][-1]["content"]
        for request in simulator.requests
        if request.path == "/v1/chat/completions"
    ]


def jobs_made(simulator: Simulator) -> int:
    return sum(
        request.path == "/v1/batch/jobs" and request.method == "POST" and request.status == 200
        for request in simulator.requests
    )


def start(place: Place, **settings: Any) -> RunReport:
    return place.run(**({"lane": "batch"} | settings)).start()


def test_rows_are_answered_by_jobs_at_half_the_price(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    report = start(place)
    assert place.answers() == echoes(TEXTS)
    assert (report.completions, report.failures, report.with_server) == (30, 0, 0)
    assert chat_requests(simulator) == []
    assert set(simulator.billed_ids().values()) == {1}
    live = place.run(out=place.out.with_name("live.jsonl")).start()
    assert report.cost == pytest.approx(live.cost / 2)
    assert report.output_tokens == live.output_tokens


def test_a_further_start_sends_nothing_and_the_lane_may_change(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:10])
    start(place)
    place.write(TEXTS[:20])
    start(place, lane="live")
    assert chat_requests(simulator) == TEXTS[10:20]
    place.write(TEXTS)
    start(place)
    jobs = jobs_made(simulator)
    start(place)
    start(place, lane="live")
    assert jobs_made(simulator) == jobs == 2
    assert chat_requests(simulator) == TEXTS[10:20]
    assert place.answers() == echoes(TEXTS)
    assert sum(simulator.billed_ids().values()) == 20


def test_nothing_of_ours_is_left_behind(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    start(place)
    assert simulator.stats().batch.files == 0
    assert sorted(path.name for path in place.out.parent.iterdir()) == [
        "in.jsonl",
        "out.jsonl",
        "out.jsonl.ledger",
    ]


class Mail(BaseModel):
    subject: str
    urgent: bool


def test_an_answer_that_does_not_fit_is_asked_again_live_and_all_tokens_are_counted(
    place: Place, simulator: Simulator
) -> None:
    place.write(["a", "b"])
    simulator.script(["no JSON at all"], when=lambda body: body["messages"][-1]["content"] == "a")
    report = start(place, llm=place.llm(structured_output={"schema": Mail}))
    assert report.completions == 2
    assert len(chat_requests(simulator)) == 1
    first, second = place.records()
    assert json.loads(first["generation"]).keys() == {"subject", "urgent"}
    assert first["input_tokens"] > second["input_tokens"]
    assert first["output_tokens"] > second["output_tokens"]


def test_lines_that_may_succeed_are_asked_again_and_others_fail_with_the_words_of_the_server(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    simulator.script([Fault.status(500)], when=lambda body: body["messages"][-1]["content"] == "text 3")
    simulator.script(
        [Fault.status(422, {"message": "no such thing"})] * 9,
        when=lambda body: body["messages"][-1]["content"] == "text 5",
    )
    report = start(place)
    assert (report.completions, report.failures) == (29, 1)
    assert chat_requests(simulator) == ["text 3"]
    assert "no such thing" in place.records()[5]["error"]


def test_many_that_may_succeed_go_into_another_job(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.script([Fault.status(503)] * 20, when=lambda body: True)
    report = start(place, batch_tail=0)
    assert report.completions == 30
    assert chat_requests(simulator) == []
    assert jobs_made(simulator) == 2


def test_what_no_wait_has_sent_the_same_run_takes_over(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_line_s=0.01)
    place.write(TEXTS)
    report = start(place, wait=False)
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "waiting"
    assert (report.with_server, report.completions) == (30, 0)
    report = start(place)
    assert report.completions == 30
    assert jobs_made(simulator) == 1
    assert place.answers() == echoes(TEXTS)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_errors_in": "output_file", "batch_error_line": 0.3},
        {"batch_duplicate": 0.5},
        {"batch_text_body": 0.5},
        {"batch_download_cut": 0.4},
        {"batch_busy": 0.2},
        {"batch_upload_lost": 0.5},
        {"batch_unknown_state": "running"},
        {"batch_unknown_state": "ended"},
        {"batch_filter": "ignored", "batch_list_lag_s": 0.05},
        {"batch_create_lost": 0.5},
        {"batch_wrong_counts": True},
        {"batch_body_needs_model": True},
    ],
)
def test_whatever_the_server_does_each_row_is_answered_and_billed_once(
    place: Place, simulator: Simulator, settings: dict[str, Any]
) -> None:
    simulator.change(**settings)
    place.write(TEXTS)
    report = start(place)
    assert (report.completions, report.failures) == (30, 0)
    assert place.answers() == echoes(TEXTS)
    assert set(simulator.billed_ids().values()) <= {1}
    billed = sum(simulator.billed_ids().values()) + len(chat_requests(simulator))
    assert billed <= 30 + report.maybe_billed


@pytest.mark.parametrize("fault", ["batch_missing", "batch_no_id", "batch_unknown_id", "batch_broken_line"])
def test_lines_that_never_come_may_be_billed_and_are_asked_again(
    place: Place, simulator: Simulator, fault: str
) -> None:
    simulator.change(**{fault: 0.2})
    place.write(TEXTS)
    report = start(place)
    assert report.completions == 30
    billed = sum(simulator.billed_ids().values()) + len(chat_requests(simulator))
    assert 30 < billed <= 30 + report.maybe_billed


def test_vectors_come_by_jobs_too_many_texts_a_line(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    llm = MistralEmbeddings(model="mistral-embed", endpoint=simulator.url)
    report = Run(place.input, llm=llm, out=place.out, lane="batch").start()
    assert report.completions == 30
    assert [record["embedding"] for record in place.records()] == [vector(text, 1024) for text in TEXTS]
    assert sum(simulator.billed_ids().values()) == 1


def test_a_wrong_parameter_fails_the_first_lines_only(place: Place, simulator: Simulator) -> None:
    place.write([f"text {number}" for number in range(150)])
    simulator.change(poison="text")
    with pytest.raises(RunStopped, match="alike"):
        start(place)
    assert sum(simulator.stats().batch.jobs.values()) == 1


def test_no_key_is_in_what_is_uploaded_or_kept(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    start(place, keep_batch_files=True)
    with closing(sqlite3.connect(place.ledger)) as ledger:
        (record,) = ledger.execute("SELECT record FROM jobs").fetchone()
    assert "a-key-for-tests" not in record
    for path in place.out.parent.rglob("*"):
        assert path.is_dir() or b"a-key-for-tests" not in path.read_bytes()


def test_settings_of_the_simulator_are_known() -> None:
    assert Settings(batch_missing=0.1).batch_missing == 0.1
