"""Finish reasons of answers that were cut off, by the names that Mistral's API has for them, and what helps."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from mistill.wording import Setting, Words, words

LIMIT_REACHED: Final = "length"
"""The answer had as many tokens as it was allowed."""

CONTEXT_FULL: Final = "model_length"
"""Prompt and answer had as many together as the model can see: no larger limit helps."""

REPETITION: Final = "repetition"
"""The answer repeated itself, and was cut: by us, or by a server that notices (vLLM calls it so)."""

MOST_REASON_CHARS: Final = 80
"""Of one among others on a line: a server may have put a text there."""

CUT_OFF: Final = (LIMIT_REACHED, CONTEXT_FULL)

CUT_BY: Final[Mapping[str, str]] = {
    LIMIT_REACHED: "the token limit",
    CONTEXT_FULL: "the end of the model's context",
}


def more_room(tokens: int) -> int:
    """A limit for answers that were cut off at so many tokens: twice as much, rounded up to two digits."""
    digits = max(1, 10 ** (len(str(2 * tokens)) - 2))
    return -(-2 * tokens // digits) * digits


GIVE_ROOM: Final[Mapping[str, Words]] = {
    LIMIT_REACHED: words("raise ", Setting("max_new_tokens")),
    CONTEXT_FULL: words("shorten the prompt, or choose a model with a larger context"),
}
