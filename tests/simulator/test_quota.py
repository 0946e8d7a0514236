"""The quota arithmetic against a model that remembers everything and counts it again each time."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.simulator.quota import Limits, Quota

# Eighths of a second are exact in binary, so that the model and the code must agree to the last bit.
eighths = st.integers(0, 8 * 90).map(lambda number: number / 8)


@dataclass
class Everything:
    """The brute-force model: all entries for ever."""

    window_s: float
    requests: list[tuple[float, int]] = field(default_factory=list)
    tokens: list[tuple[float, int]] = field(default_factory=list)

    def used(self, entries: list[tuple[float, int]], now_s: float) -> int:
        return sum(cost for entered_s, cost in entries if now_s < entered_s + self.window_s)

    def admits(self, now_s: float, limits: Limits) -> bool:
        has_requests = limits.requests is None or self.used(self.requests, now_s) < limits.requests
        has_tokens = limits.tokens is None or self.used(self.tokens, now_s) < limits.tokens
        return has_requests and has_tokens

    def first_room(self, now_s: float, limits: Limits) -> float | None:
        """Room can appear only now or when an entry ends, so these are all the moments to try."""
        ends = [entered_s + self.window_s for entered_s, _ in self.requests + self.tokens]
        moments = sorted({now_s, *(end for end in ends if end > now_s)})
        return next((moment for moment in moments if self.admits(moment, limits)), None)


limit = st.none() | st.integers(0, 12)


@given(
    window_s=st.sampled_from([0.5, 1.0, 60.0]),
    steps=st.lists(st.tuples(eighths, limit, limit, st.integers(0, 9), st.booleans()), max_size=40),
)
def test_quota_agrees_with_brute_force(
    window_s: float, steps: list[tuple[float, int | None, int | None, int, bool]]
) -> None:
    quota, everything, now_s = Quota(), Everything(window_s), 0.0
    for pause_s, requests_limit, tokens_limit, tokens, counts_refusals in steps:
        now_s += pause_s * window_s / 60
        limits = Limits(requests_limit, tokens_limit, window_s)
        first_room = everything.first_room(now_s, limits)

        wait_s = quota.wait_s(now_s, limits)

        assert wait_s == (None if first_room is None else first_room - now_s)
        if limits.requests is not None:
            left = max(0, limits.requests - everything.used(everything.requests, now_s))
            assert quota.remaining_requests(now_s, limits) == left
        if limits.tokens is not None:
            left = max(0, limits.tokens - everything.used(everything.tokens, now_s))
            assert quota.remaining_tokens(now_s, limits) == left
        if wait_s == 0 or counts_refusals:
            quota.count_request(now_s)
            everything.requests.append((now_s, 1))
        if wait_s == 0:
            quota.count_tokens(now_s, tokens)
            everything.tokens.append((now_s, tokens))


@given(st.lists(eighths, min_size=1, max_size=80), st.integers(1, 10))
def test_no_window_ever_holds_more_requests_than_the_limit(pauses_s: list[float], per_minute: int) -> None:
    quota, limits = Quota(), Limits(per_minute, None)
    now_s, admitted = 0.0, []
    for pause_s in pauses_s:
        now_s += pause_s / 10
        if quota.wait_s(now_s, limits) == 0:
            quota.count_request(now_s)
            admitted.append(now_s)
    for start_s in admitted:
        assert sum(1 for moment in admitted if start_s <= moment < start_s + 60) <= per_minute


@pytest.mark.parametrize(
    ("per_minute", "window_s", "held"),
    [(600, 60, 600), (600, 1, 10), (60, 0.5, 1), (4, 1, 1), (0, 1, 0), (None, 1, None)],
)
def test_a_shorter_window_holds_its_share_of_the_minute(
    per_minute: int | None, window_s: float, held: int | None
) -> None:
    assert Limits(per_minute, per_minute, window_s).requests == held
    assert Limits(per_minute, per_minute, window_s).tokens == held


def test_a_limit_of_zero_never_has_room() -> None:
    assert Quota().wait_s(0.0, Limits(0, None)) is None
    assert Quota().wait_s(0.0, Limits(None, 0)) is None
