"""What every LLM of this library is to its user: settings that can be saved, and lists in, lists out, in order."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import BaseModel, ConfigDict, Field

from mistill.api.errors import InputError, MistillError, Stopped
from mistill.delivery.dispatcher import Crew, Each
from mistill.delivery.retry import classify
from mistill.llms.errors import GenerationError
from mistill.llms.event_loop import background
from mistill.llms.generation import Generation, Prompt
from mistill.llms.runtime_parameters import RuntimeParameter, RuntimeParametersMixin
from mistill.llms.types import Completion, FormattedInput, GenerateOutput, Outcome

T = TypeVar("T")
OnError = Literal["raise", "none"]


class LLM(RuntimeParametersMixin, BaseModel, ABC):
    """A model that answers prompts. Attributes are checked when set; an unknown one is an error."""

    model_config = ConfigDict(
        extra="forbid", validate_assignment=True, validate_default=True, protected_namespaces=()
    )

    _secrets: ClassVar[frozenset[str]] = frozenset()
    """Attributes that no dump ever holds."""

    generation_kwargs: RuntimeParameter[dict[str, Any]] = Field(
        default_factory=dict[str, Any],
        description="Arguments of every generation, unless a call says otherwise.",
    )

    @property
    @abstractmethod
    def model_name(self) -> str:
        """The name of the model that answers."""

    @abstractmethod
    def load(self) -> None:
        """Makes ready to answer. The first use does it too."""

    @abstractmethod
    def unload(self) -> None:
        """Lets go of connections. The next use loads again."""

    def __enter__(self) -> Self:
        self.load()
        return self

    def __exit__(self, *_: object) -> None:
        self.unload()

    @abstractmethod
    def generate(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int = 1,
        *,
        on_error: OnError = "raise",
        **generation_kwargs: Any,
    ) -> list[list[str | None]]:
        """One list of ``num_generations`` texts for each input, in the order of ``inputs``."""

    # --- saving -----------------------------------------------------------------------------------------------------

    def dump(self) -> dict[str, Any]:
        """Class and attributes as plain JSON values, secrets left out. `from_dict` makes an equal object of it."""
        attributes = {
            name: self.dump_attribute(name, getattr(self, name))
            for name in type(self).model_fields
            if name not in self._secrets
        }
        return {"type": f"{type(self).__module__}:{type(self).__qualname__}"} | attributes

    @classmethod
    def from_dict(cls, dumped: Mapping[str, Any]) -> Self:
        """The object that ``dump`` wrote down, secrets taken from where a new object takes them.

        Raises:
            InputError: ``type`` names another class.
            pydantic.ValidationError: an attribute is unknown or has a value that does not fit.
        """
        attributes = dict(dumped)
        wanted = _class_named(str(attributes.pop("type", f"{cls.__module__}:{cls.__qualname__}")))
        if not (isinstance(wanted, type) and issubclass(wanted, cls)):
            raise InputError(f"the dump is of {wanted}, which is no {cls.__name__}")
        return wanted(**{name: wanted.restore_attribute(name, value) for name, value in attributes.items()})

    def save(self, path: str | Path) -> None:
        """Writes `dump` to ``path``: YAML for ``.yaml`` and ``.yml``, else JSON."""
        path = Path(path)
        text = (
            _yaml().safe_dump(self.dump(), sort_keys=False)
            if _is_yaml(path)
            else json.dumps(self.dump(), indent=2)
        )
        path.write_text(text, encoding="utf-8")

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The object that `save` wrote to ``path``."""
        text = Path(path).read_text(encoding="utf-8")
        return cls.from_dict(_yaml().safe_load(text) if _is_yaml(Path(path)) else json.loads(text))

    def dump_attribute(self, name: str, value: Any) -> Any:  # noqa: ARG002  subclasses know their names
        """One attribute as a JSON value; a subclass overrides it for what is none."""
        return value

    @classmethod
    def restore_attribute(cls, name: str, value: Any) -> Any:  # noqa: ARG003  subclasses know their names
        """The attribute that `dump_attribute` wrote down."""
        return value


