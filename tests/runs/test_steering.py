"""Runs that are told what to do while they go on: pauses, other settings, a stop; from here and by their ledger."""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests.runs.conftest import MODEL, Place, echoes, sent
from tests.runs.test_batch_lane import jobs_made
from tests.runs.test_run_stop import TEXTS, in_thread, wait_for

from mistill import InputError, MistralEmbeddings, Run
from mistill.errors import LedgerError, Stopped
from mistill.ledger import LedgerReader
from mistill.ledger.shard_files import shard_of
from mistill.llms.steered_pace import SteeredPace
from mistill.progress.course import CourseRecorder
from mistill.runs import run as run_module
from mistill.runs.report import last_start
from mistill.simulator import Simulator

FOUR = {"max_concurrent_requests": 4}


def begun(place: Place, simulator: Simulator, **settings: Any) -> tuple[Run, threading.Thread, list[Any]]:
    """A run of which some rows are answered and some are in flight."""
    place.write(TEXTS)
    simulator.change(latency_s=0.02)
    run = place.run(**{"llm_settings": FOUR} | settings)
    thread, results = in_thread(run.start)
    simulator.wait_until(lambda: simulator.answered > 0)
    return run, thread, results


def until_home(run: Run, simulator: Simulator) -> int:
    """What is in flight has come home; how many rows are answered."""
    simulator.wait_until(lambda: run.control().standing().in_flight == 0)
    simulator.wait_until(lambda: run.progress.completions == simulator.answered)
    return simulator.answered


def test_a_paused_run_lets_what_is_in_flight_come_home_and_sends_nothing_more(
    place: Place, simulator: Simulator
) -> None:
    run, thread, results = begun(place, simulator)
    assert run.pause().paused_s is not None
    answered = until_home(run, simulator)
    assert answered == run.progress.attempts == len(simulator.requests) < 40
    report = Run.open(place.out).report()
    assert report.paused is not None
    assert "paused (process" in str(report)
    assert run.control().view().is_paused
    simulator.change(latency_s=0)
    assert run.resume().paused_s is None
    wait_for(thread)
    assert results[0].completions == simulator.answered == 40
    assert place.answers() == echoes(TEXTS)
    assert results[0].paused is None
    assert [change.do for change in results[0].last_start.changes] == ["pause", "resume"]
    assert results[0].seconds_by_cause["paused"] > 0


