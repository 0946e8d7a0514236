"""The body of a request, feature by feature, as it goes on the wire."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from mistill.api.chat import ChatParameters
from mistill.llms import MistralLLM
from mistill.llms.parameters import PARAMETERS
from mistill.simulator import Simulator

BARE = {"model": "mistral-small-latest", "messages": [{"role": "user", "content": "Hello"}]}


class Town(BaseModel):
    name: str


def town(name: str) -> None:
    """Finds a town."""


TOWN_SCHEMA = {
    "type": "object",
    "title": "Town",
    "properties": {"name": {"type": "string", "title": "Name"}},
    "required": ["name"],
}
TOWN_TOOL = {
    "type": "function",
    "function": {
        "name": "town",
        "description": "Finds a town.",
        "parameters": {
            "type": "object",
            "properties": {"name": {"type": "string", "title": "Name"}},
            "required": ["name"],
            "additionalProperties": False,
        },
    },
}


def body_of(simulator: Simulator, given: Any = "Hello", **arguments: Any) -> dict[str, Any]:
    """What leaves for this call, whatever becomes of it."""
    model = arguments.pop("model", "mistral-small-latest")
    dialect = arguments.pop("dialect", "mistral")
    llm = MistralLLM(model=model, endpoint=simulator.url, dialect=dialect, max_retries=0)
    llm.outcomes([given], **arguments)
    return simulator.requests[0].body


def test_nothing_is_sent_that_was_not_asked_for(simulator: Simulator) -> None:
    assert body_of(simulator) == BARE


@pytest.mark.parametrize(
    ("arguments", "fields"),
    [
        ({"max_new_tokens": 64}, {"max_tokens": 64}),
        ({"temperature": 0}, {"temperature": 0.0}),
        ({"temperature": 0.7, "top_p": 0.9}, {"temperature": 0.7, "top_p": 0.9}),
        ({"stop": "END"}, {"stop": "END"}),
        ({"stop": ["a", "b"]}, {"stop": ["a", "b"]}),
        ({"random_seed": 7}, {"random_seed": 7}),
        ({"num_generations": 2, "random_seed": 7}, {"n": 2, "random_seed": 7}),
        ({"presence_penalty": -2, "frequency_penalty": 2}, {"presence_penalty": -2, "frequency_penalty": 2}),
        ({"response_format": {"type": "json_object"}}, {"response_format": {"type": "json_object"}}),
        ({"tools": [town]}, {"tools": [TOWN_TOOL]}),
        ({"tools": [town], "tool_choice": "any"}, {"tools": [TOWN_TOOL], "tool_choice": "any"}),
        (
            {"tools": [town], "tool_choice": "town"},
            {"tools": [TOWN_TOOL], "tool_choice": {"type": "function", "function": {"name": "town"}}},
        ),
        (
            {"tools": [town], "parallel_tool_calls": False},
            {"tools": [TOWN_TOOL], "parallel_tool_calls": False},
        ),
        (
            {"tools": [{"type": "web_search"}, {"type": "document_library", "library_ids": ["a"]}, town]},
            {
                "tools": [
                    {"type": "web_search"},
                    {"type": "document_library", "library_ids": ["a"]},
                    TOWN_TOOL,
                ]
            },
        ),
        (
            {"prediction": {"type": "content", "content": "Hel"}},
            {"prediction": {"type": "content", "content": "Hel"}},
        ),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"prompt_mode": "reasoning"}, {"prompt_mode": "reasoning"}),
        ({"guardrails": [{"block_on_error": True}]}, {"guardrails": [{"block_on_error": True}]}),
        ({"safe_prompt": True}, {"safe_prompt": True}),
        ({"metadata": {"job": "7"}}, {"metadata": {"job": "7"}}),
        ({"prompt_cache_key": "k"}, {"prompt_cache_key": "k"}),
        ({"service_tier": "standard_only"}, {"service_tier": "standard_only"}),
        (
            {"structured_output": {"schema": Town}},
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "Town", "strict": True, "schema": TOWN_SCHEMA},
                }
            },
        ),
        ({"temperature": None, "stop": None}, {}),
    ],
)
def test_a_parameter_is_a_field(
    simulator: Simulator, arguments: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert body_of(simulator, **arguments) == BARE | fields


@pytest.mark.beyond_the_spec("fields that only the newest servers take")
@pytest.mark.parametrize(
    "fields",
    [
        {"min_tokens": 3},
        {"top_k": 40},
        {"repetition_penalty": 1.1},
        {"logprobs": True, "top_logprobs": 5},
        {"extra_body": {"tomorrow": {"deep": [1]}}},
    ],
)
def test_the_newest_fields_pass_too(simulator: Simulator, fields: dict[str, Any]) -> None:
    assert body_of(simulator, **fields) == BARE | fields.get("extra_body", fields)


def test_every_parameter_is_tested_here_or_is_no_field() -> None:
    wire = {"max_new_tokens": "max_tokens"}
    fields = {wire.get(name, name) for name in PARAMETERS} - {"extra_body"}
    assert fields | {"n"} == set(ChatParameters.__struct_fields__)


# --- messages ---------------------------------------------------------------------------------------------------------

MESSAGES: dict[str, list[dict[str, Any]]] = {
    "system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    "conversation": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi!"},
        {"role": "user", "content": "How are you?"},
    ],
    "prefix": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Bon", "prefix": True},
    ],
    "image": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "https://example.com/x.png", "detail": "low"}},
                {"type": "image_url", "image_url": "https://example.com/y.png"},
            ],
        }
    ],
    "documents": [
        {
            "role": "user",
            "content": [
                {"type": "document_url", "document_url": "https://example.com/x.pdf", "document_name": "x"},
                {"type": "file", "file_id": "3f0c7b7e-0000-4000-8000-000000000000"},
                {"type": "input_audio", "input_audio": "SUQz"},
                {"type": "reference", "reference_ids": [1, 2]},
            ],
        }
    ],
    "tools": [
        {"role": "user", "content": "Where?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [
                {"id": "abcdefghi", "type": "function", "function": {"name": "town", "arguments": "{}"}},
                {"id": "jklmnopqr", "type": "function", "function": {"name": "town", "arguments": {"a": 1}}},
            ],
        },
        {"role": "tool", "content": "Nice", "tool_call_id": "abcdefghi", "name": "town"},
        {"role": "tool", "content": "Lens", "tool_call_id": "jklmnopqr", "name": "town"},
    ],
    "thinking replayed": [
        {"role": "user", "content": "1 + 1?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": [{"type": "text", "text": "Easy."}]},
                {"type": "text", "text": "2"},
            ],
        },
        {"role": "user", "content": "Sure?"},
    ],
}


@pytest.mark.parametrize("name", MESSAGES)
def test_messages_go_out_as_they_were_written(simulator: Simulator, name: str) -> None:
    sent = body_of(simulator, MESSAGES[name], model="magistral-medium-latest")["messages"]
    assert _with_defaults(sent) == _with_defaults(MESSAGES[name])


def _with_defaults(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A tool call's type may be left out or sent: it has one value only."""
    for message in messages:
        for call in message.get("tool_calls") or ():
            call.setdefault("type", "function")
    return messages


