"""What an answer says of its tokens, as the wire has it and as the rest of the library counts it."""

from __future__ import annotations

from typing import Annotated, Protocol

from msgspec import Meta, Struct

from mistill.api.decoding import Incoming

MAX_COUNT = 2**32
"""No answer has so many tokens. What counts more is not counted at all, so that no sum of counts can overflow."""

BLOCK_TOKENS = 64
"""Prompts are cached in blocks of so many tokens: shorter ones are not."""

TokenCount = Annotated[int, Meta(ge=0, le=MAX_COUNT)]


class CachedTokens(Incoming, frozen=True, gc=False):
    cached_tokens: TokenCount | None = None


class UsageInfo(Incoming, frozen=True, gc=False):
    """Tokens as the server counted them; ``None`` where it gave no count, or one that cannot be.

    Attributes:
        total_tokens: prompt and completion together: what a quota counts.
        prompt_tokens_details, prompt_token_details, num_cached_tokens: cached tokens have three places: the
            specification names them all, and servers choose.
        prompt_audio_seconds: of the sound in the prompt, which some models bill beside its tokens.
        service_tier: at which the request was answered: ``standard`` or ``priority``.
    """

    prompt_tokens: TokenCount | None = None
    completion_tokens: TokenCount | None = None
    total_tokens: TokenCount | None = None
    prompt_tokens_details: CachedTokens | None = None
    prompt_token_details: CachedTokens | None = None
    num_cached_tokens: TokenCount | None = None
    prompt_audio_seconds: TokenCount | None = None
    service_tier: str | None = None


class Answered(Protocol):
    """What every decoded answer has: which model gave it, as the server says, and what it took."""

    @property
    def model(self) -> str | None: ...
    @property
    def usage(self) -> UsageInfo | None: ...


class Usage(Struct, frozen=True, gc=False):
    """Tokens billed. Where one request gave several completions, the first carries its input tokens.

    Attributes:
        input_tokens: those of the prompt, cached ones included.
        output_tokens: those of the answer, thinking included.
        cached_tokens: those of ``input_tokens`` that the server had cached.
        audio_seconds: of sound in the prompt.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    audio_seconds: int = 0

    @property
    def without_sound(self) -> Usage:
        """Its tokens alone."""
        return Usage(self.input_tokens, self.output_tokens, self.cached_tokens)

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cached_tokens + other.cached_tokens,
            self.audio_seconds + other.audio_seconds,
        )


def usage_of(response: Answered) -> Usage:
    """The tokens that a response was billed with; none where it has no usage."""
    info = response.usage
    if info is None:
        return Usage()
    cached_tokens = info.num_cached_tokens or 0
    for details in (info.prompt_tokens_details, info.prompt_token_details):
        if details is not None:
            cached_tokens = max(cached_tokens, details.cached_tokens or 0)
    prompt_tokens = info.prompt_tokens or 0
    return Usage(
        prompt_tokens,
        info.completion_tokens or 0,
        min(cached_tokens, prompt_tokens),
        info.prompt_audio_seconds or 0,
    )
