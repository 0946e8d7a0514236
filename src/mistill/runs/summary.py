"""What a run has done: rows, tokens, money, time, and why it was not faster."""

from __future__ import annotations

import time
from typing import Any

import msgspec
from msgspec import Struct

from mistill.errors import MistillError
from mistill.llms.types import Outcome, Usage
from mistill.runs.forecast import Forecast


class Progress(Struct):
    """Counts of a run while it goes on; one object, updated in place. Times in seconds.

    Attributes:
        total: rows of the input, where that is known.
        known: rows that were done before this start, and cost nothing now.
        completions, failures, held: rows that ended in this start; held ones may have been billed already and wait for
            the user's word.
        attempts: HTTP tries of this start.
        usage: tokens of this start. ``cost``: US dollars of this start, ``None`` while no price is known.
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

    @property
    def done(self) -> int:
        return self.known + self.completions + self.failures + self.held

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.started_at_s

    @property
    def rows_per_s(self) -> float:
        return (self.completions + self.failures) / max(self.elapsed_s, 1e-9)

    @property
    def left_s(self) -> float | None:
        """An estimate of the time still to go, at the mean speed so far."""
        if self.total is None or self.rows_per_s <= 0:
            return None
        return max(0, self.total - self.done) / self.rows_per_s

    def add(self, outcome: Outcome) -> None:
        if outcome.error is None:
            self.completions += 1
        else:
            self.failures += 1
        self.usage = self.usage + outcome.usage
        if outcome.attempts:  # of texts that go out together, the first counts for all
            longest_s = 0.0
            for completion in outcome.completions:
                if completion is not None and completion.latency_s > longest_s:
                    longest_s = completion.latency_s
            self.busy_s += longest_s
        if outcome.cost is not None:
            self.cost = (self.cost or 0.0) + outcome.cost


class Summary(Struct, frozen=True, kw_only=True):
    """How a start of a run ended. Counts are of the whole run, all starts together, unless they say otherwise.

    Attributes:
        rows: rows of the input. ``pending``: those without an outcome yet.
        sent: HTTP tries of this start. ``seconds``: its duration.
        maybe_billed: tries that a crash or a broken connection cut off, ever: they may be on the bill.
        input_tokens, output_tokens, cost: of all answers ever, useless ones included; cost in US dollars, ``None``
            where the model has no known price.
        causes: failures by kind of error: how many, the first row that has it (from 0), its error.
        stopped: why the run ended early; ``None`` where the input was worked through.
        forecast: of the rows that are left, after a sample.
        output: where the records are, if they were written. ``ledger``: where the run's memory is.
        slowness: how many of the rows' seconds went where; ``advice``: the one setting that would help.
    """

    rows: int
    completions: int
    failures: int
    pending: int
    sent: int
    seconds: float
    maybe_billed: int
    input_tokens: int
    output_tokens: int
    cost: float | None
    causes: list[dict[str, Any]]
    stopped: MistillError | None = None
    output: str | None = None
    ledger: str | None = None
    forecast: Forecast | None = None
    slowness: dict[str, float] = {}
    advice: str | None = None

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        fields = {name: getattr(self, name) for name in self.__struct_fields__}
        stopped = self.stopped
        return fields | {
            "forecast": msgspec.to_builtins(self.forecast),
            "stopped": None if stopped is None else {"kind": stopped.kind, "message": str(stopped)},
        }
