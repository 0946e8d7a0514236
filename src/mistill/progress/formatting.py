"""Numbers in words for people."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_SHARE_SHOWN = 0.01

_WAITS = {
    "quota_requests": "quota of requests",
    "quota_tokens": "quota of tokens",
    "cool_down": "cool-down after refusals",
    "outage": "failing server",
    "backoff": "pauses before retries",
    "concurrency": "server (all slots in use)",
    "adaptive_limit": "finding the server's pace",
    "budget": "room in the budget",
    "jobs": "Mistral's batch jobs",
    "paused": "a pause",
    "server": "server",
    "idle": "this machine",
}


def seconds(value: float) -> str:
    """``20 ms``, ``0.4 s``, ``12 s``, ``3 min 5 s``, ``2 h 10 min``."""
    if 0 < value < 0.095:
        return f"{max(1, round(value * 1000))} ms"
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60} min"


def latency(value: float) -> str:
    """How long an answer took, to three digits: ``87.4 ms``, ``312 ms``, ``1.24 s``, ``12.4 s``, ``3 min 5 s``."""
    if value >= 100:
        return seconds(value)
    if value <= 0:
        return "0 s"
    value = float(f"{value:.3g}")  # 999.9 ms are a second
    decimals = 2 - math.floor(math.log10(value))
    return f"{1000 * value:.{max(0, decimals - 3)}f} ms" if value < 1 else f"{value:.{max(0, decimals)}f} s"


def moment(unix_s: float | None, *, to_seconds: bool = False) -> str:
    """``2026-11-26 20:01 UTC``: of one zone, whoever reads it where."""
    if unix_s is None or not math.isfinite(unix_s):
        return "not known"
    try:
        written = datetime.fromtimestamp(unix_s, UTC).isoformat(" ", "seconds" if to_seconds else "minutes")
    except (ValueError, OverflowError, OSError):
        return "not known"
    return f"{written.removesuffix('+00:00')} UTC"


def age(value: float) -> str:
    """How long ago something was, in seconds → ``40 s``, ``12 min``, ``2 h 10 min``, ``3 d 4 h``."""
    whole = max(0, int(value))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    larger, unit, smaller, rest = (86400, "d", 3600, "h") if whole >= 86400 else (3600, "h", 60, "min")
    more = whole % larger // smaller
    return f"{whole // larger:,} {unit}" + (f" {more} {rest}" if more else "")


def jobs_at_server(jobs: int, done: int, requests: int, *, unsent: int, oldest_s: float | None = None) -> str:
    """``3 jobs at Mistral: 45,210 of 100,000 requests done, the oldest 12 min; 2 not sent yet``."""
    if not jobs:
        return f"{count(unsent, 'job')} not sent yet"
    oldest = "" if oldest_s is None else f", the oldest {age(oldest_s)}"
    more = f"; {unsent:,} not sent yet" if unsent else ""
    return f"{count(jobs, 'job')} at Mistral: {done:,} of {count(requests, 'request')} done{oldest}{more}"


def money(dollars: float | None) -> str:
    """``$12.34``; small sums keep two digits that count: ``$0.0042``."""
    if dollars is None:
        return "no known price"
    if dollars >= 1 or dollars <= 0:
        return f"${dollars:,.2f}"
    return f"${dollars:.{min(9, 1 - math.floor(math.log10(dollars)))}f}"


def count(number: int, one: str, several: str | None = None) -> str:
    """``1 row``, ``2,000 rows``."""
    return f"{number:,} {one if number == 1 else several or one + 's'}"


def share(part: float, whole: float) -> str:
    """``90%``. What is not all of it is not told as all, nor what is more than nothing as nothing."""
    shown = f"{part / whole:.0%}"
    return {"100%": "over 99%", "0%": "under 1%"}.get(shown, shown) if 0 < part < whole else shown


def tokens_in(tokens: int, cached: int, saved: float | None = None, *, is_short: bool = False) -> str:
    """``3,300 tokens in``, ``3,300 tokens in (90% cached, $0.0039 less)``.

    Args:
        saved: US dollars that the cached ones would have cost more.
        is_short: ``12.3M in`` in place of ``12,345,678 tokens in``.
    """
    told = f"{rounded(tokens)} in" if is_short else f"{tokens:,} tokens in"
    if not cached:
        return told
    less = f", {money(saved)} less" if saved else ""
    return f"{told} ({share(cached, tokens)} cached{less})"


def rounded(number: int) -> str:
    """``940``, ``12.3k``, ``4.6M``, ``2.0G``."""
    for size, unit in ((1_000_000_000, "G"), (1_000_000, "M"), (1_000, "k")):
        if number >= 0.9995 * size:
            shown = number / size
            return f"{shown:.1f}{unit}" if shown < 99.95 else f"{shown:.0f}{unit}"
    return str(number)


def wait(cause: str) -> str:
    """What is waited for."""
    return _WAITS.get(cause, cause)


def time_split(spent: Mapping[Any, float]) -> str:
    """``62% quota of requests, 30% server``: where the time went, most first."""
    total = sum(spent.values())
    if total <= 0:
        return ""
    shares = sorted(((value / total, str(cause)) for cause, value in spent.items()), reverse=True)
    return ", ".join(f"{share:.0%} {wait(cause)}" for share, cause in shares if share >= _SHARE_SHOWN)
