"""What is said of rows that go each by the cheaper lane: how many went which way, and what is to come."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from mistill.api.prices import Price
from mistill.api.usage import Usage
from mistill.delivery.diagnostics import time_left_s
from mistill.estimates.lane_prices import LanePrices
from mistill.estimates.lane_quotes import AnsweredRow, quote_lines, quotes_from
from mistill.estimates.lane_use import lane_use
from mistill.kinds.kind import Kind
from mistill.llms.types import Outcome
from mistill.progress.formatting import count

_log = logging.getLogger("mistill")

_QUOTED_ROWS = 1000


class LaneAccount:
    """Rows of one start by lane, and what some of them took.

    Args:
        price: of the model that answers, at the standard tier. ``batch_factor``: what it is multiplied with in jobs.
        size: requests under way at once.

    Attributes:
        live, in_jobs: rows that go which way.
        has_quoted: the lanes were told side by side.
    """

    def __init__(self, kind: Kind[Any], price: Callable[[], Price], batch_factor: float, size: int) -> None:
        self.live = self.in_jobs = 0
        self.has_quoted = False
        self._kind = kind
        self._price = price
        self._factor = batch_factor
        self._at_once = size
        self._answered: list[AnsweredRow] = []
        self._timed = 0
        self._latency_s = 0.0

    def keep(self, usage: Usage, cost: float | None, *, in_job: bool, is_first: bool) -> None:
        """What a row took, for a quote."""
        if cost is not None and len(self._answered) < _QUOTED_ROWS:
            self._answered.append(AnsweredRow(usage, cost, in_job, is_first))

    def time(self, outcome: Outcome) -> None:
        """How long a row took live."""
        if outcome.completions and (first := outcome.completions[0]) is not None:
            self._timed += 1
            self._latency_s += first.latency_s

    def live_s(self, rows: int) -> float | None:
        """How long so many rows take live; ``None``: none was answered live in this start."""
        if not self._timed:
            return None
        usages = [one.usage for one in self._answered]
        tokens = sum(usage.input_tokens + usage.output_tokens for usage in usages) / max(1, len(usages))
        return time_left_s(
            self._kind.dispatcher.governor.snapshot(),
            rows=rows,
            requests=rows,
            tokens=rows * tokens,
            seconds_each=self._latency_s / self._timed,
            at_once=self._at_once,
        )

    def quote(self, prices: LanePrices, rows_left: int | None, *, few: bool) -> None:
        """Says what the lanes cost, side by side, for the rows that are left; ``few``: too few for jobs."""
        self.has_quoted = True
        if not self._answered:  # no price is known of the model that answered
            return
        rows = rows_left or _QUOTED_ROWS
        of = f"each {count(rows, 'row')}" if rows_left is None else f"the {count(rows, 'row')} left"
        live = prices.live
        measured = (
            f"{count(live.rows, 'row')} answered live, {live.cached_share or 0.0:.0%} of their input cached"
        )
        _log.warning("by %s: what %s cost, by lane", measured, of)
        quotes = quotes_from(
            self._answered,
            rows,
            self._price(),
            batch_factor=self._factor,
            live_s=self.live_s(rows),
            few=few,
        )
        for line in quote_lines(quotes, "cheapest", at_least=False):
            _log.warning("%s", f"  {line}")
        if few:
            _log.warning("they are too few for jobs, and go live")

    def told(self, prices: LanePrices, *, too_few: bool, is_learning: bool) -> str:
        """How many rows go which way, in words.

        Args:
            too_few: for jobs, so all go live. ``is_learning``: some are to tell first which lane is cheaper.
        """
        live = count(self.live, "row")
        if is_learning and not self.has_quoted:
            return f"{live} live, to learn which lane is cheaper"
        if too_few:
            return f"{live} live: too few for jobs"
        return str(lane_use(self.live, self.in_jobs, prices))
