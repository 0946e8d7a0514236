"""What an answer's headers tell of the quota: parsing only, no policy.

Header names: Mistral's of 2026 (``x-ratelimit-limit-req-minute`` …), its older ones (``x-ratelimitbysize-*-minute``,
``ratelimitbysize-*``: "size" is tokens), and those of OpenAI-like gateways (``x-ratelimit-limit-requests`` …).
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct


class RateLimits(Struct, frozen=True):
    """Requests and tokens a minute as the server told them with one answer; None where it told nothing.

    ``query_cost`` is the number of tokens that the server counted for this request.
    """

    requests_limit: int | None = None
    requests_remaining: int | None = None
    tokens_limit: int | None = None
    tokens_remaining: int | None = None
    query_cost: int | None = None

    @property
    def is_zero(self) -> bool:
        """A limit of 0: this key may never use this model, so waiting cannot help."""
        return self.requests_limit == 0 or self.tokens_limit == 0


class Headers(Protocol):
    """Case-insensitive header lookup; keys are asked for in lower case."""

    def get(self, key: str, /) -> str | None: ...


# For each field, the names in order of preference: the newest first, since a server may send several generations.
_NAMES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("requests_limit", ("x-ratelimit-limit-req-minute", "x-ratelimit-limit-requests")),
    ("requests_remaining", ("x-ratelimit-remaining-req-minute", "x-ratelimit-remaining-requests")),
    (
        "tokens_limit",
        (
            "x-ratelimit-limit-tokens-minute",
            "x-ratelimitbysize-limit-minute",
            "ratelimitbysize-limit",
            "x-ratelimit-limit-tokens",
        ),
    ),
    (
        "tokens_remaining",
        (
            "x-ratelimit-remaining-tokens-minute",
            "x-ratelimitbysize-remaining-minute",
            "ratelimitbysize-remaining",
            "x-ratelimit-remaining-tokens",
        ),
    ),
    ("query_cost", ("x-ratelimit-tokens-query-cost", "ratelimitbysize-query-cost")),
)


def parse_rate_limits(headers: Headers) -> RateLimits | None:
    """The quota that ``headers`` tell, or None if they tell none. A value that is no number counts as absent."""
    found: dict[str, int] = {}
    for field, names in _NAMES:
        for name in names:
            value = headers.get(name)
            if value is not None and (number := _whole_number(value)) is not None:
                found[field] = number
                break
    return RateLimits(**found) if found else None


def _whole_number(text: str) -> int | None:
    try:
        number = float(text)
    except ValueError:
        return None
    if not 0 <= number < 1e15:  # also refuses nan: a comparison with it is False
        return None
    return int(number)
