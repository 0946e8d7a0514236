"""The arguments of a generation: their names, what they mean, and how they become the fields of a request."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypedDict, cast, get_type_hints

import msgspec

from mistill.api.chat import OWN_FIELDS, ChatParameters
from mistill.errors import InputError, did_you_mean
from mistill.llms.plain_values import encodable, plain
from mistill.llms.tools import tool_choice_of, tools_of


class GenerationParameters(TypedDict, total=False):
    """Arguments of a generation beyond the first three of `MistralLLM.agenerate`; `PARAMETERS` says what each means."""

    stop: str | list[str] | None
    random_seed: int | None
    presence_penalty: float | None
    frequency_penalty: float | None
    tools: list[Any] | None
    tool_choice: str | dict[str, Any] | None
    parallel_tool_calls: bool | None
    response_format: dict[str, Any] | None
    prediction: dict[str, Any] | None
    reasoning_effort: str | None
    prompt_mode: str | None
    guardrails: list[dict[str, Any]] | None
    safe_prompt: bool | None
    metadata: dict[str, Any] | None
    prompt_cache_key: str | None
    service_tier: str | None
    min_tokens: int | None
    top_k: int | None
    repetition_penalty: float | None
    logprobs: bool | None
    top_logprobs: int | None
    extra_body: dict[str, Any] | None


PARAMETERS: Final[dict[str, str]] = {
    "max_new_tokens": "most tokens of an answer, ≥ 0; without it the model's own limit holds",
    "temperature": "sampling temperature, 0 to 1.5; without it the model's own default holds",
    "top_p": "share of the probability mass to sample from, above 0 and at most 1",
    "stop": "text, or list of texts, at which the answer ends",
    "random_seed": "seed of the sampling, ≥ 0; each further generation of a row takes the next one",
    "presence_penalty": "from −2 to 2: above 0 discourages words that have already come",
    "frequency_penalty": "from −2 to 2: above 0 discourages words the more often they have come",
    "tools": "functions that the model may call: dicts, pydantic models or typed functions",
    "tool_choice": "auto, none, any, required, or the one function that must be called, by its name",
    "parallel_tool_calls": "whether one answer may hold several calls",
    "response_format": "Mistral's own response_format, as it is; a schema for answers is the checked way",
    "prediction": "text that the answer is expected to repeat in part: {'type': 'content', 'content': …}",
    "reasoning_effort": "none, minimal, low, medium, high or xhigh; reasoning models only",
    "prompt_mode": "'reasoning' puts Mistral's system prompt for reasoning in front",
    "guardrails": "list of Mistral's guardrail settings",
    "safe_prompt": "whether Mistral's safety prompt goes in front",
    "metadata": "dict kept with the request at Mistral",
    "prompt_cache_key": "requests of one key share cached input",
    "service_tier": "auto or standard_only",
    "min_tokens": "least tokens of an answer, ≥ 0; newest servers only",
    "top_k": "sample from the k likeliest tokens, ≥ 1; newest servers only",
    "repetition_penalty": "above 0; newest servers only",
    "logprobs": "whether log probabilities come with the answer; newest servers only",
    "top_logprobs": "how many of them for each token, ≥ 0; newest servers only",
    "extra_body": "fields of the request that this library does not know yet",
}

PARAMETER_TYPES: Final[dict[str, Any]] = {
    "max_new_tokens": int | None,
    "temperature": float | None,
    "top_p": float | None,
    **get_type_hints(GenerationParameters),
}
"""The type of each of `PARAMETERS`, as an annotation."""

_WIRE_NAMES = {"max_new_tokens": "max_tokens"}
SETTING_NAMES: Final = {wire: ours for ours, wire in _WIRE_NAMES.items()}
"""Fields of a request → the parameters that set them, where their names differ."""

_NOT_ON_THE_WIRE = {"extra_body"}
_FREE_FORM = ("extra_body", "metadata", "guardrails", "response_format")


def check_parameters(arguments: Mapping[str, Any]) -> ChatParameters:
    """Arguments of a generation → fields of a request; ``None`` leaves the server's default.

    Raises:
        InputError: an unknown name, a wrong type or a value out of its range.
    """
    check_parameter_names(arguments)
    fields = {
        _WIRE_NAMES.get(name, name): value
        for name, value in arguments.items()
        if value is not None and name not in _NOT_ON_THE_WIRE
    }
    if "tools" in fields or "tool_choice" in fields:
        tools = tools_of(fields.get("tools") or [])
        if "tools" in fields:
            fields["tools"] = tools
        if "tool_choice" in fields:
            fields["tool_choice"] = tool_choice_of(fields["tool_choice"], tools)
    _check_extra_body(arguments.get("extra_body"))
    for name in _FREE_FORM:
        if arguments.get(name) is not None:
            _check_json(name, arguments[name])
    try:
        parameters = _as_parameters(fields)
    except msgspec.ValidationError as error:
        raise InputError(_in_our_names(str(error), arguments)) from error
    except RecursionError as error:
        raise InputError(f"{_deepest(fields)} is nested too deeply") from error
    form = parameters.response_format
    if form is not None and (form.type == "json_schema") != (form.json_schema is not None):
        raise InputError("response_format: type json_schema and the field json_schema go together")
    return parameters


def _deepest(fields: Mapping[str, Any]) -> str:
    for name, value in fields.items():
        try:
            _encode(plain({name: value}))
        except RecursionError:
            return name
        except (TypeError, ValueError):
            continue
    return "a parameter"


def plain_extra_body(given: Any) -> dict[str, Any]:
    """Fields beside our own, in types that JSON has.

    Raises:
        InputError: they are nested deeper than can be sent.
    """
    try:
        return plain(given or {})
    except RecursionError as error:
        raise InputError("extra_body is nested too deeply") from error


def _as_parameters(fields: dict[str, Any]) -> ChatParameters:
    """The fields, in types that JSON has; what is of another library's is made plain first."""
    try:
        parameters = msgspec.convert(fields, ChatParameters)
        _encode(parameters)
    except (msgspec.ValidationError, TypeError, UnicodeEncodeError):
        return msgspec.convert(plain(fields), ChatParameters)
    return parameters


