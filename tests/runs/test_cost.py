"""What a run says that it cost is what the server bills, and a budget of money holds what it says."""

from __future__ import annotations

from typing import Any

import pytest
from tests.runs.conftest import MODEL, Place

from mistill import MistralEmbeddings, MistralLLM
from mistill.api.prices import price_of
from mistill.errors import InputError, InvalidModel, Stopped
from mistill.progress.view import View
from mistill.simulator import Simulator

TEXTS = [f"row {number} " + "and so on " * (number % 7) for number in range(40)]
REGIONAL: dict[str, Any] = {"endpoint": "http://api.eu.mistral.ai", "allow_http": True}


@pytest.fixture
def region(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulator answers for Mistral's regional hosts too, as their proxy."""
    monkeypatch.setenv("HTTP_PROXY", simulator.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def billed(simulator: Simulator) -> float:
    return simulator.stats().cost


@pytest.mark.parametrize(
    "place_in_usage", ["prompt_tokens_details", "prompt_token_details", "num_cached_tokens"]
)
def test_cached_tokens_cost_less_wherever_they_stand(
    place: Place, simulator: Simulator, place_in_usage: str
) -> None:
    simulator.change(cached_share=0.5, cached_place=place_in_usage)
    place.write(TEXTS)
    report = place.run().start()
    assert report.cost == pytest.approx(billed(simulator))
    price = price_of(MODEL)
    assert price is not None
    assert report.cached_tokens > 0
    whole = price.most(report.input_tokens, report.output_tokens)
    assert report.cost == pytest.approx(whole - report.cached_tokens * 0.9 * price.input / 1e6)


@pytest.mark.parametrize(
    ("settings", "changes", "factor"),
    [
        ({}, {"service_tier": "priority"}, 1.75),
        ({}, {"service_tier": "standard"}, 1),
        ({"parameters": {"service_tier": "standard_only"}}, {"service_tier": "priority"}, 1),
        (REGIONAL, {}, 1.1),
        (REGIONAL, {"service_tier": "priority", "cached_share": 0.5}, 1.1 * 1.75),
    ],
)
@pytest.mark.usefixtures("region")
def test_every_tariff_is_in_the_cost(
    place: Place, simulator: Simulator, settings: dict[str, Any], changes: dict[str, Any], factor: float
) -> None:
    simulator.change(**changes)
    place.write(TEXTS)
    if settings is REGIONAL:
        settings = {"llm": MistralLLM(model=MODEL, **REGIONAL)}
    report = place.run(sample=10, **settings).start()
    assert report.forecast is not None
    assert report.forecast.cost is not None
    report = place.run(extra_columns=["cost"], **settings).start()
    price = price_of(MODEL)
    assert price is not None
    whole = price.most(report.input_tokens - report.cached_tokens, report.output_tokens)
    whole += report.cached_tokens * price.cached_input / 1e6
    assert report.cost == pytest.approx(whole * factor)
    if "llm" not in settings:  # the simulator does not know what it stands for
        assert report.cost == pytest.approx(billed(simulator))
    assert sum(record["cost"] for record in place.records()) == pytest.approx(report.cost)


def test_sound_is_in_the_cost(place: Place, simulator: Simulator) -> None:
    simulator.change(audio_seconds=30)
    place.write(TEXTS)
    llm = MistralLLM(model="voxtral-small-latest", endpoint=place.endpoint)
    report = place.run(llm=llm).start()
    assert report.cost == pytest.approx(billed(simulator))
    assert report.cost == pytest.approx(40 * 0.002, rel=0.01)


@pytest.mark.parametrize(
    "changes",
    [
        {"service_tier": "priority"},
        {"service_tier": "priority", "cached_share": 0.3},
        {"answered_by": {MODEL: "mistral-medium-3-5"}},
        {"answered_by": {MODEL: "mistral-medium-3-5"}, "service_tier": "priority"},
    ],
)
def test_a_budget_of_money_holds_at_every_tariff(
    place: Place, simulator: Simulator, changes: dict[str, Any]
) -> None:
    place.write(["x"] * 400)
    answer: dict[str, Any] = {"parameters": {"max_new_tokens": 40}}
    simulator.change(answer_tokens=40, latency_s=0.02, **changes)
    place.run(limit=4, **answer).start()  # from here on it is known which model answers
    each = billed(simulator) / 4
    max_cost = 40 * each
    report = place.run(max_cost=max_cost, **answer).start()
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "budget"
    assert report.cost == pytest.approx(billed(simulator))
    assert 0.5 * max_cost < billed(simulator) <= 1.001 * (max_cost + each)


def test_a_model_without_a_price_is_not_paid_again_by_each_start(place: Place, simulator: Simulator) -> None:
    place.write(["x"] * 200)
    simulator.change(answered_by={MODEL: "mistral-small-2711"})
    place.run(limit=4).start()
    for _ in range(3):
        report = place.run(max_cost=1.0).start()
        assert "mistral-small-2711" in str(report.stopped)
    assert simulator.answered == 4


def test_what_the_cache_saves_is_of_tokens_and_not_of_sound(place: Place, simulator: Simulator) -> None:
    simulator.change(audio_seconds=30, cached_share=0.5)
    place.write(TEXTS)
    llm = MistralLLM(model="voxtral-small-latest", endpoint=place.endpoint)
    last: list[View] = []
    report = place.run(llm=llm, on_progress=last.append).start()
    saved = report.cached_tokens * (0.1 - 0.01) / 1e6
    assert saved > 0
    assert report.saved_by_cache == pytest.approx(saved)
    assert last[-1].saved_by_cache == pytest.approx(saved)


def test_a_budget_of_money_leaves_room_for_the_priority_tier_from_the_first_request_on(
    place: Place, simulator: Simulator
) -> None:
    simulator.change(service_tier="priority", latency_s=0.05, answer_tokens=100)
    place.write(["x"] * 200)
    report = place.run(parameters={"max_new_tokens": 100}, max_cost=0.003).start()
    assert isinstance(report.stopped, Stopped)
    assert billed(simulator) < 0.003 + 2 * billed(simulator) / report.completions


@pytest.mark.usefixtures("region")
def test_vectors_share_out_the_cost_of_their_request(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    llm = MistralEmbeddings(model="mistral-embed", **REGIONAL)
    report = place.run(llm=llm, extra_columns=["cost"]).start()
    assert report.cost == pytest.approx(1.1 * billed(simulator))
    assert sum(record["cost"] for record in place.records()) == pytest.approx(report.cost)


def test_a_price_follows_the_model_that_answers(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    place.run(limit=20).start()
    before = billed(simulator)
    simulator.change(answered_by={MODEL: "mistral-medium-3-5"})
    report = place.run().start()
    assert billed(simulator) > 5 * before
    assert report.cost == pytest.approx(billed(simulator))


def test_a_model_that_nobody_knows_costs_nobody_knows_what(place: Place, simulator: Simulator) -> None:
    simulator.change(answered_by={MODEL: "mistral-small-2711"})
    place.write(TEXTS)
    report = place.run().start()
    assert (report.completions, report.cost, report.unpriced_answers) == (40, None, 40)
    assert "no known price" in str(report)


def test_a_budget_of_money_ends_where_prices_are_known_no_more(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS * 5)
    place.run(max_cost=1, limit=10).start()
    simulator.change(answered_by={MODEL: "mistral-small-2711"}, latency_s=0.01)
    report = place.run(max_cost=1).start()
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "budget"
    assert "mistral-small-2711" in str(report.stopped)
    assert report.completions <= 10 + 64
    assert report.unpriced_answers == report.completions - 10
    assert f"and {report.unpriced_answers:,} answers without a known price" in str(report)
    own = {"models": {"mistral-small-2711": {"input": 1, "output": 1}}}
    assert place.run(max_cost=1, llm_settings={"prices": own}).start().stopped is None


def test_answers_without_a_price_count_once_there_is_one(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    llm = MistralLLM(model="magistral-medium-latest", endpoint=place.endpoint)
    first = place.run(llm=llm, limit=30).start()
    assert first.cost is None
    tokens = first.input_tokens + first.output_tokens
    own = {"models": {"magistral-medium-latest": {"input": 1, "output": 1}}}
    priced = MistralLLM(model="magistral-medium-latest", endpoint=place.endpoint, prices=own)
    seen = len(simulator.requests)
    report = place.run(llm=priced, max_cost=tokens / 1e6).start()
    assert isinstance(report.stopped, Stopped)
    assert len(simulator.requests) == seen


@pytest.mark.parametrize(
    ("model", "since"), [("open-mixtral-8x22b", "2025-03-30"), ("mistral-tiny", "2025-03-30")]
)
def test_a_retired_model_is_told_with_its_successor(
    place: Place, simulator: Simulator, model: str, since: str
) -> None:
    simulator.change(models=(MODEL,))
    place.write(TEXTS)
    llm = MistralLLM(model=model, endpoint=place.endpoint)
    with pytest.raises(InputError, match=since):
        place.run(llm=llm, max_cost=1)
    report = place.run(llm=llm, on_stop="return").start()
    assert isinstance(report.stopped, InvalidModel)
    hint = report.stopped.hint
    assert hint is not None
    assert since in hint
    assert "its successor is mi" in hint
    assert "models()" in hint  # and what there is
    simulator.change(models=(MODEL, "mistral-small-2603"))
    unknown = place.run(
        llm=MistralLLM(model="nobody", endpoint=place.endpoint), fresh=True, on_stop="return"
    ).start()
    assert "retired" not in str(unknown.stopped)


def test_a_dry_run_knows_the_host(place: Place) -> None:
    place.write(TEXTS)
    plain = place.run().dry_run()
    regional = place.run(llm=MistralLLM(model=MODEL, **REGIONAL)).dry_run()
    assert plain.cost is not None
    assert plain.batch_cost is not None
    assert plain.batch_cost.input == pytest.approx(plain.cost.input / 2)
    assert regional.cost is not None
    assert regional.cost.input == pytest.approx(1.1 * plain.cost.input)
    assert regional.batch_cost is None
    assert "batch" not in str(regional)


@pytest.mark.parametrize(
    "model", ["mistral-medium-3-5", "mistral-small-2711"], ids=["dearer", "without a price"]
)
@pytest.mark.parametrize("wait", [True, False])
def test_jobs_that_are_planned_are_not_sent_at_another_price(
    place: Place, simulator: Simulator, model: str, *, wait: bool
) -> None:
    place.write(["x"] * 200)
    simulator.change(answer_tokens=40, answered_by={MODEL: model})
    settings: dict[str, Any] = {"lane": "batch", "batch_rows": 20, "parameters": {"max_new_tokens": 40}}
    report = place.run(max_cost=0.003, wait=wait, **settings).start()
    assert sum(simulator.stats().batch.jobs.values()) <= 2
    assert simulator.stats().batch.lines_billed <= 40
    if wait:
        assert isinstance(report.stopped, Stopped)
        assert report.stopped.reason == "budget"


def test_a_budget_of_money_holds_where_jobs_have_sound(place: Place, simulator: Simulator) -> None:
    simulator.change(audio_seconds=600, answer_tokens=10)
    place.write(["x"] * 200)
    llm = MistralLLM(model="voxtral-small-latest", endpoint=place.endpoint)
    each = 600 / 60 * 0.002 / 2
    report = place.run(llm=llm, lane="batch", max_cost=60 * each, parameters={"max_new_tokens": 10}).start()
    assert isinstance(report.stopped, Stopped)
    assert report.stopped.reason == "budget"
    assert report.completions > 5
    assert billed(simulator) <= 60 * each


def test_who_looks_at_a_second_start_is_told_what_earlier_ones_cost(place: Place) -> None:
    place.write(["a", "b", "c"])
    views: list[View] = []
    first = place.run(limit=1, on_progress=views.append).start()
    assert views[-1].earlier_cost is None
    second = place.run(on_progress=views.append).start()
    assert views[-1].earlier_cost == pytest.approx(first.cost)
    assert views[-1].cost == pytest.approx((second.cost or 0) - (first.cost or 0))
    assert [start.start_cost for start in second.starts] == pytest.approx([first.cost, views[-1].cost])
