"""`MistralLLM` as a class of distilabel: the framework's interface, with every call answered by our own class.

    from mistill.integrations.distilabel import MistralLLM

A pipeline runs each step in a process of its own. They share a governor (`mistill.delivery.sharing`);
``max_concurrent_requests`` holds for each of them.
"""

# distilabel has no types to be strict about, and need not be installed where types are checked.
# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import inspect
import json
import os
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, cast

from pydantic import (
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
)

from mistill import llms
from mistill.api.dialects import DialectName
from mistill.delivery.retry import classify
from mistill.errors import MistillError
from mistill.extras import install_command
from mistill.llms.event_loop import background
from mistill.llms.parameters import PARAMETERS
from mistill.llms.plain_values import without_nulls
from mistill.llms.types import Outcome
from mistill.structured.schema import compile_schema

try:
    from distilabel.mixins.runtime_parameters import RuntimeParameter
    from distilabel.models.llms.base import AsyncLLM
    from distilabel.typing import FormattedInput, GenerateOutput
except ImportError as error:
    # It imports packages that it does not require, so the cause may be another one that is missing.
    raise ImportError(
        f"mistill.integrations.distilabel needs distilabel, which cannot be imported: {error}; "
        f"{install_command('distilabel')} has all that it takes",
        name=error.name,
    ) from error

from mistill.integrations.distilabel_tables import mend_tables

_KEY_CHECK_S = 10.0

_OURS = llms.MistralLLM.model_fields
_SHARED = (
    "model",
    "endpoint",
    "api_key",
    "max_retries",
    "timeout",
    "max_concurrent_requests",
    "structured_output",
    "generation_kwargs",
    "requests_per_minute",
    "tokens_per_minute",
    "allow_http",
    "dialect",
)

mend_tables()


def _as_ours(name: str) -> Any:
    return Field(default=_OURS[name].default, description=_OURS[name].description)


class MistralLLM(AsyncLLM):
    """A Mistral model in a distilabel pipeline: ``mistill.llms.MistralLLM``, whose attributes these are.

    A row that fails is ``None`` in the table, and its error stands in ``distilabel_metadata``, in the statistics of its
    task, beside the tokens. A key that the server refuses stops the pipeline when its steps load.

    Example:
        >>> llm = MistralLLM(model="mistral-small-latest")  # doctest: +SKIP
        >>> llm.load()  # doctest: +SKIP
        >>> llm.generate_outputs(inputs=[[{"role": "user", "content": "Hello world!"}]])  # doctest: +SKIP
    """

    model: str
    endpoint: str = _as_ours("endpoint")
    api_key: RuntimeParameter[SecretStr] | None = Field(
        default_factory=lambda: _key_of_environment(),
        description=_OURS["api_key"].description,
        exclude=True,  # the framework's own way of leaving it out of a dump depends on pydantic's version
    )
    max_retries: RuntimeParameter[int] = _as_ours("max_retries")
    timeout: RuntimeParameter[float] = _as_ours("timeout")
    max_concurrent_requests: RuntimeParameter[int] = _as_ours("max_concurrent_requests")
    structured_output: RuntimeParameter[dict[str, Any]] | None = _as_ours("structured_output")
    requests_per_minute: RuntimeParameter[float] | None = _as_ours("requests_per_minute")
    tokens_per_minute: RuntimeParameter[float] | None = _as_ours("tokens_per_minute")
    allow_http: RuntimeParameter[bool] = _as_ours("allow_http")
    dialect: DialectName = "mistral"

    _api_key_env_var: str = PrivateAttr(default="MISTRAL_API_KEY")
    _llm: llms.MistralLLM | None = PrivateAttr(default=None)

    @field_validator(*_SHARED)
    @classmethod
    def _check(cls, value: Any, info: ValidationInfo) -> Any:
        """Our class is the one that knows which values fit."""
        assert info.field_name is not None
        try:
            setattr(llms.MistralLLM(model="any"), info.field_name, _in_our_words(info.field_name, value))
        except ValidationError as error:
            raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from error
        return value

    @field_serializer("structured_output")
    def _dump_structured_output(self, setting: dict[str, Any] | None) -> dict[str, Any] | None:
        """The schema as JSON text: the framework's signatures and files cannot hold every dict, and no class."""
        if setting is None:
            return None
        return setting | {"schema": json.dumps(compile_schema(setting["schema"]).json_schema)}

    @property
    def model_name(self) -> str:
        return self.model

    # --- loading ----------------------------------------------------------------------------------------------------

    def load(self) -> None:
        """Makes ready to answer, and asks the server whether it takes the key.

        Only here can an LLM stop a pipeline: later, the framework puts an empty batch in the place of an error.

        Raises:
            ValueError: there is no key.
            Unauthorized: the server refuses the key.
        """
        super().load()
        llm = self._current()
        llm.load()
        try:
            background.run(_within(_KEY_CHECK_S, llm))
        except (MistillError, TimeoutError) as error:
            if isinstance(error, MistillError) and classify(error).fatal:
                raise
            self._logger.debug("The key could not be checked: %s", error)

    def unload(self) -> None:
        if self._llm is not None:
            self._llm.unload()
        super().unload()

    def _current(self) -> llms.MistralLLM:
        """Our LLM, with the attributes as they are now: the framework may set them at any time."""
        settings = {name: _in_our_words(name, getattr(self, name)) for name in _SHARED}
        if self._llm is None:
            self._llm = llms.MistralLLM(**settings)
        else:
            for name, value in settings.items():
                setattr(self._llm, name, value)
        return self._llm

    # --- generating -------------------------------------------------------------------------------------------------

    def generate(
        self, inputs: Sequence[FormattedInput], num_generations: int = 1, **generation_kwargs: Any
    ) -> list[GenerateOutput]:
        """One ``{"generations": […], "statistics": {…}}`` for each input, in the order of ``inputs``.

        Statistics have a value for each generation: ``input_tokens``, ``output_tokens``, ``finish_reason`` and
        ``error``, the last two empty where there is none: Arrow wants one type in every row.

        Raises:
            InputError: an argument is wrong; nothing was sent.
        """
        given = [_input_in_our_words(one) for one in inputs]
        outcomes = self._current().outcomes(given, num_generations, **generation_kwargs)
        failures = [outcome.error for outcome in outcomes if outcome.error is not None]
        if failures:
            self._logger.warning(
                "%d of %d rows failed; the first: %s", len(failures), len(outcomes), failures[0]
            )
        return [_output(outcome, num_generations) for outcome in outcomes]

    async def agenerate(
        self,
        input: FormattedInput,  # noqa: A002  the framework's name
        num_generations: int = 1,
        **generation_kwargs: Any,
    ) -> GenerateOutput:
        """The output for one input, as `generate` gives it. Raises the row's own error."""
        completions = await self._current().acomplete(
            _input_in_our_words(input), num_generations, **generation_kwargs
        )
        return _output(Outcome(completions=tuple(completions)), num_generations)

    def get_generation_kwargs(self) -> dict[str, Any]:
        return self.generation_kwargs or {}

    @property
    def generate_parameters(self) -> list[inspect.Parameter]:
        """What ``generation_kwargs`` may hold."""
        return [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Any)
            for name in PARAMETERS
        ]

    @cached_property
    def generate_parsed_docstring(self) -> Any:
        return {"args": PARAMETERS}

    def __del__(self) -> None:
        """The framework's closes an event loop, which is never opened here, and fails on an object that was refused."""


