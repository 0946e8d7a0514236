"""When quota allows the next request: limits set by the user, reported in headers, or inferred from refusals."""

from __future__ import annotations

import math
from typing import Literal

from msgspec import Struct

from mistill.delivery.limits_file import LearnedLimits
from mistill.delivery.quota_estimate import QuotaEstimate
from mistill.delivery.sliding_window import NO_BUCKET, NO_MARK, Bucket, Cells, Mark, Room, SlidingWindow
from mistill.delivery.tuning import Tuning
from mistill.errors import RateLimits

QuotaCause = Literal["quota_requests", "quota_tokens"]
LimitSource = Literal["user", "server", "inferred"]


class Share(Struct, frozen=True):
    """What is known of the quotas by one of several processes that share them.

    Attributes:
        processes: so many. ``requests_per_minute``, ``tokens_per_minute``: of all together; ``None``: not known.
        requests_source, tokens_source: who set those.
        requests_room, tokens_room: what was free of them for this process.
    """

    processes: int
    requests_per_minute: float | None = None
    requests_source: LimitSource | None = None
    tokens_per_minute: float | None = None
    tokens_source: LimitSource | None = None
    requests_room: Room | None = None
    tokens_room: Room | None = None


class QuotaUse(Struct, eq=False, gc=False, kw_only=True):
    """What one request holds of the quotas, from when it is sent until it is settled.

    Attributes:
        tokens: as estimated.
        sent_s: when it was sent, by the governor's clock.
        bucket: where it counts as a request.
        requests_mark, tokens_mark: both windows when it was sent.
        exceeds_estimate: it was sent although the estimated quota is used up, to find out whether that is right.
    """

    tokens: int
    sent_s: float = 0.0
    bucket: Bucket = NO_BUCKET
    requests_mark: Mark = NO_MARK
    tokens_mark: Mark = NO_MARK
    exceeds_estimate: bool = False


