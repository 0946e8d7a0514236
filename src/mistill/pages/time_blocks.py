"""How long answers took, how many came when, what was waited for, and how much of the quota was used."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime

from msgspec import Struct

from mistill.ledger import Stretch
from mistill.pages.blocks import Block, Chart, Lines, Table
from mistill.pages.charts import Point, areas, lines
from mistill.pages.distribution_blocks import number
from mistill.progress.course import Course
from mistill.progress.formatting import count, seconds, share, time_split, wait

_MOST_STRETCHES = 60
_SHORTEST_S = 0.5
_FEWEST = 4
_MINUTE_S = 60.0
_LEAST_SHARE = 0.005
"""What was waited for no longer than that is not shown."""


class TimeOfStart(Struct, frozen=True):
    """The time of one start: when it began (unix seconds), how long it took, and what went on in it.

    Attributes:
        stretch_s: how long each of ``stretches`` is.
        course: as the start itself has kept it.
    """

    started_at: float
    seconds: float
    stretch_s: float
    stretches: list[Stretch]
    course: Course | None


def stretches_of(seconds: float) -> tuple[float, int]:
    """How long the stretches are that so much time is looked at in, and how many."""
    places = min(_MOST_STRETCHES, max(1, int(seconds / _SHORTEST_S)))
    # A little longer: what ended at the very end is in the last one.
    return max(seconds, 1e-3) * 1.001 / places, places


def moment(unix_s: float | None) -> str:
    """``2026-11-26 20:01 UTC``."""
    if unix_s is None or not math.isfinite(unix_s):
        return "not known"
    try:
        return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "not known"


def latency_chart(shares: Sequence[float], latencies_s: Sequence[float]) -> Chart:
    """Within how many seconds which share of the answers came."""
    title = "How long answers took, from sending to their end"
    points = [Point(s, "answers", 100 * one) for one, s in zip(shares, latencies_s, strict=True)]
    spec = lines(points, "seconds", "% of the answers that came")
    rows = [
        [f"{one:.1%}".replace(".0%", "%"), seconds(s)] for one, s in zip(shares, latencies_s, strict=True)
    ]
    half = latencies_s[min(len(shares) - 1, len(shares) // 2)]
    return Chart(
        title,
        f"Half of the answers came within about {seconds(half)}, all of them within {seconds(latencies_s[-1])}.",
        spec,
        Table.of_numbers(title, ["share of the answers", "within"], rows),
    )


def time_blocks(time: TimeOfStart) -> list[Block]:
    """What went on in the time of one start."""
    if len(time.stretches) < _FEWEST:
        told = f"it took {seconds(time.seconds)}: too short for a course of time"
        return [Lines([("", told)], tone="muted")]
    axis = _Axis(time)
    return [*_throughput(time, axis), *_waiting(time, axis), *_quota(time, axis)]


class _Axis:
    """Time since a start began, in a unit that suits how long it took."""

    def __init__(self, time: TimeOfStart) -> None:
        units = ((86_400.0, "days"), (3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))
        self._unit_s, self.unit = next(
            ((length, name) for length, name in units if time.seconds >= 2 * length), units[-1]
        )
        self.title = f"{self.unit} since {moment(time.started_at)}"

    def __call__(self, since_s: float) -> float:
        return round(since_s / self._unit_s, 4)


def _throughput(time: TimeOfStart, axis: _Axis) -> list[Block]:
    most = max(one.answered for one in time.stretches)
    if not most and not any(one.refused or one.failed for one in time.stretches):
        return []
    per_s = 1.0 if most / time.stretch_s >= 1 else _MINUTE_S
    unit = "a second" if per_s == 1.0 else "a minute"
    series = {
        "answered": [one.answered for one in time.stretches],
        "refused (429)": [one.refused for one in time.stretches],
        "failed otherwise": [one.failed for one in time.stretches],
    }
    shown = {name: values for name, values in series.items() if name == "answered" or any(values)}
    rates = {name: [value / time.stretch_s * per_s for value in values] for name, values in shown.items()}
    points = [
        Point(axis((place + 0.5) * time.stretch_s), name, round(value, 4))
        for name, values in rates.items()
        for place, value in enumerate(values)
    ]
    title = f"Requests {unit}, by how they ended"
    rows = [
        [number(axis(place * time.stretch_s)), *(f"{values[place]:,.1f}" for values in rates.values())]
        for place in range(len(time.stretches))
    ]
    mean = sum(series["answered"]) / time.seconds * per_s if time.seconds else 0.0
    return [
        Chart(
            title,
            f"On the mean {number(mean)} answers {unit}, and {number(max(rates['answered']))} at the most.",
            lines(points, axis.title, f"requests {unit}"),
            Table.of_numbers(title, [axis.title, *rates], rows),
        )
    ]


def _waiting(time: TimeOfStart, axis: _Axis) -> list[Block]:
    course = time.course
    if course is None or not course.in_flight:
        told = "not noted: a start notes it after 15 s and at its end, and those of earlier versions did not"
        return [Lines([("what was waited for:", told)], tone="muted")]
    total = sum(map(sum, course.seconds_by_cause.values()))
    causes = {
        cause: values
        for cause, values in course.seconds_by_cause.items()
        if total and sum(values) >= _LEAST_SHARE * total
    }
    title = "What was waited for"
    points: list[Point] = []
    rows: list[list[str]] = []
    for place in range(len(course.in_flight)):
        all_s = sum(values[place] for values in course.seconds_by_cause.values())
        shares = [values[place] / all_s if all_s else 0.0 for values in causes.values()]
        x = axis(place * course.stretch_s)
        points += [Point(x, wait(cause), 100 * one) for cause, one in zip(causes, shares, strict=True)]
        if len(causes) < len(course.seconds_by_cause):
            points.append(Point(x, "otherwise", max(0.0, 100 * (1 - sum(shares))) if all_s else 0.0))
        rows.append([number(x), *(f"{one:.0%}" for one in shares), f"{course.in_flight[place]:,}"])
    if not causes:
        return []
    split = time_split({cause: sum(values) for cause, values in course.seconds_by_cause.items()})
    return [
        Chart(
            title,
            f"In all: {split}.",
            areas(points, axis.title, "% of the time"),
            Table.of_numbers(title, [axis.title, *map(wait, causes), "in flight"], rows),
        )
    ]


def _quota(time: TimeOfStart, axis: _Axis) -> list[Block]:
    blocks: list[Block] = []
    course = time.course
    requests = _last_minute([one.sent for one in time.stretches], time.stretch_s)
    tokens = _last_minute([one.input_tokens + one.output_tokens for one in time.stretches], time.stretch_s)
    quotas = (None, None) if course is None else (course.requests_per_minute, course.tokens_per_minute)
    for what, used, quota in (("requests", requests, quotas[0]), ("tokens", tokens, quotas[1])):
        known = [one for one in quota or () if one is not None]
        if course is None or quota is None or not known:
            continue
        blocks.append(_use(what, used, quota, time, course, axis))
    if not blocks:
        told = f"in the busiest minute {count(round(max(requests)), 'request')} and {round(max(tokens)):,} tokens"
        no_quota = "no quota was known: none was set, told by the server, or found by refusals"
        blocks.append(Lines([("quota against use:", f"{told}; {no_quota}")]))
    return blocks


def _use(
    what: str,
    used: Sequence[float],
    quota: Sequence[float | None],
    time: TimeOfStart,
    course: Course,
    axis: _Axis,
) -> Chart:
    title = f"Quota of {what} a minute, and what was used of it"
    in_use, allowed = f"{what} in the last minute", "quota"
    points = [
        Point(axis((place + 1) * time.stretch_s), in_use, round(value, 2)) for place, value in enumerate(used)
    ]
    known = [(place, one) for place, one in enumerate(quota) if one is not None]
    points += [Point(axis(place * course.stretch_s), allowed, one) for place, one in known]
    end = axis(min(len(quota) * course.stretch_s, time.seconds))
    points.append(Point(max(end, points[-1].x), allowed, known[-1][1]))
    rows: list[list[str]] = []
    shares: list[float] = []
    for place, value in enumerate(used):
        at_s = (place + 1) * time.stretch_s
        then = quota[min(len(quota) - 1, int(at_s / course.stretch_s))]
        shares += [value / then] if then else []
        rows.append(
            [
                number(axis(at_s)),
                f"{value:,.0f}",
                "" if then is None else f"{then:,.0f}",
                share(value, then) if then else "",
            ]
        )
    last = known[-1][1]
    summary = f"The quota was {number(last)} at the end; in the busiest minute {number(max(used))} were used"
    summary += f", {max(shares):.0%} of it." if shares else "."
    return Chart(
        title,
        summary,
        lines(points, axis.title, f"{what} a minute"),
        Table.of_numbers(title, [axis.title, in_use, allowed, "used"], rows),
    )


def _last_minute(values: Sequence[int], stretch_s: float) -> list[float]:
    """What came in the minute before the end of each stretch; where these are longer, as if it were spread evenly."""
    if stretch_s >= _MINUTE_S:
        return [value * _MINUTE_S / stretch_s for value in values]
    wide = _MINUTE_S / stretch_s
    whole = int(wide)
    sums: list[float] = []
    for place in range(len(values)):
        first = max(0, place - whole + 1)
        part = values[first - 1] * (wide - whole) if first > 0 else 0.0
        sums.append(sum(values[first : place + 1]) + part)
    return sums
