"""``lane="cheapest"``: each row goes live, with the cache of prompts, or into a job, by what it costs there."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.conftest import Simulate
from tests.runs.conftest import Place
from tests.runs.test_batch_lane import chat_requests, jobs_made

from mistill import MistralEmbeddings, MistralLLM, Run, RunReport
from mistill.api.prices import price_of
from mistill.cli.options.wording import on_the_command_line
from mistill.errors import InputError
from mistill.runs.report_text import start_lines, status_lines
from mistill.simulator import Simulator
from mistill.wording import worded

RULES = "Decide what the customer wants, and answer in one word. " * 60
LONG = {"system": RULES + "{{ text }}", "prompt": "Answer."}
"""840 tokens that are the same, in front."""


@pytest.fixture
def cached(simulator: Simulator) -> Simulator:
    simulator.change(cache_hits=1.0)
    return simulator


def write(place: Place, rows: int, **columns: Any) -> None:
    place.write([f"mail {number:04d}" for number in range(rows)], **columns)


def start(place: Place, **settings: Any) -> RunReport:
    return place.run(**({"lane": "cheapest"} | LONG | settings)).start()


def test_rows_go_live_where_most_of_their_input_is_cached(
    place: Place, cached: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    write(place, 300)
    report = start(place)
    assert (report.completions, len(chat_requests(cached)), jobs_made(cached)) == (300, 300, 0)
    assert report.lanes is not None
    assert (report.lanes.live, report.lanes.in_jobs) == (300, 0)
    assert report.lanes.live_saves is not None
    assert 0.7 < report.lanes.live_saves < 0.73
    told = [record.getMessage() for record in caplog.records]
    assert "answered live, 7" in told[0]
    assert [line[:24].strip() for line in told[1:]] == [
        "live, nothing cached",
        "live with the cache",
        "in batch jobs",
        "> cheapest",
    ]
    (lanes,) = [str(line) for line in start_lines(report, on_the_command_line) if line.label == "lanes: "]
    assert lanes == "lanes: 300 rows live with the cache, about 72% cheaper than in jobs"
    assert json.loads(json.dumps(report.describe()))["lanes"]["live"] == 300


def test_rows_go_into_jobs_where_answers_are_long_and_nothing_is_paid_twice(
    place: Place, cached: Simulator
) -> None:
    cached.change(answer_tokens=500)
    write(place, 300)
    report = start(place)
    live = len(chat_requests(cached))
    assert (live, report.completions) == (5, 300)
    assert report.attempts == 300
    assert set(cached.billed_ids().values()) == {1}
    assert len(cached.billed_ids()) == 295
    assert report.lanes is not None
    assert (report.lanes.live, report.lanes.in_jobs, report.lanes.cached_in_jobs) == (5, 295, 0.0)
    lines = [str(line) for line in status_lines(report, on_the_command_line) if line.label == "lanes: "]
    assert lines[0].startswith("lanes: 5 rows live with the cache; 295 rows in jobs, about 3")


def test_each_row_goes_by_what_is_known_of_it(place: Place, cached: Simulator) -> None:
    cached.change(answer_tokens=900)
    most = [5 if number % 3 else 800 for number in range(300)]
    place.write_rows([{"text": f"mail {number:04d}", "most": limit} for number, limit in enumerate(most)])
    report = start(place, row_parameters={"max_new_tokens": "most"})
    tokens = [
        request.body["max_tokens"] for request in cached.requests if request.path.endswith("completions")
    ]
    assert report.completions == 300
    assert tokens.count(5) == 200
    assert tokens.count(800) < 12
    assert report.lanes is not None
    assert report.lanes.in_jobs > 88


def test_so_few_rows_that_no_job_is_worth_the_wait_go_live(place: Place, cached: Simulator) -> None:
    cached.change(answer_tokens=500)
    write(place, 200)
    run = place.run(lane="cheapest", **LONG)
    run.start()
    assert (len(chat_requests(cached)), jobs_made(cached)) == (200, 0)
    assert run.progress.told_lanes() == "200 rows live: too few for jobs"
    report = start(place, fresh=True, batch_tail=0)
    assert report.lanes is not None
    assert report.lanes.in_jobs == 195


def test_no_more_rows_go_live_than_a_deadline_leaves_time_for(place: Place, cached: Simulator) -> None:
    cached.change(latency_s=0.02)
    write(place, 300)
    report = start(place, deadline=3, llm=place.llm(max_concurrent_requests=1))
    assert report.lanes is not None
    assert report.lanes.in_jobs > 100
    assert report.lanes.live > 5


def test_without_the_cache_all_go_into_jobs(place: Place, cached: Simulator) -> None:
    write(place, 300)
    start(place, prompt_cache=False)
    assert chat_requests(cached) == []
    assert jobs_made(cached) > 0


def test_embeddings_have_no_cache(place: Place, cached: Simulator) -> None:
    write(place, 300)
    llm = MistralEmbeddings(endpoint=cached.url)
    report = place.run(llm=llm, prompt="{{ text }}", lane="cheapest").start()
    assert report.completions == 300
    assert not [request for request in cached.requests if request.path == "/v1/embeddings"]


def test_a_start_that_goes_on_knows_what_earlier_ones_have_seen(place: Place, cached: Simulator) -> None:
    cached.change(answer_tokens=500)
    write(place, 600)
    start(place, limit=300)
    assert len(chat_requests(cached)) == 5
    report = start(place)
    assert (report.completions, len(chat_requests(cached)), report.attempts) == (600, 5, 600)


def test_that_jobs_are_cached_is_found_in_their_answers(place: Place, cached: Simulator) -> None:
    cached.change(batch_caches=True)
    write(place, 600)
    start(place, limit=100, lane="batch")
    report = start(place)
    assert report.lanes is not None
    assert (report.lanes.live, report.lanes.in_jobs) == (5, 595)
    assert report.lanes.cached_in_jobs is not None
    assert report.lanes.cached_in_jobs > 0.9


def test_the_priority_tier_makes_live_dearer(place: Place, cached: Simulator) -> None:
    cached.change(answer_tokens=90)
    write(place, 300)
    assert start(place).lanes == start(place).lanes
    assert jobs_made(cached) == 0
    cached.change(service_tier="priority")
    report = start(place, fresh=True)
    assert report.lanes is not None
    assert report.lanes.in_jobs > 200


@pytest.mark.parametrize("settings", [{"batch_needs_billing": True}, {"batch_absent": True}])
def test_a_server_that_makes_no_jobs_answers_live(
    place: Place, cached: Simulator, settings: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    cached.change(answer_tokens=500, **settings)
    write(place, 300)
    run = place.run(lane="cheapest", **LONG)
    report = run.start()
    assert (report.completions, len(chat_requests(cached)), report.failures) == (300, 300, 0)
    assert report.jobs[0].state == "dropped"
    assert run.progress.told_lanes() == "all rows live: the server makes no batch jobs"
    assert any(
        "all rows go live, since the server makes no batch jobs" in one.getMessage() for one in caplog.records
    )


def test_where_there_can_be_no_jobs_all_go_live_and_that_is_said(
    place: Place, cached: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    write(place, 20)
    with caplog.at_level(logging.WARNING):
        report = place.run(llm=place.llm(dialect="openai"), lane="cheapest", out=None, **LONG).start()
    assert report.completions == 20
    assert "all rows go live: " in str(caplog.records[0].msg)
    assert "speaks the dialect 'openai'" in str(caplog.records[0].msg)


def test_what_cannot_be_known_is_refused_before_anything_is_sent(place: Place, simulator: Simulator) -> None:
    write(place, 3)
    with pytest.raises(InputError, match="no price is known for 'nobody-knows'") as caught:
        place.run(llm=MistralLLM(model="nobody-knows", endpoint=simulator.url), lane="cheapest")
    assert worded(caught.value.hint or "", on_the_command_line).endswith("or choose: --lane batch")
    with pytest.raises(InputError, match="lane='cheapest': jobs go on when this process has ended"):
        place.run(lane="cheapest", out=None).start()
    assert simulator.requests == []


def test_a_dry_run_quotes_every_lane(place: Place) -> None:
    write(place, 300)
    found = place.run(lane="cheapest", **LONG).dry_run()
    quotes = {quote.way: quote.low for quote in found.lanes}
    assert list(quotes) == ["live_uncached", "live", "batch", "cheapest"]
    assert quotes["live"] < quotes["batch"] < quotes["live_uncached"]
    assert quotes["cheapest"] == quotes["live"]
    assert found.live_up_to_tokens is not None
    assert 100 < found.live_up_to_tokens < 200
    assert f"fewer than about {found.live_up_to_tokens:,} tokens" in str(found)
    described = json.loads(json.dumps(found.describe()))
    assert [quote["way"] for quote in described["lanes"]] == list(quotes)
    assert described["lane"] == "cheapest"


def test_a_row_that_no_job_takes_goes_live(place: Place, cached: Simulator) -> None:
    cached.change(answer_tokens=500)
    place.write([f"mail {number:04d}" for number in range(29)] + ["x" * 6000])
    report = start(place, batch_bytes=9000, batch_tail=0)
    assert (report.completions, report.failures) == (30, 0)
    assert sum("xxxx" in request.body["messages"][0]["content"] for request in live(cached)) == 1


def live(simulator: Simulator) -> list[Any]:
    return [request for request in simulator.requests if request.path == "/v1/chat/completions"]


def test_rows_for_jobs_need_not_wait_for_those_that_go_live(place: Place, cached: Simulator) -> None:
    """One slot, so that live rows are soon too many to wait in memory; jobs leave all the same."""
    cached.change(answer_tokens=900, latency_s=0.001)
    most = [5 if number % 2 else 800 for number in range(400)]
    place.write_rows([{"text": f"mail {number:04d}", "most": limit} for number, limit in enumerate(most)])
    report = start(place, row_parameters={"max_new_tokens": "most"}, llm=place.llm(max_concurrent_requests=2))
    assert report.completions == 400
    assert report.attempts == 400
    first_job = next(
        place for place, request in enumerate(cached.requests) if request.path == "/v1/batch/jobs"
    )
    assert len([one for one in cached.requests[:first_job] if one in live(cached)]) < 150
    assert len(live(cached)) >= 200


@pytest.mark.parametrize("seed", [2, 3, 14])
def test_random_workloads_cost_little_more_than_knowing_everything(seed: int, simulate: Simulate) -> None:
    del simulate  # where it is missing, this is skipped
    from benchmarks.cost import measure, random_workload

    result = measure(random_workload(seed, most_rows=400))
    assert result.above_oracle <= 0.03
    assert result.above_lane <= 0


def test_a_retry_asks_all_rows_that_were_chosen(place: Place, cached: Simulator) -> None:
    cached.change(answer_tokens=40, latency_s=0.02)
    place.write([f"row {number} " + "it broke. " * (5 if number % 2 else 600) for number in range(300)])
    llm = {"llm": place.llm(max_concurrent_requests=4)}
    place.run(system=RULES, **llm).start()
    retry = Run.retry(place.out, where="row<200", prompt="{{ text }} again", lane="cheapest")
    report = retry.start()
    assert (report.completions, report.asked_again) == (300, 0)


def test_what_answers_costs_what_it_does_in_the_next_start_too(place: Place, cached: Simulator) -> None:
    cached.change(answered_by={"mistral-small-latest": "mistral-medium-3-5"}, answer_tokens=5)
    place.write([f"row {number}" for number in range(600)])
    run: dict[str, Any] = {"lane": "cheapest", **LONG}
    place.run(limit=20, **run).start()
    report = place.run(**run).start()
    assert report.completions == 600
    price = price_of("mistral-medium-3-5")
    assert price is not None
    in_jobs = price.most(report.input_tokens, report.output_tokens) / 2
    assert report.cost is not None
    assert report.cost < 0.5 * in_jobs


def test_no_job_need_be_small_once_rows_are_answered_live(place: Place, cached: Simulator) -> None:
    cached.change(answer_tokens=2000)
    texts = [f"row {number}" for number in range(700)]
    place.write(texts)
    report = place.run(lane="cheapest", batch_tail=0, prompt="{{ text }}").start()
    assert report.completions == 700
    assert max(job.lines for job in report.jobs) > 600


def test_a_start_that_goes_on_live_makes_no_job_for_its_first_row(place: Place, cached: Simulator) -> None:
    cached.change(answer_tokens=5)
    place.write([f"row {number}" for number in range(900)])
    for limit in (300, 600, None):
        report = place.run(lane="cheapest", limit=limit, **LONG).start()
    assert report.completions == 900
    assert report.jobs == []


def test_many_systems_go_on_by_the_lane_that_is_cheaper_for_them(place: Place, cached: Simulator) -> None:
    cached.change(answer_tokens=5)
    rows = [{"who": f"clerk {number % 20}", "text": f"row {number}"} for number in range(800)]
    place.write_rows(rows)
    run: dict[str, Any] = {
        "lane": "cheapest",
        "system": "You are {{ who }}. " + RULES * 2,
        "prompt": "{{ text }}",
    }
    place.run(sample=20, **run).start()
    report = place.run(**run).start()
    assert report.completions == 800
    assert report.cost is not None
    others = run | {
        "lane": "live",
        "system": "You are not {{ who }}. " + RULES * 2,
    }  # of which nothing is cached yet
    live = place.run(out=place.out.with_name("live.jsonl"), **others).start()
    assert live.cost is not None
    assert report.cost < 1.2 * live.cost


def test_a_system_that_few_rows_have_goes_live_if_these_save_more_than_the_first_costs(
    place: Place, cached: Simulator
) -> None:
    """Before its first row is asked it is known, by the rows ahead, how many there are."""
    cached.change(cache_tokens=10_000_000)
    rows = [(f"Shop {shop}. " + RULES, number) for number in range(4) for shop in range(60)]
    place.write_rows([{"messages": talk(system, f"row {number}")} for system, number in rows])
    report = place.run(lane="cheapest", prompt=None, batch_tail=0).start()
    assert (report.completions, len(chat_requests(cached)), jobs_made(cached)) == (240, 240, 0)
    assert report.lanes is not None
    assert report.lanes.live_saves is not None
    assert report.lanes.live_saves > 0.2


def test_a_system_that_two_rows_have_is_cheaper_in_jobs(place: Place, cached: Simulator) -> None:
    rows = [(f"Shop {shop}. " + RULES, number) for number in range(2) for shop in range(120)]
    place.write_rows([{"messages": talk(system, f"row {number}")} for system, number in rows])
    report = place.run(lane="cheapest", prompt=None, batch_tail=0).start()
    assert report.completions == 240
    assert len(chat_requests(cached)) < 10


def talk(system: str, said: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": system}, {"role": "user", "content": said}]


@pytest.mark.parametrize("at_once", [4, 256])
def test_rows_whose_limits_grow_are_not_all_asked_before_their_answers_are_known(
    place: Place, cached: Simulator, at_once: int
) -> None:
    cached.change(answer_tokens=5000, latency_s=0.01)
    most = [5] * 150 + [2000] * 150
    place.write_rows([{"text": f"mail {number:04d}", "most": limit} for number, limit in enumerate(most)])
    start(
        place,
        row_parameters={"max_new_tokens": "most"},
        batch_tail=0,
        llm=place.llm(max_concurrent_requests=at_once),
    )
    asked = [one.body["max_tokens"] for one in cached.requests if one.path.endswith("completions")]
    assert (asked.count(5), asked.count(2000)) == (150, 5)


def test_a_slow_input_is_not_waited_for(place: Place, cached: Simulator) -> None:
    """Rows are looked at before their turn; those that are there are asked all the same while others are to come."""
    asked = 0

    def rows() -> Iterator[dict[str, str]]:
        nonlocal asked
        for number in range(40):
            until = time.monotonic() + 10
            while number == 30 and asked < 25 and time.monotonic() < until:
                time.sleep(0.01)
                asked = len(chat_requests(cached))
            yield {"text": f"mail {number:04d}"}

    place.run(rows(), lane="cheapest", batch_tail=0, **LONG).start()
    assert asked >= 25


def test_a_model_that_has_no_price_may_answer(place: Place, simulate: Simulate) -> None:
    simulator = simulate(answered_by={"mistral-small-latest": "who-knows"}, cache_hits=1.0)
    place.write([f"mail {number:04d}" for number in range(30)])
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    report = place.run(llm=llm, lane="cheapest", batch_tail=0, **LONG).start()
    assert (report.completions, report.unpriced_answers) == (30, 30)


def test_few_rows_are_quoted_as_they_go(
    place: Place, cached: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    """Live, whatever they cost there: no job is worth the wait."""
    cached.change(answer_tokens=500)
    write(place, 100)
    run = place.run(lane="cheapest", **LONG)
    found = run.dry_run()
    quotes = {quote.way: quote for quote in found.lanes}
    assert (quotes["cheapest"].low, quotes["cheapest"].uses_jobs) == (quotes["live"].low, False)
    assert "so few rows all go live: no job is worth the wait; see batch_tail" in str(found)
    assert run.start().completions == 100
    assert [record.getMessage() for record in caplog.records][-1] == "they are too few for jobs, and go live"


def test_requests_of_one_row_find_its_whole_prompt_cached(place: Place, cached: Simulator) -> None:
    """With a schema each of several generations is a request of its own: all but the first cost a tenth."""
    place.write([f"mail {number:04d}: " + "what it says, at length. " * 320 for number in range(60)])
    schema = {"type": "object", "properties": {"kind": {"enum": ["a", "b"]}}, "required": ["kind"]}
    llm = place.llm(structured_output={"schema": schema})
    report = place.run(llm=llm, num_generations=5, lane="cheapest", batch_tail=0).start()
    assert report.lanes is not None
    assert (report.lanes.live, report.lanes.in_jobs) == (60, 0)


def test_what_the_cache_saved_is_of_the_lane_that_has_one(place: Place, cached: Simulator) -> None:
    """Of two lanes together, each at its own price: what is cached live would have cost its full price there."""
    cached.change(answer_tokens=900)
    most = [5 if number % 2 else 800 for number in range(300)]
    place.write_rows([{"text": f"mail {number:04d}", "most": limit} for number, limit in enumerate(most)])
    report = start(place, row_parameters={"max_new_tokens": "most"})
    price = price_of("mistral-small-latest")
    assert price is not None
    assert report.lanes is not None
    assert report.lanes.in_jobs > 100
    assert report.saved_by_cache == pytest.approx(report.cached_tokens * price.cache_saves / 1e6, rel=1e-6)
