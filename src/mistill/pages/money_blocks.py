"""What a run cost, by day, lane and model, and what caching and batch jobs have saved of it."""

from __future__ import annotations

from collections.abc import Sequence

from mistill.audits.report import AuditLine
from mistill.estimates.cache_savings import Savings
from mistill.pages.blocks import Block, Chart, Lines, Table
from mistill.pages.charts import stacked_bars
from mistill.pages.series_colors import IN_JOBS, LIVE
from mistill.progress.formatting import count, money

_MOST_LINES = 400
_MOST_BARS = 31
_LANES = {"live": "live", "batch": "batch jobs"}
_COLORS = {"live": LIVE, "batch jobs": IN_JOBS}


def money_blocks(lines: Sequence[AuditLine], saved: Sequence[Savings]) -> list[Block]:
    """A table of all lines with their sum, and a chart where there are several days.

    Args:
        saved: what each line has saved.
    """
    if not lines:
        return []
    title = "By day (UTC), lane and model"
    columns = [
        "day",
        "lane",
        "model",
        "answers",
        "tokens in",
        "cached",
        "tokens out",
        "cost",
        "cache saved",
        "jobs saved",
    ]
    rows = [_cells(line, one) for line, one in zip(lines[-_MOST_LINES:], saved[-_MOST_LINES:], strict=True)]
    rows.append(_total(lines, saved))
    table = Table(title, columns, rows, numbers=frozenset(range(3, len(columns))))
    blocks: list[Block] = [table]
    days = list(dict.fromkeys(line.day or "not known" for line in lines))
    if len(days) > 1 and any(line.cost for line in lines):
        blocks.insert(0, _by_day(lines, days[-_MOST_BARS:], len(days)))
    if len(lines) > _MOST_LINES:
        told = f"{count(len(lines) - _MOST_LINES, 'earlier line')} left out here, and in the sum; mistill audit has all"
        blocks.append(Lines([("", told)], tone="muted"))
    return blocks


def _by_day(lines: Sequence[AuditLine], days: Sequence[str], in_all: int) -> Chart:
    sums: dict[tuple[str, str], float] = {}
    for line in lines:
        key = line.day or "not known", _LANES[line.lane]
        if key[0] in days:
            sums[key] = sums.get(key, 0.0) + (line.cost or 0.0)
    title = "US dollars a day, by lane"
    dearest = max(days, key=lambda day: sum(cost for (one, _), cost in sums.items() if one == day))
    rows = [[day, lane, money(cost)] for (day, lane), cost in sums.items()]
    which = count(in_all, "day")
    if len(days) < in_all:
        which = f"the last {count(len(days), 'day')} with requests, without {count(in_all - len(days), 'earlier day')}"
    return Chart(
        title,
        f"Of {which}, {dearest} cost most.",
        stacked_bars(((day, lane, cost) for (day, lane), cost in sums.items()), "US dollars", _COLORS),
        Table(title, ["day", "lane", "cost"], rows, numbers=frozenset((2,))),
    )


def _cells(line: AuditLine, saved: Savings) -> list[str]:
    return [
        line.day or "not known",
        _LANES[line.lane],
        line.model,
        f"{line.requests:,}",
        f"{line.input_tokens:,}",
        f"{line.cached_tokens:,}",
        f"{line.output_tokens:,}",
        money(line.cost),
        _or_none(saved.by_cache),
        _or_none(saved.by_jobs),
    ]


def _total(lines: Sequence[AuditLine], saved: Sequence[Savings]) -> list[str]:
    costs = [line.cost for line in lines if line.cost is not None]
    sums = [
        sum(getattr(line, name) for line in lines)
        for name in ("requests", "input_tokens", "cached_tokens", "output_tokens")
    ]
    by_cache = [one.by_cache for one in saved if one.by_cache is not None]
    by_jobs = [one.by_jobs for one in saved if one.by_jobs is not None]
    return [
        "in all",
        "",
        "",
        *(f"{number:,}" for number in sums),
        money(sum(costs) if costs else None),
        _or_none(sum(by_cache)),
        _or_none(sum(by_jobs)),
    ]


def _or_none(saved: float | None) -> str:
    return money(saved) if saved else "–"
