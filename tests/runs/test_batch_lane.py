"""Runs by batch jobs: the same run, at half the price."""

from __future__ import annotations

import json
import sqlite3
import threading
from contextlib import closing
from typing import Any

import pytest
from msgspec.structs import replace
from pydantic import BaseModel
from tests.conftest import Simulate
from tests.runs.conftest import Place, echoes
from tests.simulator.conftest import ask_simulator

from mistill import Run, RunReport
from mistill.delivery.tuning import current_tuning, use_tuning
from mistill.errors import RunStopped, Stopped
from mistill.llms import MistralEmbeddings
from mistill.simulator import Fault, Simulator
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
    assert live.cost is not None
    assert report.cost == pytest.approx(live.cost / 2)
    assert report.output_tokens == live.output_tokens


def test_a_further_start_sends_nothing_and_the_lane_may_change(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:10])
    start(place)
    place.write(TEXTS[:20])
    start(place, lane="live")
    assert sorted(chat_requests(simulator)) == sorted(TEXTS[10:20])
    place.write(TEXTS)
    start(place)
    jobs = jobs_made(simulator)
    start(place)
    start(place, lane="live")
    assert jobs_made(simulator) == jobs == 2
    assert sorted(chat_requests(simulator)) == sorted(TEXTS[10:20])
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
    simulator.change(batch_queue_s=3600.0)
    place.write(TEXTS)
    report = start(place, wait=False)
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "waiting"
    assert (report.with_server, report.completions) == (30, 0)
    simulator.change(batch_queue_s=0.0)
    report = start(place)
    assert report.completions == 30
    assert jobs_made(simulator) == 1
    assert place.answers() == echoes(TEXTS)


def test_what_no_wait_has_not_brought_to_the_server_is_asked_all_the_same(
    place: Place, simulator: Simulator
) -> None:
    simulator.change(batch_create_lost=1.0, batch_list_lag_s=60.0)
    place.write(TEXTS)
    report = start(place, wait=False)
    assert (report.completions, report.maybe_billed) == (30, 30)
    assert sorted(chat_requests(simulator)) == sorted(TEXTS)


def test_results_that_are_gone_are_no_fault_of_the_rows(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_retention_s=0.0)
    place.write(TEXTS)
    report = start(place)
    assert (report.completions, report.maybe_billed) == (30, 30)


