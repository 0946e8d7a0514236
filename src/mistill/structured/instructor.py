"""The ``instructor`` package's way of asking (an extra), over whatever sends our requests.

What instructor decides: how the model gets the schema (a tool, a ``response_format``, a system message), and the words
in which it is asked again. What stays ours: the schema, where in an answer the JSON is and whether it fits, so that no
mode drops a constraint or takes a part for the whole; the sending, so that pacing, retries and the count of tokens stay
as they are; and the size of the context, since instructor by itself sends every earlier attempt again.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from functools import cache, lru_cache
from types import SimpleNamespace
from typing import Any, Protocol

import msgspec

from mistill.api.chat import AnsweredToolCall
from mistill.errors import InputError, InvalidOutput, RepeatedAnswer
from mistill.extras import install_command
from mistill.finish_reasons import CUT_OFF, LIMIT_REACHED, REPETITION
from mistill.structured.repair import (
    answer_text,
    arguments_text,
    before_repetition,
    cut_short,
    read_answer,
)
from mistill.structured.schema import OutputSchema, Parsed
from mistill.structured.structured_output import MessageDict, StructuredOutputPlan


class ChatAnswer(Protocol):
    """What is looked at in an answer: its text without its thinking, and its tool calls."""

    @property
    def text(self) -> str | None: ...

    @property
    def tool_calls(self) -> Sequence[AnsweredToolCall]: ...

    @property
    def finish_reason(self) -> str | None: ...


SendChat = Callable[[list[MessageDict], dict[str, Any]], Awaitable[ChatAnswer]]

_MEMO_SIZE = 512


async def ask(
    plan: StructuredOutputPlan, messages: Sequence[MessageDict], parameters: dict[str, Any], send: SendChat
) -> Parsed:
    """One answer that fits, asked for in ``plan.mode`` and at most ``plan.max_retries`` times again.

    Args:
        messages: the prompt; not changed.
        parameters: the request's other fields. A mode sets ``tools`` and ``tool_choice``, or ``response_format``.
        send: takes the messages and the parameters of one request, as JSON-like objects, and returns its answer. Every
            request passes through it, so it is the place to count tokens.

    Raises:
        InvalidOutput: no answer fitted; ``text`` is the last one.
        InputError: the package is not installed.
        Exception: what ``send`` raises, as it is.
    """
    package = _package()
    exchange = _Exchange(plan, messages, parameters, send)
    patched = package.patch(exchange.complete, *package.modes[plan.mode])
    try:
        answered = await patched(
            # Every message gets a content here: instructor looks for one. Ours are what is sent.
            messages=[{**message, "content": message.get("content") or ""} for message in messages],
            response_model=_response_model(plan.schema),
            max_retries=plan.max_retries,
            strict=None,  # as strict as the schema itself is
        )
    except package.InstructorError as error:
        if exchange.sending_failed is None:
            return exchange.last_answer(error)
    else:
        return answered.parsed
    raise exchange.sending_failed


class _Exchange:
    """What instructor calls for a completion, and what has to be remembered of it."""

    def __init__(
        self,
        plan: StructuredOutputPlan,
        messages: Sequence[MessageDict],
        parameters: dict[str, Any],
        send: SendChat,
    ) -> None:
        self.sending_failed: Exception | None = None
        self._plan = plan
        self._prompt = list(messages)
        self._parameters = parameters
        self._send = send
        self._prompt_size: int | None = None
        self._texts: set[str] = {""}
        self._cut_off: str | None = None  # the finish reason, where it says so

    async def complete(self, *, messages: list[MessageDict], **made: Any) -> Any:
        try:
            answer = await self._send(self._context(messages), self._parameters | self._with_our_schema(made))
        except Exception as error:  # instructor wraps it; the caller is to get it as it was
            self.sending_failed = error
            raise
        message = self._message(answer)
        self._texts = {call.function.arguments for call in message.tool_calls or ()} or {message.content}
        self._cut_off = answer.finish_reason if answer.finish_reason in (*CUT_OFF, REPETITION) else None
        _current.set(self)
        finish_reason = LIMIT_REACHED if self._cut_off else answer.finish_reason  # it knows no other
        return SimpleNamespace(
            choices=[SimpleNamespace(message=message, finish_reason=finish_reason)], usage=None
        )

    def _message(self, answered: ChatAnswer) -> _InstructorMessage:
        """The answer as instructor reads it: with tool calls in the mode that asks for one, else with a text."""
        text, calls = answered.text or "", answered.tool_calls
        if self._plan.mode == "tools":
            return _InstructorMessage(text, [_call(call) for call in calls] or None)
        return _InstructorMessage(answer_text(text, () if self._parameters.get("tools") else calls), None)

    def read(self) -> Parsed:
        """The last answer.

        Raises:
            InvalidOutput: it does not fit, or there are several.
        """
        if len(self._texts) > 1:
            text = "\n".join(sorted(self._texts))
            raise InvalidOutput(f"the answer is {len(self._texts)} different tool calls, not one", text=text)
        [text] = self._texts
        return read_answer(self._plan.schema, text)

    def last_answer(self, failure: Exception) -> Parsed:
        """The last answer after all, for what instructor gives up on and we can read; else why it does not fit."""
        try:
            if self._cut_off == REPETITION:
                return read_answer(self._plan.schema, before_repetition("".join(self._texts)))
            return self.read()
        except RepeatedAnswer as error:
            raise error from failure
        except InvalidOutput as error:
            reason = None if self._cut_off == REPETITION else self._cut_off
            raise (cut_short(error, reason) if reason else error) from failure

    def _context(self, messages: list[MessageDict]) -> list[MessageDict]:
        """The prompt and the last attempt only; instructor's list grows by every one."""
        if self._prompt_size is None:
            self._prompt_size = len(messages)
            if self._plan.mode == "md_json":  # the one mode that writes into the prompt
                self._prompt = messages[:]
        attempts = messages[self._prompt_size :]
        if not attempts:
            return self._prompt
        last = max(index for index, message in enumerate(attempts) if message["role"] == "assistant")
        if not attempts[last].get("content") and not attempts[last].get("tool_calls"):
            last += 1  # an empty answer, as when all a model did was think; the API refuses to be shown it
        prefixed = self._prompt[-1]["role"] == "assistant"
        return [*(self._prompt[:-1] if prefixed else self._prompt), *attempts[last:]]

    def _with_our_schema(self, made: dict[str, Any]) -> dict[str, Any]:
        """``made`` with the schema as it was written, under a name that the API takes."""
        schema = self._plan.schema
        if "tools" in made:
            function = made["tools"][0]["function"] | {"name": schema.name, "parameters": schema.wire_schema}
            return made | {"tools": [{"type": "function", "function": function}]}
        if "response_format" in made:
            return made | {"response_format": msgspec.to_builtins(schema.response_format())}
        return made


