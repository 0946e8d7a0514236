"""What went on in the time of a start, as charts and their tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import get_args

import pytest

from mistill.delivery.diagnostics import WaitCause
from mistill.ledger import Stretch
from mistill.pages.blocks import Chart
from mistill.pages.series_colors import WAITS, in_order
from mistill.pages.time_blocks import TimeOfStart, latency_chart, time_blocks
from mistill.progress.course import Course
from mistill.progress.formatting import wait

BUSY = Stretch(sent=10, answered=10, refused=0, failed=0, input_tokens=100, output_tokens=10)


def charts_of(
    seconds_by_cause: Mapping[str, list[float]], *, took_s: float, each: Stretch = BUSY
) -> dict[str, Chart]:
    stretches = len(next(iter(seconds_by_cause.values())))
    nothing: list[float | None] = [None] * stretches
    course = Course(1.0, dict(seconds_by_cause), [8] * stretches, [60.0] * stretches, nothing)
    in_all = {cause: sum(values) for cause, values in seconds_by_cause.items()}
    time = TimeOfStart(1_790_000_000.0, took_s, took_s / 4, [each] * 4, course, in_all)
    return {block.title: block for block in time_blocks(time) if isinstance(block, Chart)}


def colors_of(chart: Chart) -> dict[str, str]:
    scale = chart.spec["encoding"]["color"]["scale"]
    return dict(zip(scale["domain"], scale["range"], strict=True))


def test_what_was_waited_for_is_shown_from_the_beginning_to_the_end() -> None:
    chart = charts_of({"server": [1, 1, 0.4], "idle": [0, 0, 0.1]}, took_s=2.5)["What was waited for"]
    points = chart.spec["data"]["values"]
    assert [(one["x"], one["value"]) for one in points if one["series"] == "server"] == [
        (0, 100),
        (1, 100),
        (2, pytest.approx(80)),
        (2.5, pytest.approx(80)),
    ]
    assert chart.summary == "In all: 96% server, 4% this machine."
    assert chart.table.rows[-1] == ["2", "80.0%", "20.0%", "8"]


def test_a_stretch_that_had_only_begun_is_no_time_without_a_cause() -> None:
    chart = charts_of({"server": [1, 1, 0]}, took_s=2.0)["What was waited for"]
    assert [(one["x"], one["value"]) for one in chart.spec["data"]["values"]] == [
        (0, 100),
        (1, 100),
        (2, 100),
    ]


def test_a_cause_has_one_color_whatever_else_is_shown() -> None:
    one = charts_of({"idle": [1, 1, 1], "quota_requests": [1, 1, 1], "server": [1, 1, 1]}, took_s=3)
    other = charts_of({"server": [1, 1, 1], "a new cause": [1, 1, 1], "idle": [1, 1, 1]}, took_s=3)
    colors, others = colors_of(one["What was waited for"]), colors_of(other["What was waited for"])
    assert [*colors] == ["server", "quota of requests", "this machine"]  # in one order too
    assert [*others] == ["server", "this machine", "a new cause"]
    for name in colors.keys() & others.keys():
        assert colors[name] == others[name]
    use = colors_of(one["Quota of requests a minute, and what was used of it"])
    assert use["requests in the last minute"] == colors["quota of requests"]
    assert len(set(WAITS.values())) == len(WAITS)


def test_more_than_the_quota_is_sent_where_some_is_refused() -> None:
    refused = Stretch(sent=20, answered=10, refused=10)
    title = "Quota of requests a minute, and what was used of it"
    summaries = [charts_of({"server": [1]}, took_s=3, each=each)[title].summary for each in (BUSY, refused)]
    told = "The quota was 60 at the end; in the busiest minute"
    not_counted = "; those that were refused or failed are among them, which the server need not count."
    assert summaries == [f"{told} 40 were used, 67% of it.", f"{told} 80 were used, 133% of it{not_counted}"]


def test_every_cause_that_is_told_has_a_color() -> None:
    assert {*get_args(WaitCause)} == {*WAITS}
    assert in_order(["idle", "server"]) == ["server", "idle"]
    assert all(wait(cause) != cause or cause == "server" for cause in WAITS)


def test_latencies_keep_the_digits_that_count() -> None:
    chart = latency_chart((0.0, 0.5, 1.0), (0.2012, 0.2148, 1.236))
    assert [row[1] for row in chart.table.rows] == ["201 ms", "215 ms", "1.24 s"]
    assert chart.summary.startswith("Half of the answers came within 215 ms, all of them within 1.24 s.")
