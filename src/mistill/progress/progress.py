"""How far work is while it goes on: counted as rows end, and read by whoever shows it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from mistill.api.usage import Usage


class Answer(Protocol):
    """What is counted of an answer."""

    @property
    def latency_s(self) -> float: ...


class Ended(Protocol):
    """What is counted of a row that ended."""

    @property
    def completions(self) -> Sequence[Answer | None]: ...
    @property
    def error(self) -> Exception | None: ...
    @property
    def usage(self) -> Usage: ...
    @property
    def attempts(self) -> int: ...
    @property
    def cost(self) -> float | None: ...


class Progress(Struct):
    """Counts of rows while they are worked on; one object, updated in place. Times in seconds.

    Attributes:
        total: rows of the input, where that is known.
        known: rows that were done before this start, and cost nothing now.
        completions, failures, held: rows that ended in this start; held ones may have been billed already and wait for
            the user's word.
        attempts: HTTP tries of this start.
        usage: tokens of this start. ``cost``: US dollars of this start, ``None`` while no price is known.
        busy_s: what all requests took together. ``requests``: those of rows that ended.
        cut_off_at_s: it was stopped, and what is in flight is waited for until then (a monotonic time).
        interrupted: by Ctrl-C.
    """

    total: int | None = None
    known: int = 0
    completions: int = 0
    failures: int = 0
    held: int = 0
    attempts: int = 0
    usage: Usage = Usage()
    cost: float | None = None
    started_at_s: float = 0.0
    busy_s: float = 0.0
    requests: int = 0
    cut_off_at_s: float | None = None
    interrupted: bool = False

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_at_s

    def add(self, outcome: Ended) -> None:
        if outcome.error is None:
            self.completions += 1
        else:
            self.failures += 1
        self.usage = self.usage + outcome.usage
        self.requests += outcome.attempts
        if outcome.attempts:  # of texts that go out together, the first counts for all
            longest_s = 0.0
            for completion in outcome.completions:
                if completion is not None and completion.latency_s > longest_s:
                    longest_s = completion.latency_s
            self.busy_s += longest_s
        if outcome.cost is not None:
            self.cost = (self.cost or 0.0) + outcome.cost
