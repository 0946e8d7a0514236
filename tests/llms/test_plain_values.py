"""What people have at hand (texts, numbers and records of other libraries, halves of characters) goes out as JSON."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from types import MappingProxyType
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from tests.libraries import library

from mistill.characters import whole_characters
from mistill.errors import InputError
from mistill.llms import MistralEmbeddings, MistralLLM
from mistill.llms.plain_values import plain
from mistill.simulator import Simulator

MakeLLM = Callable[..., MistralLLM]
HALF = "\ud83d"


class Text(str):
    """A text of somebody's library."""

    __slots__ = ()

    def __str__(self) -> str:
        return "not the text"


class Named(str, Enum):  # noqa: UP042  whose str() is another than a StrEnum's
    A = "Hello"


class Plain(StrEnum):
    A = "Hello"


def texts() -> list[str]:
    numpy, markupsafe = library("numpy"), library("markupsafe")
    return [Text("Hello"), Named.A, Plain.A, numpy.str_("Hello"), markupsafe.Markup("Hello")]


@pytest.mark.parametrize("place", ["prompt", "content", "chunk", "role", "key"])
def test_a_subclass_of_str_is_a_text_in_messages(simulator: Simulator, make_llm: MakeLLM, place: str) -> None:
    for text in texts():
        prompt: Any = {
            "prompt": text,
            "content": [{"role": "user", "content": text}],
            "chunk": [{"role": "user", "content": [{"type": "text", "text": text}]}],
            "role": [{"role": Text("user"), "content": text}],
            "key": [{"role": "user", Text("content"): text}],
        }[place]
        assert make_llm().generate([prompt]) == [["Echo: Hello"]]


def test_a_subclass_of_str_is_a_text_in_parameters_and_tools(simulator: Simulator, make_llm: MakeLLM) -> None:
    for text in texts():
        function = {"name": text, "description": text, "parameters": {"type": "object", "title": text}}
        make_llm().generate(
            ["Hello"],
            stop=[text],
            metadata={"key": text},
            prompt_cache_key=text,
            tools=[{"type": "function", "function": function}],
            tool_choice=text,
        )
    bodies = [request.body for request in simulator.requests]
    assert bodies == [bodies[0]] * len(texts())
    assert bodies[0]["stop"] == ["Hello"]
    assert bodies[0]["metadata"] == {"key": "Hello"}


def test_a_subclass_of_str_is_a_text_to_embed(simulator: Simulator, short_pauses: None) -> None:
    MistralEmbeddings(endpoint=simulator.url).embed(texts())
    assert simulator.requests[0].body["input"] == ["Hello"] * len(texts())


HALVES = [
    pytest.param(f"a{HALF}b", "a�b", id="alone"),
    pytest.param("\ud83d\ude00", "\U0001f600", id="two halves are whole"),
    pytest.param("\ude00\ud83d", "��", id="in the wrong order"),
    pytest.param(f"é{HALF}", "é�", id="beside what is no ASCII"),
]


@pytest.mark.parametrize(("text", "sent"), HALVES)
def test_half_a_character_is_replaced_wherever_it_stands(
    simulator: Simulator, make_llm: MakeLLM, text: str, sent: str
) -> None:
    function = {"name": "f", "description": text, "parameters": {"type": "object", "title": text}}
    call = {"id": "abcdefghi", "function": {"name": "f", "arguments": {text: [text]}}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": text},
        {"role": "user", "content": [{"type": "text", "text": text}]},
        {"role": "assistant", "content": text, "tool_calls": [call]},
        {"role": "tool", "content": text, "tool_call_id": "abcdefghi"},
    ]
    make_llm().generate(
        [text, messages],
        stop=[text],
        metadata={text: text},
        prompt_cache_key=text,
        prediction={"type": "content", "content": text},
        tools=[{"type": "function", "function": function}],
    )
    assert len(simulator.requests) == 2  # one each, and no attempt in vain
    for request in simulator.requests:
        assert request.body["stop"] == [sent]
        assert request.body["metadata"] == {sent: sent}
        assert request.body["prediction"]["content"] == sent
        assert request.body["tools"][0]["function"]["description"] == sent
    bodies = sorted((request.body["messages"] for request in simulator.requests), key=len)
    assert bodies[0] == [{"role": "user", "content": sent}]
    system, user, assistant, tool = bodies[1]
    assert [system["content"], user["content"][0]["text"], assistant["content"], tool["content"]] == [
        sent
    ] * 4
    assert assistant["tool_calls"][0]["function"]["arguments"] == {sent: [sent]}


