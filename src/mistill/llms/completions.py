"""Decoded answers → completions: the one place where they are made, for calls, streams, runs and kept answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec

from mistill.api.chat import GAVE_UP, AnswerMessage, ChatResponse, Choice, decode_response, is_given_up
from mistill.api.client import HTTPAnswer
from mistill.api.embeddings import Dtype, EmbeddingResponse
from mistill.api.operation import R
from mistill.api.stored_embeddings import StoredEmbedding, decode_stored
from mistill.api.usage import Usage
from mistill.delivery.dispatcher import AnswerPart, Delivered, RecordedAttempt
from mistill.errors import MalformedAnswer, MistillError
from mistill.llms.types import Completion

NO_USAGE = Usage()


def refuse_given_up(answer: HTTPAnswer[ChatResponse]) -> None:
    """Raises the failure of an answer that the server gave up in the middle; its ``partial`` is what came."""
    if answer.failure is not None:
        answer.failure.partial = chat_completions(Delivered(answer, attempts=1), only_good=False)[0]
        raise answer.failure


def in_order(choices: Sequence[Choice]) -> Sequence[Choice]:
    """The choices of an answer by their indexes; those of one index stay in the order that they came in."""
    return sorted(choices, key=lambda choice: choice.index)


def chat_completions(delivered: Delivered[ChatResponse], *, only_good: bool = True) -> list[Completion]:
    """A completion for each choice of a chat answer, in order, with all that belongs to the attempt that brought it.

    The first carries the tokens and the cost of the whole answer, so that sums are what was billed.

    Args:
        only_good: leaves out what the server gave up in the middle of.
    """
    answer, recorded = delivered.answer, delivered.recorded
    usage, cost = answer.usage, answer.cost
    response = answer.response
    completions: list[Completion] = []
    choices = response.choices
    for choice in choices if len(choices) == 1 else in_order(choices):
        failed = choice.error is not None or choice.finish_reason in GAVE_UP
        if only_good and failed and is_given_up(choice):
            continue
        text, thinking = split_content(choice.message)
        completions.append(
            Completion(
                text=text,
                thinking=thinking,
                tool_calls=choice.message.tool_calls or (),
                finish_reason=choice.finish_reason,
                usage=usage,
                model=response.model,
                id=response.id,
                correlation_id=answer.correlation_id,
                latency_s=answer.latency_s,
                attempts=delivered.attempts,
                cost=cost,
                raw=answer.raw,
                attempt_id=recorded[0].id if recorded else None,
            )
        )
        usage, cost = NO_USAGE, None if cost is None else 0.0
    return completions


def kept_answer(
    body: bytes,
    *,
    usage: Usage = NO_USAGE,
    cost: float | None = None,
    recorded: Sequence[RecordedAttempt] = (),
) -> Delivered[ChatResponse]:
    """A chat answer that a ledger has kept, as it was when it came.

    Args:
        usage, cost, recorded: what the ledger has of its attempt.

    Raises:
        MalformedAnswer: the body is no answer.
    """
    try:
        response = decode_response(body)
    except ValueError as error:
        raise MalformedAnswer(f"what the ledger has is no answer: {error}") from error
    return _delivered(response, body, usage, cost, recorded)


def kept_completions(body: bytes) -> list[Completion]:
    """The completions in the body of a chat answer that a ledger has kept; it counts their tokens and cost itself.

    Raises:
        MalformedAnswer: the body is no answer.
    """
    return chat_completions(kept_answer(body))


def streamed_completion(response: ChatResponse, usage: Usage) -> Completion:
    """The completion of a stream, from the response that its chunks make together."""
    (completion,) = chat_completions(_delivered(response, b"", usage), only_good=False)
    return completion


def _delivered(
    response: R,
    raw: bytes,
    usage: Usage,
    cost: float | None = None,
    recorded: Sequence[RecordedAttempt] = (),
    parts: Sequence[AnswerPart] = (),
) -> Delivered[R]:
    """An answer of which no more is known than this."""
    return Delivered(HTTPAnswer(response, raw, None, None, 0.0, usage, cost), 1, recorded, parts)


def part_completions(delivered: Delivered[Any]) -> list[Completion | MistillError]:
    """A completion for each row of an answer for several, or why there is none for the row."""
    answer, recorded = delivered.answer, delivered.recorded
    response = answer.response
    return [
        part
        if isinstance(part, MistillError)
        else Completion(
            text=None,
            value=part.value,
            usage=part.usage,
            model=response.model,
            id=response.id,
            correlation_id=answer.correlation_id,
            latency_s=answer.latency_s,
            attempts=delivered.attempts,
            cost=part.cost,
            raw=part.body,
            attempt_id=recorded[place].id if recorded else None,
        )
        for place, part in enumerate(delivered.parts)
    ]


def kept_part(
    body: bytes, *, usage: Usage, cost: float | None, recorded: Sequence[RecordedAttempt]
) -> Delivered[EmbeddingResponse]:
    """What a ledger has kept of an answer for one text, as it was when it came; its numbers are not read.

    Raises:
        MalformedAnswer: there is no vector in it.
    """
    stored = stored_embedding(body)
    response = EmbeddingResponse([], stored.id, stored.model)
    return _delivered(response, body, usage, cost, recorded, (AnswerPart(body, usage, cost),))


def kept_embedding(body: bytes, dtype: Dtype | None = None) -> Completion:
    """The vector in a body that a ledger has kept: the completion whose value it is.

    Raises:
        MalformedAnswer: there is no vector in it, or not one of such numbers.
    """
    stored = stored_embedding(body)
    try:
        vector = stored.vector(dtype)
    except msgspec.DecodeError as error:
        raise _no_vector(error) from error
    return Completion(text=None, value=vector, model=stored.model, id=stored.id, raw=body)


def stored_embedding(body: bytes) -> StoredEmbedding:
    """A body that a ledger has kept, whose numbers need not be read.

    Raises:
        MalformedAnswer: there is no vector in it.
    """
    try:
        return decode_stored(body)
    except msgspec.DecodeError as error:
        raise _no_vector(error) from error


def _no_vector(error: Exception) -> MalformedAnswer:
    return MalformedAnswer(f"what the ledger has is no vector: {error}")


def split_content(message: AnswerMessage) -> tuple[str | None, str | None]:
    """An answer's content → (text, thinking); either is ``None`` where there is none of it."""
    content = message.content
    beside = message.reasoning_content or message.reasoning
    if not isinstance(content, list):
        return content, beside
    text = [chunk["text"] for chunk in content if chunk.get("type") == "text" and _has_text(chunk)]
    thinking = [_thought(chunk.get("thinking")) for chunk in content if chunk.get("type") == "thinking"]
    return "".join(text) if text else None, "".join(thinking) or beside


def _thought(thinking: Any) -> str:
    if isinstance(thinking, str):
        return thinking
    chunks = cast("list[Any]", thinking if isinstance(thinking, list) else [])
    dicts = [cast("dict[str, Any]", chunk) for chunk in chunks if isinstance(chunk, dict)]
    return "".join(chunk["text"] for chunk in dicts if _has_text(chunk))


def _has_text(chunk: dict[str, Any]) -> bool:
    """Null in the place of a text is none."""
    return isinstance(chunk.get("text"), str)