class AsyncLLM(LLM):
    """An LLM that answers many prompts at once, never more than it may.

    Blocking methods work from a script, inside a running event loop, and from several threads on one object. A row that
    fails loses no other row's answer: the rest go on, then ``GenerationError`` is raised with all that was answered.
    ``on_error="none"`` returns instead, with ``None`` for each failed row. What no row can survive (a refused key) ends
    the call at once and is always raised.
    """

    @abstractmethod
    async def agenerate(self, input: FormattedInput) -> list[str | None]:  # noqa: A002  the seed's name
        """The texts for one input."""

    @abstractmethod
    def generation(self, num_generations: int = 1, **generation_kwargs: Any) -> Generation:
        """The settings of a call, checked and resolved, to answer any number of rows with."""

    @property
    @abstractmethod
    def _most_at_once(self) -> int:
        """How many rows may be under way at the same time."""

    def generate(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int = 1,
        *,
        on_error: OnError = "raise",
        **generation_kwargs: Any,
    ) -> list[list[str | None]]:
        """One list of ``num_generations`` texts for each input, in the order of ``inputs``.

        Args:
            inputs: each a list of messages, a string, or ``(messages, structured_output)``. All are checked before the
                first request leaves.
            num_generations: texts for each input.
            on_error: ``"raise"``, or ``"none"`` to return ``None`` for each failed row.
            generation_kwargs: see `PARAMETERS` in ``mistill.llms.parameters``; they go before the object's own.

        Raises:
            InputError: an input or argument is wrong; nothing was sent.
            GenerationError: some rows failed; it has the others' outputs.
        """
        return self._call(inputs, num_generations, on_error, generation_kwargs, _texts)

    def generate_outputs(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int = 1,
        *,
        on_error: OnError = "raise",
        **generation_kwargs: Any,
    ) -> list[GenerateOutput]:
        """As `generate`, with the tokens of each text.

        Each row is ``{"generations": [...], "statistics": {"input_tokens": [...], "output_tokens": [...]}}``.
        """
        return self._call(inputs, num_generations, on_error, generation_kwargs, _output)

    def complete(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int = 1,
        *,
        on_error: OnError = "raise",
        **generation_kwargs: Any,
    ) -> list[list[Completion]]:
        """As `generate`, with everything that is known of each answer: one list of `Completion` for each input."""
        return self._call(inputs, num_generations, on_error, generation_kwargs, _completions)

    def outcomes(
        self, inputs: Sequence[FormattedInput], num_generations: int = 1, **generation_kwargs: Any
    ) -> list[Outcome]:
        """One `Outcome` for each input, whatever became of it: nothing that concerns rows only is raised.

        An input that is refused fails alone; after a fatal error, rows that were not sent have `Stopped`.

        Raises:
            InputError: an argument is wrong; nothing was sent.
        """
        generation = self.generation(num_generations, **generation_kwargs)
        ends: dict[int, Outcome | None] = {}
        prompts: dict[int, Prompt] = {}
        for index, given in enumerate(inputs):
            try:
                prompts[index] = generation.check(given, index)
            except InputError as error:
                ends[index] = Outcome(completions=[], error=error)
        ends |= dict(zip(prompts, background.run(self._answer_all(list(prompts.values()))), strict=True))
        errors = [end.error for end in ends.values() if end and end.error]
        fatal = next((error for error in errors if classify(error).fatal), None)
        unsent = Outcome(completions=[], error=_unsent(fatal))
        return [ends[index] or unsent for index in range(len(inputs))]

    async def acomplete(
        self,
        input: FormattedInput,  # noqa: A002  the seed's name
        num_generations: int = 1,
        **generation_kwargs: Any,
    ) -> list[Completion]:
        """The completions of one input. Raises the row's own error."""
        outcome = await self.generation(num_generations, **generation_kwargs).check(input).answer()
        if outcome.error is not None:
            raise outcome.error
        return _completions(outcome)

    # --- many rows --------------------------------------------------------------------------------------------------

    def _call(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int,
        on_error: OnError,
        generation_kwargs: dict[str, Any],
        shape: Callable[[Outcome], T],
    ) -> list[T]:
        if on_error not in ("raise", "none"):
            raise InputError(f"on_error is {on_error!r}", hint="'raise' or 'none'")
        if isinstance(inputs, str | Mapping) or not isinstance(inputs, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]  a user may give anything
            raise InputError("inputs must be a list of inputs", hint="for one input write [input]")
        generation = self.generation(num_generations, **generation_kwargs)
        prompts = [generation.check(given, index) for index, given in enumerate(inputs)]
        return self._shaped(background.run(self._answer_all(prompts)), on_error, shape)

    async def _answer_all(self, prompts: Sequence[Prompt]) -> list[Outcome | None]:
        """An outcome for each prompt; ``None`` for those that another row's fatal error kept from leaving."""
        outcomes: list[Outcome | None] = [None] * len(prompts)
        if not prompts:
            return outcomes

        async def answer(index: int, crew: Crew[int]) -> None:
            prompt = prompts[index]
            try:
                outcomes[index] = await prompt.generation.answer(prompt.messages, None, crew)
            except MistillError as error:
                outcomes[index] = Outcome(completions=[], error=error)
                raise

        crew = Crew(Each(range(len(prompts))), answer, size=min(self._most_at_once, len(prompts)))
        try:
            await crew.run()
        except MistillError as error:
            if not classify(error).fatal:
                raise
        return outcomes

    def _shaped(
        self, outcomes: list[Outcome | None], on_error: OnError, shape: Callable[[Outcome], T]
    ) -> list[T]:
        failures = {
            index: outcome.error for index, outcome in enumerate(outcomes) if outcome and outcome.error
        }
        fatal = next((error for error in failures.values() if classify(error).fatal), None)
        if fatal is not None:
            failures |= {index: _unsent(fatal) for index, outcome in enumerate(outcomes) if outcome is None}
        outputs = [shape(outcome) if outcome and any(outcome.completions) else None for outcome in outcomes]
        if failures and (on_error == "raise" or fatal is not None):
            raise GenerationError.of(outputs, failures)
        return cast("list[T]", outputs)


def _unsent(fatal: MistillError | None) -> Stopped:
    error = Stopped("not sent, since the call was ended by another row's error")
    error.__cause__ = fatal
    return error


def _texts(outcome: Outcome) -> list[str | None]:
    return [completion.text if completion else None for completion in outcome.completions]


def _output(outcome: Outcome) -> GenerateOutput:
    usages = [completion.usage if completion else None for completion in outcome.completions]
    return {
        "generations": _texts(outcome),
        "statistics": {
            "input_tokens": [usage.input_tokens if usage else 0 for usage in usages],
            "output_tokens": [usage.output_tokens if usage else 0 for usage in usages],
        },
    }


def _completions(outcome: Outcome) -> list[Completion]:
    return [completion for completion in outcome.completions if completion is not None]


def _class_named(name: str) -> Any:
    module, _, qualname = name.partition(":")
    if module.split(".")[0] != "mistill" and not qualname:
        raise InputError(f"{name!r} names no class", hint="module:ClassName")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def _is_yaml(path: Path) -> bool:
    return path.suffix.lower() in (".yaml", ".yml")


def _yaml() -> Any:
    import yaml

    return yaml
