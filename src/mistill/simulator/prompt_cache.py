"""The cache of prompts: what requests have in common with earlier ones, in blocks of 64 tokens.

A prompt is what its messages say, one after the other, behind its tools and the format of its answer. Its blocks are
told by all that stands before them, so that what is found is always a beginning. Each key of the API, model and
``prompt_cache_key`` has blocks of its own.
"""

from __future__ import annotations

import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from mistill.api.usage import BLOCK_TOKENS
from mistill.simulator.drafts import MESSAGE_TOKENS, TOKEN_CHARS, chunk_tokens_of
from mistill.simulator.faults import happens
from mistill.simulator.requests import ChatRequest, role_of
from mistill.simulator.settings import Settings

_BLOCK_CHARS = BLOCK_TOKENS * TOKEN_CHARS

Block = int
"""A hash of all that a prompt has up to the block's end, and of whose it is."""


class PromptCache:
    """Blocks that were seen, the last used at the end. ``clock`` gives seconds, from anywhere, never back."""

    def __init__(self, seed: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rng = random.Random(f"prompt cache {seed}")  # noqa: S311  repeatable, not secret
        self._used_at: OrderedDict[Block, float] = OrderedDict()

    def find(self, request: ChatRequest, key: int, prompt_tokens: int, settings: Settings) -> CachedPrompt:
        """What of a prompt is cached. ``prompt_tokens``: those that it has; ``key``: whose request it is."""
        if settings.cached_share is not None:
            return CachedPrompt([], int(prompt_tokens * settings.cached_share))
        if not settings.cache_tokens or prompt_tokens < BLOCK_TOKENS:
            return CachedPrompt([], 0)
        blocks = blocks_of(request, key)
        rate = settings.cache_hits if request.prompt_cache_key else settings.cache_hits_without_key
        if not happens(self._rng, rate):
            return CachedPrompt(blocks, 0)
        oldest = self._clock() - settings.cache_for_s
        found = 0
        for block in blocks:
            used_at = self._used_at.get(block)
            if used_at is None or used_at < oldest:
                break
            found += 1
        return CachedPrompt(blocks, min(found, prompt_tokens // BLOCK_TOKENS) * BLOCK_TOKENS)

    def read_line(self, request: ChatRequest, key: int, prompt_tokens: int, settings: Settings) -> int:
        """The tokens of a line's prompt that are cached; its blocks are kept at once."""
        if not settings.batch_caches and settings.cached_share is None:
            return 0
        prompt = self.find(request, key, prompt_tokens, settings)
        self.keep(prompt, settings)
        return prompt.tokens

    def keep(self, prompt: CachedPrompt, settings: Settings) -> None:
        """A prompt was read: its blocks are there for others from now on, the least used ones give way to them."""
        now = self._clock()
        for block in reversed(prompt.blocks):  # so that no beginning goes before what follows it
            self._used_at[block] = now
            self._used_at.move_to_end(block)
        while len(self._used_at) * BLOCK_TOKENS > settings.cache_tokens:
            self._used_at.popitem(last=False)


class CachedPrompt(msgspec.Struct, frozen=True, gc=False):
    """A prompt's blocks, and how many tokens of its beginning were cached when it came."""

    blocks: list[Block]
    tokens: int


def blocks_of(request: ChatRequest, key: int) -> list[Block]:
    """The whole blocks of a prompt, each told by all that is before it."""
    before = hash((key, request.model, request.prompt_cache_key, _frame(request)))
    text = "".join(_pieces(request))
    blocks: list[Block] = []
    for end in range(_BLOCK_CHARS, len(text) + 1, _BLOCK_CHARS):
        before = hash((before, text[end - _BLOCK_CHARS : end]))
        blocks.append(before)
    return blocks


def _frame(request: ChatRequest) -> bytes:
    """What a model reads besides messages, as far as there is some."""
    if not request.tools and not request.response_format:
        return b""
    return msgspec.json.encode((request.tools, request.response_format))


def _pieces(request: ChatRequest) -> Iterator[str]:
    """Texts that together have `TOKEN_CHARS` characters for each token of the prompt."""
    for message in request.messages:
        yield role_of(message).ljust(MESSAGE_TOKENS * TOKEN_CHARS)
        content = message.content
        chunks: list[Any] = [content] if isinstance(content, str) else content or []
        texts = "".join(chunk if isinstance(chunk, str) else getattr(chunk, "text", "") for chunk in chunks)
        yield texts + " " * (-len(texts) % TOKEN_CHARS)
        for chunk in chunks:
            if not isinstance(chunk, str) and not hasattr(chunk, "text"):
                yield f"{hash(msgspec.json.encode(chunk)):016x}".ljust(chunk_tokens_of(chunk) * TOKEN_CHARS)
