"""What is refused before a model sees it, and in which words."""

from __future__ import annotations

from typing import Any

import pytest
from tests.conftest import Simulate
from tests.simulator.conftest import Ask

from mistill.api.prices import shipped_prices
from mistill.simulator import Simulator


@pytest.mark.parametrize("key", [None, "", "   "])
def test_without_a_key_there_is_no_answer(simulator: Simulator, ask: Ask, key: str | None) -> None:
    got = ask(simulator, key=key)
    assert (got.status, got.json) == (401, {"detail": "Unauthorized"})


def test_only_the_accepted_keys_are_accepted(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(api_keys=["right"], unauthorized_form="message")
    assert ask(simulator, key="right").status == 200
    got = ask(simulator, key="wrong")
    assert got.status == 401
    assert got.json == {"message": "Unauthorized", "request_id": got.headers["mistral-correlation-id"]}


def test_an_unknown_model_is_refused_as_mistral_does(
    simulator: Simulator, simulate: Simulate, ask: Ask
) -> None:
    got = ask(simulator, model="x")
    assert got.status == 400
    assert got.json == {
        "object": "error",
        "message": "Invalid model: x",
        "type": "invalid_model",
        "param": None,
        "code": "1500",
    }
    assert ask(simulator, model="mistral-embed").json["code"] == "1500"
    assert ask(simulate(any_model=True), model="x").status == 200


def test_models_that_mistral_has_retired_are_neither_served_nor_listed(
    simulator: Simulator, ask: Ask
) -> None:
    gone = [each for name, model in shipped_prices().retired.items() for each in (name, *model.aliases)]
    assert [name for name in gone if ask(simulator, model=name).json.get("code") != "1500"] == []
    listed = ask(simulator, path="/v1/models", method="GET").json["data"]
    assert [card["id"] for card in listed if card["id"] in gone] == []
    assert ask(simulator, path=f"/v1/models/{gone[0]}", method="GET").status == 404
    simulator.change(models=(gone[0],))  # a script of then may be tried
    assert ask(simulator, model=gone[0]).status == 200


@pytest.mark.parametrize(
    "field", ["seed", "max_completion_tokens", "stream_options", "store", "logit_bias", "user", "functions"]
)
def test_fields_of_other_apis_are_refused(simulator: Simulator, ask: Ask, field: str) -> None:
    got = ask(simulator, **{field: 1})
    assert got.status == 422
    assert got.json == {
        "detail": [
            {
                "type": "extra_forbidden",
                "loc": ["body", field],
                "msg": "Extra inputs are not permitted",
                "input": 1,
            }
        ]
    }


def test_the_three_forms_of_422(simulate: Simulate, ask: Ask) -> None:
    detail = [
        {
            "type": "extra_forbidden",
            "loc": ["body", "seed"],
            "msg": "Extra inputs are not permitted",
            "input": 1,
        }
    ]
    assert ask(simulate(), seed=1).json == {"detail": detail}
    assert ask(simulate(validation_form="nested"), seed=1).json["message"] == {"detail": detail}
    assert ask(simulate(validation_form="text"), seed=1).json == {
        "detail": "body.seed: Extra inputs are not permitted"
    }


@pytest.mark.parametrize(
    ("fields", "loc"),
    [
        ({"temperature": 1.6}, ["temperature"]),
        ({"temperature": -0.1}, ["temperature"]),
        ({"top_p": 0}, ["top_p"]),
        ({"top_p": 1.1}, ["top_p"]),
        ({"max_tokens": -1}, ["max_tokens"]),
        ({"random_seed": -1}, ["random_seed"]),
        ({"n": 0}, ["n"]),
        ({"presence_penalty": 2.1}, ["presence_penalty"]),
        ({"frequency_penalty": -2.1}, ["frequency_penalty"]),
        ({"tool_choice": "sometimes"}, ["tool_choice"]),
        ({"reasoning_effort": "extreme"}, ["reasoning_effort"]),
        ({"prompt_mode": "other"}, ["prompt_mode"]),
        ({"response_format": {"type": "xml"}}, ["response_format", "type"]),
        ({"response_format": {"type": "json_schema"}}, ["response_format", "json_schema"]),
        ({"messages": "hello"}, ["messages"]),
        ({"messages": [{"role": "user", "content": "a", "name": "b"}]}, ["messages", 0, "name"]),
        ({"messages": [{"role": "bot", "content": "a"}]}, ["messages", 0, "role"]),
        (
            {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
            ["messages", 0, "content", 0, "text"],
        ),
        ({"model": 7}, ["model"]),
    ],
)
def test_what_is_out_of_range_or_form_is_named_with_its_place(
    simulator: Simulator, ask: Ask, fields: dict[str, Any], loc: list[Any]
) -> None:
    got = ask(simulator, **fields)
    assert got.status == 422
    assert got.json["detail"][0]["loc"] == ["body", *loc]


def test_the_ends_of_the_ranges_are_accepted(simulator: Simulator, ask: Ask) -> None:
    for fields in (
        {"temperature": 0, "top_p": 1, "presence_penalty": -2, "frequency_penalty": 2, "random_seed": 0},
        {
            "temperature": 1.5,
            "top_p": 0.01,
            "max_tokens": 0,
            "n": 1,
            "safe_prompt": True,
            "metadata": {"a": 1},
        },
        {"temperature": None, "top_p": None, "max_tokens": None, "stop": None, "n": None, "tools": None},
    ):
        assert ask(simulator, **fields).status == 200


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"text"', b"\xff\xfe", b"{}", b'{"a":' + b"[" * 100_000])
def test_a_body_that_is_no_request_is_422(simulator: Simulator, ask: Ask, raw: bytes) -> None:
    got = ask(simulator, raw=raw)
    assert got.status == 422
    assert got.json["detail"][0]["loc"][0] == "body"


CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([], "at least one message"),
        (
            [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
            "Expected last role User or Tool (or Assistant with prefix True) for serving but got assistant",
        ),
        ([{"role": "system", "content": "a"}], "for serving but got system"),
        (
            [{"role": "user", "content": "a"}, {"role": "tool", "content": "b", "tool_call_id": "c"}],
            "Unexpected role 'tool' after role 'user'",
        ),
        ([{"role": "tool", "content": "b", "tool_call_id": "c"}], "Unexpected role 'tool' as first message"),
    ],
)
def test_the_order_of_messages_is_kept(
    simulator: Simulator, ask: Ask, messages: list[dict[str, Any]], said: str
) -> None:
    got = ask(simulator, body={"model": "mistral-small-latest", "messages": messages})
    assert got.status == 400
    assert (got.json["type"], got.json["code"]) == ("invalid_request_message_order", "3230")
    assert said in got.json["message"]


def test_an_assistant_message_must_say_or_call_something(simulator: Simulator, ask: Ask) -> None:
    messages = [{"role": "assistant", "content": ""}, {"role": "user", "content": "a"}]
    got = ask(simulator, body={"model": "mistral-small-latest", "messages": messages})
    assert (got.status, got.json["code"]) == (400, "3240")


def test_n_is_refused_where_mistral_refuses_it(simulator: Simulator, ask: Ask) -> None:
    prediction = {"type": "content", "content": "a"}
    assert ask(simulator, model="mistral-large-2512", n=2).json["param"] == "n"
    assert ask(simulator, prediction=prediction, n=2).json["param"] == "n"
    assert ask(simulator, model="mistral-large-2512", n=1).status == 200


def test_a_poisoned_prompt_is_refused_always(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(poison="arsenic")
    assert [ask(simulator, "with arsenic").status for _ in range(3)] == [400, 400, 400]
    assert ask(simulator, "with sugar").status == 200


def test_other_paths_and_methods(simulator: Simulator, ask: Ask) -> None:
    assert ask(simulator, path="/v1/nothing").status == 404
    assert ask(simulator, path="/v1/nothing", method="GET").json == {"detail": "Not Found: /v1/nothing"}
    got = ask(simulator, method="GET")
    assert (got.status, got.headers["allow"]) == (405, "POST")


def test_every_answer_has_its_own_correlation_id(simulator: Simulator, ask: Ask) -> None:
    answers = [ask(simulator), ask(simulator), ask(simulator, model="x"), ask(simulator, key=None)]
    answers += [ask(simulator, stream=True), ask(simulator, path="/v1/models", method="GET")]
    assert len({got.headers["mistral-correlation-id"] for got in answers}) == len(answers)


def test_n_has_a_bound(simulator: Simulator, ask: Ask) -> None:
    assert ask(simulator, n=10**9).json["param"] == "n"


def test_a_schema_that_is_none_is_refused(simulator: Simulator, ask: Ask) -> None:
    schema = {"type": "array", "minItems": "many"}
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert ask(simulator, response_format=form).json["param"] == "response_format"


# --- ids of tool calls ----------------------------------------------------------------------------------------------


def _conversation(called: str | None, answered: str | None) -> list[dict[str, Any]]:
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    result = {"role": "tool", "content": "1"}
    return [
        {"role": "user", "content": "a"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [call if called is None else call | {"id": called}],
        },
        result if answered is None else result | {"tool_call_id": answered},
    ]


def test_ids_of_nine_letters_and_digits_are_taken(simulator: Simulator, ask: Ask) -> None:
    messages = _conversation("a1B2c3D4e", "a1B2c3D4e")
    assert ask(simulator, body={"model": "mistral-small-latest", "messages": messages}).status == 200


@pytest.mark.beyond_the_spec("ids that Mistral refuses")
@pytest.mark.parametrize(
    ("called", "answered", "code", "said"),
    [
        ("call_abc123", "call_abc123", "3280", "call_abc123 but must be a-z, A-Z, 0-9, with a length of 9."),
        ("a1b2c3d4", "a1b2c3d4", "3280", "Tool call id was a1b2c3d4 but must be"),
        ("a1b2c3d4é", "a1b2c3d4é", "3280", "Tool call id was a1b2c3d4é but must be"),
        ("a1b2c3d4\n", "a1b2c3d4\n", "3280", "Tool call id was a1b2c3d4\n but must be"),
        ("", "", "3280", "Tool call id was  but must be"),
        (None, "a1b2c3d4e", "3280", "Tool call id has to be defined in serving mode."),
        ("a1b2c3d4e", None, None, "Tool call id has to be defined."),
        ("a1b2c3d4e", "call_abc123", "3280", "Tool call id was call_abc123 but must be"),
        ("a1b2c3d4e", "z9y8x7w6v", "3230", "Unexpected tool call id z9y8x7w6v in tool results"),
    ],
)  # fmt: skip
def test_other_ids_are_refused_in_mistrals_words(
    simulator: Simulator, ask: Ask, called: str | None, answered: str | None, code: str | None, said: str
) -> None:
    messages = _conversation(called, answered)
    got = ask(simulator, body={"model": "mistral-small-latest", "messages": messages})
    assert (got.status, got.json["code"]) == (400, code)
    assert said in got.json["message"]
