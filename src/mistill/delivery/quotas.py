"""When quota allows the next request: limits set by the user, told by headers, or inferred from refusals."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from mistill.delivery.quota_estimate import QuotaEstimate
from mistill.delivery.sliding_window import NO_CELL, NO_MARK, Cell, Mark, SlidingWindow
from mistill.errors import RateLimits

QuotaCause = Literal["quota_requests", "quota_tokens"]
LimitSource = Literal["user", "server", "inferred"]

_BURST = 8
_BURST_OF_RATE = 1
_BURST_SHARE = 0.05
"""A window's whole quota leaves over a twentieth of the window, `_BURST` requests ahead: as early as the quota allows
at little cost in time, and gentle to servers that also limit by the second."""


class Entry(Struct, eq=False, gc=False, kw_only=True):
    """What one request holds of the quotas, from when it leaves until it is settled.

    Attributes:
        is_beyond: it left beyond the inferred limit, to find out whether that limit is right.
    """

    tokens: int
    cell: Cell = NO_CELL
    requests_mark: Mark = NO_MARK
    tokens_mark: Mark = NO_MARK
    is_beyond: bool = False


class Quotas:
    """The request quota and the token quota of one (endpoint, key, model).

    A request counts from when it leaves; its tokens are reserved as estimated until it is answered, then counted as
    they were from that moment, as the server counts them.
    """

    def __init__(self, window_s: float = 60.0) -> None:
        self.window_s = window_s
        self.requests = SlidingWindow(window_s)
        self.tokens = SlidingWindow(window_s)
        self.inferred = QuotaEstimate(window_s)
        self.cause: QuotaCause = "quota_requests"
        self._users: tuple[float | None, float | None] = (None, None)
        self._told: tuple[float | None, float | None] = (None, None)
        self._told_by = 0
        self._in_flight = 0
        self._burst = _BURST
        self._spacing_s = 0.0
        self._next_s = -math.inf
        self._last_s = -math.inf
        self._is_beyond = False

    # --- limits -----------------------------------------------------------------------------------------------

    def set_users(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        self._users = (requests_per_minute, tokens_per_minute)
        self._apply_limits()

    @property
    def is_known(self) -> bool:
        """The request quota is known, from the user or the server: no need to find it by trying."""
        return self._users[0] is not None or self._told[0] is not None

    @property
    def has_inferred(self) -> bool:
        """Refusals have told of a quota before."""
        return self.inferred.limit is not None

    @property
    def requests_source(self) -> LimitSource | None:
        if self.inferred.limit is not None and self.requests.limit == self.inferred.limit:
            return "inferred"
        return _source(self._users[0], self._told[0])

    @property
    def tokens_source(self) -> LimitSource | None:
        return _source(self._users[1], self._told[1])

    def _apply_limits(self) -> None:
        requests, tokens = (
            user if user is not None else told for user, told in zip(self._users, self._told, strict=True)
        )
        self.tokens.limit = None if tokens is None else self._share(tokens)
        self.requests.limit = None if requests is None else self._share(requests)
        limit, inferred = self.requests.limit, self.inferred.limit
        if inferred is not None:
            if limit is None or inferred < limit:
                self.requests.limit = inferred
            else:  # it has been found too low, up to the limit that is known
                self.inferred = QuotaEstimate(self.window_s)
        limit = self.requests.limit
        is_rate = self.inferred.limit is not None and self.inferred.is_rate
        self._burst, share = (_BURST_OF_RATE, 1.0) if is_rate else (_BURST, _BURST_SHARE)
        self._spacing_s = 0.0 if limit is None else share * self.window_s / limit
        self._next_s = min(self._next_s, self._last_s + self._spacing_s)
        self._is_beyond = False

    # --- the way of one request -------------------------------------------------------------------------------

    def blocked_until_s(self, tokens: int, now_s: float) -> float:
        """0 if a request of ``tokens`` may leave now; else when to look again, and ``cause`` says why.

        Infinite: not before an answer comes.
        """
        requests = self.requests
        if requests.limit is not None:
            spaced_s = self._next_s - self._burst * self._spacing_s
            self._is_beyond = not requests.has_room(1, now_s)
            until_s = requests.next_change_s(now_s) if self._is_beyond else spaced_s
            if until_s > now_s:
                probe_at_s = self.inferred.probe_at_s
                if now_s < probe_at_s:
                    self.cause = "quota_requests"
                    return min(until_s, probe_at_s)
                self._is_beyond = True
        limit = self.tokens.limit
        # A request above the whole quota leaves when nothing else is in it, or it would wait for ever.
        if limit is not None and not self.tokens.has_room(min(tokens, limit), now_s):
            self.cause = "quota_tokens"
            return self.tokens.next_change_s(now_s)
        return 0.0

    def enter(self, entry: Entry, now_s: float) -> None:
        """The request leaves now; `blocked_until_s` has just allowed it."""
        requests, tokens = self.requests, self.tokens
        entry.cell = requests.add(1, now_s)
        entry.requests_mark = (requests.entered, requests.expired, self._in_flight)
        entry.tokens_mark = (tokens.entered, tokens.expired, 0)
        self._in_flight += 1
        tokens.reserved += entry.tokens
        entry.is_beyond = self._is_beyond
        if self._is_beyond:
            self.inferred.probe_left()
        if self._spacing_s:
            self._next_s = max(self._next_s, now_s) + self._spacing_s
        self._last_s = now_s

    def leave(self, entry: Entry, now_s: float, *, tokens: int, is_answer: bool) -> None:
        """The request cost ``tokens``. ``is_answer``: an answer, so it was accepted; else it failed on the way."""
        self._in_flight -= 1
        self.tokens.reserved -= entry.tokens
        if tokens:
            self.tokens.add(tokens, now_s)
        if entry.is_beyond:
            if is_answer:
                self.inferred.probe_accepted(now_s)
                self._apply_limits()
            else:
                self.inferred.probe_lost(now_s)

    def cancel(self, entry: Entry, now_s: float) -> None:
        """The request never reached the server, so the server has not counted it."""
        self._in_flight -= 1
        self.tokens.reserved -= entry.tokens
        self.requests.take_back(entry.cell, 1)
        if entry.is_beyond:
            self.inferred.probe_lost(now_s)

    def refused(self, entry: Entry, now_s: float) -> None:
        """The server refused the request for lack of quota."""
        self._in_flight -= 1
        self.tokens.reserved -= entry.tokens
        self.requests.take_back(entry.cell, 1)
        if entry.is_beyond:
            self.inferred.probe_refused(now_s)

    def infer(self, now_s: float, *, is_straggler: bool) -> None:
        """A refusal that nothing told explains: what was accepted so far is what the window holds."""
        self.inferred.refused(self.requests.used, now_s, is_straggler=is_straggler)
        self._apply_limits()

    def left_since(self, entry: Entry) -> int:
        """How many requests have left after this one."""
        return self.requests.entered - entry.requests_mark[0]

    def learn(self, entry: Entry, sequence: int, limits: RateLimits, now_s: float) -> None:
        """Takes over what an answer told. ``sequence``: its request's place in the order of leaving."""
        is_newest = sequence >= self._told_by
        if is_newest:
            self._told_by = sequence
            told = (limits.requests_limit or self._told[0], limits.tokens_limit or self._told[1])
            if told != self._told:
                self._told = told
                self._apply_limits()
        if self._users[0] is None and limits.requests_limit and limits.requests_remaining is not None:
            used = self._share(limits.requests_limit) - limits.requests_remaining
            self.requests.learn(used, entry.requests_mark, now_s, is_newest=is_newest)
        if self._users[1] is None and limits.tokens_limit and limits.tokens_remaining is not None:
            used = self._share(limits.tokens_limit) - limits.tokens_remaining
            self.tokens.learn(used, entry.tokens_mark, now_s, is_newest=is_newest)

    def _share(self, per_minute: float) -> float:
        """What one window holds."""
        return max(1, math.floor(per_minute * self.window_s / 60.0))


def explains_refusal(limits: RateLimits | None, tokens: int) -> bool:
    """The quota that the refusal tells of is used up, so there is no other, hidden one to infer."""
    if limits is None:
        return False
    if limits.requests_remaining is not None and limits.requests_remaining < 1:
        return True
    return limits.tokens_remaining is not None and limits.tokens_remaining < max(1, tokens)


def _source(user: float | None, told: float | None) -> LimitSource | None:
    if user is not None:
        return "user"
    return None if told is None else "server"