@pytest.mark.parametrize(
    "settings",
    [
        {"batch_errors_in": "output_file", "batch_error_line": 0.3},
        {"batch_duplicate": 0.5},
        {"batch_text_body": 0.5},
        {"batch_unknown_state": "running"},
        {"batch_unknown_state": "ended"},
        {"batch_filter": "ignored", "batch_list_lag_s": 0.05},
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
    simulator.change(batch_busy=0.0)
    start(place)
    assert simulator.stats().batch.files == 0


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


# --- money ------------------------------------------------------------------------------------------------------------


def test_what_is_with_the_server_counts_at_its_worst(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    price = 0.15e-6 / 2, 0.60e-6 / 2
    worst = 120 * price[0] + 100 * price[1]  # bytes of a request are more than its tokens
    report = start(place, max_cost=5 * worst, parameters={"max_new_tokens": 100}, on_stop="return")
    assert report.cost is not None
    assert report.cost <= 5 * worst
    assert report.completions == 30  # the answers are short, and what they leave is spent by further jobs
    assert jobs_made(simulator) > 2


def test_a_limit_that_is_reached_ends_the_run_once_all_is_back(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(answer_tokens=100)
    cost = 110 * 0.60e-6 / 2
    report = start(place, max_cost=10 * cost, parameters={"max_new_tokens": 100}, on_stop="return")
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "budget"
    assert 7 <= report.completions <= 10
    assert report.cost is not None
    assert report.cost <= 10 * cost
    assert report.with_server == 0
    assert set(simulator.billed_ids().values()) == {1}


def test_answers_that_cannot_be_read_count_against_the_budget(place: Place, simulator: Simulator) -> None:
    place.write([f"text {number}" for number in range(300)])
    given: dict[str, Any] = {"parameters": {"max_new_tokens": 50}, "on_stop": "return", "batch_tail": 0}
    start(place, limit=10, **given)
    simulator.change(faults={"html": 0.5})
    report = start(place, max_tokens_total=2000, **given)
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "budget"
    assert report.maybe_billed > 10
    mean = (report.input_tokens + report.output_tokens) / report.completions
    assert (report.completions + report.maybe_billed) * mean <= 2000


def test_a_first_job_without_an_answer_lets_no_other_go(place: Place, simulator: Simulator) -> None:
    place.write([f"text {number}" for number in range(1500)])
    simulator.change(faults={"html": 1.0})
    with pytest.raises(RunStopped, match="none of its 100 lines has an answer: "):
        start(place, batch_tail=0)
    assert simulator.stats().batch.jobs == {"SUCCESS": 1}
    simulator.change(faults={})
    assert start(place).completions == 1500


def test_one_job_at_a_time_goes_until_one_has_brought_an_answer(place: Place, simulator: Simulator) -> None:
    texts = [f"text {number}" for number in range(600)]
    place.write(texts)
    simulator.change(batch_missing=1.0)
    with use_tuning(replace(current_tuning(), canary_wait_s=600.0)), pytest.raises(RunStopped):
        start(place, batch_tail=0, batch_rows=100)
    with closing(sqlite3.connect(place.ledger)) as ledger:
        records = [json.loads(record) for (record,) in ledger.execute("SELECT record FROM jobs ORDER BY id")]
    done = [record for record in records if record.get("ended_at")]
    assert len(done) == 2  # and not all six
    assert done[1]["created_at"] > done[0]["ended_at"]


def test_a_budget_that_leaves_room_for_little_says_what_would_help(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(TEXTS)
    simulator.change(batch_queue_s=3600.0)
    report = start(place, max_tokens_total=200_000, wait=False)
    assert report.with_server == 1
    (told,) = [record.getMessage() for record in caplog.records if "further rows wait" in record.getMessage()]
    assert "max_new_tokens" in told


def test_a_budget_that_holds_no_request_says_what_would_help(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    report = start(place, max_cost=0.00001, on_stop="return")
    assert report.stopped is not None
    assert "max_new_tokens" in str(report.stopped)
    assert jobs_made(simulator) == 0


def test_jobs_of_an_earlier_start_count_against_the_budget(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_queue_s=3600.0)
    given = {"parameters": {"max_new_tokens": 100}, "on_stop": "return"}
    place.write(TEXTS[:1])
    start(place, lane="live", **given)  # so that no first job is waited for
    place.write(TEXTS)
    start(place, wait=False, max_tokens_total=30 * 250, **given)
    place.write([*TEXTS, *(f"more {number}" for number in range(30))])
    report = start(place, wait=False, max_tokens_total=30 * 250, **given)
    assert 29 < report.with_server < 45  # what is there may take most of it
    simulator.change(batch_queue_s=0.0)
    report = start(place, max_tokens_total=30 * 250, **given)
    assert report.completions == 60
    assert report.input_tokens + report.output_tokens <= 30 * 250


# --- time -------------------------------------------------------------------------------------------------------------


def test_what_is_not_back_in_time_is_cancelled_and_asked_live(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_line_s=0.5)
    place.write(TEXTS)
    report = start(place, deadline=4.5)
    assert report.completions == 30
    assert 20 <= len(chat_requests(simulator)) <= 30  # as far as the job had come
    assert simulator.stats().batch.jobs == {"CANCELLED": 1}


def test_without_a_tail_the_deadline_leaves_jobs_where_they_are(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_queue_s=60)
    place.write(TEXTS)
    report = start(place, deadline=1, batch_tail=0, on_stop="return")
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "deadline"
    assert report.with_server == 30
    assert chat_requests(simulator) == []


def test_jobs_stay_at_the_server_that_has_them_wherever_the_run_goes(
    place: Place, simulator: Simulator, simulate: Simulate, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.change(batch_queue_s=3600.0)
    place.write(TEXTS)
    start(place, wait=False)
    place.write([*TEXTS, "one more"])
    first, place.endpoint = place.endpoint, simulate().url
    report = place.run().start()
    assert (report.completions, report.with_server, report.has_jobs) == (1, 30, True)
    assert f"is at {first}, and is left there" in caplog.text
    place.endpoint = first
    simulator.change(batch_queue_s=0.0)
    assert place.run().start().completions == 31
    assert sum(simulator.billed_ids().values()) == 30
    assert chat_requests(simulator) == []


def test_a_stop_leaves_jobs_where_they_are_at_once(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_queue_s=3600.0)
    place.write(TEXTS)
    run = place.run(lane="batch", grace=30.0, on_stop="return")
    thread = threading.Thread(target=run.start)
    thread.start()
    simulator.wait_until(lambda: jobs_made(simulator) == 1)
    run.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert run.summary is not None
    assert run.summary.with_server == 30
    simulator.change(batch_queue_s=0.0)
    start(place)
    assert place.answers() == echoes(TEXTS)
    assert jobs_made(simulator) == 1


# --- what the server does not do --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"batch_needs_billing": True}, "console.mistral.ai"), ({"batch_absent": True}, "lane")],
)
def test_who_gets_no_jobs_is_told_before_anything_is_uploaded(
    place: Place, simulator: Simulator, settings: dict[str, Any], said: str
) -> None:
    simulator.change(**settings)
    place.write(TEXTS)
    with pytest.raises(RunStopped, match=said):
        start(place)
    assert not [request for request in simulator.requests if request.path == "/v1/files"]
    simulator.change(**dict.fromkeys(settings, False))
    start(place)
    assert place.answers() == echoes(TEXTS)
    assert set(simulator.billed_ids().values()) == {1}


def test_a_job_that_fails_as_a_whole_ends_the_run_in_the_words_of_the_server(
    place: Place, simulator: Simulator
) -> None:
    simulator.change(batch_failed=1.0)
    place.write(TEXTS)
    with pytest.raises(RunStopped, match="failed as a whole"):
        start(place)
    simulator.change(batch_failed=0.0)
    start(place)
    assert place.answers() == echoes(TEXTS)


def test_the_first_job_is_small_and_the_others_wait_for_it(place: Place, simulator: Simulator) -> None:
    texts = [f"text {number}" for number in range(1300)]
    place.write(texts)
    start(place, batch_rows=700)
    assert place.answers() == echoes(texts)
    with closing(sqlite3.connect(place.ledger)) as ledger:
        records = [json.loads(record) for (record,) in ledger.execute("SELECT record FROM jobs ORDER BY id")]
    assert [record["lines"] for record in records] == [100, 700, 500]
    assert records[1]["created_at"] > records[0]["ended_at"]


def test_no_job_waits_for_a_first_one_that_is_lost(place: Place, simulator: Simulator) -> None:
    texts = [f"text {number}" for number in range(130)]
    simulator.change(batch_create_lost=1, batch_list_lag_s=60)
    place.write(texts)
    with use_tuning(replace(current_tuning(), canary_wait_s=600.0)):
        thread = threading.Thread(target=start, args=[place], daemon=True)
        thread.start()
        simulator.wait_until(lambda: bool(simulator.stats().batch.jobs))
        simulator.change(batch_create_lost=0)
        thread.join(10)
    assert not thread.is_alive()
    assert place.answers() == echoes(texts)
    assert start(place).maybe_billed == 100


def test_a_job_has_no_more_bytes_than_it_may(place: Place, simulator: Simulator) -> None:
    place.write([*TEXTS[:20], "x" * 5000, *TEXTS[20:]])
    report = start(place, batch_bytes=2000)
    assert (report.completions, report.failures) == (30, 1)
    assert "batch_bytes" in place.records()[20]["error"]
    with closing(sqlite3.connect(place.ledger)) as ledger:
        sizes = [json.loads(record)["bytes"] for (record,) in ledger.execute("SELECT record FROM jobs")]
    assert len(sizes) > 1
    assert max(sizes) <= 2000


def test_jobs_wait_while_the_server_takes_no_more(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_max_pending=100, batch_line_s=0.002)
    texts = [f"text {number}" for number in range(250)]
    place.write(texts)
    start(place, batch_rows=60)
    assert place.answers() == echoes(texts)
    assert set(simulator.billed_ids().values()) == {1}


def test_a_file_that_is_too_large_for_the_server_is_made_smaller_by_the_next_start(
    place: Place, simulator: Simulator
) -> None:
    simulator.change(batch_max_bytes=2500)
    place.write(TEXTS)
    with pytest.raises(RunStopped, match="batch_bytes"):
        start(place)
    report = start(place, batch_bytes=2000)
    assert report.completions == 30
    assert report.maybe_billed == 0


def test_results_that_are_gone_may_be_billed(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_retention_s=0.0)
    place.write(TEXTS)
    report = start(place, on_unknown="hold")
    assert (report.completions, report.pending, report.maybe_billed) == (0, 30, 30)


# --- several requests a row, several settings -------------------------------------------------------------------------


def test_several_answers_a_row_come_in_one_line_or_in_several(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:5])
    report = start(place, num_generations=3)
    assert [len(record["generation"]) for record in place.records()] == [3] * 5
    assert sum(simulator.billed_ids().values()) == 5
    assert report.completions == 5
    other = place.out.with_name("structured.jsonl")
    llm = place.llm(structured_output={"schema": Mail})
    report = place.run(out=other, llm=llm, lane="batch", num_generations=2, batch_tail=0).start()
    assert report.completions == 5
    assert sum(simulator.billed_ids().values()) == 15


def test_a_retry_goes_by_jobs_too(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:10])
    start(place)
    report = Run.retry(place.out, "row<4", prompt="Again: {{ text }}", lane="batch").start()
    assert report.completions == 10
    assert place.answers() == [f"Echo: Again: {text}" for text in TEXTS[:4]] + echoes(TEXTS[4:10])
    assert chat_requests(simulator) == []


def test_a_retry_that_did_not_wait_goes_on_and_the_run_itself_leaves_it_alone(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS[:10])
    start(place)
    simulator.change(batch_queue_s=3600.0)
    again: dict[str, Any] = {"where": "row<4", "prompt": "Again: {{ text }}", "lane": "batch"}
    Run.retry(place.out, **again, wait=False, on_stop="return").start()
    start(place, wait=False, on_stop="return")
    simulator.change(batch_queue_s=0.0)
    Run.retry(place.out, **again).start()
    assert place.answers() == [f"Echo: Again: {text}" for text in TEXTS[:4]] + echoes(TEXTS[4:10])
    assert set(simulator.billed_ids().values()) == {1}
    assert sum(simulator.billed_ids().values()) == 14


def test_identical_rows_are_asked_once_where_that_is_wanted(place: Place, simulator: Simulator) -> None:
    place.write(["same"] * 5 + ["other"])
    start(place, dedupe=True)
    assert place.answers() == echoes(["same"] * 5 + ["other"])
    assert sum(simulator.billed_ids().values()) == 2


def test_a_run_that_starts_over_says_how_to_end_the_jobs_of_the_one_before(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    simulator.change(batch_queue_s=3600.0)
    place.write(TEXTS)
    start(place, wait=False)
    report = start(place, lane="live", fresh=True)
    assert report.completions == 30
    assert "may still be at the server" in caplog.text
    (aside,) = place.ledger.parent.glob("out.jsonl.ledger.bak*")
    Run.cancel_jobs(aside).start()
    assert simulator.stats().batch.jobs == {"CANCELLED": 1}


def test_rows_that_may_be_billed_are_held_where_that_is_wanted(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_missing=0.3)
    place.write(TEXTS)
    report = start(place, on_unknown="hold")
    assert report.pending == report.maybe_billed > 0
    assert report.completions == 30 - report.pending
    simulator.change(batch_missing=0.0)
    assert start(place).completions == 30


def test_outcomes_can_be_iterated_over(place: Place) -> None:
    place.write(TEXTS)
    texts = [
        one.text for outcome in place.run(lane="batch") for one in outcome.completions if one is not None
    ]
    assert sorted(map(str, texts)) == sorted(echoes(TEXTS))


# --- what fresh eyes have found ---------------------------------------------------------------------------------------


def test_a_retry_asks_the_rows_that_were_chosen_and_no_others(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:10])
    start(place, limit=5)
    simulator.change(batch_failed=1.0)
    with pytest.raises(RunStopped):  # jobs fail as a whole, one after the other
        start(place, batch_tail=0)
    simulator.change(batch_failed=0.0)
    simulator.script([Fault.status(500)])
    report = Run.retry(place.out, "row<3", prompt="Again: {{ text }}", lane="batch").start()
    assert (report.completions, report.pending) == (5, 5)
    start(place)
    assert place.answers() == [f"Echo: Again: {text}" for text in TEXTS[:3]] + echoes(TEXTS[3:10])


def test_failures_of_an_earlier_start_are_asked_again(place: Place, simulator: Simulator) -> None:
    place.write([f"text {number}" for number in range(150)])
    simulator.change(poison="text")
    with pytest.raises(RunStopped):
        start(place)
    simulator.change(poison=None)
    assert start(place).completions == 150


def test_a_first_job_that_runs_out_of_time_stops_nothing(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_hour_s=0.01, batch_queue_s=1.0)
    place.write(TEXTS)
    report = start(place)
    assert simulator.stats().batch.jobs == {"TIMEOUT_EXCEEDED": 1}
    assert (report.completions, len(chat_requests(simulator)), report.maybe_billed) == (30, 30, 0)


def test_a_deadline_that_leaves_jobs_no_time_is_told_and_makes_none(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(TEXTS)
    assert start(place, deadline=1.0).completions == 30
    assert "leaves batch jobs no time" in caplog.text
    assert jobs_made(simulator) == 0


def test_results_without_our_ids_are_kept_and_told(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_no_id=1.0)
    place.write(TEXTS)
    report = start(place)
    assert (report.completions, report.maybe_billed) == (30, 30)
    assert "30 lines came, none with an id of ours" in str(report.jobs[0].errors)
    (kept,) = place.ledger.with_name("out.jsonl.ledger.jobs").iterdir()
    assert kept.read_bytes().count(b"Echo: text") == 30


def test_an_input_that_somebody_has_edited_is_not_sent(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_needs_billing=True)
    place.write(TEXTS)
    with pytest.raises(RunStopped):
        start(place)
    (planned,) = place.ledger.with_name("out.jsonl.ledger.jobs").iterdir()
    planned.write_bytes(planned.read_bytes().replace(b"text 7", b"test 7"))
    simulator.change(batch_needs_billing=False)
    start(place)
    assert place.answers() == echoes(TEXTS)


def test_strangers_files_in_the_folder_of_jobs_stay(place: Place) -> None:
    folder = place.ledger.with_name("out.jsonl.ledger.jobs")
    (folder / "notes").mkdir(parents=True)
    (folder / "thesis.tex").write_text("mine")
    place.write(TEXTS)
    assert start(place).completions == 30
    assert sorted(path.name for path in folder.iterdir()) == ["notes", "thesis.tex"]


@pytest.mark.parametrize(
    "fault", ["batch_download_cut", "batch_busy", "batch_upload_lost", "batch_create_lost"]
)
def test_what_goes_wrong_on_the_way_costs_nothing_and_leaves_nothing(
    place: Place, simulator: Simulator, fault: str
) -> None:
    simulator.change(**{fault: 0.4})
    place.write(TEXTS)
    start(place, wait=False, batch_rows=1, limit=1, on_stop="return")
    report = start(place, batch_rows=3)
    simulator.change(**{fault: 0.0})
    requests = [(request.method, request.path) for request in simulator.requests]
    is_met = {
        "batch_busy": 503 in simulator.counts_by_status,
        "batch_download_cut": sum(path.endswith("/content") for _, path in requests) > len(report.jobs),
        "batch_upload_lost": requests.count(("POST", "/v1/files")) > len(report.jobs),
        "batch_create_lost": 0 in simulator.counts_by_status,
    }
    assert is_met[fault]
    start(place)
    assert place.answers() == echoes(TEXTS)
    assert set(simulator.billed_ids().values()) == {1}
    assert report.maybe_billed == 0
    assert simulator.stats().batch.files == 0


# --- what is left over by earlier starts ------------------------------------------------------------------------------


@pytest.mark.parametrize(("left", "live"), [(3, 3), (4, 0)])
def test_what_a_cancelled_job_has_left_goes_live_where_it_is_little(
    place: Place, simulator: Simulator, left: int, live: int
) -> None:
    place.write(TEXTS)
    start(place, limit=30 - left)
    simulator.change(batch_queue_s=3600.0)
    start(place, wait=False)
    Run.cancel_jobs(place.out).start()
    simulator.change(batch_queue_s=0.0)
    place.write([*TEXTS, "new 1", "new 2"])
    assert start(place, batch_tail=3).completions == 32
    assert len(chat_requests(simulator)) == live  # new ones go into a job in any case


@pytest.mark.parametrize(("tail", "live"), [(11, 11), (10, 0)])
def test_rows_that_failed_go_live_where_they_are_few(
    place: Place, simulator: Simulator, tail: int, live: int
) -> None:
    place.write(TEXTS)
    simulator.change(poison="text 1")
    assert start(place).failures == 11
    simulator.change(poison=None)
    assert start(place, batch_tail=tail).completions == 30
    assert len(chat_requests(simulator)) == live


def test_vectors_that_are_left_go_one_way(place: Place, simulator: Simulator) -> None:
    place.write([f"text {number}" for number in range(40)])
    llm = MistralEmbeddings(model="mistral-embed", endpoint=simulator.url, max_batch_tokens=60)
    simulator.change(batch_queue_s=3600.0)
    Run(place.input, llm=llm, out=place.out, lane="batch", wait=False).start()
    Run.cancel_jobs(place.out).start()
    simulator.change(batch_queue_s=0.0)
    jobs = jobs_made(simulator)
    assert Run(place.input, llm=llm, out=place.out, lane="batch", batch_tail=40).start().completions == 40
    assert jobs_made(simulator) == jobs


# --- a job that is made against what is said --------------------------------------------------------------------------


def test_a_job_that_was_made_though_it_was_refused_is_found(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(batch_create_denied=1.0, batch_queue_s=0.05)
    assert start(place, wait=False).with_server == 30  # as it is planned
    simulator.change(batch_create_denied=0.0)
    assert start(place).completions == 30
    assert set(simulator.billed_ids().values()) == {1}
    assert jobs_made(simulator) == 0


def test_a_job_that_was_made_twice_is_told_though_it_has_ended(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(TEXTS)
    simulator.change(batch_queue_s=3600.0)
    start(place, wait=False)
    made = next(
        request.body for request in simulator.requests if request.body and "mistill_job" in str(request.body)
    )
    ask_simulator(simulator, path="/v1/batch/jobs", body=made)
    simulator.change(batch_queue_s=0.0)
    simulator.wait_until(lambda: simulator.stats().batch.jobs == {"SUCCESS": 2})
    assert start(place).completions == 30
    assert "made twice" in caplog.text


def test_jobs_that_nobody_sees_are_not_made_again_and_again(place: Place, simulator: Simulator) -> None:
    place.write([f"text {number}" for number in range(60)])
    simulator.change(batch_create_lost=1.0, batch_list_lag_s=3600.0)
    with pytest.raises(RunStopped, match="in a row may have been made"):
        start(place, batch_tail=0)
    assert simulator.stats().batch.lines_billed <= 2 * 60


def test_a_job_that_is_listed_late_is_made_once_whoever_refused_it(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    simulator.change(batch_create_denied=1.0, batch_list_lag_s=0.3)
    start(place, wait=False)
    simulator.change(batch_create_denied=0.0)
    assert start(place).completions == 30
    assert set(simulator.billed_ids().values()) == {1}


def test_a_deadline_sends_live_what_was_never_sent_though_a_job_does_not_end(
    place: Place, simulator: Simulator
) -> None:
    place.write([f"text {number}" for number in range(300)])
    simulator.change(batch_queue_s=3600.0, batch_cancel_refused=1.0)
    run = place.run(lane="batch", deadline=6.0, grace=30.0, on_stop="return")
    with use_tuning(replace(current_tuning(), canary_wait_s=600.0)):
        thread = threading.Thread(target=run.start)
        thread.start()
        simulator.wait_until(lambda: len(chat_requests(simulator)) == 200)  # half of the time is for them
        run.stop()
        thread.join()
    assert run.summary is not None
    assert run.summary.completions == 200  # all but those of the first job, which is there
    assert run.summary.with_server == 100
