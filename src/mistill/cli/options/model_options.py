"""Options of the model and of its generations, and the `MistralLLM` that they describe."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar, cast, get_args, get_origin

import click
from pydantic import SecretStr

from mistill.api.dialects import DialectName
from mistill.api.endpoint import check_may_have_key
from mistill.cli.command import Option, option
from mistill.cli.options.param_types import METAVARS, Json, OneOf, TextOrJson, members_of
from mistill.errors import InputError
from mistill.llms import MistralLLM
from mistill.llms.parameters import PARAMETER_TYPES, PARAMETERS
from mistill.structured import load_schema, names_module

F = TypeVar("F", bound=Callable[..., Any])

_MODEL, _PACE, _GENERATION, _SCHEMA = "Model", "Pace", "Generation", "Structured output"
_KEY_VARIABLE = "MISTRAL_API_KEY"


def all_of(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several decorators as one; their options stand in the help in this order."""

    def decorate(function: F) -> F:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


_DEFAULT = re.compile(r"(; without it [^.]*\.?|\s*\[default: [^\]]*\])$")


def as_the_run_has_it(function: F) -> F:
    """Of a command that names a run: its help says that what the run has holds, where else a new one has defaults."""
    for param in getattr(function, "__click_params__", ()):
        is_kept = isinstance(param, Option) and (
            param.group in ("Prompt", _PACE, _GENERATION, _SCHEMA) or param.name in ("endpoint", "dialect")
        )
        if is_kept and param.help and _DEFAULT.search(param.help):
            param.help = _DEFAULT.sub("", param.help) + "  [default: as the run has it]"
    return function


# --- the model ------------------------------------------------------------------------------------------------------

model_name_option = option(
    "--model", group=_MODEL, metavar="NAME", help="For example mistral-small-latest; see 'mistill models'."
)

endpoint_options = all_of(
    option(
        "--endpoint",
        group=_MODEL,
        metavar="URL",
        help="Base URL.  [default: https://api.mistral.ai]",
    ),
    option(
        "--allow-http",
        group=_MODEL,
        is_flag=True,
        default=None,
        in_settings=False,
        help="Send the key over plain http to a host that is not this machine: anybody on the way can read it. "
        "For servers in a network of your own, such as vLLM.",
    ),
    option(
        "--api-key-env",
        group=_MODEL,
        in_settings=False,
        metavar="NAME",
        help=f"Environment variable that has the key.  [default: {_KEY_VARIABLE}]",
    ),
    option(
        "--trust",
        group=_MODEL,
        is_flag=True,
        in_settings=False,
        help="The settings file, or the ledger of the run that is named, is my own: send the key to the endpoint that "
        "it names, import the classes that it names.",
    ),
)

connection_options = all_of(
    endpoint_options,
    option(
        "--dialect",
        group=_MODEL,
        type=OneOf(get_args(DialectName)),
        help="'openai' for vLLM, llama.cpp and gateways with OpenAI's names. "
        f" [default: {MistralLLM.model_fields['dialect'].default}]",
    ),
    option(
        "--local",
        group=_MODEL,
        is_flag=True,
        help="Start the demo model on this machine and use it: no key, no cost, a toy in quality. "
        "Unless told otherwise, as many requests are in flight as it has slots.",
    ),
)

trace_content_option = option(
    "--trace-content/--no-trace-content",
    group=_MODEL,
    default=None,
    help="Tell OpenTelemetry, where it is configured, prompts and answers too.  "
    "[default: as OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT says]",
)

prices_option = option(
    "--prices", group=_MODEL, metavar="FILE", help="Your own table of prices (TOML), before the shipped one."
)

