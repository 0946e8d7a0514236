"""What prompts have in common with earlier ones, from their beginning on: about what a cache of prompts can find."""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

from mistill.api.token_estimate import BYTES_PER_TOKEN
from mistill.api.usage import BLOCK_TOKENS

_BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN
_MOST_BLOCKS = 100_000
"""A hash each: about 10 MB. The blocks that are used least go first, as they do in a cache."""
_MOST_KEYS = 10_000
_MESSAGES = b'"messages":'


class Beginning(NamedTuple):
    """How a prompt begins. Tokens are estimated, in whole blocks.

    Attributes:
        warm_tokens: those at its beginning that a prompt had which was asked live, so that they may be cached.
        known_tokens: those that any earlier prompt had. ``rows``: how many had them.
        is_first: no prompt of its key was asked live, so that nothing of it can be cached.
        key, blocks: by which it is told.
    """

    warm_tokens: int
    known_tokens: int
    rows: int
    is_first: bool
    key: bytes
    blocks: list[int]


class Beginnings:
    """Those of the prompts that came by, each told by the key under which it is cached."""

    def __init__(self) -> None:
        self._rows: OrderedDict[int, int] = OrderedDict()
        self._warm: set[int] = set()
        self._warm_keys: set[bytes] = set()

    def see(self, key: bytes, body: bytes) -> Beginning:
        """How a request begins; the next one may have that in common with this one.

        Args:
            body: as it is sent. What stands before its messages is the same in all that have the key.
        """
        seen, blocks = self._rows, list[int]()
        warm = known = rows = 0
        before = hash(key)
        start = max(0, body.find(_MESSAGES))
        for place in range(start, len(body) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
            before = hash((before, body[place : place + _BLOCK_BYTES]))
            count = seen.get(before, 0)
            if count and known == len(blocks):
                known, rows = known + 1, count
            if before in self._warm and warm == len(blocks):
                warm += 1
            seen[before] = count + 1
            seen.move_to_end(before)
            blocks.append(before)
        while len(seen) > _MOST_BLOCKS:
            self._warm.discard(seen.popitem(last=False)[0])
        is_first = key not in self._warm_keys
        return Beginning(warm * BLOCK_TOKENS, known * BLOCK_TOKENS, rows, is_first, key, blocks)

    def warm(self, beginning: Beginning) -> None:
        """A prompt that begins so is asked live."""
        if len(self._warm_keys) >= _MOST_KEYS:
            self._warm_keys.clear()
        self._warm_keys.add(beginning.key)
        self._warm.update(beginning.blocks)
