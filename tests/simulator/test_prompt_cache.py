"""The cache of prompts: what is found in it, for whom, for how long, and how it is told and billed."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import Simulate
from tests.simulator.conftest import Ask

from mistill.api.chat import SystemMessage, UserMessage
from mistill.api.usage import BLOCK_TOKENS
from mistill.simulator import Simulator
from mistill.simulator.drafts import count_prompt_tokens
from mistill.simulator.prompt_cache import PromptCache
from mistill.simulator.requests import ChatRequest
from mistill.simulator.settings import Settings

RULES = "Always say what you see. " * 40  # 250 tokens, and 4 for its message
CERTAIN: dict[str, Any] = {"cache_hits": 1, "cache_hits_without_key": 0}


def cached(usage: dict[str, Any]) -> int:
    return usage.get("prompt_tokens_details", {"cached_tokens": 0})["cached_tokens"]


def asked_twice(ask: Ask, simulator: Simulator, *, first: dict[str, Any], then: dict[str, Any]) -> int:
    """What the second request has cached."""
    for fields in (first, then):
        answer = ask(
            simulator,
            body={
                "model": "mistral-small-latest",
                "messages": [{"role": "system", "content": RULES}, {"role": "user", "content": "a row"}],
                "prompt_cache_key": "a run",
                **fields,
            },
        )
    return cached(answer.json["usage"])


def messages(system: str, user: str) -> dict[str, Any]:
    return {"messages": [{"role": "system", "content": system}, {"role": "user", "content": user}]}


def test_what_begins_alike_is_cached_in_whole_blocks(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(**CERTAIN)
    assert asked_twice(ask, simulator, first={}, then=messages(RULES, "another row")) == 256  # of 258
    stats = simulator.stats()
    assert stats.cached_tokens == 256
    fresh, out = stats.input_tokens - 256, stats.output_tokens
    assert stats.cost == pytest.approx((0.15 * fresh + 0.015 * 256 + 0.6 * out) / 1e6)


@pytest.mark.parametrize(
    "then",
    [
        {"prompt_cache_key": "another run"},
        {"prompt_cache_key": None},
        {"model": "mistral-medium-latest"},
        messages("." + RULES, "a row"),
        {"response_format": {"type": "json_object"}},
        {"messages": [{"role": "user", "content": RULES}]},
    ],
    ids=["another key", "no key", "another model", "another beginning", "another format", "another role"],
)
def test_what_does_not_begin_alike_is_not(simulate: Simulate, ask: Ask, then: dict[str, Any]) -> None:
    assert asked_twice(ask, simulate(**CERTAIN), first={}, then=then) == 0


def test_another_key_of_the_api_has_a_cache_of_its_own(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(**CERTAIN)
    fields = messages(RULES, "a row") | {"prompt_cache_key": "a run"}
    usages = [ask(simulator, key=key, **fields).json["usage"] for key in ("one", "two", "one")]
    assert [cached(usage) for usage in usages] == [0, 0, 256]


def test_a_key_makes_a_hit_likely_and_without_one_it_is_rare(simulator: Simulator, ask: Ask) -> None:
    def hits(**fields: Any) -> int:
        asked = [ask(simulator, RULES, **fields).json["usage"] for _ in range(50)]
        return sum(cached(usage) > 0 for usage in asked)

    assert hits(prompt_cache_key="a run") >= 43
    assert hits() <= 7


def test_none_is_below_a_block(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(**CERTAIN)
    short, long = "x" * 59 * 4, "x" * 60 * 4  # and four for the message
    for text, found in ((short, 0), (long, 64)):
        usages = [ask(simulator, text, prompt_cache_key="a").json["usage"] for _ in range(2)]
        assert [cached(usage) for usage in usages] == [0, found]


@pytest.mark.parametrize("place", ["prompt_tokens_details", "prompt_token_details", "num_cached_tokens"])
def test_it_is_told_in_each_of_three_places(simulate: Simulate, ask: Ask, place: str) -> None:
    simulator = simulate(**CERTAIN, cached_place=place)
    answers = [ask(simulator, RULES, prompt_cache_key="a").json for _ in range(2)]
    assert place not in answers[0]["usage"]
    assert answers[1]["usage"][place] == (192 if place == "num_cached_tokens" else {"cached_tokens": 192})


def test_a_prompt_is_there_for_others_once_it_was_read(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(**CERTAIN, latency_s=0.05)
    events = ask(simulator, RULES, prompt_cache_key="a", stream=True).events
    assert "prompt_tokens_details" not in events[-1]["usage"]
    assert cached(ask(simulator, RULES, prompt_cache_key="a", stream=True).events[-1]["usage"]) == 192


def test_a_server_that_does_not_know_the_key_refuses_it(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(cache_key_refused=True)
    refused = ask(simulator, RULES, prompt_cache_key="a")
    assert refused.status == 422
    assert refused.json["detail"][0]["loc"] == ["body", "prompt_cache_key"]
    assert ask(simulator, RULES).status == 200


# --- the cache alone, in made-up time ---------------------------------------------------------------------------------


def request(text: str, key: str | None = "a run") -> ChatRequest:
    return ChatRequest(
        model="m", messages=[SystemMessage(content=RULES), UserMessage(content=text)], prompt_cache_key=key
    )


def read(cache: PromptCache, asked: ChatRequest, settings: Settings) -> int:
    prompt = cache.find(asked, 1, count_prompt_tokens(asked), settings)
    cache.keep(prompt, settings)
    return prompt.tokens


def test_what_was_not_used_for_long_is_forgotten() -> None:
    now = 0.0
    cache = PromptCache(0, lambda: now)
    settings = Settings(**CERTAIN, cache_for_s=300)
    assert read(cache, request("a"), settings) == 0
    now = 299
    assert read(cache, request("b"), settings) == 256  # used, so it stays for as long again
    now = 598
    assert read(cache, request("c"), settings) == 256
    now = 900
    assert read(cache, request("d"), settings) == 0


def test_the_least_used_goes_where_there_is_no_room() -> None:
    cache = PromptCache(0, lambda: 0.0)
    settings = Settings(**CERTAIN, cache_tokens=10 * BLOCK_TOKENS)
    tail = "x" * 4 * BLOCK_TOKENS  # a block of each row's own
    assert [read(cache, request(f"{row:04}{tail}"), settings) for row in range(20)] == [0] + [256] * 19
    assert read(cache, request(f"0019{tail}"), settings) == 320
    assert (
        read(cache, request(f"0000{tail}"), settings) == 256
    )  # the row's own block is gone, the rules are not


def test_without_room_there_is_no_cache() -> None:
    settings = Settings(**CERTAIN, cache_tokens=0)
    cache = PromptCache(0, lambda: 0.0)
    assert [read(cache, request("a"), settings) for _ in range(3)] == [0, 0, 0]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([None, "a", "b"]), st.text("xy ", max_size=600), st.text("xy ", max_size=600)
        ),
        min_size=1,
        max_size=8,
    )
)
def test_never_more_than_is_shared_with_an_earlier_prompt(prompts: list[tuple[str | None, str, str]]) -> None:
    cache = PromptCache(0, lambda: 0.0)
    settings = Settings(cache_hits=1, cache_hits_without_key=1)
    earlier: list[ChatRequest] = []
    for key, system, user in prompts:
        asked = ChatRequest(
            model="m",
            messages=[SystemMessage(content=system), UserMessage(content=user)],
            prompt_cache_key=key,
        )
        tokens = count_prompt_tokens(asked)
        possible = max((_shared_tokens(asked, one) for one in earlier), default=0)
        found = read(cache, asked, settings)
        assert found % BLOCK_TOKENS == 0
        assert found == possible // BLOCK_TOKENS * BLOCK_TOKENS <= tokens
        earlier.append(asked)


def _shared_tokens(one: ChatRequest, other: ChatRequest) -> int:
    if one.prompt_cache_key != other.prompt_cache_key:
        return 0
    tokens = [_tokens(each) for each in (one, other)]
    return next((at for at, (a, b) in enumerate(zip(*tokens, strict=False)) if a != b), min(map(len, tokens)))


def _tokens(asked: ChatRequest) -> list[str]:
    """Each token of a prompt, a message's last one with what is left of its text."""
    found: list[str] = []
    for number, message in enumerate(asked.messages):
        text = str(message.content)
        found += [f"message {number}"] * 4 + [text[at : at + 4].ljust(4) for at in range(0, len(text), 4)]
    return found
