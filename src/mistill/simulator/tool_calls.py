"""Which tools the simulated model calls, and with what.

``any`` and ``required`` make a call of the tools that the last user message names, or of the first tool; a
named choice calls that tool; ``auto`` calls the tools named by a last message that is the user's, else
answers in text. With ``parallel_tool_calls: false`` the first of them alone is called. Arguments are sampled
from the tool's parameters.
"""

from __future__ import annotations

import random
import string
from typing import Any

import msgspec

from mistill.api.chat import Function, Tool, ToolChoice, UserMessage
from mistill.simulator import refusals
from mistill.simulator.requests import ChatRequest
from mistill.simulator.sampler import sample
from mistill.simulator.schema_merge import Unsatisfiable

_ID_CHARS = string.ascii_letters + string.digits


def chosen_tools(request: ChatRequest, asked: str) -> list[Function]:
    """The functions to call; none: answer in text."""
    functions = [tool.function for tool in request.tools or () if isinstance(tool, Tool)]
    choice = request.tool_choice or "auto"
    if isinstance(choice, ToolChoice):
        named = [function for function in functions if function.name == choice.function.name]
        if not named:
            raise refusals.bad_request(
                f"Tool choice {choice.function.name} is not a tool", param="tool_choice"
            )
        return named
    if not functions or choice == "none":
        if choice in ("any", "required") and not request.tools:
            raise refusals.bad_request(f"Tool choice {choice} needs tools", param="tool_choice")
        return []
    mentioned = [function for function in functions if function.name in asked]
    if choice == "auto":
        called = mentioned if isinstance(request.messages[-1], UserMessage) else []
    else:
        called = mentioned or functions[:1]
    return called[:1] if request.parallel_tool_calls is False else called


def call_tools(
    functions: list[Function], rng: random.Random, scripted: str | None, arguments_form: str
) -> list[dict[str, Any]]:
    """The ``tool_calls`` of a message. ``scripted`` is taken as the arguments of each call."""
    return [
        {
            "id": "".join(rng.choices(_ID_CHARS, k=9)),
            "type": "function",
            "index": index,
            "function": {
                "name": function.name,
                "arguments": _in_form(scripted or _arguments(function, rng), arguments_form),
            },
        }
        for index, function in enumerate(functions)
    ]


def _arguments(function: Function, rng: random.Random) -> str:
    try:
        return msgspec.json.encode(sample({"type": "object"} | function.parameters, rng)).decode()
    except Unsatisfiable as error:
        raise refusals.bad_request(
            f"Invalid parameters of tool {function.name}: {error}", param="tools"
        ) from error


def _in_form(arguments: str, form: str) -> Any:
    if form == "string":
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return arguments