pace_options = all_of(
    option(
        "--max-concurrent-requests",
        group=_PACE,
        type=int,
        metavar="N",
        help="Most requests in flight.  [default: 64]",
    ),
    option(
        "--requests-per-minute",
        group=_PACE,
        type=float,
        metavar="N",
        help="Your quota of requests; learned from the answers unless given.",
    ),
    option(
        "--tokens-per-minute",
        group=_PACE,
        type=float,
        metavar="N",
        help="Your quota of tokens; learned from the answers unless given.",
    ),
    option(
        "--timeout",
        group=_PACE,
        type=float,
        metavar="SECONDS",
        help="For one attempt, in all.  [default: 120]",
    ),
    option(
        "--max-retries",
        group=_PACE,
        type=int,
        metavar="N",
        help="Tries after the first, for failures that are a row's own.  [default: 5]",
    ),
)

_ATTRIBUTES = (
    "model",
    "endpoint",
    "allow_http",
    "dialect",
    "prices",
    "trace_content",
    "max_concurrent_requests",
    "requests_per_minute",
    "tokens_per_minute",
    "timeout",
    "max_retries",
)


_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+|[A-Z]{1,24}")


def attributes_of(ctx: click.Context, given: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of `MistralLLM` that were given, the key among them where ``--api-key-env`` names it.

    Raises:
        InputError: there is no such environment variable, or the endpoint may not have the key.
    """
    if given.get("endpoint") is not None and _is_foreign(ctx, given, "endpoint"):
        check_may_have_key(given["endpoint"], "the settings file")
    attributes = {name: value for name in _ATTRIBUTES if (value := given.get(name)) is not None}
    variable = given.get("api_key_env")
    if variable is not None:
        attributes["api_key"] = key_in(variable, "--api-key-env")
    return attributes


def key_in(variable: str, flag: str) -> SecretStr:
    """The key that an environment variable has, which an option names.

    Raises:
        InputError: there is no such variable.
    """
    key = os.environ.get(variable)
    if not key:
        is_name = _VARIABLE.fullmatch(variable)  # else it may be the key itself
        raise InputError(
            f"the environment variable {variable if is_name else f'that {flag} names'} is not set",
            hint="the option takes the name of a variable that has the API key, not the key",
        )
    return SecretStr(key)


def _is_foreign(ctx: click.Context, given: Mapping[str, Any], name: str) -> bool:
    """Whether the user has not named this: a settings file may be somebody else's."""
    source = ctx.get_parameter_source(name)
    return source is click.core.ParameterSource.DEFAULT_MAP and not given["trust"]


@contextmanager
def served(
    attributes: dict[str, Any], *, local: bool, say: Callable[[str], object], offline: bool = False
) -> Generator[dict[str, Any]]:
    """``attributes``, with those of a local model while it runs, where it is wanted; ``offline``: it is not started."""
    if not local:
        yield attributes
        return
    from mistill.local import MODEL, LocalModel

    if offline:
        yield {**attributes, "model": MODEL, "dialect": "local"}
        return
    with LocalModel(say=say) as model:
        yield {
            "max_concurrent_requests": model.slots,
            **attributes,
            "model": model.model,
            "endpoint": model.endpoint,
            "api_key": model.api_key,
            "dialect": "local",
        }


def refuse_beside_local(ctx: click.Context, given: dict[str, Any]) -> None:
    """``--local`` says which model answers, so nothing else may. A settings file gives way to the command line.

    Raises:
        click.UsageError: both were given in the same place.
    """
    for name in ("model", "endpoint", "api_key_env", "dialect"):
        choose_one(ctx, given, "local", name)
    if given.get("lane") == "batch":
        choose_one(ctx, given, "local", "lane")


def choose_one(ctx: click.Context, given: dict[str, Any], one: str, other: str) -> None:
    """Leaves one of two options that exclude each other: that of the command line before that of a settings file.

    Raises:
        click.UsageError: both were given in the same place.
    """
    if not given.get(one) or not given.get(other):
        return
    places = {name: ctx.get_parameter_source(name) for name in (one, other)}
    if places[one] is places[other]:
        raise click.UsageError(
            f"{_flag(one)} and {_flag(other)} exclude each other: leave one of them out", ctx
        )
    loser = one if places[other] is click.core.ParameterSource.COMMANDLINE else other
    given[loser] = None


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


# --- generations ----------------------------------------------------------------------------------------------------


def _click_type(annotation: Any) -> dict[str, Any]:
    """The annotation of a generation parameter → settings of its option."""
    plain = [get_origin(member) or member for member in members_of(annotation)]
    if plain == [bool]:
        return {"is_flag": True, "default": None}
    if len(plain) == 1 and plain[0] in (int, float, str):
        return {"type": plain[0], "metavar": METAVARS[plain[0]]}
    if set(plain) == {str, list}:
        return {"multiple": True, "metavar": "TEXT"}
    return {"type": TextOrJson() if str in plain else Json()}


def _generation_option(name: str, description: str, annotation: Any) -> Callable[[F], F]:
    settings = _click_type(annotation)
    flag = _flag(name)
    names = f"{flag}/--no-{flag[2:]}" if settings.get("is_flag") else flag
    repeatable = "; repeatable" if settings.get("multiple") else ""
    return option(names, name, group=_GENERATION, help=description + repeatable, **settings)


generation_options = all_of(
    *(_generation_option(name, text, PARAMETER_TYPES[name]) for name, text in PARAMETERS.items())
)


def parameters_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The generation parameters that were given."""
    found = {name: given.get(name) for name in PARAMETERS}
    return {name: _listed(value) for name, value in found.items() if value not in (None, ())}


def _listed(value: Any) -> Any:
    return list(cast("tuple[Any, ...]", value)) if isinstance(value, tuple) else value


# --- structured output ----------------------------------------------------------------------------------------------

schema_option = option(
    "--schema",
    group=_SCHEMA,
    metavar="SCHEMA",
    help="What answers must fit: a .json file with a JSON schema, or module:Name.",
)

structured_options = all_of(
    schema_option,
    option(
        "--schema-mode",
        group=_SCHEMA,
        metavar="MODE",
        help="How the server is told: left out for its own json_schema; json_object, tools, md_json, …",
    ),
    option(
        "--schema-retries",
        group=_SCHEMA,
        type=int,
        metavar="N",
        help="How often a model is asked again whose answer does not fit; each ask is billed.  [default: 3]",
    ),
)


def structured_output_of(ctx: click.Context, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The LLM's ``structured_output``.

    Raises:
        InputError: the schema cannot be found, may not be imported, or there is none for the other options.
    """
    found = structured_changes_of(ctx, given)
    if found is not None and "schema" not in found:
        raise InputError("there is no schema", hint="give one with --schema")
    return found


def structured_changes_of(ctx: click.Context, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is said of ``structured_output``, for a run that may have a schema of its own; ``None``: nothing.

    Raises:
        InputError: the schema cannot be found, or may not be imported.
    """
    details = {"mode": given.get("schema_mode"), "max_retries": given.get("schema_retries")}
    found = {name: value for name, value in details.items() if value is not None}
    reference = given.get("schema")
    if reference is None:
        return found or None
    if names_module(reference) and _is_foreign(ctx, given, "schema"):
        raise InputError(
            f"the settings file names the schema {reference!r}, and to import it runs its code",
            hint="if that is right, name it yourself (--schema), or say that the file is yours (--trust)",
        )
    return {"schema": schema_named(reference), **found}


def schema_named(reference: str) -> Any:
    """What ``--schema`` names; ``module:Name`` is found in the working directory too."""
    here = os.getcwd()  # noqa: PTH109  sys.path holds strings
    if here not in sys.path:
        sys.path.append(here)  # last, so that a file here hides no module that the program needs
    return load_schema(reference)


def make_llm(ctx: click.Context, attributes: Mapping[str, Any], given: Mapping[str, Any]) -> MistralLLM:
    """The LLM of a run or a chat.

    Raises:
        InputError: no model is named, or a schema is wrong.
    """
    if "model" not in attributes:
        raise InputError(
            "no model is named", hint="--model mistral-small-latest, or --local for the demo model"
        )
    return MistralLLM(
        **attributes,
        structured_output=structured_output_of(ctx, given),
        generation_kwargs=parameters_of(given),
    )