# --- other servers ----------------------------------------------------------------------------------------------------


@pytest.mark.beyond_the_spec("OpenAI's names")
def test_the_openai_dialect_renames_and_leaves_out(simulator: Simulator) -> None:
    body = body_of(
        simulator,
        dialect="openai",
        random_seed=7,
        safe_prompt=True,
        prompt_mode="reasoning",
        guardrails=[{"block_on_error": True}],
        prompt_cache_key="k",
        prediction={"content": "x"},
        tools=[town],
        tool_choice="any",
    )
    assert body == BARE | {"seed": 7, "tools": [TOWN_TOOL], "tool_choice": "required"}


def test_the_openai_dialect_leaves_the_prefix_out(simulator: Simulator) -> None:
    body = body_of(simulator, MESSAGES["prefix"], dialect="openai")
    assert body["messages"][-1] == {"role": "assistant", "content": "Bon"}


@pytest.mark.beyond_the_spec("OpenAI's names")
def test_the_openai_dialect_asks_for_the_usage_of_a_stream(
    simulator: Simulator, make_openai: Callable[[], MistralLLM]
) -> None:
    with pytest.raises(Exception, match="stream_options"):
        list(make_openai().stream("Hello"))
    assert simulator.requests[0].body == BARE | {"stream": True, "stream_options": {"include_usage": True}}


@pytest.fixture
def make_openai(simulator: Simulator) -> Callable[[], MistralLLM]:
    return lambda: MistralLLM(model="mistral-small-latest", endpoint=simulator.url, dialect="openai")
