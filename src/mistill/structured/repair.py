"""What becomes of an answer: it fits, or the JSON in it does, or the model is asked again, or it failed."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mistill.api.chat import AnsweredToolCall
from mistill.errors import InvalidOutput
from mistill.structured.schema import OutputSchema, Parsed
from mistill.structured.structured_output import MessageDict, StructuredOutputPlan
from mistill.wording import Setting, words

CUT_SHORT = ("length", "model_length")


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
        return read_answer(plan.schema, text or "")
    except InvalidOutput as error:
        if finish_reason in CUT_SHORT:
            raise cut_short(error) from error.__cause__
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
    """``text`` as it is, else the one JSON in it that fits ``schema``: no model is asked.

    Raises:
        InvalidOutput: nothing fits, or two different things do.
    """
    try:
        return schema.read(text)
    except InvalidOutput as error:
        return _repaired(schema, text, error)


def _repaired(schema: OutputSchema, text: str, as_it_is: InvalidOutput) -> Parsed:
    spans = json_spans(text)
    fitting: dict[str, Parsed] = {}
    error = as_it_is
    for start, end in spans:
        try:
            parsed = schema.read(text[start:end], bare=_has_its_own_lines(text, start, end))
        except InvalidOutput as mistake:
            if len(spans) == 1:  # what is wrong inside a code fence says more than that there is one
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


def _has_its_own_lines(text: str, start: int, end: int) -> bool:
    """Whether nothing but a fence stands beside it: a ``[1]`` in a sentence is a footnote, not a list of one number."""
    before = text[text.rfind("\n", 0, start) + 1 : start]
    after = text[end:].partition("\n")[0]
    return not before.strip() and not after.strip(" \t\r`")


# --- JSON in a text ---------------------------------------------------------------------------------------------------

_FENCE_OPENING = re.compile(r"\s*```[^\n`]*\n\s*")
_BRACKET = re.compile(r"[{}\[\]]")
_BRACKETED_WORDS = re.compile(r"""\[[^{}\[\]",:]*\]|\{[^{}\[\]",:]*\}""")
_QUOTED_WORDS = re.compile(r"""(?<![^\s(])"(?=\S)[^"\\\n{]*(?<=\S)"(?=[\s.!?;)]|\Z)""")
_NO_PROSE = re.compile(r"""["]|(?<!:)//|/\*|<!--""")
_JSON_MARK = "{"
_MAX_PIECES = 1000
"""More JSON and brackets than that are no answer in prose, and would take long to look through."""


def json_spans(text: str) -> list[tuple[int, int]]:
    """Where in ``text`` JSON stands by itself, as (start, end): in its one code fence, else each object and array.

    What is around all of them is prose. Where anything else is there, that may be an answer that is broken or cut
    short, a string or a comment: then there is none at all, since an inner object would look like an answer and be a
    wrong one.
    """
    fenced = _fenced_json(text)
    if fenced is not None:
        return [fenced]
    found: list[tuple[int, int]] = []
    around: list[str] = []
    position = 0
    while bracket := _BRACKET.search(text, position):
        start = bracket.start()
        around.append(text[position:start])
        try:
            _, position = _decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            words = _BRACKETED_WORDS.match(text, start)
            if words is None:
                return []
            position = words.end()
        else:
            found.append((start, position))
            around.append(_JSON_MARK)
        if len(around) > _MAX_PIECES:
            return []
    around.append(text[position:])
    return [] if _NO_PROSE.search(_QUOTED_WORDS.sub("", "".join(around))) else found


def _fenced_json(text: str) -> tuple[int, int] | None:
    """Where the JSON stands, if ``text`` is one code fence that holds JSON and nothing else."""
    opening = _FENCE_OPENING.match(text)
    whole = text.rstrip()
    if opening is None or not whole.endswith("```"):
        return None
    start, end = opening.end(), len(whole[:-3].rstrip())
    return (start, end) if _is_json(text[start:end]) else None


_decoder = json.JSONDecoder()


def _is_json(text: str) -> bool:
    try:
        _decoder.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


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
        kept.append({"role": "assistant", "content": _without_half_characters(answer)})
    correction = f"{error.message}\nAnswer again with the whole JSON, corrected, and nothing else."
    kept.append({"role": "user", "content": _without_half_characters(correction)})
    return kept


def _without_half_characters(text: str) -> str:
    """``text`` with U+FFFD for lone surrogates, which no request can hold."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def cut_short(error: InvalidOutput) -> InvalidOutput:
    """``error`` of an answer that the token limit ended; the same limit would end the next one too."""
    return InvalidOutput(
        f"the answer was cut short by the token limit: {error.message}",
        text=error.text,
        path=error.path,
        hint=words("raise ", Setting("max_new_tokens")),
    )
