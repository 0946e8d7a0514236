"""One call's settings, resolved once and used for every row: prompts in, outcomes out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Hashable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final, cast

import msgspec
from msgspec import Struct

from mistill.api.chat import ChatParameters, ChatResponse, RequestTemplate, without_prefix
from mistill.api.dialects import MISTRAL, Dialect
from mistill.api.prices import Price
from mistill.api.tariff import Tariff
from mistill.api.token_estimate import message_tokens, text_tokens
from mistill.delivery.dispatcher import Delivered, Dispatcher, Recall, Request, Send
from mistill.delivery.retry import as_failure, classify
from mistill.errors import BadRequest, InputError, InvalidOutput, MistillError, RepeatedAnswer
from mistill.finish_reasons import REPETITION
from mistill.llms.completions import NO_USAGE, chat_completions
from mistill.llms.content import Chunk, image, with_chunks
from mistill.llms.messages import check_messages, check_text_only, encode_messages
from mistill.llms.parameters import check_parameters, plain_extra_body
from mistill.llms.plain_values import plain
from mistill.llms.streaming import StreamChunk, read_stream
from mistill.llms.types import Completion, Outcome
from mistill.structured.repair import (
    Parsed,
    answer_text,
    before_repetition,
    judge,
    read_answer,
)
from mistill.structured.structured_output import StructuredOutputPlan, compile_structured_output

WATCHED_FROM_TOKENS: Final = 2048
"""Answers that may have so many tokens are watched for loops, unless somebody says otherwise. In a shorter one a
loop is hardly seen sooner than it ends."""

_VARIANTS_KEPT = 256
"""Rows that share parameters or a schema share a variant; rows that all differ must not fill the memory."""


class Server(Struct):
    """What is known of the server behind an endpoint and model; shared by all calls of an object.

    Attributes:
        tariff: what its answers cost.
        context: tokens of prompt and answer together that the model takes, where that is published.
        refuses_n: it has been seen to take no ``n``.
    """

    model: str
    dialect: Dialect
    tariff: Tariff
    context: int | None = None
    refuses_n: bool = False

    @property
    def price(self) -> Price | None:
        """Of the model as it is asked for, where that is known."""
        return self.tariff.price


class Prompt(Struct, frozen=True, gc=False):
    """Checked messages as the JSON that goes out, and the settings to send them with."""

    messages: bytes
    generation: Generation

    def answer(self, send: Send[ChatResponse]) -> Coroutine[Any, Any, Outcome]:
        """See `Generation.answer`."""
        return self.generation.answer(self.messages, send)

    async def outcomes(self, send: Send[ChatResponse]) -> tuple[Outcome]:
        """The same, as the outcomes of rows that are answered together: here, one."""
        return (await self.generation.answer(self.messages, send),)

    def stream(self) -> AsyncGenerator[StreamChunk]:
        return self.generation.stream(self.messages)

    def with_chunks(self, chunks: Sequence[Chunk]) -> Prompt:
        """The same with content chunks after what its last user message says.

        Raises:
            InputError: there is no user message, or the server reads text only.
        """
        messages = with_chunks(msgspec.json.decode(self.messages), chunks)
        return Prompt(self.generation.encoded(messages), self.generation)

    def check_takes_files(self) -> None:
        """Refuses, as `with_chunks` would, before there are chunks.

        Raises:
            InputError: see there.
        """
        self.with_chunks([image("https://mistral.ai/an-image.png")])

    def estimated_tokens(self) -> int:
        """About how many its request has, see ``mistill.api.token_estimate``."""
        return message_tokens(msgspec.json.decode(self.messages)) + self.generation.tool_tokens


class Generation:
    """Everything of a call but its rows. Safe to share by tasks and threads.

    Args:
        parameters: the validated fields of the request, without ``n``.
        structured: the schema that answers must fit, or ``None`` for plain text.
        num_generations: completions for each row.
        loop_guard: answers that are to be JSON are watched as they come, and cut off where they repeat themselves
            without end. ``None``: where much can come of it, and the server's streams are known to tell what they took.
    """

    def __init__(
        self,
        dispatcher: Dispatcher[ChatResponse],
        server: Server,
        parameters: ChatParameters,
        *,
        extra_body: dict[str, Any] | None = None,
        structured: StructuredOutputPlan | None = None,
        num_generations: int = 1,
        loop_guard: bool | None = False,
    ) -> None:
        self.dispatcher = dispatcher
        self.server = server
        self.parameters = parameters
        self.structured = structured
        self.num_generations = num_generations
        self.loop_guard = loop_guard
        self.extra_body = plain_extra_body(extra_body) or None
        self._templates: dict[tuple[int, int], RequestTemplate] = {}
        self._variants: dict[Hashable, Generation] = {}
        self._template = self._template_of(n=1, seed_offset=0)

    @property
    def requests_each(self) -> int:
        """In how many requests a row goes, if all its answers will do."""
        together = self.structured is None and self.server.dialect.has_n and not self.server.refuses_n
        return 1 if together else self.num_generations

    @cached_property
    def tool_tokens(self) -> int:
        """About how many tokens the tools take in each request."""
        tools = self.parameters.tools
        return text_tokens(msgspec.json.encode(tools).decode()) if tools else 0

    @cached_property
    def before_messages(self) -> bytes:
        """What of a request stands before its messages, for a model and for its server's cache."""
        template = self._template.parameters
        return msgspec.json.encode((template.tools, template.response_format), order="sorted")

    @property
    def is_without_cache_key(self) -> bool:
        """Its requests cannot have a ``prompt_cache_key``: servers of this dialect refuse it."""
        return "prompt_cache_key" in self.server.dialect.refused

    @property
    def is_watched(self) -> bool:
        """Its answers are streamed, and watched for loops."""
        structured = self.structured
        if structured is not None and structured.uses_instructor and structured.mode != "json_schema":
            return False  # a tool call, or a block of code
        return bool(self._template.watching)

    # --- inputs -----------------------------------------------------------------------------------------------------

    def check(self, given: Any, index: int | None = None) -> Prompt:
        """An input as the user wrote it → a prompt that may be sent.

        Raises:
            InputError: with the input's index, and what is wrong.
        """
        generation = self
        if isinstance(given, tuple):
            given, setting = _pair(cast("tuple[Any, ...]", given), index)
            if setting is not None:
                generation = self._with_schema(setting, index)
        structured = generation.structured
        if structured is not None and structured.mode == "json_object":
            checked = check_messages(given, index, in_order=self.server.dialect.has_order)
            given = structured.messages(msgspec.to_builtins(checked))
        return Prompt(self.encoded(given, index), generation)

    def encoded(self, messages: Any, index: int | None = None) -> bytes:
        """Messages as JSON that may be sent.

        Raises:
            InputError: with the input's index, and what is wrong.
        """
        dialect = self.server.dialect
        checked = check_messages(messages, index, in_order=dialect.has_order)
        if dialect.text_only:
            check_text_only(checked, index)
        if not dialect.has_prefix:
            checked = without_prefix(checked)
        return encode_messages(checked, index)

    def with_parameters(self, given: Mapping[str, Any]) -> Generation:
        """These settings with a row's own parameters over them; ``None`` leaves what is set. Equal ones are shared.

        Raises:
            InputError: an unknown name, a wrong type or a value out of its range.
        """
        given = {name: value for name, value in given.items() if value is not None}
        own = check_parameters(self._tools_beside(given) | given)
        changes = {name: value for name, value in msgspec.structs.asdict(own).items() if value is not None}
        extra_body = (self.extra_body or {}) | plain_extra_body(given.get("extra_body")) or None
        if not changes and extra_body == self.extra_body:
            return self
        key = msgspec.json.encode((own, extra_body), order="sorted")
        parameters = msgspec.structs.replace(self.parameters, **changes)
        return self._variant(key, parameters, extra_body, self.structured)

    def _tools_beside(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The tools, or the choice among them, that are set already and must go with what is given of the two."""
        if "tools" not in given and "tool_choice" not in given:
            return {}
        return {"tools": self.parameters.tools, "tool_choice": self.parameters.tool_choice}

    def _with_schema(self, setting: Any, index: int | None) -> Generation:
        """These settings with a row's own schema."""
        try:
            structured = compile_structured_output(setting)
        except InputError as error:
            raise InputError(f"input {index}: {error.message}", hint=error.hint, index=index) from error
        return self._variant(structured, self.parameters, self.extra_body, structured)

    def _variant(
        self,
        key: Hashable,
        parameters: ChatParameters,
        extra_body: dict[str, Any] | None,
        structured: StructuredOutputPlan | None,
    ) -> Generation:
        if known := self._variants.get(key):
            return known
        if len(self._variants) >= _VARIANTS_KEPT:
            self._variants.clear()
        variant = self._variants[key] = Generation(
            self.dispatcher,
            self.server,
            parameters,
            extra_body=extra_body,
            structured=structured,
            num_generations=self.num_generations,
            loop_guard=self.loop_guard,
        )
        return variant

    # --- outcomes ---------------------------------------------------------------------------------------------------

    def answer(self, messages: bytes, send: Send[ChatResponse]) -> Coroutine[Any, Any, Outcome]:
        """One row, answered or failed. Raises only what ends the whole call: a refused key, a stop, a broken ledger.

        Args:
            messages: of a `Prompt` that this generation has checked.
            send: sends the row's requests: `Dispatcher.send`, its observer and pool bound, or what stands in for it.
        """
        if self.num_generations > 1:
            return self._answer_several(messages, send)
        return self._answer_one(messages, 0, send)

    async def _answer_several(self, messages: bytes, send: Send[ChatResponse]) -> Outcome:
        """Several generations by one request with ``n``, whose input is billed once; else one by one."""
        if self.structured is not None or not self.server.dialect.has_n:
            return await self._answer_each(messages, send)
        together = _request(self._template_of(n=self.num_generations, seed_offset=0), messages)
        if not self._goes_together(together, messages, send):
            return await self._answer_each(messages, send)
        delivered = None
        try:
            delivered = await send(together)
            completions = chat_completions(delivered)[: self.num_generations]
        except BadRequest as error:
            if classify(error).fatal:
                raise
            outcome = await self._answer_each(messages, send)
            outcome = msgspec.structs.replace(outcome, attempts=outcome.attempts + error.attempts)
            # Only an answer without n proves that n was the trouble, not the row.
            self.server.refuses_n = self.server.refuses_n or outcome.error is None
            return outcome
        except Exception as error:
            return _failed(as_failure(error), delivered)
        if len(delivered.answer.response.choices) < self.num_generations:  # a server that ignores n
            self.server.refuses_n = True
        if len(completions) < self.num_generations:
            offsets = range(len(completions), self.num_generations)
            rest = [self._answer_one(messages, offset, send) for offset in offsets]
            return _joined([_answered(completions, delivered.attempts), *await _together(rest)])
        return _answered(completions, delivered.attempts)

    def _goes_together(self, together: Request, messages: bytes, send: Send[ChatResponse]) -> bool:
        """Whether ``n`` asks for all generations of a row.

        A row that was asked already is gone on with as it was begun, whatever the server is known to refuse now: else
        its answers would be paid for again.
        """
        if isinstance(send, Recall):
            if send.recalls(together):
                return True
            offsets = range(self.num_generations)
            alone = (_request(self._template_of(n=1, seed_offset=offset), messages) for offset in offsets)
            if any(map(send.recalls, alone)):
                return False
        return not self.server.refuses_n

    async def _answer_each(self, messages: bytes, send: Send[ChatResponse]) -> Outcome:
        each = [self._answer_one(messages, offset, send) for offset in range(self.num_generations)]
        return _joined(await _together(each))

    async def _answer_one(self, messages: bytes, seed_offset: int, send: Send[ChatResponse]) -> Outcome:
        """One generation by requests of its own: re-asked until it fits its schema, where there is one."""
        plan = self.structured
        if plan is not None and plan.uses_instructor:
            return await self._answer_by_instructor(plan, messages, seed_offset, send)
        template = self._template_of(n=1, seed_offset=seed_offset) if seed_offset else self._template
        delivered = None
        try:
            delivered = await send(
                Request(template.encode(messages), template.max_output_tokens, watching=template.watching)
            )
            completion = chat_completions(delivered)[0]
            if completion.finish_reason == REPETITION:
                return await self._judge_repeated(template, messages, completion, send)
            if plan is not None:
                try:
                    parsed = read_answer(plan.schema, completion.text or self._unasked_answer(completion))
                except InvalidOutput:
                    return await self._ask_again(plan, template, messages, completion, send)
                completion = msgspec.structs.replace(completion, text=parsed.text, value=parsed.value)
        except Exception as error:
            return _failed(as_failure(error), delivered)
        return _answered((completion,), delivered.attempts)

    async def _judge_repeated(
        self, template: RequestTemplate, messages: bytes, completion: Completion, send: Send[ChatResponse]
    ) -> Outcome:
        """After an answer that was cut off since it repeated itself."""
        if self.structured is not None:
            return await self._ask_again(self.structured, template, messages, completion, send)
        if _wants_json(template.parameters):
            try:
                before_repetition(completion.text or "")
            except RepeatedAnswer as error:
                return _Spent(completion).failed(error)
        return _answered((completion,), completion.attempts)

    async def _ask_again(
        self,
        plan: StructuredOutputPlan,
        template: RequestTemplate,
        messages: bytes,
        completion: Completion,
        send: Send[ChatResponse],
    ) -> Outcome:
        """After an answer that does not fit: until one does, or no more may be asked for."""
        spent = _Spent(completion)
        asks_left = plan.max_retries
        has_repeated = False
        try:
            while True:
                if completion.finish_reason == REPETITION:
                    asks_left = 0 if has_repeated else asks_left
                    has_repeated = True
                verdict = judge(
                    plan,
                    msgspec.json.decode(messages),
                    completion.text or self._unasked_answer(completion),
                    finish_reason=completion.finish_reason,
                    asks_left=asks_left,
                )
                if isinstance(verdict, Parsed):
                    return spent.outcome(completion, verdict)
                asks_left -= 1
                asked = self.encoded(verdict.messages)
                delivered = await send(_request(template, asked))
                completion = chat_completions(delivered)[0]
                spent.add(completion)
        except Exception as error:
            return spent.failed(as_failure(error))

    async def _answer_by_instructor(
        self,
        plan: StructuredOutputPlan,
        messages: bytes,
        seed_offset: int,
        send: Send[ChatResponse],
    ) -> Outcome:
        """One generation asked for in the ways of the ``instructor`` package, over our own requests."""
        from mistill.structured.instructor import ask  # costs half a second, and only these modes need it

        spent = _Spent()
        last: list[Completion] = []

        async def ask_model(asked: Sequence[dict[str, Any]], fields: dict[str, Any]) -> Completion:
            template = self._encoder(msgspec.convert(fields, ChatParameters))
            delivered = await send(_request(template, self.encoded(asked)))
            last[:] = chat_completions(delivered)[:1]
            spent.add(last[0])
            return last[0]

        fields = msgspec.to_builtins(self._template_of(n=1, seed_offset=seed_offset).parameters)
        fields.pop("response_format", None)  # each mode has its own way to tell the schema
        try:
            parsed = await ask(plan, msgspec.json.decode(messages), fields, ask_model)
        except Exception as error:
            return spent.failed(as_failure(error))
        return spent.outcome(msgspec.structs.replace(last[0], tool_calls=()), parsed)

    async def stream(self, messages: bytes) -> AsyncGenerator[StreamChunk]:
        """One answer, piece by piece. Closing the generator closes the connection."""
        if self.num_generations != 1:
            raise InputError("a stream is of one generation")
        if self.structured is not None and self.structured.uses_instructor:
            raise InputError(f"structured_output mode {self.structured.mode!r} cannot be streamed")
        template = self._encoder(self._template.parameters, stream=True)
        async for chunk in read_stream(self.dispatcher.stream(_request(template, messages))):
            yield chunk

    # --- requests and answers ---------------------------------------------------------------------------------------

    def _encoder(self, parameters: ChatParameters, *, stream: bool = False) -> RequestTemplate:
        server = self.server
        encoder = partial(
            RequestTemplate,
            server.model,
            stream=stream,
            extra_body=self.extra_body,
            dialect=server.dialect,
            watched=not stream and self._watches(parameters),
        )
        try:
            return encoder(parameters)
        except UnicodeEncodeError:  # half a character in the words of a schema
            return encoder(msgspec.convert(plain(parameters), ChatParameters))
        except RecursionError as error:
            raise InputError("the parameters of the request are nested too deeply") from error

    def _watches(self, parameters: ChatParameters) -> bool:
        """Whether answers to such requests are watched. What a stream would tell otherwise, or not at all, is asked for
        in one piece: several choices, and probabilities."""
        dialect = self.server.dialect
        if self.loop_guard is False or not _wants_json(parameters):
            return False
        if (
            (parameters.n or 1) > 1
            or parameters.logprobs
            or dialect.stream_fields.keys() & (self.extra_body or {})
        ):
            return False
        if self.loop_guard:
            return True
        most = parameters.max_tokens
        return dialect is MISTRAL and (most is None or most >= WATCHED_FROM_TOKENS)

    def _template_of(self, *, n: int, seed_offset: int) -> RequestTemplate:
        template = self._templates.get((n, seed_offset))
        if template is None:
            seed = self.parameters.random_seed
            parameters = msgspec.structs.replace(
                self.parameters,
                n=n if n > 1 else None,
                random_seed=None if seed is None else seed + seed_offset,
                response_format=self.structured.response_format()
                if self.structured
                else self.parameters.response_format,
            )
            template = self._encoder(parameters)
            self._templates[n, seed_offset] = template
        return template

    def _unasked_answer(self, completion: Completion) -> str:
        """What a model put into a tool call that nobody asked for, in place of a text."""
        return answer_text(None, () if self.parameters.tools else completion.tool_calls)


def _request(template: RequestTemplate, messages: bytes) -> Request:
    return Request(template.encode(messages), template.max_output_tokens, watching=template.watching)


def _wants_json(parameters: ChatParameters) -> bool:
    form = parameters.response_format
    return form is not None and form.type != "text"


class _Spent:
    """What one generation has cost so far, useless answers included."""

    def __init__(self, *completions: Completion) -> None:
        self.usage = NO_USAGE
        self.attempts = 0
        self.cost: float | None = None
        self.finish_reason: str | None = None
        for completion in completions:
            self.add(completion)

    def add(self, completion: Completion) -> None:
        self.usage = self.usage + completion.usage
        self.attempts += completion.attempts
        self.finish_reason = completion.finish_reason
        if completion.cost is not None:
            self.cost = (self.cost or 0.0) + completion.cost

    def outcome(self, completion: Completion, parsed: Parsed) -> Outcome:
        """``completion`` was the last answer, and ``parsed`` is what was read in it."""
        whole = msgspec.structs.replace(
            completion,
            text=parsed.text,
            value=parsed.value,
            usage=self.usage,
            attempts=self.attempts,
            cost=self.cost,
        )
        return _answered((whole,), self.attempts)

    def failed(self, error: MistillError) -> Outcome:
        if classify(error).fatal:
            raise error
        return Outcome(
            completions=(None,),
            error=error,
            finish_reason=self.finish_reason,
            usage=self.usage,
            attempts=self.attempts + error.attempts,
            cost=self.cost,
        )


async def _together(work: Sequence[Coroutine[Any, Any, Outcome]]) -> list[Outcome]:
    """All at once; when one ends the whole call, its siblings end with it."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


def _pair(given: tuple[Any, ...], index: int | None) -> tuple[Any, Any]:
    if len(given) != 2:
        raise InputError(f"input {index}: a tuple must be (messages, structured_output)", index=index)
    return given[0], given[1]


def _failed(error: MistillError, delivered: Delivered[ChatResponse] | None = None) -> Outcome:
    """``delivered``: the answer that came, where it is what cannot be used."""
    if classify(error).fatal:
        raise error
    if delivered is None:
        finish_reason = error.partial.finish_reason if error.partial is not None else None
        return Outcome(completions=(None,), error=error, finish_reason=finish_reason, attempts=error.attempts)
    answer = delivered.answer
    return Outcome(
        completions=(None,), error=error, usage=answer.usage, attempts=delivered.attempts, cost=answer.cost
    )


def _answered(completions: Sequence[Completion], attempts: int) -> Outcome:
    first = completions[0]
    return Outcome(completions=tuple(completions), usage=first.usage, attempts=attempts, cost=first.cost)


def _joined(outcomes: Sequence[Outcome]) -> Outcome:
    usage = NO_USAGE
    cost: float | None = None
    for outcome in outcomes:
        usage = usage + outcome.usage
        if outcome.cost is not None:
            cost = (cost or 0.0) + outcome.cost
    failed = next((outcome for outcome in outcomes if outcome.error), None)
    return Outcome(
        completions=tuple(completion for outcome in outcomes for completion in outcome.completions),
        error=failed.error if failed else None,
        finish_reason=failed.finish_reason if failed else None,
        usage=usage,
        attempts=sum(outcome.attempts for outcome in outcomes),
        cost=cost,
    )
