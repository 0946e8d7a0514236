"""A dry run: everything is made ready, nothing is sent, nothing is written."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.runs.conftest import Place

from mistill import MistralEmbeddings, MistralLLM, Run
from mistill.api.token_estimate import BYTES_PER_TOKEN, MESSAGE_TOKENS
from mistill.errors import InputError
from mistill.simulator import Simulator

PRICES = {"models": {"mistral-small-latest": {"input": 500_000, "output": 1_000_000, "context": 1000}}}


@pytest.fixture
def nowhere() -> str:
    """An endpoint where nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{taken.getsockname()[1]}"


def a_run(place: Place, nowhere: str, *, llm: dict[str, Any] | None = None, **options: Any) -> Run:
    model = MistralLLM(model="mistral-small-latest", endpoint=nowhere, prices=PRICES, **(llm or {}))
    return place.run(llm=model, **options)


def test_nothing_is_sent_or_written_and_no_key_or_server_is_needed(
    place: Place, nowhere: str, monkeypatch: pytest.MonkeyPatch, simulator: Simulator
) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    place.write(["one", "two", "three", "four"])
    run = a_run(place, nowhere, llm={"dialect": "auto"})
    found = run.dry_run()
    assert (found.rows, found.asked, found.requests, found.refused) == (4, 4, 4, 0)
    assert [shown.prompt[-1]["content"] for shown in found.prompts] == ["one", "two", "three"]
    assert sorted(path.name for path in place.out.parent.iterdir()) == ["in.jsonl"]
    assert simulator.requests == []
    with pytest.raises(InputError, match="MISTRAL_API_KEY"):
        run.start()


def test_the_same_run_starts_after_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY")
    place.write(["one", "two"])
    run = place.run()
    assert run.dry_run().asked == 2
    monkeypatch.setenv("MISTRAL_API_KEY", "a key that came later")
    assert run.start().completions == 2


def test_tokens_and_costs_are_added_up(place: Place, nowhere: str) -> None:
    texts = ["x" * 4 * number for number in (1, 2, 5)]
    place.write(texts)
    found = a_run(place, nowhere, parameters={"max_new_tokens": 10}).dry_run()
    assert found.input_tokens == 8 + 3 * MESSAGE_TOKENS
    assert found.most_output_tokens == 30
    assert found.cost is not None
    assert (found.cost.input, found.cost.most) == (10.0, 40.0)
    assert found.batch_cost is not None
    assert (found.batch_cost.input, found.batch_cost.most) == (5.0, 20.0)
    unbounded = a_run(place, nowhere).dry_run()
    assert unbounded.most_output_tokens is None
    assert "max_new_tokens would" in str(unbounded)
    assert f"a token for each {BYTES_PER_TOKEN} bytes" in str(unbounded)


def test_duplicates_are_counted_and_left_out_where_they_are_asked_once(place: Place, nowhere: str) -> None:
    place.write(["same", "other", "same", "same"])
    found = a_run(place, nowhere).dry_run()
    assert (found.duplicates, found.asked) == (2, 4)
    assert "which cost once with dedupe=True" in str(found)
    once = a_run(place, nowhere, dedupe=True).dry_run()
    assert (once.duplicates, once.asked) == (2, 2)
    assert once.input_tokens < found.input_tokens


def test_what_would_be_refused_is_named(place: Place, nowhere: str) -> None:
    place.write_rows([{"text": "fine"}, {"other": 1}, {"text": None}, {"text": "y" * 5000}])
    found = a_run(place, nowhere).dry_run()
    assert (found.asked, found.refused, found.too_long, found.is_blocked) == (2, 2, 1, False)
    assert [refusal.row for refusal in found.refusals] == [1, 2]
    assert "needs a column 'text'" in found.refusals[0].message
    assert "longer than the 1,000 tokens of the model: 1 row" in str(found)


def test_a_first_row_that_stops_the_run_is_said_so(place: Place, nowhere: str) -> None:
    place.write_rows([{"txt": "a"}, {"text": "b"}])
    found = a_run(place, nowhere).dry_run()
    assert found.is_blocked
    assert "did you mean 'txt'" in str(found)
    assert "the run would send nothing" in str(found)


def test_time_is_told_where_the_quota_is_known(place: Place, nowhere: str) -> None:
    place.write(["text"] * 120)
    assert a_run(place, nowhere).dry_run().seconds is None
    paced = a_run(place, nowhere, llm={"requests_per_minute": 60, "api_key": "one of its own"}).dry_run()
    assert paced.seconds == pytest.approx(120)


