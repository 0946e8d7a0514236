"""The quota and the wait in an answer's headers: parsing only, no policy.

Header names: Mistral's of 2026 (``x-ratelimit-limit-req-minute`` …), its older ones
(``x-ratelimitbysize-*-minute``, ``ratelimitbysize-*``: "size" is tokens), and those of OpenAI-like gateways
(``x-ratelimit-limit-requests`` …).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from msgspec import Struct

from mistill.errors import RateLimits

GetHeader = Callable[[str], str | None]
"""Case-insensitive lookup of one header; it is asked for names in lower case."""


class _Generation(Struct, frozen=True):
    """The names that one generation of servers uses. Two lookups at most tell whether it is this one."""

    tokens_limit: str
    tokens_remaining: str
    requests_limit: str | None = None
    requests_remaining: str | None = None
    query_cost: str | None = None


_GENERATIONS = (
    _Generation(
        requests_limit="x-ratelimit-limit-req-minute",
        requests_remaining="x-ratelimit-remaining-req-minute",
        tokens_limit="x-ratelimit-limit-tokens-minute",
        tokens_remaining="x-ratelimit-remaining-tokens-minute",
        query_cost="x-ratelimit-tokens-query-cost",
    ),
    _Generation(
        tokens_limit="x-ratelimitbysize-limit-minute",
        tokens_remaining="x-ratelimitbysize-remaining-minute",
        query_cost="ratelimitbysize-query-cost",
    ),
    _Generation(
        tokens_limit="ratelimitbysize-limit",
        tokens_remaining="ratelimitbysize-remaining",
        query_cost="ratelimitbysize-query-cost",
    ),
    _Generation(
        requests_limit="x-ratelimit-limit-requests",
        requests_remaining="x-ratelimit-remaining-requests",
        tokens_limit="x-ratelimit-limit-tokens",
        tokens_remaining="x-ratelimit-remaining-tokens",
    ),
)


def parse_limits(get_header: GetHeader) -> RateLimits | None:
    """The quota and the wait in the headers, or None if they have neither.

    A value that is not a number of its kind counts as absent. The newest generation of names that is present
    wins.
    """
    retry_after_s = _retry_after_s(get_header)
    for names in _GENERATIONS:
        requests_limit = _number(get_header, names.requests_limit)
        tokens_limit = _number(get_header, names.tokens_limit)
        if requests_limit is None and tokens_limit is None:
            continue
        return RateLimits(
            requests_limit,
            _number(get_header, names.requests_remaining),
            tokens_limit,
            _number(get_header, names.tokens_remaining),
            _number(get_header, names.query_cost),
            retry_after_s,
        )
    return None if retry_after_s is None else RateLimits(retry_after_s=retry_after_s)


def _number(get_header: GetHeader, name: str | None) -> int | None:
    text = get_header(name) if name is not None else None
    number = None if text is None else _decimal(text)
    return None if number is None else int(number)


def _decimal(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    # Also refuses nan, since every comparison with it is False.
    return number if 0 <= number < 1e15 else None


def _retry_after_s(get_header: GetHeader) -> float | None:
    """``retry-after-ms``, else ``Retry-After`` as seconds or as an HTTP date (RFC 9110, section 10.2.3)."""
    milliseconds = get_header("retry-after-ms")
    if milliseconds is not None and (number := _decimal(milliseconds)) is not None:
        return number / 1000
    text = get_header("retry-after")
    if text is None:
        return None
    seconds = _decimal(text)
    if seconds is not None:
        return seconds
    moment = _http_date(text)
    if moment is None:
        return None
    # The server's own clock, where it gives it: ours may be off by more than the wait.
    now = _http_date(get_header("date") or "") or datetime.now(UTC)
    return max(0.0, (moment - now).total_seconds())


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (
        ValueError,
        OverflowError,
        TypeError,
        IndexError,
    ):  # what email.utils and datetime raise for odd dates
        return None
