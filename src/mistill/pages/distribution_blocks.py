"""What the fields of answers are like, as charts with their tables."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from mistill.characters import cut
from mistill.pages.blocks import Block, Chart, Lines, Table
from mistill.pages.charts import Bin, bars, has_axis, histogram
from mistill.progress.formatting import count, share
from mistill.records.distributions import FieldDistribution, Spread

_LONGEST_NAME = 120
_ANSWER = "the whole answer"


def distribution_blocks(fields: Sequence[FieldDistribution], left_out: int) -> list[Block]:
    """A chart for each field.

    Args:
        left_out: how many further fields there are.
    """
    blocks: list[Block] = [_chart(field) for field in fields]
    if left_out:
        more = f"{count(left_out, 'further field')} of the answers left out here"
        blocks.append(Lines([("", more)], tone="muted"))
    return blocks


def spread_chart(title: str, spread: Spread, what: str, of: str) -> Chart:
    """Numbers that are spread.

    Args:
        what: they are. ``of``: what has them, in the plural.
    """
    summary = (
        f"From {number(spread.low)} to {number(spread.high)}, half of them up to {number(spread.median)}, "
        f"90% up to {number(spread.p90)}; the mean is {number(spread.mean)}."
    )
    total = sum(times for _, _, times in spread.bins)
    filled = [one for one in spread.bins if one[2]]
    rows = [
        [_range(low, high, is_whole=spread.is_whole), f"{times:,}", share(times, total)]
        for low, high, times in filled
    ]
    table = Table.of_numbers(title, [what or "value", of, "share"], rows)
    left = 0.5 if spread.is_whole else 0.0  # a whole number stands in the middle of its bar
    bins = [Bin(low - left, high - left, times) for low, high, times in spread.bins]
    if len(bins) > 1 and bins[-1].high - bins[-1].low > 2 * (bins[0].high - bins[0].low):  # a long tail
        last = bins[-1]
        bins[-1] = Bin(last.low, last.low + bins[0].high - bins[0].low, last.times)
        summary += f" The last bar has all from {number(spread.bins[-1][0])} on."
    if has_axis(bins):
        return Chart(title, summary, histogram(bins, what, of, is_whole=spread.is_whole), table)
    return Chart(
        title, summary, bars(((row[0], one[2]) for row, one in zip(rows, filled, strict=True)), of), table
    )


def _range(low: float, high: float, *, is_whole: bool) -> str:
    """From where to where a bin is; of whole numbers, both are in it."""
    if is_whole:
        high = max(low, high - 1)
    first, last = number(low), number(high)
    return first if first == last else f"{first} to {last}"


def number(value: float) -> str:
    """``1,234``, ``0.25``, ``1.2e+09``."""
    if float(value).is_integer() and abs(value) < 10**9:
        return f"{int(value):,}"
    return f"{value:,.1f}" if 100 <= abs(value) < 10**9 else f"{value:.3g}"


def _chart(field: FieldDistribution) -> Chart:
    name = cut(field.name, _LONGEST_NAME) or _ANSWER
    told = [count(field.seen, "value")]
    if field.nulls:
        told.append(f"{field.nulls:,} null ({share(field.nulls, field.seen)})")
    if field.others:
        told.append(f"{field.others:,} of another type")
    if field.spread is None:
        chart = _categories(name, field)
    else:
        title = f"{name}: how many {field.unit}" if field.unit else name
        chart = spread_chart(title, field.spread, field.unit, "values")
    return msgspec.structs.replace(chart, summary=f"{', '.join(told)}. {chart.summary}")


def _categories(name: str, field: FieldDistribution) -> Chart:
    total = sum(times for _, times in field.categories) + field.rest
    shown = [(value or "(empty)", times) for value, times in field.categories]
    if field.rest:
        shown.append((count(field.more_categories, "other value"), field.rest))
    most, times = max(shown, key=lambda one: one[1])
    rows = [[value, f"{times:,}", share(times, total)] for value, times in shown]
    title = f"{name}: how often each value came"
    different = len(field.categories) + field.more_categories
    summary = (
        f"Always {most!r}."
        if different == 1
        else f"Of {different:,} different ones, {most!r} came most often: {share(times, total)}."
    )
    table = Table.of_numbers(title, ["value", "answers", "share"], rows)
    return Chart(title, summary, bars(shown, "answers"), table)
