"""`MistralLLM`: Mistral's chat models, over many prompts at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar, Literal, TypeVar, Unpack, cast, overload

from pydantic import Field, field_validator

from mistill.api.chat import CHAT, ChatResponse
from mistill.api.operation import Operation
from mistill.delivery.dispatcher import Refuse
from mistill.errors import InputError
from mistill.llms.base import AsyncLLM, OnError
from mistill.llms.completions import refuse_given_up
from mistill.llms.connection import Connection
from mistill.llms.event_loop import background
from mistill.llms.generation import Generation
from mistill.llms.parameters import PARAMETERS, GenerationParameters, check_parameters, describe_parameters
from mistill.llms.runtime_parameters import RuntimeParameter
from mistill.llms.types import FormattedInput, Outcome
from mistill.progress.display import Display, OnProgress
from mistill.structured.references import describe_structured_output, restore_schema
from mistill.structured.structured_output import compile_structured_output

T = TypeVar("T")

_MAX_KNOWN = 64


class MistralLLM(Connection, AsyncLLM):
    """A Mistral model, or any server that speaks Mistral's chat API.

    Args:
        structured_output: ``{"schema": …}``: what answers must fit, see docs/structured-output.md.
        generation_kwargs: arguments of every generation, see `PARAMETERS` in ``mistill.llms.parameters``.
        the others: as `Connection` says.

    Example:
        >>> llm = MistralLLM(model="mistral-small-latest")  # doctest: +SKIP
        >>> llm.generate(inputs=[[{"role": "user", "content": "Hello world!"}]])  # doctest: +SKIP
        [['Hello! How can I help you today?']]
    """

    kind: ClassVar[str] = "chat"

    structured_output: RuntimeParameter[dict[str, Any] | None] = Field(
        default=None, description="What answers must fit: schema, and if wanted mode and max_retries."
    )

    @field_validator("structured_output")
    @classmethod
    def _check_structured_output(cls, setting: dict[str, Any] | None) -> dict[str, Any] | None:
        if setting is not None:
            compile_structured_output(setting)
        return setting

    def dump_attribute(self, name: str, value: Any) -> Any:
        if name == "structured_output" and value is not None:
            return describe_structured_output(value)
        return describe_parameters(value or {}) if name == "generation_kwargs" else value

    @classmethod
    def restore_attribute(cls, name: str, value: Any, *, trust: bool = False) -> Any:
        if name != "structured_output" or not isinstance(value, dict):
            return value
        value = cast("dict[str, Any]", value)
        schema = value.get("schema")
        if not isinstance(schema, dict) or schema.keys().isdisjoint({"module", "json_schema"}):
            return value
        described = cast("dict[str, Any]", schema)
        if not trust and "module" in described:
            # The class would be imported. What it is as a JSON schema stands beside its name.
            described = {key: part for key, part in described.items() if key not in ("module", "name")}
        return value | {"schema": restore_schema(described)}

    @field_validator("generation_kwargs")
    @classmethod
    def _check_generation_kwargs(cls, arguments: dict[str, Any]) -> dict[str, Any]:
        check_parameters(arguments)
        return arguments

    # --- generating -------------------------------------------------------------------------------------------------

    async def agenerate(
        self,
        input: FormattedInput,  # noqa: A002  the public name
        max_new_tokens: int | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        **more: Unpack[GenerationParameters],
    ) -> list[str | None]:
        """The text for one input, as a list of one.

        Args:
            input: a list of messages, a string, or ``(messages, structured_output)``.
            max_new_tokens: most tokens of the answer.
            temperature: 0 to 1.5.
            top_p: above 0 and at most 1.
            more: see `PARAMETERS` in ``mistill.llms.parameters``.

        Raises:
            InputError: the input or an argument is wrong; nothing was sent.
            MistillError: no retry could help, or none was left.
        """
        given: dict[str, Any] = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p}
        return [completion.text for completion in await self.acomplete(input, **given, **more)]

    @overload
    def parse(
        self,
        inputs: Sequence[FormattedInput],
        schema: type[T],
        *,
        on_error: Literal["raise"] = "raise",
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
        **generation_kwargs: Any,
    ) -> list[T]: ...

    @overload
    def parse(
        self,
        inputs: Sequence[FormattedInput],
        schema: Any,
        *,
        on_error: OnError = "raise",
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
        **generation_kwargs: Any,
    ) -> list[Any]: ...

    def parse(
        self,
        inputs: Sequence[FormattedInput],
        schema: Any,
        *,
        on_error: OnError = "raise",
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
        **generation_kwargs: Any,
    ) -> list[Any]:
        """One value of ``schema`` for each input, in the order of ``inputs``.

        Args:
            inputs: as for `generate`.
            schema: what `structured_output` takes as a schema: a pydantic model class, any type, or a JSON schema. Mode
                and retries are those of the object's own ``structured_output``.
            on_error: ``"raise"``, or ``"none"`` to return ``None`` for each failed row.
            progress, on_progress: as for `generate`.

        Raises:
            InputError: an input, the schema or an argument is wrong; nothing was sent.
            GenerationError: some rows failed, or answered what does not fit; it has the others' values.
        """
        arguments = generation_kwargs | {"structured_output": self._fitting(schema)}
        return self._call(inputs, 1, on_error, arguments, _value, Display(progress, on_progress))

    @overload
    async def aparse(
        self,
        input: FormattedInput,
        schema: type[T],
        **generation_kwargs: Any,
    ) -> T: ...

    @overload
    async def aparse(
        self,
        input: FormattedInput,
        schema: Any,
        **generation_kwargs: Any,
    ) -> Any: ...

    async def aparse(
        self,
        input: FormattedInput,  # noqa: A002  the public name
        schema: Any,
        **generation_kwargs: Any,
    ) -> Any:
        """The value of ``schema`` for one input, see `parse`. Raises the row's own error."""
        arguments = generation_kwargs | {"structured_output": self._fitting(schema)}
        (completion,) = await self.acomplete(input, 1, **arguments)
        return completion.value

    def _fitting(self, schema: Any) -> dict[str, Any]:
        return (self.structured_output or {}) | {"schema": schema}

    def generation(
        self,
        num_generations: int = 1,
        *,
        offline: bool = False,
        loop_guard: bool | None = False,
        **generation_kwargs: Any,
    ) -> Generation:
        """The settings of a call, checked and resolved: the object's ``generation_kwargs``, then the call's own.

        Args:
            offline: no key is needed and no server asked what it is: for prompts that are not sent, or not yet.
            loop_guard: see `Generation`.
        """
        if not isinstance(num_generations, int) or isinstance(num_generations, bool) or num_generations < 1:  # pyright: ignore[reportUnnecessaryIsInstance]  a user may give anything
            raise InputError(f"num_generations must be an integer of 1 or more, not {num_generations!r}")
        setting = generation_kwargs.pop("structured_output", self.structured_output)
        given = {name: value for name, value in generation_kwargs.items() if value is not None}
        arguments = self.generation_kwargs | given
        session = self._open(offline=offline)
        if not session.is_dialect_known and not offline:
            background.run(self._ready())
        key = _key_of(num_generations, arguments) if setting is None and loop_guard is False else None
        if key is not None and (known := session.plain.get(key)):
            return known
        made = Generation(
            session.dispatcher,
            session.server,
            check_parameters(arguments),
            extra_body=arguments.get("extra_body"),
            structured=compile_structured_output(setting) if setting is not None else None,
            num_generations=num_generations,
            loop_guard=loop_guard,
        )
        if key is not None and len(session.plain) < _MAX_KNOWN:
            session.plain[key] = made
        return made

    @property
    def _operation(self) -> Operation[ChatResponse]:
        return CHAT

    @property
    def _refuse(self) -> Refuse:
        return refuse_given_up

    @property
    def _max_at_once(self) -> int:
        return self.max_concurrent_requests

    def _generation_arguments(self) -> dict[str, tuple[bool, str | None]]:
        return {name: (True, description) for name, description in PARAMETERS.items()}


def _key_of(num_generations: int, arguments: dict[str, Any]) -> Hashable | None:
    key = (num_generations, *arguments.items())
    try:
        hash(key)
    except TypeError:  # a list or a dict among the arguments
        return None
    return key


def _value(outcome: Outcome) -> Any:
    (completion,) = outcome.completions
    return completion.value if completion else None
