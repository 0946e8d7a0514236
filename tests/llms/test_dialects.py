"""Servers that are not Mistral's: what is sent to them, and what they may answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mistill.api.dialects import MISTRAL, OPENAI, dialect_of
from mistill.api.models import ModelCard
from mistill.llms import MistralLLM
from mistill.simulator import Fault, Simulator

MakeLLM = Callable[..., MistralLLM]


def test_a_server_is_known_by_its_models() -> None:
    assert dialect_of([ModelCard("x", capabilities={"completion_chat": True})]) is MISTRAL
    assert dialect_of([ModelCard("x", owned_by="vllm")]) is OPENAI
    assert dialect_of([ModelCard("x", owned_by="llamacpp", capabilities=["completion"])]) is OPENAI
    assert dialect_of([]) is OPENAI


@pytest.mark.parametrize("first", ["generate", "stream"])
def test_auto_asks_once_at_the_first_use(simulator: Simulator, make_llm: MakeLLM, first: str) -> None:
    llm = make_llm(dialect="auto")
    assert simulator.requests == []
    if first == "stream":
        list(llm.stream("Hello"))
    for _ in range(2):
        llm.generate(["Hello"], random_seed=1)
    assert [request.path for request in simulator.requests].count("/v1/models") == 1
    assert simulator.requests[-1].body["random_seed"] == 1


async def test_auto_works_in_an_event_loop(simulator: Simulator, make_llm: MakeLLM) -> None:
    assert await make_llm(dialect="auto").agenerate("Hello", random_seed=1) == ["Echo: Hello"]
    assert simulator.requests[0].path == "/v1/models"


def test_auto_takes_a_server_without_a_list_of_models_for_another(
    simulator: Simulator, make_llm: MakeLLM
) -> None:
    llm = make_llm(dialect="auto", endpoint=simulator.url + "/gateway")
    llm.outcomes(["Hello"])
    assert llm._session is not None
    assert llm._session.server.dialect is OPENAI


def test_an_answer_in_another_servers_words_is_understood(simulator: Simulator, make_llm: MakeLLM) -> None:
    answer = {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1.5,
        "model": "m",
        "system_fingerprint": "b1",
        "timings": {"predicted_ms": 3},
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "Hi!",
                    "reasoning_content": "Be kind.",
                    "refusal": None,
                },
                "logprobs": None,
                "finish_reason": "a reason of tomorrow",
            }
        ],
        "usage": None,
    }
    simulator.script([Fault.status(200, answer)])
    ((completion,),) = make_llm().complete(["Hello"])
    assert (completion.text, completion.thinking) == ("Hi!", "Be kind.")
    assert completion.finish_reason == "a reason of tomorrow"


def test_a_stream_in_another_servers_words_is_understood(simulator: Simulator, make_llm: MakeLLM) -> None:
    lines = [
        '{"choices":[{"index":0,"delta":{"role":"assistant","content":null}}]}',
        '{"choices":[{"index":0,"delta":{"reasoning_content":"Hm."}}]}',
        '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"1","function":{"name":"f","arguments":""}}]}}]}',
        '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":"{\\"a\\""}}]}}]}',
        '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":1,"id":"2","function":{"name":"g","arguments":"{}"}}]}}]}',
        '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":": 1}"}}]}}]}',
        '{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}]}',
        '{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":7,"total_tokens":12}}',
        "[DONE]",
    ]
    body = ": a comment\r\n" + "".join(f"data: {line}\r\n\r\n" for line in lines)
    simulator.script([Fault.status(200, body)])
    chunks = list(make_llm().stream("Hello"))
    assert "".join(chunk.thinking for chunk in chunks) == "Hm."
    calls = [call for chunk in chunks for call in chunk.tool_calls]
    assert [(call.name, call.arguments, call.id) for call in calls] == [("f", {"a": 1}, "1"), ("g", {}, "2")]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.output_tokens == 7
