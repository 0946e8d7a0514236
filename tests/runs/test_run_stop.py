"""Runs that end early: by a person, a budget, a deadline, a reader who has enough. All of them go on later."""

from __future__ import annotations

import asyncio
import math
import re
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.libraries import library
from tests.runs.conftest import MODEL, Place, echoes, sent

from mistill import MistralEmbeddings
from mistill.errors import InputError, NoRowAnswered, RunStopped, Stopped
from mistill.ledger import LedgerReader
from mistill.simulator import Fault, Simulator

TEXTS = [f"row {number}" for number in range(40)]
FOUR = {"max_concurrent_requests": 4}
NEVER_S = 3600.0
_LONGEST_WAIT_S = 60.0


def in_thread(work: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    return thread, results


def wait_for(thread: threading.Thread) -> None:
    thread.join(_LONGEST_WAIT_S)
    assert not thread.is_alive(), "the run hangs"


def test_stop_waits_for_what_is_in_flight(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=0.3)
    run = place.run(llm_settings=FOUR)
    thread, results = in_thread(run.start)
    simulator.wait_until(lambda: simulator.in_flight > 0)
    run.stop("enough")
    wait_for(thread)
    (summary,) = results
    assert str(summary.stopped).startswith("enough")
    assert summary.maybe_billed == 0
    assert 0 < summary.completions == simulator.answered < 40
    assert summary.output is None
    simulator.change(latency_s=0)
    place.run().start()
    assert simulator.answered == 40
    assert place.answers() == echoes(TEXTS)


def test_after_the_grace_what_is_in_flight_is_cut_off_and_counted(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=NEVER_S)
    run = place.run(llm_settings=FOUR, grace=0.05)
    thread, results = in_thread(run.start)
    simulator.wait_until(lambda: simulator.in_flight > 0)
    run.stop()
    wait_for(thread)
    (summary,) = results
    assert summary.maybe_billed == summary.sent > 0
    simulator.change(latency_s=0)
    held = place.run(on_unknown="hold").start()
    assert held.pending == summary.maybe_billed
    assert place.run().start().sent == held.pending
    assert place.answers() == echoes(TEXTS)


def test_a_row_that_cools_down_does_not_hold_up_a_stop(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:1])
    simulator.script([Fault.status(503, headers={"Retry-After": "3000"})])
    run = place.run(grace=NEVER_S)
    thread, results = in_thread(run.start)
    simulator.wait_until(lambda: simulator.counts_by_status[503] == 1)
    run.stop()
    wait_for(thread)
    assert results[0].pending == 1


def test_a_row_that_is_refused_while_the_run_stops_is_not_tried_again(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS[:1])
    simulator.change(faults={"503": 1.0}, latency_s=0.3)
    run = place.run(grace=NEVER_S)
    thread, results = in_thread(run.start)
    simulator.wait_until(lambda: simulator.in_flight == 1)
    run.stop()
    wait_for(thread)
    assert results[0].sent == len(simulator.requests) == results[0].pending == 1


CHILD = """
import sys
from mistill import MistralLLM, Run
llm = MistralLLM(model=sys.argv[3], endpoint=sys.argv[2])
run = Run(sys.argv[1] + "/in.jsonl", out=sys.argv[1] + "/out.jsonl", llm=llm, prompt="{{ text }}", grace=3600)
try:
    run.start()
except KeyboardInterrupt:
    print("raised", end=" ")
summary = run.summary
print(summary.stopped.message, summary.sent, summary.maybe_billed)
"""


def child(place: Place) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "error", "-c", CHILD, place.input.parent, place.endpoint, MODEL]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_one_interrupt_waits_for_what_is_in_flight(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=0.5)
    process = child(place)
    simulator.wait_until(lambda: simulator.in_flight > 0)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out.split()[:2] == ["raised", "interrupted"], err
    assert out.split()[3] == "0"
    with LedgerReader(place.ledger) as reader:
        assert reader.counts().completions == simulator.answered == int(out.split()[2])


