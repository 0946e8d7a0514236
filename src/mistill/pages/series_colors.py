"""The colours of series in charts, by what they show: the same in each chart of a page, and in all pages.

Colours are variables of ``colors.css``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

ANSWERED: Final = "--c3"
REFUSED: Final = "--c2"
FAILED: Final = "--c7"
TO_GO: Final = "--c6"
REQUESTS: Final = "--c1"
TOKENS: Final = "--c4"
QUOTA: Final = "--ink"
LIVE: Final = "--c1"
IN_JOBS: Final = "--c9"
OTHERWISE: Final = "--c12"

WAITS: Final[Mapping[str, str]] = {
    "server": "--c11",
    "concurrency": ANSWERED,
    "adaptive_limit": "--c5",
    "quota_requests": REQUESTS,
    "quota_tokens": TOKENS,
    "cool_down": REFUSED,
    "outage": FAILED,
    "backoff": "--c13",
    "budget": "--c8",
    "jobs": IN_JOBS,
    "paused": "--c10",
    "idle": TO_GO,
}
"""What is waited for, in the order in which a chart has it."""


def in_order(causes: Iterable[str]) -> list[str]:
    """What is waited for, as every chart has it; what this version does not know of, at the end."""
    places = {cause: place for place, cause in enumerate(WAITS)}
    return sorted(causes, key=lambda cause: (places.get(cause, len(places)), cause))