def _key_of_environment() -> SecretStr | None:
    key = os.environ.get("MISTRAL_API_KEY")
    return SecretStr(key) if key else None


async def _within(seconds: float, llm: llms.MistralLLM) -> None:
    async with asyncio.timeout(seconds):
        await llm.amodels()


# --- their words and ours ---------------------------------------------------------------------------------------------


def _in_our_words(name: str, value: Any) -> Any:
    if name == "structured_output":
        return _structured_output_in_our_words(value)
    if name == "generation_kwargs":
        return value or {}
    return value


def _input_in_our_words(given: Any) -> Any:
    if not isinstance(given, tuple):
        return given
    messages, setting = cast("tuple[Any, Any]", given)
    return messages, _structured_output_in_our_words(without_nulls(setting))


def _structured_output_in_our_words(setting: Any) -> Any:
    """``format`` is left out where it is JSON; another one is a mode that we do not know, and our error says so."""
    if not isinstance(setting, Mapping):
        return setting
    ours = {key: value for key, value in cast("Mapping[str, Any]", setting).items() if value is not None}
    asked = ours.pop("format", "json")
    if asked != "json":
        ours["mode"] = asked
    return ours or None


def _output(outcome: Outcome, num_generations: int) -> GenerateOutput:
    completions = (outcome.completions + (None,) * num_generations)[:num_generations]
    usages = [completion.usage if completion else llms.Usage() for completion in completions]
    if None in completions:
        # What a failed generation has cost is in no completion; with it, the sum is what was billed.
        answered = sum(usages, llms.Usage())
        usages[completions.index(None)] = llms.Usage(
            outcome.usage.input_tokens - answered.input_tokens,
            outcome.usage.output_tokens - answered.output_tokens,
        )
    return {
        "generations": [completion.text if completion else None for completion in completions],
        "statistics": {
            "input_tokens": [usage.input_tokens for usage in usages],
            "output_tokens": [usage.output_tokens for usage in usages],
            "finish_reason": [
                completion.finish_reason or "" if completion else "" for completion in completions
            ],
            "error": ["" if completion else _text_of(outcome.error) for completion in completions],
        },
    }


def _text_of(error: MistillError | None) -> str:
    return f"{error.kind}: {error}" if error is not None else ""
