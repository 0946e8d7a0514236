"""How long answers took, how many came when, what was waited for, and how much of the quota was used."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from mistill.ledger import Stretch
from mistill.pages.blocks import Block, Chart, Lines, Table
from mistill.pages.charts import Point, areas, lines
from mistill.pages.distribution_blocks import number
from mistill.pages.series_colors import (
    ANSWERED,
    FAILED,
    OTHERWISE,
    QUOTA,
    REFUSED,
    REQUESTS,
    TOKENS,
    WAITS,
    in_order,
)
from mistill.progress.course import Course
from mistill.progress.formatting import count, latency, moment, seconds, share, time_split, wait

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
        course: as the start itself has kept it. ``seconds_by_cause``: what was waited for in all; of a start that was
            killed, nothing.
    """

    started_at: float
    seconds: float
    stretch_s: float
    stretches: list[Stretch]
    course: Course | None
    seconds_by_cause: Mapping[str, float]


def stretches_of(seconds: float) -> tuple[float, int]:
    """How long the stretches are that so much time is looked at in, and how many."""
    places = min(_MOST_STRETCHES, max(1, int(seconds / _SHORTEST_S)))
    # A little longer: what ended at the very end is in the last one.
    return max(seconds, 1e-3) * 1.001 / places, places


def latency_chart(shares: Sequence[float], latencies_s: Sequence[float]) -> Chart:
    """Within how many seconds which share of the answers came."""
    title = "How long answers took, from sending to their end"
    points = [Point(s, "answers", 100 * one) for one, s in zip(shares, latencies_s, strict=True)]
    spec = lines(points, "seconds", "% of the answers that came", {"answers": ANSWERED})
    rows = [
        [f"{one:.1%}".replace(".0%", "%"), latency(s)] for one, s in zip(shares, latencies_s, strict=True)
    ]
    half = latencies_s[min(range(len(shares)), key=lambda place: abs(shares[place] - 0.5))]
    return Chart(
        title,
        f"Half of the answers came within {latency(half)}, all of them within {latency(latencies_s[-1])}.",
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
    colors = {"answered": ANSWERED, "refused (429)": REFUSED, "failed otherwise": FAILED}
    ended = [(one.answered, one.refused, one.failed) for one in time.stretches]
    series = dict(zip(colors, map(list, zip(*ended, strict=True)), strict=True))
    shown = {name: values for name, values in series.items() if name == "answered" or any(values)}
    rates = {name: [value / time.stretch_s * per_s for value in values] for name, values in shown.items()}
    points = [
        Point(axis((place + 0.5) * time.stretch_s), name, round(value, 4))
        for name, values in rates.items()
        for place, value in enumerate(values)
    ]
    title = f"Requests {unit}, by how they ended"
    rows = [
        [number(axis(place * time.stretch_s)), *(number(values[place]) for values in rates.values())]
        for place in range(len(time.stretches))
    ]
    mean = sum(series["answered"]) / time.seconds * per_s if time.seconds else 0.0
    return [
        Chart(
            title,
            f"On the mean {number(mean)} answers {unit}, and {number(max(rates['answered']))} at the most.",
            lines(points, axis.title, f"requests {unit}", colors),
            Table.of_numbers(title, [axis.title, *rates], rows),
        )
    ]


def _waiting(time: TimeOfStart, axis: _Axis) -> list[Block]:
    course = time.course
    if course is None or not course.in_flight:
        told = "not noted: a start notes it after 15 s and at its end, and those of earlier versions did not"
        return [Lines([("what was waited for:", told)], tone="muted")]
    spent = {cause: sum(values) for cause, values in course.seconds_by_cause.items()}
    causes = in_order(
        cause for cause, s in spent.items() if s > 0 and s >= _LEAST_SHARE * sum(spent.values())
    )
    if not causes:
        return []
    title = "What was waited for"
    points: list[Point] = []
    rows: list[list[str]] = []
    shares: dict[str, float] = {}
    for place in range(_stretches_with_time(course)):
        shares = _shares(course, place, causes)
        x = axis(place * course.stretch_s)
        points += [Point(x, name, 100 * one) for name, one in shares.items()]
        rows.append([number(x), *(f"{one:.1%}" for one in shares.values()), f"{course.in_flight[place]:,}"])
    # A value holds from its place to the next one: the last one to the end.
    end = axis(max(time.seconds, (len(rows) - 1) * course.stretch_s))
    points += [Point(end, name, 100 * one) for name, one in shares.items()]
    colors = {wait(cause): WAITS.get(cause, OTHERWISE) for cause in causes}
    return [
        Chart(
            title,
            f"In all: {time_split(time.seconds_by_cause or spent)}.",
            areas(points, axis.title, "% of the time", colors),
            Table.of_numbers(title, [axis.title, *shares, "in flight"], rows),
        )
    ]


def _stretches_with_time(course: Course) -> int:
    """How many there are; a last one that had only begun has no time of its own."""
    number = len(course.in_flight)
    while number > 1 and not any(values[number - 1] for values in course.seconds_by_cause.values()):
        number -= 1
    return number


def _shares(course: Course, place: int, causes: Sequence[str]) -> dict[str, float]:
    """Which share of a stretch was spent waiting for what, in words; what is no cause of these, ``otherwise``."""
    in_all = sum(values[place] for values in course.seconds_by_cause.values())
    shares = {
        wait(cause): course.seconds_by_cause[cause][place] / in_all if in_all else 0.0 for cause in causes
    }
    if len(causes) < len(course.seconds_by_cause):
        shares["otherwise"] = max(0.0, 1 - sum(shares.values())) if in_all else 0.0
    return shares


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
    colors = {in_use: REQUESTS if what == "requests" else TOKENS, allowed: QUOTA}
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
                number(value),
                "" if then is None else number(then),
                share(value, then) if then else "",
            ]
        )
    last = known[-1][1]
    summary = f"The quota was {number(last)} at the end; in the busiest minute {number(max(used))} were used"
    summary += f", {max(shares):.0%} of it" if shares else ""
    if what == "requests" and any(one.refused or one.failed for one in time.stretches):
        summary += "; those that were refused or failed are among them, which the server need not count"
    summary += "."
    return Chart(
        title,
        summary,
        lines(points, axis.title, f"{what} a minute", colors),
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
