"""Function tools: onto the wire, and the model's calls back to values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field

from mistill.api.chat import AnsweredFunction, AnsweredToolCall
from mistill.errors import InputError, InvalidOutput
from mistill.llms import MistralLLM, read_call
from mistill.llms.tools import tool_of
from mistill.simulator import Simulator

MakeLLM = Callable[..., MistralLLM]


class Weather(BaseModel):
    """The weather of a town."""

    town: str
    days: Annotated[int, Field(ge=1, le=7)] = 1


def convert(amount: float, to: Literal["EUR", "USD"] = "EUR") -> float:
    """Converts money.

    At today's rate.
    """
    raise AssertionError("never called")


WEATHER = {
    "type": "function",
    "function": {
        "name": "Weather",
        "description": "The weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"type": "string", "title": "Town"},
                "days": {"type": "integer", "title": "Days", "minimum": 1, "maximum": 7, "default": 1},
            },
            "required": ["town"],
        },
    },
}


def test_a_model_class_gives_its_name_docstring_and_schema(simulator: Simulator, make_llm: MakeLLM) -> None:
    make_llm().generate(["Hello"], tools=[Weather])
    assert simulator.requests[0].body["tools"] == [WEATHER]


def test_a_function_gives_its_name_docstring_and_parameters(simulator: Simulator, make_llm: MakeLLM) -> None:
    make_llm().generate(["Hello"], tools=[convert])
    ((function,),) = ([tool["function"] for tool in request.body["tools"]] for request in simulator.requests)
    assert function == {
        "name": "convert",
        "description": "Converts money.\n\nAt today's rate.",
        "parameters": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "amount": {"type": "number", "title": "Amount"},
                "to": {"type": "string", "title": "To", "enum": ["EUR", "USD"], "default": "EUR"},
            },
            "required": ["amount"],
        },
    }


def test_a_dict_goes_as_it_is(simulator: Simulator, make_llm: MakeLLM) -> None:
    make_llm().generate(["Hello"], tools=[WEATHER])
    assert simulator.requests[0].body["tools"] == [WEATHER]


@pytest.mark.parametrize("arguments_form", ["string", "object"])
def test_calls_come_back_typed(simulator: Simulator, make_llm: MakeLLM, arguments_form: str) -> None:
    simulator.change(arguments_form=arguments_form)
    tools = [Weather, convert, WEATHER | {"function": WEATHER["function"] | {"name": "plain"}}]  # type: ignore[operator]
    prompts = [
        'Weather <<answer: {"town": "Nice", "days": 2}>>',
        'convert <<answer: {"amount": 3, "to": "USD"}>>',
        'plain <<answer: {"town": "Nice"}>>',
    ]
    completions = [row[0] for row in make_llm().complete(prompts, tools=tools, tool_choice="any")]
    calls = [completion.tool_calls[0] for completion in completions]
    assert [completion.finish_reason for completion in completions] == ["tool_calls"] * 3
    assert all(call.id for call in calls)
    assert isinstance(calls[0].function.arguments, str if arguments_form == "string" else dict)
    assert calls[0].arguments == {"town": "Nice", "days": 2}
    assert read_call(calls[0], tools) == Weather(town="Nice", days=2)
    assert read_call(calls[1], tools) == {"amount": 3.0, "to": "USD"}
    assert read_call(calls[2], tools) == {"town": "Nice"}


def test_parallel_calls_come_together(make_llm: MakeLLM) -> None:
    ((completion,),) = make_llm().complete(["Weather and convert"], tools=[Weather, convert])
    assert [call.name for call in completion.tool_calls] == ["Weather", "convert"]
    ((completion,),) = make_llm().complete(
        ["Weather and convert"], tools=[Weather, convert], parallel_tool_calls=False
    )
    assert [call.name for call in completion.tool_calls] == ["Weather"]


def test_the_result_of_a_call_goes_back(make_llm: MakeLLM) -> None:
    messages = [{"role": "user", "content": "Weather"}]
    ((completion,),) = make_llm().complete([messages], tools=[Weather])
    (call,) = completion.tool_calls
    answer = {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": "sunny"}
    texts = make_llm().generate([[*messages, completion.as_message(), answer]], tools=[Weather])
    assert texts == [["Echo: Weather"]]


@pytest.mark.parametrize(
    "choice", ["convert", convert, {"type": "function", "function": {"name": "convert"}}]
)
def test_one_function_can_be_demanded(simulator: Simulator, make_llm: MakeLLM, choice: Any) -> None:
    ((completion,),) = make_llm().complete(["Hello"], tools=[Weather, convert], tool_choice=choice)
    assert [call.name for call in completion.tool_calls] == ["convert"]
    assert simulator.requests[0].body["tool_choice"] == {"type": "function", "function": {"name": "convert"}}


BUILT_IN: list[dict[str, Any]] = [
    *(
        {"type": kind}
        for kind in ("web_search", "web_search_premium", "code_interpreter", "image_generation")
    ),
    {"type": "document_library", "library_ids": ["7"], "tool_configuration": {"include": ["search"]}},
    {"type": "connector", "connector_id": "mine", "tool_configuration": {"requires_confirmation": ["send"]}},
]


@pytest.mark.parametrize("tool", BUILT_IN, ids=lambda tool: str(tool["type"]))
def test_tools_that_mistral_runs_pass_through(
    simulator: Simulator, make_llm: MakeLLM, tool: dict[str, Any]
) -> None:
    llm = make_llm(generation_kwargs={"tools": [tool, Weather]})
    ((completion,),) = llm.complete(["Hello"], tool_choice="Weather")
    assert [call.name for call in completion.tool_calls] == ["Weather"]
    assert simulator.requests[0].body["tools"] == [tool, WEATHER]
    assert MistralLLM.from_dict(llm.dump()).generate(["Hello"]) == [["Echo: Hello"]]
    assert simulator.requests[1].body["tools"] == [tool, WEATHER]


@pytest.mark.parametrize("dialect", ["openai", "local"])
def test_other_servers_run_no_tools(simulator: Simulator, make_llm: MakeLLM, dialect: str) -> None:
    with pytest.raises(InputError, match="this server"):
        make_llm(dialect=dialect).generate(["Hello"], tools=[{"type": "web_search"}])
    assert simulator.requests == []


def untyped(a, b: int) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001
def variadic(*numbers: int) -> None: ...
def unspeakable(a: Callable[[], int]) -> None: ...


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"tools": Weather}, r"for one tool write \[tool\]"),
        ({"tools": [3]}, "not a tool: 3"),
        ({"tools": [{"name": "x"}]}, "not a tool: .*unknown field `name`"),
        ({"tools": [{"type": "web_serch"}]}, "not a tool: Invalid value 'web_serch'"),
        ({"tools": [{"type": "web_search", "depth": 3}]}, "not a tool: .*unknown field `depth`"),
        ({"tools": [{"type": "document_library"}]}, "not a tool: .*`library_ids`"),
        ({"tools": [{"type": "connector", "connector_id": "x", "authorization": {}}]}, "is a secret"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "web_search"}, "none of the tools"),
        ({"tools": [untyped]}, "the tool untyped: its parameter a has no type"),
        ({"tools": [variadic]}, "the tool variadic: a model cannot give"),
        ({"tools": [unspeakable]}, "the tool unspeakable has no JSON schema"),
        ({"tools": [int]}, "of classes only pydantic models"),
        ({"tools": [Weather, WEATHER]}, "two tools have the name 'Weather'"),
        ({"tools": [Weather], "tool_choice": "wether"}, "did you mean 'Weather'"),
        ({"tool_choice": "any"}, "needs tools"),
        ({"tools": [Weather], "tool_choice": {"function": {}}}, "tool_choice"),
    ],
)
def test_what_is_no_tool_is_refused(make_llm: MakeLLM, arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        make_llm().generate(["Hello"], **arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("Weather", '{"town": "Nice", "days": 9}', r"\$.days: Input should be less than or equal to 7"),
        ("Weather", '{"town": ', "no JSON object"),
        ("Weather", "[1]", "no JSON object"),
        ("web_search", "{}", "which it was not given"),
        ("Wether", "{}", "'Wether', which it was not given"),
        ("convert", '{"amount": 1, "from": "GBP"}', r"\$.from: Extra inputs"),
    ],
)
def test_arguments_that_do_not_fit_say_where(name: str, arguments: str, words: str) -> None:
    with pytest.raises(InvalidOutput, match=words) as caught:
        read_call(
            AnsweredToolCall(AnsweredFunction(name, arguments)), [{"type": "web_search"}, Weather, convert]
        )
    assert caught.value.text


def test_no_arguments_at_all_are_an_empty_dict() -> None:
    assert AnsweredToolCall(AnsweredFunction("f", "")).arguments == {}


def test_a_function_without_parameters_is_a_tool() -> None:
    def now() -> str:
        """The time."""
        raise AssertionError("never called")

    tool: Any = tool_of(now)
    assert tool.function.parameters == {
        "type": "object",
        "properties": {},
        "additionalProperties": False,
    }
