"""Jobs of a run are looked at, taken over and cancelled without its input, by whoever looks at the run."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator
from tests.runs.conftest import Place, echoes

from mistill import Run
from mistill.delivery.tuning import current_tuning
from mistill.errors import InputError, LedgerInUse
from mistill.ledger import Ledger, LedgerReader
from mistill.runs.report import read_report
from mistill.runs.report_text import cancelled_lines, status_lines
from mistill.simulator import Simulator

TEXTS = [f"text {number}" for number in range(20)]


def send(place: Place, simulator: Simulator, *, line_s: float = 0.0, **settings: Any) -> None:
    """A start that does not wait; its jobs run from then on."""
    simulator.change(batch_queue_s=3600.0, batch_line_s=line_s)
    given: dict[str, Any] = {"lane": "batch", "wait": False}
    report = place.run(**(given | settings)).start()
    assert report.has_jobs
    simulator.change(batch_queue_s=0.0)


def has_ended(simulator: Simulator, state: str = "SUCCESS", jobs: int = 1) -> bool:
    return simulator.stats().batch.jobs.get(state) == jobs


def starts_of(place: Place) -> int:
    with LedgerReader(place.ledger) as reader:
        return len(reader.starts())


def test_what_has_ended_is_taken_over_without_the_input(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    send(place, simulator)
    place.input.unlink()
    simulator.wait_until(lambda: has_ended(simulator))
    report = Run.collect_jobs(place.out).start()
    assert (report.completions, report.to_go, report.has_jobs) == (20, 0, False)
    assert place.answers() == echoes(TEXTS)
    assert report.output == str(place.out)
    assert report.attempts == 20
    assert set(simulator.billed_ids().values()) == {1}


def test_a_look_that_brings_nothing_leaves_the_run_as_it_is(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    send(place, simulator, line_s=60.0)
    starts = starts_of(place)
    report = Run.collect_jobs(place.ledger).start()
    assert report.has_jobs
    assert starts_of(place) == starts
    assert report.stopped is not None
    assert report.stopped.message == "1 batch job is at the server"  # of the start before
    assert not place.out.exists()


def test_nothing_new_is_asked(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(batch_missing=0.5)
    send(place, simulator)
    simulator.wait_until(lambda: has_ended(simulator))
    report = Run.collect_jobs(place.out).start()
    assert 0 < report.completions < 20
    assert (report.completions + report.pending, report.has_jobs) == (20, False)
    simulator.change(batch_missing=0.0)
    assert place.run().start().completions == 20
    assert Run.collect_jobs(place.out).start().completions == 20


def test_jobs_are_cancelled_and_what_they_answered_is_kept(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    send(place, simulator, line_s=0.05)
    simulator.wait_until(lambda: (Run.collect_jobs(place.out).start().jobs[0].done or 0) > 2)
    place.input.unlink()
    report = Run.cancel_jobs(place.out).start()
    assert 2 < report.completions < 20
    assert (report.with_server, report.has_jobs, report.stopped) == (0, False, None)
    assert [(job.status, job.is_cancelled) for job in report.jobs] == [("CANCELLED", True)]
    place.write(TEXTS)
    assert place.run().start().completions == 20
    assert place.answers() == echoes(TEXTS)


def test_a_run_at_hand_is_asked_itself(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(batch_queue_s=0.1)
    run = place.run(lane="batch", wait=False)
    run.start()
    simulator.wait_until(lambda: has_ended(simulator))
    assert run.collect_jobs().start().completions == 20
    assert Run.open(place.out).cancel_jobs().start().completions == 20


class Even(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def check(cls, n: int) -> int:
        if n % 2:
            raise ValueError("it is odd")
        return n


def test_rows_whose_schema_is_a_class_wait_for_the_run_itself(place: Place, simulator: Simulator) -> None:
    place.write([f'<<answer: {{"n": {2 * number}}}>>' for number in range(5)])
    schema: dict[str, Any] = {"llm_settings": {"structured_output": {"schema": Even}}}
    send(place, simulator, **schema)
    simulator.wait_until(lambda: has_ended(simulator))
    report = Run.collect_jobs(place.out).start()
    assert (report.completions, report.to_go, report.has_jobs) == (0, 5, False)
    assert (report.input_tokens > 0, report.jobs[0].state) == (True, "read")
    assert simulator.stats().batch.files == 0  # they may go: all is in the ledger
    assert place.run(**schema).start().completions == 5
    assert set(simulator.billed_ids().values()) == {1}
    assert {request.path for request in simulator.requests}.isdisjoint({"/v1/chat/completions"})


def test_it_is_not_looked_for_at_another_server(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    send(place, simulator)
    with pytest.raises(InputError, match=f"batch jobs of this run are at {simulator.url}, not at"):
        Run.collect_jobs(place.out, llm={"endpoint": "http://127.0.0.1:9"})


def test_whoever_works_on_the_run_is_not_disturbed(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    send(place, simulator)
    with LedgerReader(place.ledger) as reader:
        manifest = json.loads(reader.manifest())
    with Ledger.open(place.ledger, manifest), pytest.raises(LedgerInUse):
        Run.collect_jobs(place.out).start()


def test_a_server_that_does_not_answer_takes_nothing_away(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    send(place, simulator)
    simulator.change(batch_busy=1.0)
    report = Run.collect_jobs(place.out).start()
    assert (report.has_jobs, report.with_server) == (True, 20)
    simulator.change(batch_busy=0.0)
    simulator.wait_until(lambda: has_ended(simulator))
    assert Run.collect_jobs(place.out).start().completions == 20


def test_a_run_that_is_not_there_is_told(tmp_path: Path) -> None:
    for make in (Run.collect_jobs, Run.cancel_jobs):
        with pytest.raises(InputError, match="no run is known"):
            make(tmp_path / "nothing.jsonl")


RETRIED = [f"Say {text}" if text.startswith("text 1") else text for text in TEXTS]


def retry_later(place: Place, simulator: Simulator, *, poison: str | None = None, **changes: Any) -> None:
    """A run of which eleven rows failed, and that a retry by another prompt has asked again in a job that has ended."""
    place.write(TEXTS)
    simulator.change(batch_queue_s=0.05, poison="text 1")
    assert place.run().start().failures == 11
    simulator.change(poison=poison)
    retry = place.run().retry(failed=True, lane="batch", wait=False, **changes)
    assert retry.start().has_jobs
    simulator.wait_until(lambda: has_ended(simulator))


def test_a_look_takes_over_what_a_retry_asked(place: Place, simulator: Simulator) -> None:
    retry_later(place, simulator, prompt="Say {{ text }}")
    report = Run.collect_jobs(place.out).start()
    assert (report.completions, report.asked_again, report.has_jobs) == (20, 0, False)
    assert place.answers() == echoes(RETRIED)


def test_a_look_takes_over_what_a_retry_asked_by_the_settings_of_the_run(
    place: Place, simulator: Simulator
) -> None:
    retry_later(place, simulator)
    assert Run.collect_jobs(place.out).start().completions == 20
    assert place.answers() == echoes(TEXTS)


def test_the_run_itself_takes_over_what_a_retry_asked(place: Place, simulator: Simulator) -> None:
    retry_later(place, simulator, prompt="Say {{ text }}")
    asked = simulator.stats().requests
    report = place.run().start()
    assert (report.completions, report.asked_again) == (20, 0)
    assert place.answers() == echoes(RETRIED)
    assert {request.path for request in simulator.requests[asked:]}.isdisjoint({"/v1/chat/completions"})


@pytest.mark.parametrize("changes", [{}, {"prompt": "Say {{ text }}"}], ids=["the run's settings", "others"])
def test_a_look_settles_what_a_retry_asked_and_was_refused(
    place: Place, simulator: Simulator, changes: dict[str, Any]
) -> None:
    retry_later(place, simulator, poison="text 1", **changes)
    report = Run.collect_jobs(place.out).start()
    assert (report.completions, report.failures, report.asked_again) == (9, 11, 0)
    asked = simulator.stats().requests
    report = place.run(retry_failed=False).start()
    assert (report.completions, report.failures, report.asked_again) == (9, 11, 0)
    assert simulator.stats().requests == asked


OTHER_KEY = {"api_key": "of-another-workspace"}


def status_of(place: Place) -> str:
    return "\n".join(str(line) for line in status_lines(read_report(place.out), str))


def looked(place: Place, **settings: Any) -> Any:
    """A look that has ended."""
    collection = Run.collect_jobs(place.out, **settings)
    collection.start()
    return collection


def test_a_job_that_another_key_made_is_left_alone_until_it_is_given_up(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    send(place, simulator, line_s=60.0)
    simulator.change(batch_key_apart=True)
    assert looked(place, llm=OTHER_KEY).failed is None
    assert "not known to this key (1 look)" in status_of(place)
    simulator.wait_until(lambda: "not to this key" in str(looked(place, llm=OTHER_KEY).failed))
    cancelling = Run.cancel_jobs(place.out, llm=OTHER_KEY)
    assert cancelling.start().with_server == 20
    assert "give_up=True" in str(cancelling.failed)
    told = list(cancelled_lines(read_report(place.out), cancelling.failed, str))
    assert "give_up=True" in str(told[-1])
    stopped = place.run(lane="batch", llm_settings=OTHER_KEY, on_stop="return").start()
    assert "to go on: use the key of the workspace that made them" in str(stopped)
    report = Run.cancel_jobs(place.out, llm=OTHER_KEY, give_up=True).start()
    assert (report.with_server, report.maybe_billed, report.pending) == (0, 20, 20)
    assert "1 job given up" in "".join(map(str, cancelled_lines(report, None, str)))


def test_a_job_that_we_cancelled_is_not_given_up_by_another_key(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    send(place, simulator, line_s=0.01)
    simulator.change(batch_cancel_s=3600.0, batch_key_apart=True)
    cancelling = Run.cancel_jobs(place.out)
    thread = threading.Thread(target=cancelling.start)
    thread.start()
    simulator.wait_until(lambda: read_report(place.out).jobs[0].is_cancelled)
    cancelling.stop()
    thread.join()
    for _ in range(current_tuning().least_looks + 2):
        looked(place, llm=OTHER_KEY)
    simulator.wait_until(lambda: not Run.collect_jobs(place.out).start().has_jobs)
    assert read_report(place.out).completions == 20


def test_a_cancellation_that_is_refused_is_told_and_sent_again_the_next_time(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(TEXTS)
    send(place, simulator, line_s=0.02)
    simulator.change(batch_cancel_refused=1.0)
    report = Run.cancel_jobs(place.out).start()  # so it waits for the end that comes
    assert (report.completions, report.jobs[0].is_cancelled) == (20, False)
    assert "does not cancel" in caplog.text


def test_what_ends_in_the_very_moment_of_the_last_look_is_an_answer_of_that_start(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    for number in range(5):  # its jobs end at once, so that it may meet them or not
        out = place.out.with_name(f"{number}.jsonl")
        report = place.run(out=out, lane="batch", wait=False).start()
        assert report.has_jobs or report.completions == 20


def test_a_cancellation_that_was_refused_once_is_sent_again(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    send(place, simulator, line_s=3600.0)
    simulator.change(batch_cancel_refused=1.0)
    cancelling = Run.cancel_jobs(place.out)
    thread = threading.Thread(target=cancelling.start, daemon=True)
    thread.start()
    simulator.wait_until(lambda: any(request.path.endswith("/cancel") for request in simulator.requests))
    simulator.change(batch_cancel_refused=0.0)
    thread.join(10)
    assert not thread.is_alive()
    assert read_report(place.out).jobs[0].is_cancelled
