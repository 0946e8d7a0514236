"""What a run cost by day, as a chart and a table say it."""

from __future__ import annotations

import pytest

from mistill.audits.report import AuditLine
from mistill.estimates.cache_savings import Savings
from mistill.pages.blocks import Chart
from mistill.pages.money_blocks import money_blocks


@pytest.mark.parametrize(
    ("days", "told"),
    [
        (3, "Of 3 days, 2026-01-03 cost most."),
        (31, "Of 31 days, 2026-01-31 cost most."),
        (32, "Of the last 31 days with requests, without 1 earlier day, 2026-02-01 cost most."),
        (40, "Of the last 31 days with requests, without 9 earlier days, 2026-02-09 cost most."),
    ],
)
def test_days_that_a_chart_leaves_out_are_said(days: int, told: str) -> None:
    dates = [f"2026-{1 + number // 31:02}-{1 + number % 31:02}" for number in range(days)]
    lines = [
        AuditLine(
            day=day,
            model="small",
            lane="live",
            requests=1,
            input_tokens=1,
            output_tokens=1,
            cached_tokens=0,
            minutes=0.0,
            cost=1.0 + number,
        )
        for number, day in enumerate(dates)
    ]
    chart = money_blocks(lines, [Savings(0.0)] * days)[0]
    assert isinstance(chart, Chart)
    assert chart.summary == told
