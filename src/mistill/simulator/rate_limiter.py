"""The quotas of a server's (key, model) pairs, and the headers that show them."""

from __future__ import annotations

import math
from collections.abc import Callable

from mistill.simulator import refusals
from mistill.simulator.quota import Limits, Quota
from mistill.simulator.refusals import Headers
from mistill.simulator.settings import Settings


class RateLimiter:
    """Admits or refuses requests. ``clock`` gives seconds, from anywhere, never back."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._quotas: dict[tuple[int, str], Quota] = {}

    def admit(self, key: int, model: str, settings: Settings) -> None:
        """Counts the request.

        Raises:
            RefusedRequest: 429 with code 1300: the quota is used up.
        """
        limits = _limits(settings)
        if limits is None:
            return
        quota = self._quotas.setdefault((key, model), Quota())
        now_s = self._clock()
        wait_s = quota.wait_s(now_s, limits)
        if wait_s == 0 or settings.quota_counts_refusals:
            quota.count_request(now_s)
        if wait_s != 0:
            headers = _retry_after(wait_s, settings) | self.headers(key, model, settings, 0)
            raise refusals.rate_limited(headers)

    def settle(self, key: int, model: str, settings: Settings, tokens: int) -> Headers:
        """Counts the tokens of an answer; the headers that it carries."""
        if _limits(settings) is None:
            return {}
        self._quotas.setdefault((key, model), Quota()).count_tokens(self._clock(), tokens)
        return self.headers(key, model, settings, tokens)

    def headers(self, key: int, model: str, settings: Settings, query_cost: int) -> Headers:
        """What is left of the quota, as the settings want it shown; ``query_cost``: tokens that this request took."""
        limits = _limits(settings)
        quota = self._quotas.get((key, model))
        if limits is None or quota is None or settings.quota_headers == "none":
            return {}
        if settings.quota_headers == "older":
            return _older_headers(quota, limits, self._clock(), query_cost)
        return _headers_of_2026(quota, limits, self._clock(), query_cost)


def _limits(settings: Settings) -> Limits | None:
    if settings.requests_per_minute is None and settings.tokens_per_minute is None:
        return None
    return Limits(settings.requests_per_minute, settings.tokens_per_minute, settings.quota_window_s)


def _retry_after(wait_s: float | None, settings: Settings) -> Headers:
    if wait_s is None or settings.retry_after == "none":
        return {}
    if settings.retry_after == "milliseconds":
        return {"retry-after-ms": str(math.ceil(wait_s * 1000))}
    return {"Retry-After": str(max(1, math.ceil(wait_s)))}


def _headers_of_2026(quota: Quota, limits: Limits, now_s: float, query_cost: int) -> Headers:
    headers = {"x-ratelimit-tokens-query-cost": str(query_cost)}
    if limits.requests_per_minute is not None:
        headers["x-ratelimit-limit-req-minute"] = str(limits.requests_per_minute)
        headers["x-ratelimit-remaining-req-minute"] = str(quota.remaining_requests(now_s, limits))
    if limits.tokens_per_minute is not None:
        headers["x-ratelimit-limit-tokens-minute"] = str(limits.tokens_per_minute)
        headers["x-ratelimit-remaining-tokens-minute"] = str(quota.remaining_tokens(now_s, limits))
    return headers


def _older_headers(quota: Quota, limits: Limits, now_s: float, query_cost: int) -> Headers:
    """The ``ratelimitbysize`` names count tokens only, as they did; a month holds 43,200 minutes."""
    headers = {"ratelimitbysize-query-cost": str(query_cost)}
    if limits.tokens_per_minute is None:
        return headers
    limit = str(limits.tokens_per_minute)
    remaining = str(quota.remaining_tokens(now_s, limits))
    month = str(limits.tokens_per_minute * 43_200)
    return headers | {
        "ratelimitbysize-limit": limit,
        "ratelimitbysize-remaining": remaining,
        "ratelimitbysize-reset": str(math.ceil(limits.window_s)),
        "x-ratelimitbysize-limit-minute": limit,
        "x-ratelimitbysize-remaining-minute": remaining,
        "x-ratelimitbysize-limit-month": month,
        "x-ratelimitbysize-remaining-month": month,
    }
