"""A run tells the server which of its requests begin alike, sends one first, and says what that saved."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import pytest
from msgspec.structs import replace
from pydantic import BaseModel
from tests.libraries import library
from tests.runs.conftest import Place
from tests.runs.test_replay import cut_off

from mistill import MistralEmbeddings, Run
from mistill.api.prices import price_of
from mistill.api.usage import BLOCK_TOKENS
from mistill.delivery.tuning import current_tuning, use_tuning
from mistill.errors import InputError
from mistill.progress.formatting import money
from mistill.prompts.prompt_template import PromptTemplate
from mistill.simulator import Fault, Simulator

RULES = "Say in one word what it is, and nothing else. " * 30  # 345 tokens
TEXTS = [f"number {number}" for number in range(100)]
IN_FRONT = {"prompt": RULES + "{{ text }}"}
LAST = {"prompt": "{{ text }}\n\n" + RULES}


def keys(simulator: Simulator) -> list[str | None]:
    return [request.body.get("prompt_cache_key") for request in simulator.requests]


def possible(rows: int, tokens: int) -> int:
    """Tokens that can be cached where so many rows have as many in common."""
    return (rows - 1) * (tokens // BLOCK_TOKENS * BLOCK_TOKENS)


def one_key(simulator: Simulator) -> str:
    (key,) = set(keys(simulator))
    assert key is not None
    return key


# --- what is cached ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [IN_FRONT, {"system": RULES}], ids=["prompt", "system"])
def test_what_rows_have_in_common_is_cached_as_far_as_it_can_be(
    place: Place, simulator: Simulator, texts: dict[str, Any]
) -> None:
    simulator.change(latency_s=0.01)
    place.write(TEXTS)
    report = place.run(**texts).start()
    assert report.completions == 100
    assert report.cached_tokens >= 0.95 * possible(100, 345)
    assert report.cached_tokens == simulator.stats().cached_tokens
    assert report.cost == pytest.approx(simulator.stats().cost)


def test_one_request_goes_first_and_the_flood_follows_when_it_is_answered(
    place: Place, simulator: Simulator
) -> None:
    simulator.change(latency_s=0.1, cache_hits=1)
    place.write(TEXTS[:20])
    report = place.run(**IN_FRONT).start()
    first, second, *_ = simulator.requests
    assert second.received_at - first.received_at >= 0.1
    assert simulator.peak_in_flight > 1
    assert report.cached_tokens == possible(20, 345)


def test_nobody_waits_where_there_is_nothing_to_cache(place: Place, simulator: Simulator) -> None:
    simulator.change(latency_s=1.0)
    place.write(TEXTS[:2])
    place.run(prompt="Say in one word what it is: {{ text }}").start()
    assert simulator.peak_in_flight == 2


def test_the_flood_follows_a_first_one_that_fails(place: Place, simulator: Simulator) -> None:
    simulator.script([Fault.status(400)])
    place.write(TEXTS[:5])
    with use_tuning(replace(current_tuning(), first_of_prompt_s=3600.0)):
        report = place.run(**IN_FRONT).start()
    assert (report.failures, report.completions) == (1, 4)


def test_further_generations_of_a_row_find_its_prompt(place: Place, simulator: Simulator) -> None:
    simulator.change(cache_hits=1)
    simulator.script(["no JSON", '{"name": "Ada"}'])
    place.write([RULES])
    report = place.run(llm_settings={"structured_output": {"schema": Named}}).start()
    assert report.completions == 1
    assert report.cached_tokens == 320  # of the prompt that was asked again, with what was wrong


@pytest.mark.parametrize(
    "own",
    [
        {"parameters": {"prompt_cache_key": "mine"}},
        {"llm_settings": {"generation_kwargs": {"prompt_cache_key": "mine"}}},
    ],
)
def test_one_goes_first_with_a_key_of_the_users_too(
    place: Place, simulator: Simulator, own: dict[str, Any]
) -> None:
    simulator.change(latency_s=0.1, cache_hits=1)
    place.write(TEXTS[:20])
    report = place.run(**IN_FRONT, **own).start()
    assert report.cached_tokens == possible(20, 345)
    assert one_key(simulator) == "mine"


# --- the key ----------------------------------------------------------------------------------------------------------


def test_a_key_tells_nothing_and_is_the_same_when_the_run_goes_on(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:5])
    place.run(**IN_FRONT, limit=2).start()
    key = one_key(simulator)
    assert re.fullmatch("mistill-[0-9a-f]{32}", key)
    place.run(**IN_FRONT).start()
    assert Counter(keys(simulator)) == {key: 5}
    place.run(**IN_FRONT, fresh=True, parameters={"temperature": 0.5}).start()
    assert len(set(keys(simulator))) == 2


def test_a_run_of_before_goes_on_and_pays_nothing_twice(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:5])
    settings = IN_FRONT | {"num_generations": 2, "llm_settings": {"structured_output": {"schema": Named}}}
    simulator.script(['{"name": "Ada"}'] * 10)
    place.run(**settings, prompt_cache=False).start()
    assert set(keys(simulator)) == {None}
    cut_off(place.ledger, 3)
    simulator.script(['{"name": "Ada"}'] * 7)
    assert place.run(**settings).start().completions == 5
    assert simulator.answered == 10 + 7  # what was asked without a key is known with one
    one_key_of = set(keys(simulator)[10:])
    assert len(one_key_of) == 1
    assert None not in one_key_of


@pytest.mark.parametrize(
    "settings",
    [
        {"parameters": {"prompt_cache_key": "mine"}},
        {"llm_settings": {"generation_kwargs": {"prompt_cache_key": "mine"}}},
        {"row_parameters": {"prompt_cache_key": "key"}},
    ],
    ids=["the run's", "the model's", "the rows'"],
)
def test_a_key_of_the_users_goes_before_ours(
    place: Place, simulator: Simulator, settings: dict[str, Any]
) -> None:
    place.write(TEXTS[:3], key="mine")
    place.run(**IN_FRONT, **settings).start()
    assert keys(simulator) == ["mine"] * 3


def test_there_is_none_where_nobody_wants_it(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:3])
    place.run(**IN_FRONT, prompt_cache=False).start()
    assert keys(simulator) == [None] * 3
    assert place.run(**IN_FRONT).start().completions == 3  # it is the same run
    assert len(simulator.requests) == 3


def test_there_is_none_where_the_dialect_has_none(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:3])
    place.run(**IN_FRONT, llm_settings={"dialect": "openai"}).start()
    assert keys(simulator) == [None] * 3


def test_it_is_left_out_once_a_server_has_refused_it(place: Place, simulator: Simulator) -> None:
    simulator.change(cache_key_refused=True)
    place.write(TEXTS)
    report = place.run(**IN_FRONT).start()
    assert report.completions == 100
    assert simulator.counts_by_status == {422: 1, 200: 100}


def test_a_refusal_for_something_else_is_the_rows_own(place: Place, simulator: Simulator) -> None:
    simulator.script([Fault.status(422)] * 3, when=lambda body: "number 3" in str(body["messages"]))
    place.write(TEXTS[:5])
    report = place.run(**IN_FRONT).start()
    assert (report.completions, report.failures) == (4, 1)
    assert [cause.error.kind for cause in report.causes] == ["bad_request"]


class Named(BaseModel):
    name: str


class Aged(BaseModel):
    age: int


def test_rows_that_begin_otherwise_have_other_keys(place: Place, simulator: Simulator) -> None:
    systems = ["Be kind. " * 40, "Be short. " * 40]
    place.write_rows(
        [
            {
                "messages": [
                    {"role": "system", "content": systems[number % 2]},
                    {"role": "user", "content": f"number {number}"},
                ]
            }
            for number in range(20)
        ]
    )
    simulator.change(cache_hits=1)
    report = place.run(prompt=None).start()
    by_system: dict[str, set[str | None]] = {system: set() for system in systems}
    for request in simulator.requests:
        by_system[request.body["messages"][0]["content"]].add(request.body["prompt_cache_key"])
    assert [len(found) for found in by_system.values()] == [1, 1]
    assert len(set.union(*by_system.values())) == 2
    assert report.cached_tokens == possible(10, 94) + possible(10, 104)


def test_systems_that_go_on_otherwise_share_the_key_of_what_they_have_in_common(
    place: Place, simulator: Simulator
) -> None:
    place.write(TEXTS[:20])
    simulator.change(cache_hits=1)
    report = place.run(system=RULES + "It is about {{ text }}.").start()
    one_key(simulator)
    assert report.cached_tokens == possible(20, 345)


def test_another_schema_has_another_key(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS[:2])
    for schema in (Named, Aged):
        place.run(**IN_FRONT, fresh=True, llm_settings={"structured_output": {"schema": schema}}).start()
    assert len(set(keys(simulator))) == 2


def test_embeddings_have_no_such_setting(place: Place) -> None:
    llm = MistralEmbeddings(model="mistral-embed", endpoint=place.endpoint)
    with pytest.raises(InputError, match="prompt_cache=False: embeddings have no such setting"):
        Run([{"text": "a"}], llm=llm, prompt_cache=False)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_the_report_says_what_was_cached_and_saved(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    report = place.run(**IN_FRONT).start()
    price = price_of("mistral-small-latest")
    assert price is not None
    saved = report.cached_tokens * 0.9 * price.input / 1e6
    assert report.saved_by_cache == pytest.approx(saved)
    share = f"{report.cached_tokens / report.input_tokens:.0%}"
    text = str(report)
    assert f"tokens in ({share} cached, {money(report.saved_by_cache)} less)" in text
    assert report.describe()["saved_by_cache"] == pytest.approx(saved)
    assert report.cost is not None
    assert report.cost + saved == pytest.approx(price.most(report.input_tokens, report.output_tokens))


def test_whoever_looks_on_sees_it_too(place: Place, simulator: Simulator) -> None:
    views: list[Any] = []
    place.write(TEXTS)
    report = place.run(**IN_FRONT, on_progress=views.append).start()
    last = views[-1]
    assert last.saved_by_cache == pytest.approx(report.saved_by_cache)
    assert re.search(r"tokens in \(\d\d% cached, \$[\d.]+ less\)", last.tokens())


def test_a_template_that_hides_what_is_the_same_is_told(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(TEXTS)
    dry = place.run(**LAST).dry_run()
    assert dry.cache is not None
    assert dry.cache.cached_tokens == 0
    # 350 tokens, of which 320 would cost a tenth: (320 · 0.9) / 352.
    assert dry.cache.more == pytest.approx(0.82, abs=0.01)
    assert "moving {{ text }} to the end saves about 82% of the cost of input" in str(dry)
    assert dry.describe()["cache"]["early"] == ["{{ text }}"]
    assert not caplog.records
    place.run(**LAST).start()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("350 of 352 tokens are the same in all rows, 4 of them in front")
    assert said.endswith("moving {{ text }} to the end saves about 82% of the cost of input")


def test_one_that_does_not_says_what_will_be_cached(
    place: Place, simulator: Simulator, caplog: pytest.LogCaptureFixture
) -> None:
    place.write(TEXTS)
    simulator.change(cache_hits=1)
    dry = place.run(**IN_FRONT).dry_run()
    report = place.run(**IN_FRONT).start()
    assert dry.cache is not None
    assert (dry.cache.cached_tokens, dry.cache.hint) == (report.cached_tokens, None)
    assert dry.cache.saves == pytest.approx(report.saved_by_cache)
    assert "of these in Mistral's cache: about 90%" in str(dry)
    assert not caplog.records


def test_nothing_is_told_where_nothing_is_cached_for_money(place: Place) -> None:
    place.write(TEXTS)
    for settings in ({"prompt_cache": False}, {"llm_settings": {"dialect": "openai"}}, {"lane": "batch"}):
        assert place.run(**LAST, **settings).dry_run().cache is None


@pytest.mark.parametrize(
    ("system", "prompt", "early"),
    [
        (None, RULES + "{{ text }}", ()),
        ("You help {{ name }}. " + RULES, "{{ text }}", ("{{ name }}",)),
        (None, "{{ text }} and {{ name }}. " + RULES, ("{{ text }}", "{{ name }}")),
        (None, "{% if name %}Of {{ name }}.{% endif %} " + RULES + "{{ text }}", ("{% if name %}…",)),
        (None, RULES + "{{ text }}. Go.", ()),  # too little to be moved
        (None, "{# {{ text }} #}{% set a = 1 %}" + RULES + "{% raw %}{{ text }}{% endraw %}{{ text }}", ()),
        (RULES, "{{ text }}", ()),
    ],
)
def test_what_stands_too_early_is_named_as_it_is_written(
    system: str | None, prompt: str, early: tuple[str, ...]
) -> None:
    library("jinja2")
    from mistill.prompts.prompt_template import PromptTemplate

    assert PromptTemplate(system=system, prompt=prompt).layout().early == early


def test_lines_of_jobs_have_the_key_too(place: Place, simulator: Simulator) -> None:
    simulator.change(batch_caches=True, cache_hits=1)
    place.write(TEXTS[:20])
    report = place.run(**IN_FRONT, lane="batch").start()
    assert report.completions == 20
    assert report.cached_tokens == simulator.stats().batch.cached_tokens == possible(20, 345)
    assert report.cost == pytest.approx(simulator.stats().cost)


def test_a_server_that_begins_to_refuse_the_key_fails_no_row(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    for outcome in place.run(**IN_FRONT, llm_settings={"max_concurrent_requests": 4}):
        assert outcome.error is None
        if outcome.position == 20:
            simulator.change(cache_key_refused=True)
    assert simulator.answered == 100
    assert keys(simulator)[-1] is None


@pytest.mark.parametrize(
    ("template", "early"),
    [
        ("{{ '{x}' }} {{ text }}", []),
        ("{% set who = 'clerk' %}{{ who }} {{ text }}", []),
        ("{% for n in range(3) %}{{ n }}{% endfor %} {{ text }}", []),
        ("{% set who = text %}{{ who }} RULES", ["{{ who }}"]),
        ("{% macro f() %}{{ text }}{% endmacro %}{{ f() }} RULES", ["{% macro f() %}…", "{{ f() }}"]),
        ("{{ ['a', 'b'] | random }} RULES", ["{{ ['a', 'b'] | random }}"]),
        ("{% set x | replace(old='a', new='b') %}a{% endset %}{{ text }} RULES", ["{{ text }}"]),
    ],
)
def test_what_a_template_writes_without_the_row_is_the_same_in_all(template: str, early: list[str]) -> None:
    layout = PromptTemplate(prompt=template.replace("RULES", RULES)).layout()
    assert list(layout.early) == early