def test_a_start_that_begins_while_another_one_is_told_to_go_faster_goes_as_fast(
    place: Place, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder, has_begun, is_set = run_module.CourseRecorder, threading.Event(), threading.Event()
    waits = iter((False, True))

    def late(*given: Any) -> CourseRecorder:  # its runner is made, and it takes no orders yet
        if next(waits):
            has_begun.set()
            assert is_set.wait(30)
        return recorder(*given)

    monkeypatch.setattr(run_module, "CourseRecorder", late)
    simulator.change(latency_s=60.0)
    llm = place.llm(**FOUR)
    few, many = (
        place.run([{"text": text} for text in texts], llm=llm, out=None, on_stop="return", grace=0)
        for texts in (TEXTS[:6], TEXTS)
    )
    first, _ = in_thread(few.start)
    simulator.wait_until(lambda: simulator.in_flight == 4)
    second, _ = in_thread(many.start)
    try:
        assert has_begun.wait(30)
        few.set(max_concurrent_requests=20)
        is_set.set()
        simulator.wait_until(lambda: simulator.in_flight == 20)
    finally:
        is_set.set()
        simulator.change(latency_s=0.001)
        for run, thread in ((few, first), (many, second)):
            run.stop()
            wait_for(thread)


def test_a_pause_survives_no_start(place: Place, simulator: Simulator) -> None:
    run, thread, results = begun(place, simulator)
    run.pause()
    run.stop()
    wait_for(thread)
    assert results[0].completions < 40
    simulator.change(latency_s=0)
    assert place.run().start().completions == 40


def test_rows_that_wait_for_their_quota_wait_on_in_a_pause(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    run = place.run(llm_settings=FOUR | {"requests_per_minute": 6})
    thread, results = in_thread(run.start)
    simulator.wait_until(lambda: simulator.answered > 0)
    run.pause()
    answered = until_home(run, simulator)
    one, other = (run.control().view().seconds_by_cause for _ in range(2))
    assert other["paused"] > one["paused"]
    assert [other[cause] for cause in one if cause != "paused"] == [
        one[cause] for cause in one if cause != "paused"
    ], "whatever they wait for as well, nothing leaves"
    run.set(requests_per_minute=None)  # they would all be let go
    assert run.control().standing().in_flight == 0
    assert simulator.answered == answered
    assert results == []
    run.resume()
    wait_for(thread)
    assert results[0].completions == 40


def test_who_has_limited_a_run_himself_is_told_of_that_limit(place: Place, simulator: Simulator) -> None:
    simulator.change(requests_per_minute=6_000)
    run, thread, results = begun(place, simulator)
    run.set(requests_per_minute=6)

    def is_most() -> bool:
        spent = run.control().view().seconds_by_cause
        return spent.get("quota_requests", 0.0) > 0.5 * sum(spent.values())

    simulator.wait_until(is_most)
    run.stop()
    wait_for(thread)
    assert "waited for your own limit of 6 requests a minute: raise requests" in str(results[0].advice)


def test_a_paused_run_makes_no_batch_job(place: Place, simulator: Simulator) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": TEXTS[0]}  # which is read when the run is made
        run.pause()
        yield from ({"text": text} for text in TEXTS[1:5])

    run = place.run(source=rows(), lane="batch")
    thread, results = in_thread(run.start)

    def is_planned() -> bool:
        with LedgerReader(place.ledger) as reader:
            return any(job.state == "planned" for job in reader.jobs())

    simulator.wait_until(lambda: place.ledger.is_file())
    simulator.wait_until(is_planned)
    assert run.control().standing().paused_s is not None
    assert simulator.stats().batch.files == jobs_made(simulator) == 0
    run.resume()
    wait_for(thread)
    assert (results[0].completions, jobs_made(simulator)) == (5, 1)


def test_more_requests_at_once(place: Place, simulator: Simulator) -> None:
    run, thread, results = begun(place, simulator, llm_settings={"max_concurrent_requests": 1})
    simulator.change(latency_s=3600.0)
    run.set(max_concurrent_requests=8)
    simulator.wait_until(lambda: simulator.in_flight == 8)
    assert simulator.peak_in_flight == 8
    run.stop()
    run._control.abandon()
    wait_for(thread)
    (change,) = results[0].last_start.changes
    assert change.settings == {"max_concurrent_requests": (1, 8)}
    assert run.own_llm is not None
    assert run.own_llm.max_concurrent_requests == 1, "what is set holds for the start"


def test_runs_that_share_a_model_leave_it_as_it_was_in_whatever_order_they_end(
    place: Place, simulator: Simulator, tmp_path: Path
) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=3600.0)
    llm = place.llm(max_concurrent_requests=4)
    runs = [place.run(llm=llm, out=tmp_path / f"{name}.jsonl", grace=0) for name in "abc"]
    a, b, c = runs
    threads: dict[Run, threading.Thread] = {}

    def start(run: Run) -> None:
        threads[run], _ = in_thread(run.start)
        run.pause()  # it takes orders

    def end(run: Run) -> None:
        run.stop()
        run._control.abandon()
        wait_for(threads[run])

    def pace() -> tuple[int, float | None]:
        return llm.max_concurrent_requests, llm.requests_per_minute

    start(a)
    a.set(max_concurrent_requests=7, requests_per_minute=5000)
    start(b)
    start(c)
    b.set(max_concurrent_requests=9)
    c.set(max_concurrent_requests=9)
    end(a)
    assert pace() == (9, None)
    end(b)
    assert pace() == (9, None)
    llm.requests_per_minute = 600
    end(c)
    assert pace() == (4, 600)


class _Model:
    max_concurrent_requests = 2

    def set_pace(self, pace: Mapping[str, Any]) -> None:
        for name, value in pace.items():
            setattr(self, name, value)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_what_a_model_is_given_meanwhile_is_its_own_whoever_ends_first(order: str) -> None:
    model, pace, starts = _Model(), SteeredPace(), {name: object() for name in "ab"}
    for start in starts.values():
        pace.join(start, lambda: None)
    pace.set(model, starts["a"], {"max_concurrent_requests": 7}, starts["a"])
    model.max_concurrent_requests = 5
    pace.set(model, starts["b"], {"max_concurrent_requests": 9}, starts["b"])
    seen: list[int] = []
    for name in order:
        pace.leave(model, starts[name])
        seen.append(model.max_concurrent_requests)
    assert seen == ([9, 5] if order == "ab" else [5, 5])


def test_what_parts_of_a_start_set_holds_until_the_whole_has_ended_and_is_told_once() -> None:
    model, pace, whole, told = _Model(), SteeredPace(), object(), list[int]()
    pace.join("beside", lambda: told.append(model.max_concurrent_requests))
    for number in range(5):
        part = object()
        pace.join(part, lambda: None)
        pace.set(model, part, {"max_concurrent_requests": 8}, whole)
        pace.leave(model, part)
        assert (number, model.max_concurrent_requests) == (number, 8)
    pace.leave(model, whole)
    assert model.max_concurrent_requests == 2
    assert told == [8, 2]


def test_a_run_goes_on_at_the_width_that_its_model_has_again(
    place: Place, simulator: Simulator, tmp_path: Path
) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=3600.0)
    llm = place.llm(max_concurrent_requests=4)
    narrow = place.run(llm=llm, out=tmp_path / "narrow.jsonl", grace=0)
    run = place.run(llm=llm, prompt="of the other: {{ text }}", grace=0)
    first, _ = in_thread(narrow.start)
    narrow.set(max_concurrent_requests=1)
    second, _ = in_thread(run.start)
    run.resume()  # it takes orders
    narrow.stop()
    narrow._control.abandon()
    wait_for(first)
    simulator.wait_until(lambda: len([text for text in sent(simulator) if "other" in text]) == 4)
    run.stop()
    run._control.abandon()
    wait_for(second)


