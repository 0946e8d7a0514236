"""The report of a run: all from the ledger, the same while it goes on, after, and in another process."""

from __future__ import annotations

import json
import os
import re
import threading

import msgspec
import pytest
from tests.runs.conftest import Place

from mistill import MistralEmbeddings, Run
from mistill.errors import InputError, LedgerError, Stopped, Unauthorized
from mistill.ledger import Ledger
from mistill.llms.event_loop import background
from mistill.runs.export import export_run
from mistill.runs.report import StartRecord, read_report
from mistill.simulator import Fault, Simulator
from mistill.steering.orders import Change, EarlierChanges

TEXTS = [f"text {n}" for n in range(6)]


def test_it_has_every_start_and_the_last_ones_particulars_on_top(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.script([Fault.status(400, {"message": "no", "code": "1"})])
    first = place.run(llm_settings={"max_concurrent_requests": 1}).start()
    assert (first.completions, first.failures, first.sent) == (5, 1, 6)
    second = place.run().start()
    assert [start.sent for start in second.starts] == [6, 1]
    assert [start.number for start in second.starts] == [1, 2]
    assert all(start.ended_at and start.ended_at >= start.started_at for start in second.starts)
    assert second.starts[0].max_concurrent_requests == 1
    assert (second.sent, second.output, second.stopped) == (1, str(place.out), None)
    assert second.attempts == 7
    described = json.loads(json.dumps(second.describe()))
    assert (described["sent"], described["starts"][0]["sent"]) == (1, 6)
    assert read_report(place.ledger).describe() == second.describe()


def test_it_counts_why_answers_ended(place: Place, simulator: Simulator) -> None:
    place.write([f"a rather long text of many words, number {n}" for n in range(4)])
    report = place.run(parameters={"max_new_tokens": 2}).start()
    assert report.finish_reasons == {"length": 4}
    assert report.settings["parameters"] == {"max_tokens": 2}


def test_latencies_are_of_answers(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=0.05)
    report = place.run().start()
    assert report.latency_s is not None
    assert (
        0.05 <= report.latency_s.p50 <= report.latency_s.p90 <= report.latency_s.p99 <= report.latency_s.max
    )


@pytest.mark.parametrize("reason", ["budget", "deadline"])
def test_why_it_was_stopped_is_a_reason_and_the_same_error_again(
    place: Place, simulator: Simulator, reason: str
) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=0.2)
    limits = {"budget": {"max_tokens_total": 5}, "deadline": {"deadline": 0.3}}[reason]
    report = place.run(llm_settings={"max_concurrent_requests": 1}, **limits).start()
    stopped = report.stopped
    assert isinstance(stopped, Stopped)
    assert (stopped.reason, report.describe()["stopped"]["reason"]) == (reason, reason)
    again = read_report(place.ledger).stopped
    assert (type(again), str(again)) == (type(stopped), str(stopped))


