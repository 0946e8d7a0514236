"""The ``prompt_cache_key`` of each prompt of a run: the same for those that begin alike."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from mistill.api.token_estimate import BYTES_PER_TOKEN
from mistill.api.usage import BLOCK_TOKENS
from mistill.delivery.cache_key import CacheKey
from mistill.llms.generation import Generation, Prompt
from mistill.prompts.attachments import AttachedPrompt
from mistill.prompts.prompt_layout import PromptLayout

_MOST_KEPT = 10_000
"""Rows that each have a system message of their own must not fill the memory."""
_TOO_SHORT_BYTES = 2 * BLOCK_TOKENS
"""No text of so few bytes has a block of tokens, in whatever language it is."""


class CacheKeys:
    """Those of one start of a run. A key is a hash, so that neither rows nor settings can be read in it.

    Args:
        run: what makes it the same run, as JSON values: so a run that goes on has the keys that it had.
        generation: the run's own settings; rows may have others.
        layout: of its prompts. ``systems_differ``: rows may have different system messages.
    """

    def __init__(
        self, run: Any, generation: Generation, layout: PromptLayout, *, systems_differ: bool
    ) -> None:
        self._run = msgspec.json.encode(run, order="sorted")
        self._generation = generation
        self._layout = layout
        # A template whose beginning can be cached has that in common, whatever a row's system message says after it.
        self._is_one = not systems_differ or bool(layout.front and layout.cached_tokens)
        self._known: dict[str, CacheKey] = {}
        self._shared = self._of(generation, b"")

    def __call__(self, prepared: Prompt | AttachedPrompt) -> CacheKey | None:
        """The key of a prompt; ``None`` where it is too short to be cached, or the server takes none."""
        prompt = prepared.prompt if isinstance(prepared, AttachedPrompt) else prepared
        generation = prompt.generation
        if len(prompt.messages) < _TOO_SHORT_BYTES or generation.is_without_cache_key:
            return None
        if generation is self._generation and self._is_one:
            return self._shared
        system = b"" if self._is_one else _system_messages(prompt.messages)
        return self._of(generation, system)

    def _of(self, generation: Generation, system: bytes) -> CacheKey:
        own = generation.parameters.prompt_cache_key
        beginning = (generation.before_messages, system, *(() if own is None else (own.encode(),)))
        key = self._key(*beginning)  # what it is of may be long, and is not kept
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            tokens = max(self._layout.front_tokens, len(system) // BYTES_PER_TOKEN)
            sent = key if own is None else None
            known = self._known[key] = CacheKey(sent, has_beginning=tokens >= BLOCK_TOKENS)
        return known

    def _key(self, *beginning: bytes) -> str:
        found = hashlib.blake2b(digest_size=16)
        for part in (self._run, *beginning):
            found.update(len(part).to_bytes(8, "big"))
            found.update(part)
        return f"mistill-{found.hexdigest()}"


_messages_in = msgspec.json.Decoder(list[msgspec.Raw]).decode
_SYSTEM = b'{"role":"system"'


def _system_messages(messages: bytes) -> bytes:
    """Those that stand before all others."""
    if not messages.startswith(_SYSTEM, 1):
        return b""
    found = list[bytes]()
    for message in _messages_in(messages):
        text = bytes(message)
        if not text.startswith(_SYSTEM):
            break
        found.append(text)
    return b"".join(found)