class Quotas:
    """The request quota and the token quota of one (endpoint, key, model).

    A request counts from when it is sent; its tokens are reserved as estimated until it is answered, then counted as
    they were from that moment, as the server counts them.

    Attributes:
        window_s: the window over which the server counts.
        requests, tokens: the use of each quota, and its limit.
        estimate: of the request quota, where only refusals show one.
        cause: the quota that held back the last request.
        is_hearsay: the server's limits are what it told another process; its next answer confirms them or does not.
    """

    def __init__(self, window_s: float, tuning: Tuning) -> None:
        self.window_s = window_s
        self.requests = SlidingWindow(window_s, tuning)
        self.tokens = SlidingWindow(window_s, tuning)
        self.estimate = QuotaEstimate(window_s, tuning)
        self.cause: QuotaCause = "quota_requests"
        self._tuning = tuning
        # A minute's limits, as the user set them and as headers last reported them.
        self._user_requests: float | None = None
        self._user_tokens: float | None = None
        # Of whom these are: the user's, or those of which this process has a share.
        self._user_sources: tuple[LimitSource | None, LimitSource | None] = ("user", "user")
        self._server_requests: float | None = None
        self._server_tokens: float | None = None
        self._reported_by = 0  # the sequence of the request whose answer reported them
        self.is_hearsay = False
        self._in_flight = 0
        self._burst = tuning.burst_requests
        self._spacing_s = 0.0
        self._next_s = -math.inf
        self._last_s = -math.inf
        self._exceeds_estimate = False

    # --- limits -----------------------------------------------------------------------------------------------

    def set_by_user(self, requests_per_minute: float | None, tokens_per_minute: float | None) -> None:
        """The user's own limits, in place of those that headers report; None: no own limit."""
        self._user_requests, self._user_tokens = requests_per_minute, tokens_per_minute
        self._user_sources = ("user", "user")
        self._apply_limits()

    def take_share(self, share: Share, age_s: float, now_s: float) -> None:
        """What it may use of what was known ``age_s`` seconds ago, in place of what headers report: they report all."""
        of = share.processes
        requests, tokens = share.requests_per_minute, share.tokens_per_minute
        self.set_by_user(None if requests is None else requests / of, None if tokens is None else tokens / of)
        self._user_sources = (share.requests_source, share.tokens_source)
        for window, room in ((self.requests, share.requests_room), (self.tokens, share.tokens_room)):
            if room is not None and window.limit is not None:
                window.assume(max(0, int(window.limit - room.free)), age_s, now_s)

    def take_up(self, learned: LearnedLimits, age_s: float, now_s: float) -> None:
        """What another process had learned ``age_s`` seconds ago. Answers correct it as they come."""
        if learned.source == "inferred" and learned.requests_per_minute is not None:
            limit = int(self._of_window(learned.requests_per_minute))
            self.estimate.take_up(limit, is_rate=learned.by_second, now_s=now_s)
        elif learned.source == "server":
            self._server_requests, self._server_tokens = (
                learned.requests_per_minute,
                learned.tokens_per_minute,
            )
            self.is_hearsay = True
        self._apply_limits()
        self.requests.assume(learned.used_requests, age_s, now_s)
        self.tokens.assume(learned.used_tokens, age_s, now_s)

    def take_up_counts(
        self, requests: Cells, tokens: Cells, reserved: int, age_s: float, now_s: float
    ) -> None:
        """What another process had in its windows ``age_s`` seconds ago, and the tokens of what it had in flight."""
        self.requests.take_up(requests, age_s, now_s)
        self.tokens.take_up((*tokens, (0, reserved)) if reserved else tokens, age_s, now_s)

    def confirm(self, limits: RateLimits | None) -> None:
        """An answer came: limits that only another process had heard of hold if it tells of any."""
        self.is_hearsay = False
        if limits is None or not limits.requests_limit:
            self._server_requests = None
        if limits is None or not limits.tokens_limit:
            self._server_tokens = None
        self._apply_limits()

    @property
    def is_known(self) -> bool:
        """The request quota is known, from the user or the server: no need to find it by trying."""
        return self._user_requests is not None or self._server_requests is not None

    @property
    def told(self) -> tuple[float | None, float | None]:
        """Requests and tokens a minute, as the server has told them."""
        return self._server_requests, self._server_tokens

    @property
    def has_estimate(self) -> bool:
        """Refusals have shown a quota before."""
        return self.estimate.limit is not None

    @property
    def requests_source(self) -> LimitSource | None:
        """Who set the limit of requests that holds."""
        if self.estimate.limit is not None and self.requests.limit == self.estimate.limit:
            return "inferred"
        return _source(self._user_requests, self._server_requests, self._user_sources[0])

    @property
    def tokens_source(self) -> LimitSource | None:
        """Who set the limit of tokens that holds."""
        return _source(self._user_tokens, self._server_tokens, self._user_sources[1])

    def _apply_limits(self) -> None:
        requests = self._server_requests if self._user_requests is None else self._user_requests
        tokens = self._server_tokens if self._user_tokens is None else self._user_tokens
        self.tokens.limit = None if tokens is None else self._of_window(tokens)
        limit = None if requests is None else self._of_window(requests)
        estimated = self.estimate.limit
        if estimated is not None:
            if limit is None or estimated < limit:
                limit = estimated
            else:  # it has been found too low, up to the limit that is known
                self.estimate = QuotaEstimate(self.window_s, self._tuning)
        self.requests.limit = limit
        tuning = self._tuning
        if self.estimate.limit is not None and self.estimate.is_rate:
            self._burst, share = tuning.rate_burst_requests, 1.0
        else:
            self._burst, share = tuning.burst_requests, tuning.burst_window_share
        self._spacing_s = 0.0 if limit is None else share * self.window_s / limit
        self._next_s = min(self._next_s, self._last_s + self._spacing_s)
        self._exceeds_estimate = False

    # --- the way of one request -------------------------------------------------------------------------------

    def blocked_until_s(self, tokens: int, now_s: float) -> float:
        """0 if a request of ``tokens`` may leave now; else when to look again, and ``cause`` says why.

        Infinite: not before an answer comes.
        """
        requests = self.requests
        if requests.limit is not None:
            spaced_s = self._next_s - self._burst * self._spacing_s
            self._exceeds_estimate = not requests.has_room(1, now_s)
            until_s = requests.next_change_s(now_s) if self._exceeds_estimate else spaced_s
            if until_s > now_s:
                probe_at_s = self.estimate.probe_at_s
                if now_s < probe_at_s:
                    self.cause = "quota_requests"
                    return min(until_s, probe_at_s)
                self._exceeds_estimate = True
        limit = self.tokens.limit
        # A request above the whole quota leaves when nothing else is in it, or it would wait for ever.
        if limit is not None and not self.tokens.has_room(min(tokens, limit), now_s):
            self.cause = "quota_tokens"
            return self.tokens.next_change_s(now_s)
        return 0.0

    def sent(self, use: QuotaUse, now_s: float) -> None:
        """The request is sent now; `blocked_until_s` has just allowed it."""
        requests, tokens = self.requests, self.tokens
        use.sent_s = now_s
        use.bucket = requests.add(1, now_s)
        use.requests_mark = (requests.entered, requests.expired, self._in_flight)
        use.tokens_mark = (tokens.entered, tokens.expired, 0)
        self._in_flight += 1
        tokens.reserved += use.tokens
        use.exceeds_estimate = self._exceeds_estimate
        if self._exceeds_estimate:
            self.estimate.probe_sent()
        if self._spacing_s:
            self._next_s = max(self._next_s, now_s) + self._spacing_s
        self._last_s = now_s

    def ended(self, use: QuotaUse, now_s: float, *, tokens: int, is_answer: bool) -> None:
        """The request cost ``tokens``. ``is_answer``: an answer, so it was accepted; else it failed on the way."""
        self._in_flight -= 1
        self.tokens.reserved -= use.tokens
        if tokens:
            self.tokens.add(tokens, now_s)
        if use.exceeds_estimate:
            if is_answer:
                self.estimate.probe_accepted(now_s)
                self._apply_limits()
            else:
                self.estimate.probe_lost(now_s)

    def cancelled(self, use: QuotaUse, now_s: float) -> None:
        """The request never reached the server, or the server has not counted it."""
        self._take_back(use)
        if use.exceeds_estimate:
            self.estimate.probe_lost(now_s)

    def refused(self, use: QuotaUse, now_s: float) -> None:
        """The server refused the request for lack of quota."""
        self._take_back(use)
        if use.exceeds_estimate:
            self.estimate.probe_refused(now_s)

    def infer(self, now_s: float, *, is_straggler: bool) -> None:
        """A refusal that no header explains: what was accepted so far is what the window holds."""
        self.estimate.refused(self.requests.used, now_s, is_straggler=is_straggler)
        self._apply_limits()

    def sent_since(self, use: QuotaUse) -> int:
        """How many requests have been sent after this one."""
        entered_then, _, _ = use.requests_mark
        return self.requests.entered - entered_then

    def learn(
        self, use: QuotaUse, sequence: int, limits: RateLimits, now_s: float, *, is_refusal: bool = False
    ) -> None:
        """Takes over what an answer reported. ``sequence``: its request's place in the order of sending."""
        is_late = is_refusal and now_s - use.sent_s > self._tuning.late_refusal_s  # refusals come at once
        is_newest = sequence >= self._reported_by
        if is_newest:
            self._reported_by = sequence
            requests = limits.requests_limit or self._server_requests
            tokens = limits.tokens_limit or self._server_tokens
            if requests != self._server_requests or tokens != self._server_tokens:
                self._server_requests, self._server_tokens = requests, tokens
                self._apply_limits()
        if self._user_requests is None and limits.requests_limit and limits.requests_remaining is not None:
            used = self._of_window(limits.requests_limit) - limits.requests_remaining
            self.requests.learn(used, use.requests_mark, now_s, is_newest=is_newest, is_late=is_late)
        if self._user_tokens is None and limits.tokens_limit and limits.tokens_remaining is not None:
            used = self._of_window(limits.tokens_limit) - limits.tokens_remaining
            self.tokens.learn(used, use.tokens_mark, now_s, is_newest=is_newest, is_late=is_late)

    def _take_back(self, use: QuotaUse) -> None:
        self._in_flight -= 1
        self.tokens.reserved -= use.tokens
        self.requests.take_back(use.bucket, 1)

    def _of_window(self, per_minute: float) -> float:
        """What one window holds."""
        return max(1, math.floor(per_minute * self.window_s / 60.0))


def is_reported(limits: RateLimits | None) -> bool:
    """The answer says how much is left of a quota."""
    return limits is not None and not (limits.requests_remaining is None and limits.tokens_remaining is None)


def explains_refusal(limits: RateLimits | None, tokens: int) -> bool:
    """The quota that the refusal reports is used up, so there is no other, hidden one to infer."""
    if limits is None:
        return False
    if limits.requests_remaining is not None and limits.requests_remaining < 1:
        return True
    return limits.tokens_remaining is not None and limits.tokens_remaining < max(1, tokens)


def _source(user: float | None, server: float | None, of_user: LimitSource | None) -> LimitSource | None:
    if user is not None:
        return of_user
    return None if server is None else "server"
