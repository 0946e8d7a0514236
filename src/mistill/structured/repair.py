"""What becomes of an answer: it fits, or the JSON in it does, or the model is asked again, or it failed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from mistill.api.chat import AnsweredToolCall
from mistill.api.loop_guard import LoopGuard
from mistill.characters import whole_characters
from mistill.errors import InvalidOutput, RepeatedAnswer
from mistill.finish_reasons import CUT_BY, CUT_OFF, GIVE_ROOM, REPETITION
from mistill.structured.json_in_text import standing_values
from mistill.structured.schema import OutputSchema, Parsed
from mistill.structured.structured_output import MessageDict, StructuredOutputPlan
from mistill.wording import Setting, words

_SHOWN_CHARS = 12


@dataclass(frozen=True, slots=True)
class Reask:
    """Ask again with ``messages``; ``error`` is why."""

    messages: list[MessageDict]
    error: InvalidOutput


def judge(
    plan: StructuredOutputPlan,
    messages: Sequence[MessageDict],
    text: str | None,
    *,
    finish_reason: str | None,
    asks_left: int,
) -> Parsed | Reask:
    """One step, without state: what ``text`` is worth.

    Args:
        messages: what was sent at first (``plan.messages(...)``), at every step the same: so that the context is fixed.
        text: the text of the last answer, without its thinking (see `answer_text`).
        asks_left: how often the model may still be asked again, from ``plan.max_retries`` down to 0.

    Raises:
        InvalidOutput: it does not fit and may not be asked again. ``text`` and ``path`` say what came and where it
            fails.
    """
    try:
        if finish_reason == REPETITION:
            text = before_repetition(text or "")
        return read_answer(plan.schema, text or "")
    except RepeatedAnswer as error:
        if asks_left < 1:
            raise
        # Shown its own loop, a model is likely to go on with it.
        return Reask(reask_messages(messages, "", error), error)
    except InvalidOutput as error:
        if finish_reason in CUT_OFF:
            if LoopGuard().feed(text or ""):  # more room would be filled likewise
                raise _repeats_itself(text or "", is_watched=False) from None
            raise cut_short(error, finish_reason) from error.__cause__
        if asks_left < 1:
            raise
        return Reask(reask_messages(messages, text or "", error), error)


def answer_text(text: str | None, unasked_calls: Sequence[AnsweredToolCall] = ()) -> str:
    """The text in which a message's answer stands: its own, or where it has none, the arguments of its one tool call.

    A model that knows tools may answer a request for JSON by a call of a tool that nobody offered.

    Args:
        unasked_calls: the message's tool calls, if the request had no tools; calls of tools that it had are no answer.
    """
    if text and text.strip():
        return text
    arguments = {arguments_text(call) for call in unasked_calls}
    return arguments.pop() if len(arguments) == 1 else text or ""


def arguments_text(call: AnsweredToolCall) -> str:
    """The arguments of ``call`` as JSON text, in whichever form they came."""
    arguments = call.function.arguments
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def read_answer(schema: OutputSchema, text: str) -> Parsed:
    """``text`` as it is, else the one JSON value in it that stands by itself: no model is asked.

    Raises:
        InvalidOutput: it does not fit ``schema``, or there is none, or two different ones.
    """
    try:
        return schema.read(text)
    except InvalidOutput as error:
        return _repaired(schema, text, error)


def _repaired(schema: OutputSchema, text: str, as_it_is: InvalidOutput) -> Parsed:
    values = {text[one.start : one.end]: one.has_own_lines for one in standing_values(text)}
    if len(values) > 1:
        message = (
            f"the answer holds {len(values)} different JSON values, and nothing says which of them it is"
        )
        raise InvalidOutput(message, text=text, hint=as_it_is.hint) from as_it_is.__cause__
    for value, has_own_lines in values.items():
        try:
            return schema.read(value, bare=has_own_lines)
        except InvalidOutput as mistake:  # what is wrong inside a code fence says more than that there is one
            raise InvalidOutput(
                mistake.message, text=text, path=mistake.path, hint=mistake.hint
            ) from as_it_is.__cause__
    raise as_it_is


# --- asking again -----------------------------------------------------------------------------------------------------


def reask_messages(messages: Sequence[MessageDict], answer: str, error: InvalidOutput) -> list[MessageDict]:
    """``messages``, the last ``answer`` and what is wrong with it: never what came before.

    A prefix that the answer was to begin with is left out: the corrected answer must be able to begin differently. So
    is an empty answer, which the API does not take as a message.
    """
    kept = list(messages)
    if kept and kept[-1].get("role") == "assistant":
        kept.pop()
    if answer.strip():
        kept.append({"role": "assistant", "content": whole_characters(answer)})
    correction = f"{error.message}\nAnswer again with the whole JSON, corrected, and nothing else."
    kept.append({"role": "user", "content": whole_characters(correction)})
    return kept


def before_repetition(text: str) -> str:
    """The JSON value in an answer that was cut off, where it was whole and only white space came behind it.

    Raises:
        RepeatedAnswer: it was not.
    """
    whole = text.rstrip()
    try:
        if whole != text:  # a number that is cut within its digits would look like one
            msgspec.json.decode(whole)
            return whole
    except (ValueError, RecursionError):
        pass
    raise _repeats_itself(text)


def _repeats_itself(text: str, *, is_watched: bool = True) -> RepeatedAnswer:
    """``is_watched``: we have cut it; else it went on to its limit."""
    shown = text[-_SHOWN_CHARS:]
    hint = "another prompt, schema, model or temperature may end it; the answer is kept"
    return RepeatedAnswer(
        f"the answer repeats itself: cut after {len(text):,} characters, the last of them {shown!r}",
        text=text,
        hint=words(hint, "; to have all of it: ", Setting("loop_guard", False)) if is_watched else hint,
    )


def cut_short(error: InvalidOutput, finish_reason: str) -> InvalidOutput:
    """``error`` of an answer that was cut off; the next one would be too. ``finish_reason``: one of `CUT_OFF`."""
    return InvalidOutput(
        f"the answer was cut short by {CUT_BY[finish_reason]}: {error.message}",
        text=error.text,
        path=error.path,
        hint=GIVE_ROOM[finish_reason],
    )