def test_it_is_described_as_json(place: Place, nowhere: str) -> None:
    place.write(["one"])
    described = json.loads(json.dumps(a_run(place, nowhere).dry_run().describe()))
    assert described["prompts"] == [{"row": 0, "prompt": [{"role": "user", "content": "one"}]}]
    assert described["rows"] == 1


def test_texts_to_embed_go_many_in_a_request(place: Place, nowhere: str) -> None:
    place.write(["word"] * 600)
    run = Run(place.input, llm=MistralEmbeddings(endpoint=nowhere), out=place.out)
    found = run.dry_run()
    assert (found.asked, found.requests, found.most_output_tokens) == (600, 3, 0)
    assert found.prompts[0].prompt == "word"


def test_a_retry_of_what_is_cut_off_is_not_disturbed(place: Place, nowhere: str) -> None:
    """A dry run beside the ledger of a run leaves it as it is."""
    place.write(["one", "two"])
    place.run(sample=1).start()
    before = {path.name: path.read_bytes() for path in Path(place.out.parent).iterdir()}
    a_run(place, nowhere).dry_run()
    assert {path.name: path.read_bytes() for path in Path(place.out.parent).iterdir()} == before


SHOP = "Decide what the customer wants, and answer in one word. " * 60


def test_what_prompts_of_a_column_share_can_be_cached(place: Place) -> None:
    """As much as the simulator's cache then finds."""
    said = [
        [{"role": "system", "content": f"Shop {n % 3}. {SHOP}"}, {"role": "user", "content": f"mail {n}"}]
        for n in range(60)
    ]
    place.write_rows([{"messages": one} for one in said])
    llm = MistralLLM(model="mistral-small-latest")
    found = Run(place.input, llm=llm, out=place.out).dry_run()
    assert found.cache is not None
    assert found.cache.cached_tokens / found.input_tokens == pytest.approx(57 / 60, abs=0.03)
    live, uncached = (
        next(one.low for one in found.lanes if one.way == way) for way in ("live", "live_uncached")
    )
    assert live < 0.2 * uncached


def test_a_column_with_few_values_may_stand_in_front(place: Place) -> None:
    """Rows that have the same value there begin alike; it is one with many values that is better at the end."""
    place.write_rows([{"kind": f"{n % 2} or so", "mail": f"mail {n}"} for n in range(600)])
    llm = MistralLLM(model="mistral-small-latest")

    def hint(column: str) -> str | None:
        prompt = "{{ " + column + " }} " + SHOP + "{{ mail }}"
        cache = Run(place.input, llm=llm, out=place.out, prompt=prompt).dry_run().cache
        return cache and cache.hint

    assert hint("kind") is None
    assert "moving {{ mail }}" in str(hint("mail"))


def test_a_model_that_is_served_no_more_is_named(place: Place) -> None:
    place.write(["one"])
    llm = MistralLLM(model="open-mixtral-8x22b")
    assert "was retired on 2025-03-30; its successor is" in str(place.run(llm=llm).dry_run())


@pytest.mark.parametrize("endpoint", [None, "https://api.eu.mistral.ai"])
def test_jobs_are_spoken_of_where_there_are_any(place: Place, endpoint: str | None) -> None:
    place.write(["one"] * 300)
    url = endpoint or "https://api.mistral.ai"
    llm = MistralLLM(model="mistral-small-latest", endpoint=url)
    found = place.run(llm=llm, lane="cheapest", system=SHOP + "{{ text }}", prompt="Answer.").dry_run()
    assert ("jobs" in str(found)) == (endpoint is None)


def test_a_key_of_ones_own_makes_no_prompts_alike_that_have_other_schemas(place: Place) -> None:
    """What stands before the messages differs, so nothing behind it is cached."""
    formats = [
        {"type": "json_schema", "json_schema": {"name": f"s{n}", "schema": {"type": "object"}}}
        for n in range(20)
    ]
    place.write_rows([{"text": SHOP, "format": one} for one in formats])
    llm = MistralLLM(model="mistral-small-latest")
    settings: dict[str, Any] = {"parameters": {"prompt_cache_key": "mine"}}
    alike = Run(place.input, llm=llm, out=place.out, prompt="{{ text }}", **settings).dry_run()
    assert alike.cache is not None
    assert alike.cache.cached_tokens > 0.8 * alike.input_tokens
    found = Run(
        place.input, llm=llm, out=place.out, prompt="{{ text }}",
        row_parameters={"response_format": "format"}, **settings,
    ).dry_run()  # fmt: skip
    assert found.cache is None or found.cache.cached_tokens == 0