def test_fewer_requests_at_once(place: Place, simulator: Simulator) -> None:
    run, thread, _ = begun(place, simulator, llm_settings={"max_concurrent_requests": 8})
    run.pause()
    until_home(run, simulator)
    run.set(max_concurrent_requests=2)
    run.resume()
    seen = 0
    while thread.is_alive():
        seen = max(seen, simulator.in_flight)
    assert 0 < seen <= 2


def test_a_budget_that_is_spent_already_stops_it_as_budgets_do(place: Place, simulator: Simulator) -> None:
    run, thread, results = begun(place, simulator)
    run.set(max_cost=1e-9)
    wait_for(thread)
    (report,) = results
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "budget"
    again = "start the same run again: the limit was set while the run went on, and held for that start alone"
    assert report.stopped.hint == again
    assert f"to go on: {again}; answered rows cost nothing" in str(report)
    assert report.maybe_billed == 0
    assert report.completions == simulator.answered < 40


@pytest.mark.parametrize("limited", [False, True], ids=["from none", "from a larger one"])
def test_a_budget_that_is_set_on_the_way_counts_all_that_was_spent(
    place: Place, simulator: Simulator, limited: bool
) -> None:
    place.write(TEXTS[:10])
    first = place.run().start()
    before = first.input_tokens + first.output_tokens
    each = math.ceil(before / 10) + 1
    settings = {"max_tokens_total": 100_000} if limited else {}
    run, thread, results = begun(place, simulator, **settings)
    limit = before + 20 * each
    run.set(max_tokens_total=limit)
    standing = run.control().standing()
    (state,) = [one for one in standing.settings if one.name == "max_tokens_total"]
    assert state.value == limit
    assert state.told is not None
    wait_for(thread)
    (report,) = results
    spent = report.input_tokens + report.output_tokens
    assert isinstance(report.stopped, Stopped)
    assert before < spent < limit + each
    assert report.completions < 40


