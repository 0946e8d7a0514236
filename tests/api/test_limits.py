from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.api.limits import parse_limits
from mistill.errors import RateLimits

NEWEST = {
    "x-ratelimit-limit-req-minute": "60",
    "x-ratelimit-remaining-req-minute": "59",
    "x-ratelimit-limit-tokens-minute": "500000",
    "x-ratelimit-remaining-tokens-minute": "499990",
    "x-ratelimit-tokens-query-cost": "10",
}


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (NEWEST, RateLimits(60, 59, 500_000, 499_990, 10)),
        (
            {"x-ratelimitbysize-limit-minute": "500", "x-ratelimitbysize-remaining-minute": "400"},
            RateLimits(tokens_limit=500, tokens_remaining=400),
        ),
        (
            {
                "ratelimitbysize-limit": "500",
                "ratelimitbysize-remaining": "400",
                "ratelimitbysize-query-cost": "32",
            },
            RateLimits(tokens_limit=500, tokens_remaining=400, query_cost=32),
        ),
        (
            {
                "x-ratelimit-limit-requests": "100",
                "x-ratelimit-remaining-requests": "99",
                "x-ratelimit-limit-tokens": "1000",
                "x-ratelimit-remaining-tokens": "900",
            },
            RateLimits(100, 99, 1000, 900),
        ),
        (NEWEST | {"ratelimitbysize-limit": "7"}, RateLimits(60, 59, 500_000, 499_990, 10)),
        ({"x-ratelimit-limit-req-minute": "60"}, RateLimits(requests_limit=60)),
        ({"x-ratelimit-limit-req-minute": "60.0"}, RateLimits(requests_limit=60)),
        ({"retry-after": "3"}, RateLimits(retry_after_s=3)),
        ({"retry-after-ms": "250", "retry-after": "3"}, RateLimits(retry_after_s=0.25)),
        ({"retry-after": "soon"}, None),
        ({"x-ratelimit-limit-req-minute": "-1"}, None),
        ({"x-ratelimit-limit-req-minute": "many"}, None),
        ({}, None),
    ],
)
def test_every_generation_of_names(headers: dict[str, str], expected: RateLimits | None) -> None:
    assert parse_limits(headers.get) == expected


def test_retry_after_as_a_date_counts_from_the_servers_own_clock() -> None:
    server_now = datetime(2020, 2, 29, 12, tzinfo=UTC)  # far from ours
    headers = {
        "date": format_datetime(server_now, usegmt=True),
        "retry-after": format_datetime(server_now + timedelta(seconds=90), usegmt=True),
    }
    assert parse_limits(headers.get) == RateLimits(retry_after_s=90)


def test_retry_after_in_the_past_is_now() -> None:
    headers = {"retry-after": "Sat, 29 Feb 2020 12:00:00 GMT"}
    assert parse_limits(headers.get) == RateLimits(retry_after_s=0)


@pytest.mark.parametrize("name", ["x-ratelimit-limit-req-minute", "x-ratelimit-limit-tokens-minute"])
def test_a_limit_of_zero_is_told_apart(name: str) -> None:
    none_left = NEWEST | {"x-ratelimit-remaining-req-minute": "0"}
    limits = parse_limits(none_left.get)
    forbidden = parse_limits((NEWEST | {name: "0"}).get)
    assert limits is not None
    assert not limits.limit_is_zero
    assert forbidden is not None
    assert forbidden.limit_is_zero


@given(st.dictionaries(st.sampled_from([*NEWEST, "retry-after", "retry-after-ms", "date"]), st.text()))
def test_nothing_that_a_server_sends_breaks_it(headers: dict[str, str]) -> None:
    limits = parse_limits(headers.get)
    assert limits is None or limits != RateLimits()