_current: ContextVar[_Exchange] = ContextVar("exchange")
"""The exchange whose answer instructor is looking at: it hands over what it takes for the JSON, which may be a part."""


# --- an answer, in the form that instructor reads ---------------------------------------------------------------------


@dataclass
class _InstructorFunction:
    name: str
    arguments: str


@dataclass
class _InstructorCall:
    id: str
    function: _InstructorFunction
    type: str = "function"


@dataclass
class _InstructorMessage:
    content: str
    tool_calls: list[_InstructorCall] | None
    role: str = "assistant"

    def model_dump(self) -> dict[str, Any]:
        return asdict(self)


def _call(call: AnsweredToolCall) -> _InstructorCall:
    return _InstructorCall(
        call.id or "000000000", _InstructorFunction(call.function.name, arguments_text(call))
    )


# --- the package ------------------------------------------------------------------------------------------------------


@cache
def _package() -> Any:
    try:
        from instructor.v2.core.errors import InstructorError
        from instructor.v2.core.mode import Mode
        from instructor.v2.core.patch import patch_v2
        from instructor.v2.core.providers import Provider
    except ImportError as error:
        raise InputError(
            "this structured_output mode needs the package instructor",
            hint=f"{install_command('instructor')}, or leave the mode out",
        ) from error
    # Its errors come back to the caller; without a handler Python would print each of them as well.
    logging.getLogger("instructor").addHandler(logging.NullHandler())
    modes = {
        "tools": (Provider.MISTRAL, Mode.TOOLS),
        # Its Mistral handler imports the official SDK to make a response_format, which ours replaces anyway.
        "json_schema": (Provider.OPENAI, Mode.JSON_SCHEMA),
        "md_json": (Provider.MISTRAL, Mode.MD_JSON),
    }
    return SimpleNamespace(patch=patch_v2, modes=modes, InstructorError=InstructorError)


@lru_cache(maxsize=_MEMO_SIZE)
def _response_model(schema: OutputSchema) -> Any:
    """A model class that has the schema of ``schema`` and reads by it: instructor asks a model for nothing else."""
    from instructor.v2.core.errors import ResponseParsingError
    from instructor.v2.core.function_calls import ResponseSchema

    class Response(ResponseSchema):
        parsed: Any

        @classmethod
        def model_json_schema(cls, *_: Any, **__: Any) -> dict[str, Any]:
            return {"title": schema.name, **schema.wire_schema}

        @classmethod
        def model_validate_json(cls, *_: Any, **__: Any) -> Any:
            try:
                return cls.model_construct(parsed=_current.get().read())
            except InvalidOutput as error:
                raise ResponseParsingError(error.message, mode="json") from error

    Response.__name__ = schema.name
    return Response
