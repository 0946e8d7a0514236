"""A request quota and a token quota over a sliding window. Pure arithmetic: the caller brings the time.

A request is admitted while both windows have room, and costs 1 and its total tokens. What it costs in tokens
is known only when it has been answered, so requests in flight together may overrun the token quota, as they
may with Mistral.
"""

from __future__ import annotations

import math
from collections import deque


class QuotaWindow:
    """What was used in the last ``window_s`` seconds. An entry of t counts while ``now < t + window_s``."""

    def __init__(self) -> None:
        self._entries: deque[tuple[float, int]] = deque()
        self._used = 0

    def add(self, now_s: float, cost: int) -> None:
        self._entries.append((now_s, cost))
        self._used += cost

    def used(self, now_s: float, window_s: float) -> int:
        """What was used in the window that ends now; what has left it is forgotten."""
        entries = self._entries
        while entries and entries[0][0] + window_s <= now_s:
            self._used -= entries.popleft()[1]
        return self._used

    def room_at_s(self, now_s: float, window_s: float, limit: int) -> float | None:
        """The first moment, ``now_s`` or later, when less than ``limit`` is used; ``None``: never."""
        if limit <= 0:
            return None
        used = self.used(now_s, window_s)
        if used < limit:
            return now_s
        for entered_s, cost in self._entries:
            used -= cost
            if used < limit:
                return entered_s + window_s
        return now_s


class Quota:
    """The two windows of one (key, model). ``None`` as a limit means that it does not bind.

    Limits are per minute; a window of another length holds its share of them, at least 1 unless the limit is
    0. They are given with every call, since they may change while requests are in flight.
    """

    def __init__(self) -> None:
        self._requests = QuotaWindow()
        self._tokens = QuotaWindow()

    def wait_s(self, now_s: float, limits: Limits) -> float | None:
        """Seconds until a request would be admitted: 0 is now; ``None`` is never (a limit of 0)."""
        moments = [now_s]
        for window, limit in ((self._requests, limits.requests), (self._tokens, limits.tokens)):
            if limit is None:
                window.used(now_s, limits.window_s)  # forget what has ended, though nobody counts it
                continue
            moment = window.room_at_s(now_s, limits.window_s, limit)
            if moment is None:
                return None
            moments.append(moment)
        return max(moments) - now_s

    def count_request(self, now_s: float) -> None:
        self._requests.add(now_s, 1)

    def count_tokens(self, now_s: float, tokens: int) -> None:
        self._tokens.add(now_s, tokens)

    def remaining_requests(self, now_s: float, limits: Limits) -> int:
        return max(0, (limits.requests or 0) - self._requests.used(now_s, limits.window_s))

    def remaining_tokens(self, now_s: float, limits: Limits) -> int:
        return max(0, (limits.tokens or 0) - self._tokens.used(now_s, limits.window_s))


class Limits:
    """Limits per minute, turned into what the window holds."""

    __slots__ = ("requests", "requests_per_minute", "tokens", "tokens_per_minute", "window_s")

    def __init__(
        self, requests_per_minute: int | None, tokens_per_minute: int | None, window_s: float = 60.0
    ) -> None:
        self.requests_per_minute = requests_per_minute
        self.tokens_per_minute = tokens_per_minute
        self.window_s = window_s
        self.requests = _share(requests_per_minute, window_s)
        self.tokens = _share(tokens_per_minute, window_s)


def _share(per_minute: int | None, window_s: float) -> int | None:
    if per_minute is None or per_minute == 0:
        return per_minute
    return max(1, math.floor(per_minute * window_s / 60.0))
