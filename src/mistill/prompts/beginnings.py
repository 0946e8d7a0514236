"""What prompts have in common with others, from their beginning on: about what a cache of prompts can find."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import NamedTuple

from mistill.api.token_estimate import BYTES_PER_TOKEN
from mistill.api.usage import BLOCK_TOKENS

_BLOCK_BYTES = BLOCK_TOKENS * BYTES_PER_TOKEN
_MOST_BLOCKS = 100_000
"""A hash each: about 10 MB. The blocks that are used least go first, as they do in a cache."""
_MOST_KEYS = 10_000
_MOST_RARE = 5
"""Prompts of one key: with more, that it comes as often from now on as it did is near enough."""
_LEAST_KEYS = 5


class Met(NamedTuple):
    """A prompt that was looked at.

    Attributes:
        key: under which it is cached. ``blocks``: hashes of what it begins with, each of all blocks up to it.
    """

    key: bytes
    blocks: list[int]

    @property
    def tokens(self) -> int:
        """Of the prompt, as far as whole blocks go."""
        return len(self.blocks) * BLOCK_TOKENS

    def tokens_again(self, requests: float) -> int:
        """Of so many requests with the prompt, those tokens that the second and later ones find."""
        return max(0, round(requests) - 1) * self.tokens

    @classmethod
    def of(cls, key: bytes, prompt: bytes) -> Met:
        """One with such a key; what stands before the messages of its request is the same in all that have it."""
        blocks = list[int]()
        before = hash(key)
        for place in range(0, len(prompt) - _BLOCK_BYTES + 1, _BLOCK_BYTES):
            before = hash((before, prompt[place : place + _BLOCK_BYTES]))
            blocks.append(before)
        return cls(key, blocks)


class Beginning(NamedTuple):
    """How a prompt begins. Tokens are estimated, in whole blocks.

    Attributes:
        warm_tokens: those at its beginning that a prompt had which was asked live, so that they may be cached.
        known_tokens: those that any other prompt had, of those that were looked at. ``others``: how many had them;
            ``to_come``: those of them whose turn is still to come.
        is_first: no prompt of its key was asked live, so that nothing of it can be cached.
    """

    warm_tokens: int
    known_tokens: int
    others: int
    to_come: int
    is_first: bool


class Beginnings:
    """Those of the prompts that were looked at, each told by the key under which it is cached.

    A prompt may be looked at before it is its turn, so that it is known how many of its like are to come.
    """

    def __init__(self) -> None:
        self.met = 0
        self._blocks: OrderedDict[int, int] = OrderedDict()  # how many prompts begin so
        self._to_come = Counter[int]()  # how many of them are still to have their turn
        self._keys: OrderedDict[bytes, int] = OrderedDict()
        self._keys_met = Counter[int]()  # so many keys have so many prompts
        self._warm = Counter[int]()  # how many prompts that are asked live begin so
        self._warm_keys = Counter[bytes]()
        self._shared_blocks = self._all_blocks = 0

    def meet(self, met: Met) -> None:
        """A prompt whose turn is to come."""
        seen = self._blocks
        for block in met.blocks:
            seen[block] = seen.get(block, 0) + 1
            seen.move_to_end(block)
        self._to_come.update(met.blocks)
        while len(seen) > _MOST_BLOCKS:
            self._warm.pop(seen.popitem(last=False)[0], None)
        self._count(met.key)

    def _count(self, key: bytes) -> None:
        self.met += 1
        keys, sizes = self._keys, self._keys_met
        rows = keys.pop(key, 0)
        keys[key] = rows + 1
        sizes[rows + 1] += 1
        if rows:
            sizes[rows] -= 1
        elif len(keys) > _MOST_KEYS:
            sizes[keys.popitem(last=False)[1]] -= 1

    def take(self, met: Met) -> None:
        """It is a prompt's turn."""
        to_come = self._to_come
        for block in met.blocks:
            left = to_come[block] - 1
            if left > 0:
                to_come[block] = left
            else:
                del to_come[block]
        known = self._known_blocks(met)
        if known:
            self._shared_blocks += known
            self._all_blocks += len(met.blocks)

    def of(self, met: Met, *, is_warm: bool = False) -> Beginning:
        """How a prompt begins, by what is known now; ``is_warm``: it was itself said to be asked live."""
        warm, others = 0, int(is_warm)
        while warm < len(met.blocks) and self._warm[met.blocks[warm]] > others:
            warm += 1
        known = self._known_blocks(met)
        deepest = met.blocks[known - 1] if known else None
        return Beginning(
            warm_tokens=warm * BLOCK_TOKENS,
            known_tokens=known * BLOCK_TOKENS,
            others=0 if deepest is None else self._blocks[deepest] - 1,
            to_come=0 if deepest is None else self._to_come[deepest],
            is_first=self._warm_keys[met.key] <= others,
        )

    def _known_blocks(self, met: Met) -> int:
        known = 0
        while known < len(met.blocks) and self._blocks.get(met.blocks[known], 0) > 1:
            known += 1
        return known

    def ask(self, met: Met) -> int:
        """A prompt is asked live, at once. Returns how many of its tokens may be cached."""
        self.meet(met)
        self.take(met)
        found = self.of(met).warm_tokens
        self.warm(met)
        return found

    def is_warm(self, met: Met) -> bool:
        """A prompt of its key was asked live."""
        return self._warm_keys[met.key] > 0

    def warm(self, met: Met) -> None:
        """A prompt is asked live."""
        keys = self._warm_keys
        keys[met.key] = keys.pop(met.key, 0) + 1
        if len(keys) > _MOST_KEYS:
            del keys[next(iter(keys))]
        self._warm.update(block for block in met.blocks if block in self._blocks)

    def cool(self, met: Met) -> None:
        """A prompt that was to be asked live is not."""
        self._warm_keys[met.key] = max(0, self._warm_keys[met.key] - 1)
        for block in met.blocks:
            if self._warm[block]:
                self._warm[block] -= 1

    def likely_tokens(self, met: Met) -> int:
        """Those that a prompt will have in common with others of its key, as those of other keys have."""
        if not self._all_blocks:
            return 0
        return met.tokens * self._shared_blocks // self._all_blocks // BLOCK_TOKENS * BLOCK_TOKENS

    def expected(self, others: int, rows: float) -> float:
        """How many of so many further rows will begin as a prompt and so many others do, of those looked at.

        What is rare comes again as often as the number of keys tells that came once more than it did (Good, 1953: in
        as many rows again, what came ``r`` times comes ``(r + 1)·N(r + 1) / N(r)`` times).
        """
        if not self.met:
            return 0.0
        times, sizes = others + 1, self._keys_met
        if times > _MOST_RARE:
            again = float(times)
        elif sizes[times] >= _LEAST_KEYS:
            again = (times + 1) * sizes[times + 1] / sizes[times]
        else:
            again = others
        return again * rows / self.met