_encode = msgspec.json.Encoder().encode


def check_parameter_names(names: Iterable[str]) -> None:
    """``InputError`` for a name that is none of `PARAMETERS`, with the nearest that is."""
    for name in names:
        if name not in PARAMETERS:
            hint = "num_generations sets how many" if name == "n" else did_you_mean(name, PARAMETERS)
            raise InputError(f"unknown generation parameter {name!r}", hint=hint)


def describe_parameters(
    arguments: Mapping[str, Any], checked: ChatParameters | None = None
) -> dict[str, Any]:
    """Arguments of a generation as JSON values: tools in the form of the wire, the rest as it is.

    Args:
        checked: the fields that came of the arguments, where that is known.
    """
    described = dict(arguments)
    for name in ("tools", "tool_choice"):
        if described.get(name) is not None:
            checked = checked or check_parameters(arguments)
            described[name] = msgspec.to_builtins(getattr(checked, name))
    return described


def _check_extra_body(given: Any) -> None:
    if given is None:
        return
    if not isinstance(given, dict):
        raise InputError(f"extra_body={given!r}: a dict of fields is needed")
    for name in cast("dict[Any, Any]", given):
        if not isinstance(name, str):
            raise InputError(f"extra_body has {name!r}, which names no field")
        if name in OWN_FIELDS:
            raise InputError(f"extra_body has {name!r}, which has an argument of its own")


def _check_json(name: str, given: Any) -> None:
    try:
        json.dumps(given, allow_nan=False, default=_builtin)  # msgspec would write null for NaN
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{name} is no JSON: {error}") from error


def _builtin(value: Any) -> Any:
    return msgspec.to_builtins(value, enc_hook=encodable)


def _in_our_names(text: str, arguments: Mapping[str, Any]) -> str:
    """``Expected `float` <= 1.5 - at `$.temperature``` → ``temperature=2.0: expected `float` <= 1.5``."""
    reason, _, place = text.partition(" - at ")
    path = place[place.find("$") + 2 :].rstrip("`")  # of a wrong key: `key` in `$.metadata`
    field = path.split(".")[0].split("[")[0]
    name = SETTING_NAMES.get(field, field)
    return f"{name}={arguments.get(name)!r}: {reason[0].lower()}{reason[1:]} at {name}{path[len(field) :]}"
