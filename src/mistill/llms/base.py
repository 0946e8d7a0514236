"""What every LLM of this library is to its user: lists in, lists out, in order, and nothing that was answered lost."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, TypeVar, cast

from pydantic import Field

from mistill.delivery.retry import classify
from mistill.delivery.worker_pool import SharedIterator, WorkerPool
from mistill.errors import GenerationError, InputError, MistillError, Stopped
from mistill.llms.configurable import Configurable
from mistill.llms.empty_answers import EmptyAnswers
from mistill.llms.event_loop import LEAVE_STREAM, background
from mistill.llms.generation import Generation, Prompt
from mistill.llms.runtime_parameters import RuntimeParameter
from mistill.llms.shown_call import Count, run_call
from mistill.llms.streaming import StreamChunk
from mistill.llms.types import Completion, FormattedInput, GenerateOutput, Outcome
from mistill.process import OwnProcess
from mistill.progress.display import Display, OnProgress

T = TypeVar("T")
OnError = Literal["raise", "none"]


class LLM(Configurable):
    """A model that answers prompts."""

    generation_kwargs: RuntimeParameter[dict[str, Any]] = Field(
        default_factory=dict[str, Any],
        description="Arguments of every generation, unless a call says otherwise.",
    )

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


class AsyncLLM(LLM):
    """An LLM that answers many prompts at once, never more than it may.

    Blocking methods work from a script, inside a running event loop, and from several threads on one object. A row that
    fails loses no other row's answer: the rest go on, then ``GenerationError`` is raised with all that was answered.
    ``on_error="none"`` returns instead, with ``None`` for each failed row. What no row can survive (a refused key) ends
    the call at once and is always raised.
    """

    async def _ready(self) -> object:
        """What must be found out before the first request, is."""
        return self

    @abstractmethod
    async def agenerate(self, input: FormattedInput) -> list[str | None]:  # noqa: A002  the public name
        """The texts for one input."""

    @abstractmethod
    def generation(self, num_generations: int = 1, **generation_kwargs: Any) -> Generation:
        """The settings of a call, checked and resolved, to answer any number of rows with."""

    @property
    @abstractmethod
    def _max_at_once(self) -> int:
        """How many rows may be under way at the same time."""

    def generate(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int = 1,
        *,
        on_error: OnError = "raise",
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
        **generation_kwargs: Any,
    ) -> list[list[str | None]]:
        """One list of ``num_generations`` texts for each input, in the order of ``inputs``.

        Args:
            inputs: each a list of messages, a string, or ``(messages, structured_output)``. All are checked before the
                first request leaves.
            num_generations: texts for each input.
            on_error: ``"raise"``, or ``"none"`` to return ``None`` for each failed row.
            progress: whether a call of more than a second is shown while it goes on: by default where somebody looks,
                on a terminal (stderr) and in a notebook; ``True``: in a log too; ``False``: not at all.
            on_progress: is given a `View` a few times a second, and once at the end, from another thread.
            generation_kwargs: see `PARAMETERS` in ``mistill.llms.parameters``; they go before the object's own.

        Raises:
            InputError: an input or argument is wrong; nothing was sent.
            GenerationError: some rows failed; it has the others' outputs.
        """
        display = Display(progress, on_progress)
        return self._call(inputs, num_generations, on_error, generation_kwargs, _texts, display)

    def generate_outputs(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int = 1,
        *,
        on_error: OnError = "raise",
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
        **generation_kwargs: Any,
    ) -> list[GenerateOutput]:
        """As `generate`, with the tokens of each text.

        Each row is ``{"generations": [...], "statistics": {"input_tokens": [...], "output_tokens": [...]}}``.
        """
        display = Display(progress, on_progress)
        return self._call(inputs, num_generations, on_error, generation_kwargs, _output, display)

    def complete(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int = 1,
        *,
        on_error: OnError = "raise",
        progress: bool | None = None,
        on_progress: OnProgress | None = None,
        **generation_kwargs: Any,
    ) -> list[list[Completion]]:
        """As `generate`, with everything that is known of each answer: one list of `Completion` for each input."""
        display = Display(progress, on_progress)
        return self._call(inputs, num_generations, on_error, generation_kwargs, _completions, display)

    def outcomes(
        self, inputs: Sequence[FormattedInput | Prompt], num_generations: int = 1, **generation_kwargs: Any
    ) -> list[Outcome]:
        """One `Outcome` for each input, whatever became of it: nothing that concerns rows only is raised.

        An input that is refused fails alone; after a fatal error, rows that were not sent have `Stopped`. One that is
        a `Prompt` was checked before, and goes by the generation that has checked it.

        Raises:
            InputError: an argument is wrong; nothing was sent.
        """
        generation = self.generation(num_generations, **generation_kwargs)
        ends: dict[int, Outcome] = {}
        prompts: dict[int, Prompt] = {}
        for index, given in enumerate(inputs):
            try:
                prompts[index] = given if isinstance(given, Prompt) else generation.check(given, index)
            except InputError as error:
                ends[index] = Outcome(completions=(), error=error)
        places = list(prompts)

        empty = EmptyAnswers()

        def keep(place: int, outcome: Outcome) -> None:
            empty.add(outcome)
            ends[places[place]] = outcome

        background.run(self._answer_all(list(prompts.values()), keep))
        empty.warn(generation.server.model)
        fatal = _fatal_among(end.error for end in ends.values())
        unsent = Outcome(completions=(), error=_unsent(fatal))
        return [ends.get(index, unsent) for index in range(len(inputs))]

    async def acomplete(
        self,
        input: FormattedInput,  # noqa: A002  the public name
        num_generations: int = 1,
        **generation_kwargs: Any,
    ) -> list[Completion]:
        """The completions of one input. Raises the row's own error."""
        await self._ready()
        generation = self.generation(num_generations, **generation_kwargs)
        outcome = await generation.check(input).answer(generation.dispatcher.send)
        empty = EmptyAnswers()
        empty.add(outcome)
        empty.warn(generation.server.model)
        if outcome.error is not None:
            raise outcome.error
        return _completions(outcome)

    async def astream(
        self,
        input: FormattedInput,  # noqa: A002  the public name
        **generation_kwargs: Any,
    ) -> AsyncGenerator[StreamChunk]:
        """One answer, piece by piece, as it is written. Close it, or end its task, and the connection is closed.

        Until the first piece, failures are retried as everywhere; after it a failure is raised at once, and its
        ``partial`` is the `Completion` as far as it came.

        Raises:
            InputError: the input or an argument is wrong; nothing was sent.
            MistillError: no retry could help, none was left, or the stream was cut before its end.
        """
        process = OwnProcess()
        await self._ready()
        chunks = self.generation(**generation_kwargs).check(input).stream()
        try:
            async for chunk in chunks:
                yield chunk
                process.check("the stream was begun", InputError, LEAVE_STREAM)
        finally:
            if process.is_this():  # a forked child would wait for the parent's transport to close it
                await chunks.aclose()

    def stream(
        self,
        input: FormattedInput,  # noqa: A002  the public name
        **generation_kwargs: Any,
    ) -> Generator[StreamChunk]:
        """As `astream`, for code without an event loop."""
        return background.iterate(self.astream(input, **generation_kwargs))

    # --- many rows --------------------------------------------------------------------------------------------------

    def _call(
        self,
        inputs: Sequence[FormattedInput],
        num_generations: int,
        on_error: OnError,
        generation_kwargs: dict[str, Any],
        shape: Callable[[Outcome], T],
        display: Display,
    ) -> list[T]:
        check_on_error(on_error)
        if isinstance(inputs, str | Mapping) or not isinstance(inputs, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]  a user may give anything
            raise InputError("inputs must be a list of inputs", hint="for one input write [input]")
        generation = self.generation(num_generations, **generation_kwargs)
        prompts = [generation.check(given, index) for index, given in enumerate(inputs)]
        outputs: list[T | None] = [None] * len(prompts)
        failures: dict[int, MistillError] = {}
        empty = EmptyAnswers()

        def keep(index: int, outcome: Outcome) -> None:
            empty.add(outcome)
            # Shaped at once: a whole completion for each of a million rows would stay in memory else.
            if any(outcome.completions):
                outputs[index] = shape(outcome)
            if outcome.error is not None:
                failures[index] = outcome.error

        run_call(
            partial(self._answer_all, prompts, keep),
            len(prompts),
            generation.dispatcher.governor,
            display,
            at_once=self._max_at_once,
        )
        empty.warn(generation.server.model)
        raise_failures(outputs, failures, _fatal_among(failures.values()), on_error)
        return cast("list[T]", outputs)

    async def _answer_all(
        self, prompts: Sequence[Prompt], keep: Callable[[int, Outcome], None], count: Count | None = None
    ) -> None:
        """Answers every prompt; ``keep`` is given each outcome as it comes, with its prompt's place, ``count`` without.

        After a fatal error, the prompts that had not left yet have none.
        """
        if not prompts:
            return

        pool = WorkerPool(SharedIterator(range(len(prompts))), size=min(self._max_at_once, len(prompts)))
        send = partial(prompts[0].generation.dispatcher.send, pool=pool)  # one for all: they are of one call

        async def answer(index: int) -> None:
            prompt = prompts[index]
            try:
                outcome = await prompt.generation.answer(prompt.messages, send)
            except MistillError as error:
                keep(index, Outcome(completions=(), error=error))
                raise
            keep(index, outcome)
            if count is not None:
                count(outcome)

        try:
            await pool.run(answer)
        except MistillError as error:
            if not classify(error).fatal:
                raise