@pytest.mark.beyond_the_spec("extra_body is for what the specification does not have")
def test_half_a_character_in_a_field_of_ones_own(simulator: Simulator, make_llm: MakeLLM) -> None:
    make_llm().generate(["Hello"], extra_body={"mine": HALF}, on_error="none")
    assert simulator.requests[0].body["mine"] == "�"


@pytest.mark.parametrize(("text", "sent"), HALVES)
def test_half_a_character_in_a_text_to_embed(
    simulator: Simulator, short_pauses: None, text: str, sent: str
) -> None:
    MistralEmbeddings(endpoint=simulator.url).embed([text, "b"])
    assert [request.body["input"] for request in simulator.requests] == [[sent, "b"]]


def test_half_a_character_in_a_schema(simulator: Simulator, make_llm: MakeLLM) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer", "description": HALF}}}
    make_llm().generate(["Hello"], response_format=_form(schema))
    sent = simulator.requests[0].body["response_format"]["json_schema"]["schema"]
    assert sent["properties"]["a"]["description"] == "�"


def _form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}


def test_numbers_of_numpy_are_numbers(simulator: Simulator, make_llm: MakeLLM) -> None:
    numpy: Any = library("numpy")
    numbers: dict[str, Any] = {"temperature": 0.5, "top_p": 0.25, "max_new_tokens": 7, "random_seed": 3}
    kinds: dict[type, Any] = {float: numpy.float32, int: numpy.int64}
    make_llm().generate(["Hello"], **numbers)
    make_llm().generate(["Hello"], **{name: kinds[type(value)](value) for name, value in numbers.items()})
    first, second = (request.body for request in simulator.requests)
    assert first == second


def test_what_is_no_json_is_refused_with_words(make_llm: MakeLLM) -> None:
    call = {"id": "abcdefghi", "function": {"name": "f", "arguments": {"x": object()}}}
    messages = [
        {"role": "user", "content": "x"},
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "content": "", "tool_call_id": "abcdefghi"},
    ]
    with pytest.raises(InputError, match=r"input 0: .*no JSON.*object"):
        make_llm().generate([messages])


class Model(BaseModel):
    a: str
    b: list[int]


class Record(msgspec.Struct):
    a: str
    b: list[int]


@dataclass
class Data:
    a: str
    b: list[int]


@pytest.mark.parametrize(
    "value",
    [
        Model(a=f"x{HALF}", b=[1]),
        Record(f"x{HALF}", [1]),
        Data(f"x{HALF}", [1]),
        OrderedDict(a=f"x{HALF}", b=(1,)),
        MappingProxyType({"a": f"x{HALF}", "b": range(1, 2)}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_records_of_other_libraries(value: Any) -> None:
    assert plain(value) == {"a": "x�", "b": [1]}


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_plain_json_stays_as_it_is(value: Any) -> None:
    assert json.dumps(plain(value)) == json.dumps(value)


@given(st.text(st.characters(codec=None), max_size=20))
def test_every_text_can_be_sent_and_a_good_one_is_the_same(text: str) -> None:
    sent = whole_characters(text)
    sent.encode()
    assert len(sent) <= len(text)
    try:
        text.encode()
    except UnicodeEncodeError:
        assert sent != text
    else:
        assert sent == text


def test_the_content_of_a_class_may_be_an_array(make_llm: Callable[..., Any]) -> None:
    numpy = library("numpy")

    @dataclass
    class Message:
        role: str
        content: Any

    content = numpy.array([{"type": "text", "text": "Hi"}], dtype=object)
    [[said]] = make_llm().generate([[Message("user", content)]])
    assert "Hi" in said