def test_a_limit_that_is_refused_by_a_ledger_that_cannot_be_read_is_not_set(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=3600.0)
    run = place.run(llm_settings=FOUR, grace=0)
    failed: list[LedgerError] = []

    def work() -> None:
        try:
            run.start()
        except LedgerError as error:
            failed.append(error)

    thread, _ = in_thread(work)
    simulator.wait_until(lambda: simulator.in_flight == 4)
    with closing(sqlite3.connect(place.ledger, isolation_level=None)) as other:
        other.execute("ALTER TABLE attempts RENAME TO elsewhere")
    with pytest.raises(LedgerError):
        run.set(max_tokens_total=1, max_concurrent_requests=2)
    values = {one.name: one.value for one in run.control().standing().settings}
    assert (values["max_tokens_total"], values["max_concurrent_requests"]) == (None, 4)
    run._control.abandon()
    wait_for(thread)
    assert len(failed) == 1, "its ledger can be written no more"


def test_a_budget_is_taken_away_and_given_again(place: Place, simulator: Simulator) -> None:
    run, thread, results = begun(place, simulator, max_tokens_total=100_000)
    run.set(max_tokens_total=None)
    run.set(max_tokens_total=1)
    wait_for(thread)
    assert isinstance(results[0].stopped, Stopped)
    assert results[0].completions == simulator.answered


def test_rows_that_wait_for_room_in_the_budget_are_let_go_by_a_larger_one(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=3600.0)
    run = place.run(llm_settings=FOUR, max_tokens_total=200_000, grace=0)  # of unbounded answers, one fits
    thread, _ = in_thread(run.start)
    simulator.wait_until(lambda: simulator.in_flight == 2)
    run.pause()
    run.set(max_tokens_total=10_000_000)
    run.resume()
    simulator.wait_until(lambda: simulator.in_flight == 4)
    run.stop()
    wait_for(thread)


def test_a_deadline_that_has_passed_by_then_ends_it(place: Place, simulator: Simulator) -> None:
    run, thread, results = begun(place, simulator)
    run.set(deadline=0.001)
    wait_for(thread)
    assert results[0].stopped.reason == "deadline"


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_costs": 1}, "a run has no setting 'max_costs'"),
    ({"model": "x"}, "model cannot be changed while a run goes on"),
    ({"max_cost": -1}, "max_cost: it must be a positive number, not -1"),
    ({"max_cost": math.nan}, "max_cost"),
    ({"max_cost": True}, "max_cost: True is no number"),
    ({"max_cost": "20"}, "max_cost: '20' is no number"),
    ({"max_concurrent_requests": 1.5}, "max_concurrent_requests: input should be a valid integer"),
    ({"max_concurrent_requests": None}, "max_concurrent_requests: there is no run without one"),
    ({"requests_per_minute": 0}, "requests_per_minute: input should be greater than or equal to 0.001"),
    ({"requests_per_minute": 1e-300}, "requests_per_minute: input should be greater than or equal to 0.001"),
    ({"tokens_per_minute": 1e300}, "tokens_per_minute: input should be less than or equal to 1000000000000"),
    ({"max_tokens_total": 10**30}, "max_tokens_total: it must be at most 1,000,000,000,000,000"),
    ({"max_cost": 1e300}, "max_cost: it must be at most 1,000,000,000,000,000"),
    ({}, "nothing is to be set"),
    ({"max_concurrent_requests": 7, "deadline": 0}, "deadline: it must be a positive number"),
]


def test_what_cannot_be_is_refused_and_nothing_is_changed(place: Place, simulator: Simulator) -> None:
    run, thread, results = begun(place, simulator)
    run.pause()
    before = [(one.name, one.value) for one in run.control().standing().settings]
    for settings, told in REFUSED:
        for order in (run.set, run.control().set):
            with pytest.raises(InputError) as refused:
                order(**settings)
            assert told in str(refused.value)
    assert [(one.name, one.value) for one in run.control().standing().settings] == before
    simulator.change(latency_s=0)
    run.resume()
    wait_for(thread)
    assert [change.do for change in results[0].last_start.changes] == ["pause", "resume"]


