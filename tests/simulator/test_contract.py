"""What the simulator answers is what Mistral would: by the table of its API's fields."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field
from tests.conftest import Simulate
from tests.contract.fields import problems
from tests.simulator.conftest import Ask

from mistill.simulator import Fault, FaultName, Simulator

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


def check(name: str, value: Any) -> None:
    assert problems(name, value) == []


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS.keys())
def test_whole_answers_fit_the_specification(simulator: Simulator, ask: Ask, fields: dict[str, Any]) -> None:
    got = ask(simulator, "hello", **fields)
    assert got.status == 200
    check("ChatCompletionResponse", got.json)


@pytest.mark.parametrize("fields", CHATS.values(), ids=CHATS.keys())
def test_chunks_fit_the_specification(simulator: Simulator, ask: Ask, fields: dict[str, Any]) -> None:
    events = ask(simulator, "hello", stream=True, **fields).events
    assert len(events) > 1
    for event in events:
        check("CompletionEvent", {"data": event})


@pytest.mark.parametrize("fault", ["null_content", "chunked_content", "length", "wrong_json"])
def test_unusual_answers_fit_it_too(simulator: Simulator, ask: Ask, fault: FaultName) -> None:
    simulator.script([Fault.named(fault)])
    check("ChatCompletionResponse", ask(simulator).json)


def test_object_arguments_fit_it(simulate: Simulate, ask: Ask) -> None:
    check("ChatCompletionResponse", ask(simulate(arguments_form="object"), **CHATS["tools"]).json)


def test_models_fit_the_specification(simulator: Simulator, ask: Ask) -> None:
    listed = ask(simulator, path="/v1/models", method="GET").json
    check("ModelList", listed)
    for card in listed["data"]:
        check("BaseModelCard", ask(simulator, path=f"/v1/models/{card['id']}", method="GET").json)


@pytest.mark.parametrize("fields", [{"seed": 1}, {"messages": [{}]}, {"temperature": 9}, {"messages": 1}])
def test_validation_errors_fit_the_specification(
    simulator: Simulator, ask: Ask, fields: dict[str, Any]
) -> None:
    got = ask(simulator, **fields)
    assert got.status == 422
    check("HTTPValidationError", got.json)
