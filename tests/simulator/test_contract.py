"""The simulator against Mistral's own words: the OpenAPI specification, and the official SDK run unchanged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError
from pydantic import BaseModel, Field

from mistill.simulator import Fault

SPEC = Path(__file__).parents[3] / "shared" / "openapi" / "mistral-2026-08.yaml"
TOOLS: list[Any] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather in a town.",
            "parameters": {
                "type": "object",
                "properties": {"town": {"type": "string"}},
                "required": ["town"],
            },
        },
    }
]


class User(BaseModel):
    name: str
    last_name: str
    id: int = Field(ge=1, le=99)


USER_FORMAT = {"type": "json_schema", "json_schema": {"name": "user", "schema": User.model_json_schema()}}

CHATS: dict[str, dict[str, Any]] = {
    "plain": {},
    "n": {"n": 3},
    "cut": {"max_tokens": 2},
    "stopped": {"stop": ["l"]},
    "thinking": {"prompt_mode": "reasoning"},
    "json": {"response_format": {"type": "json_object"}},
    "schema": {"response_format": USER_FORMAT},
    "tools": {"tools": TOOLS, "tool_choice": "any"},
}


@pytest.fixture(scope="module")
def components() -> Any:
    if not SPEC.exists():
        pytest.skip(f"the specification is not at {SPEC}")
    return yaml.safe_load(SPEC.read_text())["components"]


@pytest.fixture
def check(components):
    def validate(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": components}
        jsonschema.Draft202012Validator(schema).validate(value)

    return validate


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS.keys())
def test_whole_answers_fit_the_specification(simulator, ask, check, fields):
    got = ask(simulator, "hello", **fields)
    assert got.status == 200
    check("ChatCompletionResponse", got.json)


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS.keys())
def test_chunks_fit_the_specification(simulator, ask, check, fields):
    events = ask(simulator, "hello", stream=True, **fields).events
    assert len(events) > 1
    for event in events:
        check("CompletionEvent", {"data": event})


@pytest.mark.parametrize("fault", ["null_content", "chunked_content", "length", "wrong_json"])
def test_unusual_answers_fit_it_too(simulator, ask, check, fault):
    simulator.script([Fault.named(fault)])
    check("ChatCompletionResponse", ask(simulator).json)


def test_object_arguments_fit_it(simulate, ask, check):
    check("ChatCompletionResponse", ask(simulate(arguments_form="object"), **CHATS["tools"]).json)


def test_models_fit_the_specification(simulator, ask, check):
    listed = ask(simulator, path="/v1/models", method="GET").json
    check("ModelList", listed)
    for card in listed["data"]:
        check("BaseModelCard", ask(simulator, path=f"/v1/models/{card['id']}", method="GET").json)


@pytest.mark.parametrize("fields", [{"seed": 1}, {"messages": [{}]}, {"temperature": 9}, {"messages": 1}])
def test_validation_errors_fit_the_specification(simulator, ask, check, fields):
    got = ask(simulator, **fields)
    assert got.status == 422
    check("HTTPValidationError", got.json)


# --- the official SDK -------------------------------------------------------------------------------------------


@pytest.fixture
def sdk(simulator):
    with Mistral(api_key="any", server_url=simulator.url) as client:
        yield client


MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]


def test_sdk_completes(sdk):
    answer = sdk.chat.complete(model="mistral-small-latest", messages=MESSAGES, n=2, random_seed=1)
    assert [choice.message.content for choice in answer.choices] == ["Echo: Hello", "Echo 2: Hello"]
    assert answer.usage.total_tokens == 6 + 3 + 4
    assert answer.choices[0].finish_reason == "stop"


def test_sdk_streams(sdk):
    with sdk.chat.stream(model="mistral-small-latest", messages=MESSAGES) as stream:
        chunks = [event.data for event in stream]
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "Echo: Hello"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 3


async def test_sdk_completes_asynchronously(simulator):
    async with Mistral(api_key="any", server_url=simulator.url) as client:
        answer = await client.chat.complete_async(model="mistral-small-latest", messages=MESSAGES)
    assert answer.choices[0].message.content == "Echo: Hello"


def test_sdk_parses_structured_answers(sdk):
    answer = sdk.chat.parse(User, model="mistral-small-latest", messages=MESSAGES)
    assert isinstance(answer.choices[0].message.parsed, User)


def test_sdk_calls_tools_and_sends_their_results(sdk):
    first = sdk.chat.complete(model="mistral-small-latest", messages=MESSAGES, tools=TOOLS, tool_choice="any")
    message = first.choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "weather"
    result = {"role": "tool", "content": "rain", "tool_call_id": call.id, "name": "weather"}
    second = sdk.chat.complete(
        model="mistral-small-latest", messages=[*MESSAGES, message, result], tools=TOOLS
    )
    assert second.choices[0].message.content == "Echo: Hello"


def test_sdk_reads_thinking(sdk):
    answer = sdk.chat.complete(model="magistral-small-latest", messages=MESSAGES)
    thinking, text = answer.choices[0].message.content
    assert thinking.thinking[0].text == "The user says: Hello"
    assert text.text == "Echo: Hello"


def test_sdk_lists_and_shows_models(sdk):
    listed = sdk.models.list().data
    assert "open-mixtral-8x22b" in [card.id for card in listed]
    assert sdk.models.retrieve(model_id="mistral-embed").id == "mistral-embed"


def test_sdk_embeds(sdk):
    answer = sdk.embeddings.create(model="mistral-embed", inputs=["a", "b"])
    assert [entry.index for entry in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == 1024


def test_sdk_understands_the_errors(sdk, simulator):
    with pytest.raises(SDKError) as refused:
        sdk.chat.complete(model="no-such-model", messages=MESSAGES)
    assert refused.value.status_code == 400
    assert "1500" in refused.value.body
    with pytest.raises(HTTPValidationError) as invalid:
        sdk.chat.complete(model="mistral-small-latest", messages=MESSAGES, temperature=9)
    assert invalid.value.data.detail[0].loc == ["body", "temperature"]
    simulator.script([Fault.status(429), Fault.status(503)])
    for status in (429, 503):
        with pytest.raises(SDKError) as busy:
            sdk.chat.complete(model="mistral-small-latest", messages=MESSAGES)
        assert busy.value.status_code == status