def test_a_budget_of_money_ends_where_nobody_knows_the_price_of_who_answers(
    place: Place, simulator: Simulator
) -> None:
    simulator.change(answered_by={MODEL: "mistral-small-2711"})
    run, thread, results = begun(place, simulator)
    run.set(max_cost=1000)
    wait_for(thread)
    assert "mistral-small-2711 answers, of which no price is known" in str(results[0].stopped)


def test_no_run_goes_on(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:1])
    run = place.run()
    with pytest.raises(InputError, match="no start of this run goes on"):
        run.pause()
    run.start()
    with pytest.raises(InputError, match="no start of this run goes on"):
        run.resume()
    with pytest.raises(InputError, match="no start of the run in"):
        run.control().stop()


def test_orders_while_it_stops_are_refused(place: Place, simulator: Simulator) -> None:
    run, thread, _ = begun(place, simulator)
    simulator.change(latency_s=3600.0)
    simulator.wait_until(lambda: simulator.in_flight == 4)
    assert run.control().stop().is_stopping
    with pytest.raises(InputError, match="the run is stopping"):
        run.pause()
    assert run.control().stop().is_stopping
    run._control.abandon()
    wait_for(thread)


def test_views_go_on_until_the_run_ends(place: Place, simulator: Simulator) -> None:
    _, thread, _ = begun(place, simulator)
    views = list(Run.open(place.out).control().views(0.05))
    wait_for(thread)
    assert [view.is_last for view in views] == [*[False] * (len(views) - 1), True]
    assert views[-1].completions == 40
    done = [view.done for view in views]
    assert done == sorted(done)


def test_a_run_of_embeddings_is_steered_too(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=3600.0)
    llm = MistralEmbeddings(model="mistral-embed", endpoint=simulator.url)
    run = Run(place.input, llm=llm, out=place.out, grace=0)
    thread, results = in_thread(run.start)
    simulator.wait_until(lambda: simulator.in_flight > 0)
    run.pause()
    run.set(max_tokens_total=1)  # what is in flight is held, and nothing is spent
    run.resume()
    run.stop()
    wait_for(thread)
    assert [change.do for change in results[0].last_start.changes] == ["pause", "set", "resume"]


def test_what_is_set_is_shown_while_it_goes_on(place: Place, simulator: Simulator, tmp_path: Path) -> None:
    run, thread, _ = begun(place, simulator)
    run.set(max_cost=20, tokens_per_minute=1_000_000)
    view = run.control().view()
    assert view.changed == "tokens_per_minute none → 1,000,000, max_cost none → $20.00"
    assert any("max_cost none → $20.00" in text for text in view.texts())
    simulator.change(latency_s=0)
    wait_for(thread)


def test_all_shards_of_a_run_obey(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=0.1)
    run = place.run(llm_settings={"max_concurrent_requests": 2}, on="processes:2", shards=4)
    thread, results = in_thread(run.start)
    simulator.wait_until(lambda: simulator.answered > 2, timeout_s=60)
    control = Run.open(place.out).control()
    assert control.pause().paused_s is not None
    simulator.wait_until(lambda: simulator.in_flight == 0)
    answered = simulator.answered
    assert Run.open(place.out).report().paused is not None
    with pytest.raises(
        InputError, match="max_cost cannot be changed while a run in shards goes on that began without"
    ):
        control.set(max_cost=1)
    values = {one.name: one.value for one in control.set(max_concurrent_requests=3).settings}
    assert values["max_concurrent_requests"] == 3
    assert simulator.answered == answered < 40
    run.resume()
    wait_for(thread)
    assert results[0].completions == 40
    assert [change.do for change in results[0].last_start.changes] == ["pause", "set", "resume"]
    with LedgerReader(shard_of(place.ledger, 3)) as reader:
        last = last_start(reader)
    assert last is not None
    assert [change.settings for change in last.changes] == [{"max_concurrent_requests": (2, 3)}]
