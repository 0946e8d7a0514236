"""One call's settings over many rows: a row's own parameters and schema, several generations, cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from mistill.errors import InputError
from mistill.llms import MistralLLM
from mistill.llms.event_loop import background
from mistill.llms.generation import Generation
from mistill.simulator import Fault, Simulator

MakeLLM = Callable[..., MistralLLM]


def sent(simulator: Simulator, generation: Generation) -> dict[str, Any]:
    outcome = background.run(generation.check("Hello").answer(generation.dispatcher.send))
    assert outcome.error is None
    return {
        name: value
        for name, value in simulator.requests[-1].body.items()
        if name not in ("model", "messages")
    }


def test_a_rows_own_parameters_go_over_the_calls(simulator: Simulator, make_llm: MakeLLM) -> None:
    generation = make_llm().generation(temperature=0.1, stop="a")
    assert sent(simulator, generation.with_parameters({"temperature": 0.9, "max_new_tokens": 3})) == {
        "temperature": 0.9,
        "stop": "a",
        "max_tokens": 3,
    }
    assert sent(simulator, generation) == {"temperature": 0.1, "stop": "a"}


def test_none_leaves_what_the_call_says(make_llm: MakeLLM) -> None:
    generation = make_llm().generation(temperature=0.1)
    assert generation.with_parameters({"temperature": None}) is generation
    assert generation.with_parameters({}) is generation


def test_rows_with_equal_parameters_share_their_settings(make_llm: MakeLLM) -> None:
    generation = make_llm().generation()
    same = generation.with_parameters({"stop": "a", "temperature": 0.5})
    assert generation.with_parameters({"temperature": 0.5, "stop": "a"}) is same
    assert generation.with_parameters({"temperature": 0.6}) is not same


def test_rows_that_all_differ_do_not_fill_the_memory(make_llm: MakeLLM) -> None:
    generation = make_llm().generation()
    for seed in range(2000):
        generation.with_parameters({"random_seed": seed})
        generation.check(("Hello", {"schema": {"type": "object", "title": f"t{seed}"}}))
    assert len(generation._variants) <= 256


@pytest.mark.parametrize("changes", [{"temprature": 1}, {"temperature": 9}, {"extra_body": {"stop": "x"}}])
def test_wrong_parameters_of_a_row_are_refused(make_llm: MakeLLM, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        make_llm().generation().with_parameters(changes)


@pytest.mark.beyond_the_spec("extra_body")
def test_a_rows_extra_fields_join_the_calls(simulator: Simulator, make_llm: MakeLLM) -> None:
    generation = make_llm().generation(extra_body={"a": 1, "b": 1}).with_parameters({"extra_body": {"b": 2}})
    background.run(generation.check("Hello").answer(generation.dispatcher.send))
    assert {name: simulator.requests[-1].body[name] for name in "ab"} == {"a": 1, "b": 2}


def test_cost_counts_every_answer_that_was_paid(simulator: Simulator, make_llm: MakeLLM) -> None:
    llm = make_llm(prices={"models": {"mistral-small-latest": {"input": 1, "output": 2}}})
    ((completion,),) = llm.complete(["Hello"])
    assert completion.cost == pytest.approx((6 * 1 + 3 * 2) / 1e6)
    first, second = llm.complete(["Hello"], num_generations=2)[0]
    assert (first.cost, second.cost) == (pytest.approx((6 * 1 + 7 * 2) / 1e6), 0)


def test_a_model_of_unknown_price_has_no_cost(simulator: Simulator, make_llm: MakeLLM) -> None:
    ((completion,),) = make_llm(model="magistral-medium-latest").complete(["Hello"])
    assert completion.cost is None


def test_a_server_that_ignores_n_is_asked_for_the_rest(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.script([_one_choice()])
    llm = make_llm()
    assert llm.generate(["Hello"], num_generations=3, random_seed=1) == [
        ["only one", "Echo: Hello", "Echo: Hello"]
    ]
    assert [request.body["random_seed"] for request in simulator.requests[1:]] in ([2, 3], [3, 2])
    llm.generate(["again"], num_generations=2)
    assert "n" not in simulator.requests[-1].body


def _one_choice() -> Fault:
    message = {"role": "assistant", "content": "only one"}
    return Fault.status(200, {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})


def test_half_of_a_rows_generations_failing_fails_the_row_and_keeps_the_others(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    llm = make_llm(model="mistral-large-2512", max_retries=0)
    llm.generate(["learn that n is refused"], num_generations=2)
    simulator.script([Fault.status(400)])
    (outcome,) = llm.outcomes(["Hello"], num_generations=2)
    assert outcome.error is not None
    assert sorted(completion is None for completion in outcome.completions) == [False, True]
    assert outcome.usage.input_tokens == 6


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("depth", [600, 990, 3000])
@pytest.mark.parametrize(
    "argument",
    ["extra_body", "prediction", "stop", "guardrails", "metadata", "tools", "tool_choice", "response_format"],
)
def test_what_is_nested_too_deeply_to_be_sent_is_refused(
    make_llm: MakeLLM, argument: str, depth: int
) -> None:
    value: Any = nested(depth)
    if argument == "tools":
        value = [{"type": "function", "function": {"name": "x", "parameters": value}}]
    elif argument in ("stop", "guardrails"):
        value = [value]
    with suppress(InputError):  # of the shallower ones some can be sent; any other error is one too many
        make_llm().generation(**{argument: value})