def test_a_second_interrupt_waits_for_nothing(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=NEVER_S)
    process = child(place)
    simulator.wait_until(lambda: simulator.in_flight > 0)
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.3)  # it waits, as it should, for as long as the grace says
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert out.split()[:2] == ["raised", "interrupted"], err
    assert int(out.split()[2]) == int(out.split()[3]) > 0


def test_outcomes_are_given_as_they_complete(place: Place) -> None:
    place.write(TEXTS)
    run = place.run()
    outcomes = list(run)
    assert sorted(outcome.position for outcome in outcomes) == list(range(40))
    for outcome in outcomes:
        (completion,) = outcome.completions
        assert completion is not None
        assert completion.text == f"Echo: {outcome.record['text']}"
    assert place.answers() == echoes(TEXTS)
    assert run.summary is not None
    assert run.summary.completions == 40
    assert list(place.run()) == []  # all done


def test_leaving_the_loop_stops_the_run(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    run = place.run(llm_settings=FOUR)
    for taken, _ in enumerate(run, 1):
        if taken == 3:
            break
    answered = simulator.answered
    assert 3 <= answered < 40
    assert run.summary is not None
    assert isinstance(run.summary.stopped, Stopped)
    assert (run.summary.completions, run.summary.maybe_billed) == (answered, 0)
    assert place.run().start().sent == 40 - answered
    assert place.answers() == echoes(TEXTS)


def test_a_reader_who_is_slow_holds_the_run_back(place: Place, simulator: Simulator) -> None:
    texts = [f"row {number}" for number in range(3000)]
    place.write(texts)
    outcomes: Any = iter(place.run())
    next(outcomes)
    simulator.wait_until(lambda: simulator.answered >= 1024, timeout_s=60)
    outcomes.close()
    assert simulator.answered < 1300  # those unread, those under way, and no more


async def test_it_runs_inside_a_running_event_loop(place: Place) -> None:
    place.write(TEXTS)
    assert place.run().start().completions == 40
    assert asyncio.get_running_loop().is_running()


def test_several_runs_in_threads(place: Place) -> None:
    place.write(TEXTS)
    runs = [place.run(out=place.out.with_name(f"{number}.jsonl")) for number in range(4)]
    threads = [in_thread(run.start) for run in runs]
    for thread, results in threads:
        wait_for(thread)
        assert results[0].completions == 40
    for run in runs:
        place.out = Path(str(run.out))
        assert place.answers() == echoes(TEXTS)


# --- budgets --------------------------------------------------------------------------------------------------------


def test_a_budget_of_tokens_is_kept_over_all_starts(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    first = place.run(max_tokens_total=100, parameters={"max_new_tokens": 10}).start()
    assert isinstance(first.stopped, Stopped)
    spent = first.input_tokens + first.output_tokens
    assert 100 <= spent < 100 + 20  # over by less than one answer
    assert place.llm().generation().dispatcher.governor.in_flight == 0  # what never left holds no place
    again = place.run(max_tokens_total=100, parameters={"max_new_tokens": 10}).start()
    assert again.sent == 0
    assert again.stopped is not None
    rest = place.run(max_tokens_total=10_000, parameters={"max_new_tokens": 10}).start()
    assert rest.stopped is None
    assert simulator.answered == 40
    assert place.answers() == echoes(TEXTS)


def test_a_budget_of_money(place: Place) -> None:
    place.write(TEXTS)
    summary = place.run(max_cost=0.00002).start()
    assert "budget" in str(summary.stopped)
    assert summary.cost == pytest.approx(0.00002, abs=0.000005)
    assert place.run(max_cost=1).start().completions == 40


ABSURD: list[Any] = [
    {"prompt_tokens": -(10**9), "completion_tokens": -(10**9), "total_tokens": -2 * 10**9},
    {"prompt_tokens": 2**63, "completion_tokens": 1, "total_tokens": 1},
    {"prompt_tokens": 5, "completion_tokens": 10**6, "total_tokens": 10**6 + 5},
    {"prompt_tokens": "many", "completion_tokens": None},
    {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    {},
    None,
]


@pytest.mark.parametrize("usage", ABSURD)
@pytest.mark.parametrize("limit", [{"max_tokens_total": 1_000}, {"max_cost": 0.0003}])
def test_no_usage_switches_a_budget_off(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture, usage: Any, limit: dict[str, Any]
) -> None:
    place.write(TEXTS * 10)
    message = {"role": "assistant", "content": "fine"}
    body = {"id": "a", "model": MODEL, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    simulator.script(
        [Fault.status(200, body | {"usage": usage})] * 400, when=lambda body: "row 1" in str(body)
    )
    settings = {"parameters": {"max_new_tokens": 10}, "llm_settings": {"max_concurrent_requests": 1}}
    first = place.run(**settings, **limit).start()
    assert isinstance(first.stopped, Stopped)
    assert 5 < first.sent < 150
    assert first.cost is not None
    assert 0 < first.cost < 0.0004
    assert 0 < first.input_tokens + first.output_tokens < 2_000
    assert len([one for one in caplog.records if "an estimate of such answers" in one.message]) == 1
    assert (
        place.run(**settings, **limit).start().sent == 0
    )  # what was estimated is still spent in the next start


def _cut_off(place: Place, simulator: Simulator, limit: dict[str, Any]) -> None:
    """Stops in the middle of what is in flight, and does not wait for it."""
    simulator.change(latency_s=NEVER_S)
    run = place.run(grace=0.0, parameters={"max_new_tokens": 100}, **limit)
    seen = len(simulator.requests)
    thread, _ = in_thread(run.start)
    simulator.wait_until(lambda: len(simulator.requests) > seen or not thread.is_alive())
    run.stop()
    wait_for(thread)


def _killed(place: Place, simulator: Simulator, limit: dict[str, Any]) -> None:
    """As `kill -9` leaves it: nobody has said how the attempts ended."""
    _cut_off(place, simulator, limit)
    with closing(sqlite3.connect(place.ledger)) as connection, connection:
        connection.execute("UPDATE attempts SET status = NULL, ended_at = NULL, error = NULL")


def _broken(place: Place, simulator: Simulator, limit: dict[str, Any]) -> None:
    """The connection is closed in every answer."""
    simulator.script([Fault.truncate()] * 500)
    place.run(llm_settings={"max_retries": 1}, parameters={"max_new_tokens": 100}, **limit).start()


@pytest.mark.parametrize("end", [_cut_off, _killed, _broken])
@pytest.mark.parametrize("limit", [{"max_tokens_total": 2_000}, {"max_cost": 0.0004}])
@pytest.mark.parametrize("answered", [0, 5])
def test_what_may_be_on_the_bill_is_spent_in_the_next_start_too(
    place: Place, simulator: Simulator, end: Any, limit: dict[str, Any], answered: int
) -> None:
    place.write([text + " and so on" * 10 for text in TEXTS])
    if answered:
        place.run(limit=answered, parameters={"max_new_tokens": 100}).start()
    for _ in range(6):
        end(place, simulator, limit)
    assert answered < len(simulator.requests) <= answered + 45
    seen = len(simulator.requests)
    simulator.change(latency_s=0)
    last = place.run(parameters={"max_new_tokens": 100}, **limit).start()
    assert isinstance(last.stopped, Stopped)
    assert last.stopped.reason == "budget"
    assert "without an answer that may be on the bill" in str(last.stopped)
    assert len(simulator.requests) - seen < 20


@pytest.mark.parametrize(
    "change",
    [
        "input_tokens = -32768",
        "output_tokens = 'many'",
        "cost = -750, input_tokens = 9e99",
        "status = 'anwered'",
    ],
)
def test_numbers_that_cannot_be_in_the_ledger_do_not_make_a_budget_larger(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture, change: str
) -> None:
    place.write(TEXTS)
    settings: dict[str, Any] = {"max_tokens_total": 300, "parameters": {"max_new_tokens": 10}}
    first = place.run(**settings).start()
    with closing(sqlite3.connect(place.ledger)) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute(f"UPDATE attempts SET {change} WHERE id % 2")
    second = place.run(**settings).start()
    assert second.sent <= 3
    assert 0 < second.input_tokens <= first.input_tokens + 100
    assert second.output_tokens >= 0
    assert second.cost is not None
    assert second.cost >= 0
    assert "are damaged in the ledger: the budget counts an estimate of them" in caplog.text


@pytest.mark.parametrize(
    "usage",
    [
        *ABSURD,
        {"prompt_tokens": 2**32 - 1, "completion_tokens": 1},
        {"prompt_tokens": 5, "completion_tokens": 2**32 - 1},
        {"prompt_tokens": 2**32, "completion_tokens": 2**32},
        {"prompt_tokens": 5},
    ],
)
@pytest.mark.parametrize("most", [{}, {"max_new_tokens": 10}])
def test_usage_that_cannot_be_is_an_estimate_without_a_budget_too(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture, usage: Any, most: dict[str, int]
) -> None:
    place.write(TEXTS)
    message = {"role": "assistant", "content": "fine"}
    body = {"id": "a", "model": MODEL, "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]}
    simulator.script([Fault.status(200, body | {"usage": usage})] * 3)
    first = place.run(parameters=most).start()
    assert first.completions == len(TEXTS)
    assert first.cost is not None
    assert 0 < first.cost < 0.01
    assert 3 * 50 < first.input_tokens + first.output_tokens < 20_000  # by the bytes of the request
    assert len([one for one in caplog.records if "an estimate of such answers" in one.message]) == 1
    recorded = [record["input_tokens"] for record in place.records()]
    assert sum(recorded) == first.input_tokens
    place.write([*TEXTS, "one more"])
    assert place.run(parameters=most, max_cost=0.1).start().stopped is None  # and nothing else is spent


def test_a_budget_of_vectors_whose_usage_cannot_be(place: Place, simulator: Simulator) -> None:
    place.write([f"row {number:02}" for number in range(40)])  # as many in each request as there are vectors
    data = [{"index": index, "embedding": [0.5, 0.5]} for index in range(8)]
    body = {"id": "a", "model": "mistral-embed", "data": data, "usage": {"prompt_tokens": -5}}
    simulator.script([Fault.status(200, body)] * 5)
    llm = MistralEmbeddings(model="mistral-embed", endpoint=place.endpoint, max_batch_tokens=24)
    run = place.run(llm=llm, prompt=None, max_tokens_total=300)
    report = run.start()
    assert isinstance(report.stopped, Stopped)
    assert report.sent < 5
    assert 300 <= report.input_tokens < 700
    assert place.run(llm=llm, prompt=None, max_tokens_total=300).start().sent == 0


def test_a_budget_of_money_needs_a_price(place: Place) -> None:
    place.write(TEXTS)
    llm = place.llm()
    llm.model = "a-model-of-my-own"
    with pytest.raises(InputError, match="max_cost"):
        place.run(llm=llm, max_cost=1)


@pytest.mark.parametrize("limit", ["max_cost", "max_tokens_total", "deadline"])
@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_limit_must_be_a_number_above_nothing(place: Place, limit: str, value: float) -> None:
    place.write(TEXTS)
    with pytest.raises(InputError, match="positive"):
        place.run(**{limit: value})


def test_a_deadline_is_a_clean_stop(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=0.5)
    summary = place.run(llm_settings=FOUR, deadline=0.3).start()
    assert "deadline" in str(summary.stopped)
    assert summary.maybe_billed == 0
    assert summary.completions == summary.sent < 40
    simulator.change(latency_s=0)
    assert place.run(deadline=3600).start().completions == 40


def test_a_sample_is_kept_and_becomes_the_run(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    run = place.run(sample=10)
    summary = run.start()
    forecast = summary.forecast
    assert forecast is not None
    assert (summary.sent, summary.output, summary.stopped) == (10, None, None)
    assert (forecast.sample, forecast.rows_left) == (10, 30)
    assert forecast.input_tokens.low <= forecast.input_tokens.expected <= forecast.input_tokens.high
    assert forecast.is_random
    assert set(sent(simulator)) != set(TEXTS[:10])
    smaller, larger = place.run(sample=5).start(), place.run(sample=15).start()
    assert (smaller.sent, larger.sent) == (0, 5)  # what it has of them is not asked again
    assert larger.forecast is not None
    assert (larger.forecast.sample, larger.forecast.rows_left) == (15, 25)
    whole = place.run().start()
    assert (whole.sent, whole.forecast) == (25, None)
    assert place.answers() == echoes(TEXTS)


def test_a_sample_goes_on_with_its_own_rows(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.script([Fault.disconnect()] * 3)
    place.run(sample=10, llm_settings={"max_retries": 0, "max_concurrent_requests": 1}).start()
    failed = set(sent(simulator))
    again = place.run(sample=10).start()
    assert again.completions == 10
    assert set(sent(simulator)) == failed
    assert place.run(sample=10).start().sent == 0


def test_a_sample_of_more_rows_than_there_are_is_the_run(place: Place) -> None:
    place.write(TEXTS)
    assert place.run(sample=1000).start().output == str(place.out)
    assert place.answers() == echoes(TEXTS)


def test_a_sample_of_what_can_be_read_once_counts_the_rest(place: Place, simulator: Simulator) -> None:
    def rows() -> Iterator[dict[str, str]]:
        for number in range(2000):
            yield {"text": f"row {number}"}

    summary = place.run(rows(), sample=5).start()
    assert summary.forecast is not None
    assert summary.forecast.rows_left == 1995
    assert sorted(sent(simulator)) == [f"row {number}" for number in range(5)]
    assert "they are the first of the input" in str(summary)


@pytest.mark.parametrize("name", ["in.xlsx", "in.arrow"])
def test_a_sample_of_a_file_that_does_not_tell_its_length_is_random(
    place: Place, simulator: Simulator, name: str
) -> None:
    path = place.out.with_name(name)
    if name == "in.xlsx":
        book: Any = library("openpyxl").Workbook()
        for cell in ("text", *(f"row {number}" for number in range(500))):
            book.active.append([cell])
        book.save(path)
    else:
        arrow: Any = library("pyarrow")
        table = arrow.table({"text": [f"row {number}" for number in range(500)]})
        with arrow.ipc.new_stream(
            str(path), table.schema
        ) as stream:  # which says at its end alone how long it is
            stream.write_table(table)
    report = place.run(path, sample=5).start()
    assert report.forecast is not None
    assert (report.forecast.rows_left, report.forecast.is_random) == (495, True)
    assert set(sent(simulator)) != {f"row {number}" for number in range(5)}


@pytest.mark.parametrize("fault", [Fault.status(404), Fault.status(422), Fault.html()])
def test_a_server_that_fails_all_rows_alike_is_asked_no_further(
    place: Place, simulator: Simulator, fault: Fault
) -> None:
    place.write([str(n) for n in range(300)])
    simulator.script([fault] * 300)
    with pytest.raises(RunStopped) as stopped:
        place.run(llm_settings={"max_concurrent_requests": 4}).start()
    assert isinstance(stopped.value.__cause__, NoRowAnswered)
    told = re.search(r"none of the first (\d+) rows was answered, each failed alike: ", str(stopped.value))
    assert told is not None
    assert int(told[1]) >= 20
    assert len(simulator.requests) < 200  # of 1,800 with the retries of each


def test_rows_that_all_fail_are_asked_to_the_last_where_others_were_answered(
    place: Place, simulator: Simulator
) -> None:
    place.write(["good", *(f"bad {n}" for n in range(40))])
    simulator.change(poison="bad")
    assert place.run(llm_settings={"max_concurrent_requests": 1}).start().failures == 40
    assert place.run().start().failures == 40
