"""What the simulated model says to what, over a real socket."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from tests.conftest import Simulate
from tests.libraries import library
from tests.simulator.conftest import Ask, Got

from mistill import MistralLLM
from mistill.simulator import Simulator


def test_echoes_the_last_user_message(simulator: Simulator, ask: Ask) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "Echo: one"},
        {"role": "user", "content": [{"type": "text", "text": "tw"}, {"type": "text", "text": "o"}]},
    ]
    got = ask(simulator, body={"model": "ministral-8b-latest", "messages": messages})
    assert got.status == 200
    assert got.content == "Echo: two"
    assert got.json["model"] == "ministral-8b-latest"
    assert got.json["object"] == "chat.completion"
    assert got.json["choices"][0]["finish_reason"] == "stop"


def test_usage_counts_four_characters_a_token_and_four_tokens_a_message(
    simulator: Simulator, ask: Ask
) -> None:
    got = ask(simulator, "x" * 10)  # the answer: "Echo: " + 10 characters = 16
    assert got.json["usage"] == {"prompt_tokens": 3 + 4, "completion_tokens": 4, "total_tokens": 11}


@pytest.mark.parametrize(
    ("chunk", "tokens"),
    [
        ({"type": "image_url", "image_url": "https://example.com/a.png"}, 55 * 55),
        ({"type": "document_url", "document_url": "https://example.com/a.pdf"}, 1000),
        ({"type": "input_audio", "input_audio": "https://example.com/a.mp3"}, 750),
        ({"type": "reference", "reference_ids": [1]}, 64),
    ],
)
def test_chunks_cost_tokens_by_their_size(
    simulator: Simulator, ask: Ask, chunk: dict[str, Any], tokens: int
) -> None:
    got = ask(simulator, [{"type": "text", "text": "abcd"}, chunk])
    assert got.json["usage"]["prompt_tokens"] == 4 + 1 + tokens


def test_max_tokens_cuts_the_answer(simulator: Simulator, ask: Ask) -> None:
    got = ask(simulator, "a long message", max_tokens=2)
    assert got.content == "Echo: a "
    assert got.json["choices"][0]["finish_reason"] == "length"
    assert got.json["usage"]["completion_tokens"] == 2


def test_an_answer_of_just_max_tokens_is_whole(simulator: Simulator, ask: Ask) -> None:
    got = ask(simulator, "ab", max_tokens=2)
    assert (got.content, got.json["choices"][0]["finish_reason"]) == ("Echo: ab", "stop")


def test_the_context_ends_the_answer_or_refuses_the_prompt(simulate: Simulate, ask: Ask) -> None:
    small = simulate(max_context_tokens=10)
    assert ask(small, "x" * 20).json["choices"][0]["finish_reason"] == "model_length"
    refused = ask(small, "x" * 40)
    assert refused.status == 400
    assert refused.json["type"] == "invalid_request_prompt"


@pytest.mark.parametrize("stop", ["STOP", ["nothing", "STOP"]])
def test_stop_sequences_end_the_answer(simulator: Simulator, ask: Ask, stop: str | list[str]) -> None:
    got = ask(simulator, "before STOP after", stop=stop)
    assert (got.content, got.json["choices"][0]["finish_reason"]) == ("Echo: before ", "stop")


def test_n_gives_distinct_choices_and_bills_the_prompt_once(simulator: Simulator, ask: Ask) -> None:
    got = ask(simulator, "ab", n=3).json
    assert [choice["message"]["content"] for choice in got["choices"]] == [
        "Echo: ab",
        "Echo 2: ab",
        "Echo 3: ab",
    ]
    assert [choice["index"] for choice in got["choices"]] == [0, 1, 2]
    assert got["usage"] == {"prompt_tokens": 5, "completion_tokens": 2 + 3 + 3, "total_tokens": 13}


def test_answer_tokens_fills_short_answers_up(simulate: Simulate, ask: Ask) -> None:
    got = ask(simulate(answer_tokens=50), "Hi")
    assert got.content.startswith("Echo: Hi lorem ipsum")
    assert got.json["usage"]["completion_tokens"] == 50


@pytest.mark.parametrize("text", ["", "plain", "two\nlines", "a >> b", '{"a": [[1]]}'])
def test_a_directive_dictates_the_answer(simulator: Simulator, ask: Ask, text: str) -> None:
    assert ask(simulator, f"Please <<answer: {text}>> now").content == text


def test_the_answer_begins_with_an_assistant_prefix(simulator: Simulator, ask: Ask) -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Sure: ", "prefix": True}]
    got = ask(simulator, body={"model": "mistral-small-latest", "messages": messages})
    assert got.content == "Sure: Echo: Hi"
    assert got.json["usage"]["completion_tokens"] == 2


@pytest.mark.parametrize(
    "fields",
    [{"model": "magistral-medium-latest"}, {"prompt_mode": "reasoning"}, {"reasoning_effort": "high"}],
)
def test_reasoning_comes_as_chunks_with_the_thinking_first(
    simulator: Simulator, ask: Ask, fields: dict[str, Any]
) -> None:
    thinking, text = ask(simulator, "Hi", **fields).content
    assert thinking == {"type": "thinking", "thinking": [{"type": "text", "text": "The user says: Hi"}]}
    assert text == {"type": "text", "text": "Echo: Hi"}


def test_reasoning_effort_none_turns_thinking_off(simulator: Simulator, ask: Ask) -> None:
    assert (
        ask(simulator, "Hi", model="magistral-medium-latest", reasoning_effort="none").content == "Echo: Hi"
    )


def test_max_tokens_takes_from_the_thinking_first(simulator: Simulator, ask: Ask) -> None:
    thinking, text = ask(simulator, "Hi", prompt_mode="reasoning", max_tokens=2).content
    assert thinking["thinking"][0]["text"] == "The user"
    assert text["text"] == ""


def test_json_object_holds_the_echo(simulator: Simulator, ask: Ask) -> None:
    got = ask(simulator, "Hi", response_format={"type": "json_object"}, n=2)
    texts = [json.loads(choice["message"]["content"]) for choice in got.json["choices"]]
    assert texts == [{"echo": "Hi"}, {"echo": "Hi", "choice": 2}]


SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "id": {"type": "integer", "minimum": 3, "maximum": 5}},
    "required": ["name", "id"],
    "additionalProperties": False,
}


def _format(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "user", "schema": schema, "strict": True}}


def test_json_schema_is_answered_with_an_instance_the_same_each_time(simulator: Simulator, ask: Ask) -> None:
    first, again = (ask(simulator, "Hi", response_format=_format(SCHEMA)).content for _ in range(2))
    assert set(json.loads(first)) == {"name", "id"}
    assert json.loads(first)["id"] in (3, 4, 5)
    assert first == again


def test_random_seed_and_seed_change_what_is_sampled(
    simulator: Simulator, simulate: Simulate, ask: Ask
) -> None:
    schema = _format({"type": "integer", "minimum": 0, "maximum": 10**12})
    plain = ask(simulator, "Hi", response_format=schema).content
    assert ask(simulator, "Hi", response_format=schema, random_seed=7).content != plain
    assert ask(simulate(seed=1), "Hi", response_format=schema).content != plain


def test_a_schema_without_an_instance_is_refused(simulator: Simulator, ask: Ask) -> None:
    got = ask(simulator, response_format=_format({"type": "integer", "minimum": 2, "maximum": 1}))
    assert got.status == 400
    assert "response_format" in got.json["message"]


TOOLS = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": SCHEMA}}
    for name in ("find_user", "drop_user")
]


@pytest.mark.parametrize(
    "choice", ["any", "required", {"type": "function", "function": {"name": "find_user"}}]
)
def test_a_forced_tool_is_called_with_fitting_arguments(
    simulator: Simulator, ask: Ask, choice: str | dict[str, Any]
) -> None:
    (choice_got,) = ask(simulator, "Hi", tools=TOOLS, tool_choice=choice).json["choices"]
    assert choice_got["finish_reason"] == "tool_calls"
    assert choice_got["message"]["content"] == ""
    (call,) = choice_got["message"]["tool_calls"]
    assert call["function"]["name"] == "find_user"
    assert json.loads(call["function"]["arguments"])["id"] in (3, 4, 5)
    assert len(call["id"]) == 9


def _called(got: Got) -> list[str]:
    return [call["function"]["name"] for call in got.json["choices"][0]["message"]["tool_calls"] or []]


def test_auto_calls_the_tools_that_the_user_names(simulator: Simulator, ask: Ask) -> None:
    both = "use find_user and drop_user"
    assert _called(ask(simulator, "Hi", tools=TOOLS)) == []
    assert _called(ask(simulator, both, tools=TOOLS)) == ["find_user", "drop_user"]
    assert _called(ask(simulator, both, tools=TOOLS, parallel_tool_calls=False)) == ["find_user"]
    assert _called(ask(simulator, both, tools=TOOLS, tool_choice="none")) == []


def test_the_result_of_a_tool_is_answered_in_text(simulator: Simulator, ask: Ask) -> None:
    call = {"id": "abcdefghi", "type": "function", "function": {"name": "find_user", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": "use find_user"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "Ada", "tool_call_id": "abcdefghi", "name": "find_user"},
    ]
    got = ask(simulator, body={"model": "mistral-small-latest", "messages": messages, "tools": TOOLS})
    assert got.content == "Echo: use find_user"


def test_a_directive_dictates_the_arguments_of_a_forced_call(simulator: Simulator, ask: Ask) -> None:
    got = ask(simulator, '<<answer: {"id": 4}>>', tools=TOOLS, tool_choice="any")
    assert got.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"] == '{"id": 4}'


def test_arguments_may_come_as_an_object(simulate: Simulate, ask: Ask) -> None:
    got = ask(simulate(arguments_form="object"), tools=TOOLS, tool_choice="any")
    assert isinstance(got.json["choices"][0]["message"]["tool_calls"][0]["function"]["arguments"], dict)


def test_a_choice_of_an_unknown_tool_is_refused(simulator: Simulator, ask: Ask) -> None:
    choice = {"type": "function", "function": {"name": "nope"}}
    assert ask(simulator, tools=TOOLS, tool_choice=choice).status == 400
    assert ask(simulator, tool_choice="any").status == 400


def test_models_are_listed_and_shown(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(models=("mistral-small-latest", "mistral-embed"))
    listed = ask(simulator, path="/v1/models", method="GET").json
    assert [card["id"] for card in listed["data"]] == ["mistral-small-latest", "mistral-embed"]
    one = ask(simulator, path="/v1/models/mistral-embed", method="GET").json
    assert one["id"] == "mistral-embed"
    assert one["capabilities"]["completion_chat"] is False
    assert ask(simulator, path="/v1/models/nope", method="GET").status == 404


def _embed(ask: Ask, simulator: Simulator, texts: str | list[str], **fields: Any) -> Got:
    return ask(simulator, path="/v1/embeddings", body={"model": "mistral-embed", "input": texts, **fields})


def test_embeddings_are_unit_vectors_the_same_for_the_same_text(simulator: Simulator, ask: Ask) -> None:
    got = _embed(ask, simulator, ["one", "two", "one"]).json
    first, second, third = (entry["embedding"] for entry in got["data"])
    assert [entry["index"] for entry in got["data"]] == [0, 1, 2]
    assert first == third != second
    assert len(first) == 1024
    assert sum(value * value for value in first) == pytest.approx(1, abs=1e-5)
    assert got["usage"] == {"prompt_tokens": 3, "completion_tokens": 0, "total_tokens": 3}


def test_one_text_is_one_embedding(simulator: Simulator, ask: Ask) -> None:
    got = _embed(ask, simulator, "one", output_dimension=8).json
    assert len(got["data"]) == 1
    assert len(got["data"][0]["embedding"]) == 8


@pytest.mark.parametrize(
    ("dtype", "numbers", "low", "high"),
    [("int8", 16, -128, 127), ("uint8", 16, 0, 255), ("binary", 2, -128, 127), ("ubinary", 2, 0, 255)],
)
def test_vectors_of_whole_numbers(
    simulator: Simulator, ask: Ask, dtype: str, numbers: int, low: int, high: int
) -> None:
    fields = {"output_dimension": 16, "output_dtype": dtype}
    (found,) = _embed(ask, simulator, "one", **fields).json["data"]
    assert len(found["embedding"]) == numbers
    assert all(isinstance(number, int) and low <= number <= high for number in found["embedding"])
    (packed,) = _embed(ask, simulator, "one", **fields, encoding_format="base64").json["data"]
    assert base64.b64decode(packed["embedding"]) == bytes(number % 256 for number in found["embedding"])


def test_the_bits_of_a_binary_vector_are_the_signs_of_its_numbers(simulator: Simulator, ask: Ask) -> None:
    (plain,) = _embed(ask, simulator, "one", output_dimension=8).json["data"]
    (packed,) = _embed(ask, simulator, "one", output_dimension=8, output_dtype="ubinary").json["data"]
    assert [bool(packed["embedding"][0] >> 7 - place & 1) for place in range(8)] == [
        number > 0 for number in plain["embedding"]
    ]


def test_vectors_in_base64_are_32_bit_floats(simulator: Simulator, ask: Ask) -> None:
    (plain,) = _embed(ask, simulator, "one", output_dimension=8).json["data"]
    (packed,) = _embed(ask, simulator, "one", output_dimension=8, encoding_format="base64").json["data"]
    assert struct.unpack("<8f", base64.b64decode(packed["embedding"])) == pytest.approx(plain["embedding"])


@pytest.mark.beyond_the_spec("values that there are not")
@pytest.mark.parametrize(
    "fields", [{"output_dtype": "int4"}, {"encoding_format": "hex"}, {"output_dimension": 10**9}]
)
def test_other_forms_of_vectors_are_refused(simulator: Simulator, ask: Ask, fields: dict[str, Any]) -> None:
    assert _embed(ask, simulator, "one", **fields).status == 422


def test_embeddings_refuse_chat_models_and_oversized_batches(simulate: Simulate, ask: Ask) -> None:
    simulator = simulate(embedding_batch_tokens=10)
    assert _embed(ask, simulator, "one", model="mistral-small-latest").json["type"] == "invalid_model"
    assert _embed(ask, simulator, ["x" * 20, "x" * 24]).json["code"] == "3210"


@pytest.mark.parametrize("fenced", [False, True])
def test_a_schema_told_in_the_system_message_is_answered_by_an_instance(
    simulator: Simulator, ask: Ask, fenced: bool
) -> None:
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    instruction = f"Answer in JSON. It must be valid for this JSON schema:\n{json.dumps(schema)}"
    asked = "count, within a ```json codeblock" if fenced else "count"
    messages = [{"role": "system", "content": instruction}, {"role": "user", "content": asked}]
    fields = {} if fenced else {"response_format": {"type": "json_object"}}
    text = ask(simulator, body={"model": "mistral-small-latest", "messages": messages, **fields}).content
    assert text.startswith("```json\n") is fenced
    assert isinstance(json.loads(text.removeprefix("```json").removesuffix("```"))["n"], int)


@pytest.mark.parametrize("mode", ["md_json", "json_object", "json_schema", "tools"])
def test_what_did_not_fit_is_asked_for_again(simulator: Simulator, mode: str) -> None:
    if mode in ("md_json", "tools"):
        library("instructor")
    settings: Any = {"endpoint": simulator.url, "api_key": "k"}
    llm = MistralLLM(model="mistral-small-latest", **settings)
    simulator.script(["nonsense"])
    schema: Any = {
        "schema": {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
    }
    ((answer,),) = llm.complete(["Bob is 5"], structured_output=schema | {"mode": mode})
    assert isinstance(answer.value["age"], int)
    assert simulator.answered == 2


def test_half_of_a_character_leaves_as_an_escape(simulator: Simulator) -> None:
    settings: Any = {"endpoint": simulator.url, "api_key": "k"}
    simulator.script(["h\ud83d"])
    assert MistralLLM(model="mistral-small-latest", **settings).generate(["x"]) == [["h�"]]
