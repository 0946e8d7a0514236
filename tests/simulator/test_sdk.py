"""The official SDK, unchanged, with the simulator for Mistral.

It is ``Any`` here: the unions that it types its answers with are wider than what these tests ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field

from mistill.simulator import Fault, Simulator

pytest.importorskip("mistralai", reason="the official SDK: pip install mistralai")

from mistralai.client import Mistral
from mistralai.client.errors import HTTPValidationError, SDKError

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


@pytest.fixture
def sdk(simulator: Simulator) -> Iterator[Mistral]:
    with Mistral(api_key="any", server_url=simulator.url) as client:
        yield client


MESSAGES: list[Any] = [{"role": "user", "content": "Hello"}]


def test_sdk_completes(sdk: Any) -> None:
    answer = sdk.chat.complete(model="mistral-small-latest", messages=MESSAGES, n=2, random_seed=1)
    assert [choice.message.content for choice in answer.choices] == ["Echo: Hello", "Echo 2: Hello"]
    assert answer.usage.total_tokens == 6 + 3 + 4
    assert answer.choices[0].finish_reason == "stop"


def test_sdk_streams(sdk: Any) -> None:
    with sdk.chat.stream(model="mistral-small-latest", messages=MESSAGES) as stream:
        chunks = [event.data for event in stream]
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == "Echo: Hello"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].usage.completion_tokens == 3


async def test_sdk_completes_asynchronously(simulator: Simulator) -> None:
    async with Mistral(api_key="any", server_url=simulator.url) as client:
        answer: Any = await client.chat.complete_async(model="mistral-small-latest", messages=MESSAGES)
    assert answer.choices[0].message.content == "Echo: Hello"


def test_sdk_parses_structured_answers(sdk: Any) -> None:
    answer = sdk.chat.parse(User, model="mistral-small-latest", messages=MESSAGES)
    assert isinstance(answer.choices[0].message.parsed, User)


def test_sdk_calls_tools_and_sends_their_results(sdk: Any) -> None:
    first = sdk.chat.complete(model="mistral-small-latest", messages=MESSAGES, tools=TOOLS, tool_choice="any")
    message = first.choices[0].message
    (call,) = message.tool_calls
    assert call.function.name == "weather"
    result = {"role": "tool", "content": "rain", "tool_call_id": call.id, "name": "weather"}
    second = sdk.chat.complete(
        model="mistral-small-latest", messages=[*MESSAGES, message, result], tools=TOOLS
    )
    assert second.choices[0].message.content == "Echo: Hello"


def test_sdk_reads_thinking(sdk: Any) -> None:
    answer = sdk.chat.complete(model="magistral-medium-latest", messages=MESSAGES)
    thinking, text = answer.choices[0].message.content
    assert thinking.thinking[0].text == "The user says: Hello"
    assert text.text == "Echo: Hello"


def test_sdk_lists_and_shows_models(sdk: Any) -> None:
    listed = sdk.models.list().data
    assert "ministral-8b-latest" in [card.id for card in listed]
    assert sdk.models.retrieve(model_id="mistral-embed").id == "mistral-embed"


def test_sdk_embeds(sdk: Any) -> None:
    answer = sdk.embeddings.create(model="mistral-embed", inputs=["a", "b"])
    assert [entry.index for entry in answer.data] == [0, 1]
    assert len(answer.data[0].embedding) == 1024


def test_sdk_understands_the_errors(sdk: Any, simulator: Simulator) -> None:
    with pytest.raises(SDKError) as refused:
        sdk.chat.complete(model="no-such-model", messages=MESSAGES)
    assert refused.value.status_code == 400
    assert "1500" in refused.value.body
    with pytest.raises(HTTPValidationError) as invalid:
        sdk.chat.complete(model="mistral-small-latest", messages=MESSAGES, temperature=9)
    error: Any = invalid.value
    assert error.data.detail[0].loc == ["body", "temperature"]
    simulator.script([Fault.status(429), Fault.status(503)])
    for status in (429, 503):
        with pytest.raises(SDKError) as busy:
            sdk.chat.complete(model="mistral-small-latest", messages=MESSAGES)
        assert busy.value.status_code == status