def test_a_refused_key_is_the_same_error_again(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(api_keys=["another"])
    report = place.run(on_stop="return").start()
    assert isinstance(report.stopped, Unauthorized)
    assert report.stopped.status == 401
    assert not report.stopped.retryable


def test_a_start_that_was_killed_has_no_end(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.run().start()
    run = place.run()
    with Ledger.open(place.ledger, run.kind.manifest.values()) as ledger:
        background.run(ledger.begin_start(StartRecord(max_concurrent_requests=3).encode()))
    report = read_report(place.ledger)
    assert [start.ended_at is None for start in report.starts] == [False, True]
    assert report.completions == 6


def test_it_can_be_read_while_the_run_goes_on(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.script([Fault.delay(30)])
    run = place.run(grace=0.0)
    thread = threading.Thread(target=run.start, daemon=True)
    thread.start()
    simulator.wait_until(lambda: simulator.answered == 5, timeout_s=30)
    simulator.wait_until(lambda: read_report(place.ledger).completions == 5, timeout_s=30)
    report = read_report(place.ledger)
    assert (report.pending, report.is_finished, report.starts[0].ended_at) == (1, False, None)
    assert (report.sent, report.attempts) == (6, 6)
    assert report.seconds > 0
    run.stop()
    thread.join(30)
    assert not thread.is_alive()


def test_who_looks_at_a_run_is_told_that_it_goes_on_and_how_large_its_input_is(
    place: Place, simulator: Simulator
) -> None:
    place.write([f"text {number}" for number in range(1500)])
    simulator.script([Fault.delay(30)] * 1500)
    run = place.run(grace=0.0, progress=True, parameters={"max_new_tokens": 3})
    thread = threading.Thread(target=run.start, daemon=True)
    thread.start()
    simulator.wait_until(lambda: simulator.in_flight > 0, timeout_s=30)
    simulator.wait_until(lambda: read_report(place.ledger).input_rows == 1500, timeout_s=30)
    report = Run.open(place.out).report()
    assert not report.input_was_read_to_its_end
    told = str(report)
    assert told.startswith(f"1,500 rows, running (process {os.getpid()}): 0 answered, 1,500 to go")
    assert "to go on: start the same run" not in told
    with pytest.raises(LedgerError, match="it is running: wait for its end, or export what there is with"):
        export_run(place.out, place.out.with_name("all.csv"))
    run.stop()
    thread.join(30)
    assert not thread.is_alive()
    assert "running" not in str(run.report())


def test_a_report_is_one_line_where_python_shows_a_value(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.script([Fault.status(400)])
    report = place.run().start()
    assert repr(report).startswith("RunReport(6 rows: 5 answered, 1 failed, $")
    assert "\n" not in repr(report)


def test_a_parameter_of_a_generation_is_no_option_of_a_run(place: Place) -> None:
    with pytest.raises(InputError, match=re.escape("parameters={'max_new_tokens': …}")):
        place.run(max_new_tokens=5)


def test_rows_of_a_start_that_paid_nothing_are_not_kept_rows(place: Place) -> None:
    place.write([f"text {number}" for number in range(30)])
    nobody = place.llm(max_retries=0, timeout=5)
    nobody.endpoint = "http://127.0.0.1:9"
    assert place.run(llm=nobody, on_stop="return").start().completions == 0
    place.write(["text 0", "text 99"])
    report = place.run().start()
    assert (report.rows, report.completions, report.no_longer_in_input) == (2, 2, 0)
    assert "no longer in the input" not in str(report)
    place.write(["text 99"])
    assert place.run().start().no_longer_in_input == 1  # its answer was paid


def test_samples_are_records_with_long_values_cut(place: Place, simulator: Simulator) -> None:
    place.write(["x" * 2000, *TEXTS])
    samples = place.run(columns={"generation": "answer"}).start().samples
    assert len(samples) == 3
    assert samples[1]["answer"] == "Echo: text 0"
    assert len(samples[0]["text"]) == 501
    vectors = MistralEmbeddings(endpoint=place.endpoint, output_dimension=100)
    report = place.run(llm=vectors, prompt="{{ text }}", out=place.out.with_name("vectors.jsonl")).start()
    assert [len(sample["embedding"]) for sample in report.samples] == [17, 17, 17]
    assert (report.kind, report.settings["output_dimension"]) == ("embedding", 100)


def test_of_many_changes_the_last_are_said_and_how_many_there_were(place: Place) -> None:
    place.write(["one"])
    report = place.run().start()
    changes = [Change(n, "me", "set", {"max_cost": (n, n + 1)}) for n in range(30)]
    start = msgspec.structs.replace(
        report.last_start, changes=changes, earlier_changes=EarlierChanges(1_970, {"max_cost": (0, 0)})
    )
    report = msgspec.structs.replace(report, starts=[start], ledger=None)
    assert str(report).count("set max_cost") == 20
    assert "1,980 times before these" in str(report)
    assert report.describe()["earlier_changes"]["count"] == 1_970
    assert "The last 30 of 2,000 things that were done while it went on" in report.to_html()
