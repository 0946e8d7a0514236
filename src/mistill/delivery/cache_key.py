"""What tells a server which requests begin alike, so that it finds what it has cached of them."""

from __future__ import annotations

import asyncio
from typing import Final

from mistill.delivery.tuning import current_tuning

KEY_FIELD: Final = "prompt_cache_key"


class CacheKey:
    """A ``prompt_cache_key``, for the requests of one start that begin alike; on one event loop.

    A prompt is cached once it was read, so of those that leave at once each pays for all of it. So one request goes
    first, and the others follow when it has ended, or after a second (``Tuning.first_of_prompt_s``).

    Args:
        key: letters, digits and ``-``; ``None``: the requests have one already, of the user's.
        has_beginning: what they have in common is long enough to be cached. Else nobody waits for anybody.

    Attributes:
        field: the end of a request's body that has it; ``None`` where it is in the body.
        is_cold: nothing of them has been sent yet, or the first has not ended.
    """

    def __init__(self, key: str | None, *, has_beginning: bool) -> None:
        self.field = None if key is None else f',"{KEY_FIELD}":"{key}"}}'.encode()
        self.is_cold = has_beginning
        self._warm: asyncio.Event | None = None

    def put_into(self, body: bytes) -> bytes:
        """The request with the key."""
        return body if self.field is None else body[:-1] + self.field

    async def goes_first(self) -> bool:
        """Whether the request that asks is the first. Others are told when they may leave."""
        if self._warm is None:
            self._warm = asyncio.Event()
            asyncio.get_running_loop().call_later(current_tuning().first_of_prompt_s, self.let_follow)
            return True
        await self._warm.wait()
        return False

    def let_follow(self) -> None:
        """The first request has ended: the others may leave."""
        self.is_cold = False
        if self._warm is not None:
            self._warm.set()
