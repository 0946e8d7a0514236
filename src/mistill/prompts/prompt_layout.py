"""What of a prompt is the same in all rows, and where it stands: what is in front of all that differs can be cached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec import Struct

from mistill.api.token_estimate import MESSAGE_TOKENS, text_tokens
from mistill.api.usage import BLOCK_TOKENS

_WORTH_SAYING = 0.05
_WORTH_MOVING_TOKENS = 32
"""What differs and stands before less than that is left where it is."""


class Piece(NamedTuple):
    """A piece of a template.

    Attributes:
        source: the text that it writes, or how it is written.
        is_same: it writes the same for every row.
    """

    source: str
    is_same: bool


class PromptLayout(Struct, frozen=True):
    """Of the prompts of a run. Tokens are estimated, see ``mistill.api.token_estimate``.

    Attributes:
        same_tokens: those that are the same in all rows. ``front_tokens``: those of them in front of all that differs.
            ``later_tokens``: what these would be if what is ``early`` stood at the end.
        front: what is in front, as text.
        early: what differs from row to row and stands before what is the same, as the templates have it.
    """

    same_tokens: int
    front_tokens: int
    later_tokens: int
    front: str
    early: tuple[str, ...] = ()

    @property
    def cached_tokens(self) -> int:
        """Tokens of each prompt that can be cached, once one was read: whole blocks."""
        return self.front_tokens // BLOCK_TOKENS * BLOCK_TOKENS

    def hint(self, saves: float) -> str:
        """``moving {{ text }} to the end saves about 61% of the cost of input``."""
        early = self.early
        named = early[0] if len(early) == 1 else f"{', '.join(early[:-1])} and {early[-1]}"
        return f"moving {named} to the end saves about {saves:.0%} of the cost of input"

    def where(self, prompt_tokens: float) -> str:
        """``3,004 of 3,310 tokens are the same in all rows, 6 of them in front, and the front alone is cached``."""
        in_front = f"{self.front_tokens:,} of them in front, and the front alone is cached"
        return f"{self.same_tokens:,} of {round(prompt_tokens):,} tokens are the same in all rows, {in_front}"

    def saves(self, prompt_tokens: float, found_tokens: float, cached_factor: float) -> float | None:
        """Which share of the cost of input is saved where all that differs stands at the end.

        Args:
            prompt_tokens: of a prompt, as a mean. ``found_tokens``: those that can be cached as it stands: more than
                ``cached_tokens`` where what differs has few values.
            cached_factor: what a cached token costs, as a share of another one.

        Returns ``None`` where that is nothing to speak of.
        """
        if not self.early:
            return None
        less = 1 - cached_factor
        found_tokens = max(found_tokens, self.cached_tokens)
        more = (self.later_tokens // BLOCK_TOKENS * BLOCK_TOKENS - found_tokens) * less
        paid = prompt_tokens - found_tokens * less
        share = more / paid if more > 0 and paid > 0 else 0.0
        return share if share >= _WORTH_SAYING else None


ROWS_OWN = (Piece("", is_same=False),)
"""A message that the row brings itself."""


def layout_of(messages: Iterable[Sequence[Piece]], *, tool_tokens: int = 0) -> PromptLayout:
    """The layout of prompts that are made of such messages; ``tool_tokens``: of what stands before them."""
    same = front = later = tool_tokens
    texts, differing, early = list[str](), list[str](), list[str]()
    for pieces in messages:
        same += MESSAGE_TOKENS
        later += MESSAGE_TOKENS
        front += 0 if differing else MESSAGE_TOKENS
        for piece in _joined(pieces):
            if not piece.is_same:
                differing.append(piece.source)
                continue
            tokens = text_tokens(piece.source)
            same += tokens
            if not differing:
                front += tokens
                later += tokens
                texts.append(piece.source)
            elif tokens >= _WORTH_MOVING_TOKENS:
                later += tokens
                early += [one for one in differing if one not in early]
    return PromptLayout(same, front, later, "".join(texts), tuple(early))


def _joined(pieces: Iterable[Piece]) -> Iterator[Piece]:
    """Texts that follow each other as one, and without those that say nothing."""
    text = ""
    for piece in pieces:
        if piece.is_same:
            text += piece.source
            continue
        if text.strip():
            yield Piece(text, is_same=True)
        text = ""
        yield piece
    if text.strip():
        yield Piece(text, is_same=True)
