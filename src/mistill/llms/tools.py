"""Function tools: from dicts, pydantic models and typed functions to the wire, and the model's calls back to values.

No function is ever called here: what the model asks for is for the caller to do, or not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeAlias, cast, get_type_hints

import msgspec
from pydantic import BaseModel, ConfigDict, ValidationError, create_model
from pydantic.errors import PydanticUserError

from mistill.api.chat import AnsweredToolCall, AnyTool, Function, FunctionName, Tool, ToolChoice
from mistill.errors import InputError, InvalidOutput, did_you_mean

ToolLike: TypeAlias = Mapping[str, Any] | type[BaseModel] | Callable[..., Any] | AnyTool
"""The wire's own form, a pydantic model class, or a function whose parameters are annotated."""

_MODES = ("auto", "none", "any", "required")


def tool_of(given: ToolLike) -> AnyTool:
    """The tool as it goes on the wire.

    A dict may be one of Mistral's own tools too: ``{"type": "web_search"}``. A model class gives its name, docstring
    and JSON schema; a function its name, docstring and the JSON schema of its parameters.

    Raises:
        InputError: it is none of these, or one of its parameters has no type, or one that no JSON schema can tell.
    """
    if isinstance(given, AnyTool):
        return given
    if isinstance(given, Mapping):
        return _tool_of_dict({"type": "function", **cast("Mapping[str, Any]", given)})
    if callable(given):
        return _tool_of_code(given)
    raise InputError(f"not a tool: {given!r}", hint="a dict, a pydantic model class or a typed function")


def _tool_of_dict(given: dict[str, Any]) -> AnyTool:
    if given["type"] == "connector" and "authorization" in given:
        raise InputError(
            "not a tool: a connector's authorization is a secret, and dumps and ledgers hold tools as they are",
            hint="let Mistral keep it with the connector",
        )
    try:
        return msgspec.convert(given, AnyTool)
    except msgspec.ValidationError as error:
        raise InputError(
            f"not a tool: {error}",
            hint="the form is {'type': 'function', 'function': {'name': …, 'parameters': JSON schema}}, "
            "or {'type': 'web_search'} and its like",
        ) from error


def _function_names(tools: Iterable[AnyTool]) -> list[str]:
    return [tool.function.name for tool in tools if isinstance(tool, Tool)]


def tools_of(given: Any) -> list[AnyTool]:
    """All tools of a request.

    Raises:
        InputError: one is no tool, or two have the same name.
    """
    if isinstance(given, str | Mapping) or not isinstance(given, Sequence):
        raise InputError("tools must be a list", hint="for one tool write [tool]")
    tools = [tool_of(one) for one in cast("Sequence[ToolLike]", given)]
    names = _function_names(tools)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise InputError(f"two tools have the name {twice!r}")
    return tools


def tool_choice_of(given: Any, tools: Sequence[AnyTool]) -> str | ToolChoice:
    """A mode, or the one function that must be called: by its name, by the tool itself, or as the wire has it.

    Raises:
        InputError: there is no such mode or tool.
    """
    if isinstance(given, str) and given in _MODES:
        if given in ("any", "required") and not tools:
            raise InputError(f"tool_choice={given!r} needs tools")
        return given
    if isinstance(given, str):
        name = given
    elif isinstance(given, Mapping):
        try:
            name = msgspec.convert(dict(cast("Mapping[str, Any]", given)), ToolChoice).function.name
        except msgspec.ValidationError as error:
            raise InputError(f"tool_choice: {error}") from error
    elif isinstance(given, ToolChoice):
        name = given.function.name
    else:
        name = next(iter(_function_names([tool_of(given)])), repr(given))
    names = _function_names(tools)
    if name not in names:
        raise InputError(
            f"tool_choice={name!r} is none of the tools", hint=did_you_mean(name, [*_MODES, *names])
        )
    return ToolChoice(FunctionName(name))


def read_call(call: AnsweredToolCall, tools: Sequence[ToolLike]) -> Any:
    """A call's arguments as values of the tool's own types.

    Returns:
        An instance for a model class; a dict of keyword arguments for a function, each validated; the plain dict for a
        tool given as a dict.

    Raises:
        InvalidOutput: the model called a tool that it was not given, or the arguments do not fit.
    """
    arguments = call.arguments
    tool = next((tool for tool in tools if call.name in _function_names([tool_of(tool)])), None)
    if tool is None:
        raise InvalidOutput(f"the model called {call.name!r}, which it was not given", text=call.name)
    if isinstance(tool, Mapping | AnyTool):
        return arguments
    try:
        value = _model_of(tool).model_validate(arguments)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in first["loc"])
        raise InvalidOutput(
            f"the arguments of the call of {call.name} do not fit: ${path}: {first['msg']}",
            text=msgspec.json.encode(arguments).decode(),
            path=f"${path}",
        ) from error
    if _is_model(tool):
        return value
    return {name: getattr(value, name) for name in type(value).model_fields if name in value.model_fields_set}


@lru_cache(maxsize=256)
def _tool_of_code(given: type[BaseModel] | Callable[..., Any]) -> Tool:
    model = _model_of(given)
    try:
        parameters = model.model_json_schema()
    except PydanticUserError as error:
        raise InputError(f"the tool {_name(given)} has no JSON schema: {error.message}") from error
    for of_the_class in ("title", "description"):
        parameters.pop(of_the_class, None)
    parameters.setdefault("properties", {})
    return Tool(Function(_name(given), parameters, inspect.cleandoc(given.__doc__ or "")))


@lru_cache(maxsize=256)
def _model_of(given: type[BaseModel] | Callable[..., Any]) -> type[BaseModel]:
    if isinstance(given, type):
        if issubclass(given, BaseModel):
            return given
        raise InputError(
            f"not a tool: {given!r}", hint="of classes only pydantic models are; or give a function"
        )
    try:
        hints = get_type_hints(given, include_extras=True)
        signature = inspect.signature(given)
    except (NameError, TypeError, ValueError) as error:
        raise InputError(f"the tool {_name(given)} cannot be read: {error}") from error
    fields: dict[str, Any] = {}
    for name, parameter in signature.parameters.items():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise InputError(
                f"the tool {_name(given)}: a model cannot give *args, **kwargs or {name} by position"
            )
        if name not in hints:
            raise InputError(f"the tool {_name(given)}: its parameter {name} has no type")
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[name] = (hints[name], default)
    try:
        return create_model(
            _name(given), __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields
        )
    except (PydanticUserError, NameError) as error:
        raise InputError(f"the tool {_name(given)} has no JSON schema: {error}") from error


def _is_model(given: object) -> bool:
    return isinstance(given, type) and issubclass(given, BaseModel)


def _name(given: Any) -> str:
    return str(getattr(given, "__name__", type(given).__name__))