def check_on_error(on_error: OnError) -> None:
    """Refuses what a call cannot do about failures, with `InputError`."""
    if on_error not in ("raise", "none"):
        raise InputError(f"on_error is {on_error!r}", hint="'raise' or 'none'")


def raise_failures(
    outputs: Sequence[Any],
    failures: Mapping[int, MistillError],
    fatal: MistillError | None,
    on_error: OnError,
) -> None:
    """Ends a call whose inputs have ended as they could.

    Args:
        outputs: one for each input; ``None`` where there is none.
        failures: place of an input → its error.
        fatal: what ended the whole call: inputs that have neither output nor error were not answered because of it.

    Raises:
        GenerationError: some failed, and the caller wants that raised or the call was ended.
    """
    if fatal is not None:
        unanswered = (index for index, output in enumerate(outputs) if output is None)
        failures = {index: _unsent(fatal) for index in unanswered} | dict(failures)
    if failures and (on_error == "raise" or fatal is not None):
        raise GenerationError.of(outputs, dict(sorted(failures.items())))


def _fatal_among(errors: Iterable[MistillError | None]) -> MistillError | None:
    return next((error for error in errors if error and classify(error).fatal), None)


def _unsent(fatal: MistillError | None) -> Stopped:
    error = Stopped("not answered, since another input's error ended the call")
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
