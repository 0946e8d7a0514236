"""What becomes of an answer: it fits, or the JSON in it does, or the model is asked again, or it failed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mistill.errors import InvalidOutput
from mistill.structured.schema import OutputSchema, Parsed
from mistill.structured.structured_output import Message, StructuredOutputPlan

# A bracket that may begin JSON; in prose, "[note]" and "{name}" do not.
_OPENING = re.compile(r"""\{\s*["}]|\[\s*(?:[\[\]{"]|-?\d|(?:true|false|null)\b)""")
_FENCED = re.compile(r"\s*```[^\n`]*\n(.*?)\n?\s*```\s*", re.DOTALL)

CUT_SHORT = ("length", "model_length")


@dataclass(frozen=True, slots=True)
class Reask:
    """Ask again with ``messages``; ``error`` is why."""

    messages: list[Message]
    error: InvalidOutput


def judge(
    plan: StructuredOutputPlan,
    messages: Sequence[Message],
    text: str | None,
    *,
    finish_reason: str | None,
    asks_left: int,
) -> Parsed | Reask:
    """One step, without state: what ``text`` is worth.

    Args:
        messages: what was sent at first (``plan.messages(...)``), at every step the same: so that the context
            is fixed.
        text: the text of the last answer, without its thinking.
        asks_left: how often the model may still be asked again, from ``plan.max_retries`` down to 0.

    Raises:
        InvalidOutput: it does not fit and may not be asked again. ``text`` and ``path`` say what came and
            where it fails.
    """
    try:
        return read_answer(plan.schema, text or "")
    except InvalidOutput as error:
        if finish_reason in CUT_SHORT:
            raise cut_short(error) from error.__cause__
        if asks_left < 1:
            raise
        return Reask(reask_messages(messages, text or "", error), error)


def read_answer(schema: OutputSchema, text: str) -> Parsed:
    """``text`` as it is, else the one JSON in it that fits ``schema``: no model is asked.

    Raises:
        InvalidOutput: nothing fits, or two different things do.
    """
    try:
        return schema.read(text)
    except InvalidOutput as error:
        return _repaired(schema, text, error)


def _repaired(schema: OutputSchema, text: str, as_it_is: InvalidOutput) -> Parsed:
    candidates = json_candidates(text)
    fitting: dict[str, Parsed] = {}
    error = as_it_is
    for candidate in candidates:
        try:
            parsed = schema.read(candidate)
        except InvalidOutput as mistake:
            if len(candidates) == 1:  # what is wrong inside a code fence says more than that there is one
                error = InvalidOutput(mistake.message, text=text, path=mistake.path)
        else:
            fitting[parsed.text] = parsed
    if len(fitting) == 1:
        return fitting.popitem()[1]
    if fitting:
        error = InvalidOutput(
            f"the answer holds {len(fitting)} different values that fit its schema", text=text
        )
    raise error from as_it_is.__cause__


def json_candidates(text: str) -> list[str]:
    """The JSON texts in ``text``: what its one code fence holds, else each outermost object and array in it.

    Lossless: a candidate is a piece of ``text`` as it stands. Nothing is taken from inside JSON that is
        broken or cut
    short: an inner object would look like an answer and be a wrong one.
    """
    fenced = _FENCED.fullmatch(text)
    if fenced and _is_json(fenced[1]):
        return [fenced[1]]
    found: list[str] = []
    position = 0
    while opening := _OPENING.search(text, position):
        try:
            _, position = _decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            return []
        found.append(text[opening.start() : position])
    return found


def reask_messages(messages: Sequence[Message], answer: str, error: InvalidOutput) -> list[Message]:
    """``messages``, the last ``answer`` and what is wrong with it: never what came before.

    A prefix that the answer was to begin with is left out: the corrected answer must be able to begin
    differently. So is an empty answer, which the API does not take as a message.
    """
    kept = list(messages)
    if kept and kept[-1].get("role") == "assistant":
        kept.pop()
    if answer.strip():
        kept.append({"role": "assistant", "content": answer})
    kept.append(
        {
            "role": "user",
            "content": f"{error.message}\nAnswer again with the whole JSON, corrected, and nothing else.",
        }
    )
    return kept


def cut_short(error: InvalidOutput) -> InvalidOutput:
    """``error`` of an answer that the token limit ended; the same limit would end the next one too."""
    return InvalidOutput(
        f"the answer was cut short by the token limit: {error.message}",
        text=error.text,
        path=error.path,
        hint="raise max_new_tokens",
    )


_decoder = json.JSONDecoder()


def _is_json(text: str) -> bool:
    try:
        _decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return True
