"""A dry run: every row made ready as a run would, and none sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from mistill.api.prices import Price
from mistill.datasets.sources import Source
from mistill.delivery.diagnostics import Snapshot
from mistill.errors import InputError
from mistill.estimates.cache_savings import CachedInput, cached_input
from mistill.estimates.dry_run import (
    DryRun,
    Refusal,
    RequestTable,
    ShownPrompt,
    TotalRequests,
    cost_of,
    seconds_of,
)
from mistill.estimates.lane_quotes import longest_answer_live, quotes_before
from mistill.kinds.kind import Kind, RequestSize
from mistill.kinds.options import Lane
from mistill.prompts.beginnings import Beginnings
from mistill.runs.pending_rows import is_of_all_rows, prepare_row
from mistill.runs.record_shape import RecordShape

_SHOWN = 3


def rehearse(
    rows: Source,
    kind: Kind[Any],
    *,
    dedupe: bool,
    lane: Lane,
    batch_tail: int,
    shape: RecordShape,
    batch_factor: float | None,
    limits: Snapshot,
) -> DryRun:
    """Makes every row ready as a run would, and sends none. At most a thousand rows are in memory.

    Args:
        batch_tail: of so few rows the cheapest lane makes no jobs.
        shape: of the records, whose own columns no row may have.
        batch_factor: what a price is multiplied with in batch jobs; ``None``: there are none.
        limits: tells the quota, where one is known.

    Raises:
        InputError: the input breaks off.
    """
    show = kind.prompts_of(kind.manifest)
    refusals: list[Refusal] = []
    prompts: list[ShownPrompt] = []
    found = too_long = refused = 0
    is_blocked = False
    context = kind.server.context
    cached_of = _cache(kind)
    with RequestTable() as requests:
        for row in rows:
            found += 1
            prepared = prepare_row(kind, row, shape)
            if isinstance(prepared, InputError):
                is_blocked = is_blocked or (row.index == 0 and is_of_all_rows(prepared))
                refused += 1
                if len(refusals) < _SHOWN:
                    refusals.append(Refusal(row.index, prepared.message, prepared.hint))
                continue
            if len(prompts) < _SHOWN:
                prompts.append(ShownPrompt(row.index, show(row)))
            size = kind.size_of(prepared)
            too_long += context is not None and size.input_tokens > context
            requests.add(
                kind.fingerprint(prepared),
                size.input_tokens,
                cached_of(prepared, size),
                size.most_output_tokens,
                size.requests,
            )
        if not found:
            rows.say_empty()
        total, duplicates = requests.total(dedupe=dedupe)
    price = kind.server.price
    cost = cost_of(total, price)
    cache, takes_s = _cached_input(kind, total), seconds_of(total, limits)
    return DryRun(
        model=kind.server.model,
        rows=found,
        asked=total.rows,
        requests=math.ceil(total.requests),
        duplicates=duplicates,
        dedupe=dedupe,
        refused=refused,
        refusals=refusals,
        is_blocked=is_blocked,
        too_long=None if context is None else too_long,
        context=context,
        input_tokens=total.input_tokens,
        most_output_tokens=total.most_output_tokens,
        cost=cost,
        cache=None if lane == "batch" else cache,
        lanes=[]
        if price is None
        else quotes_before(
            price,
            input_tokens=total.input_tokens,
            cached_tokens=total.cached_tokens,
            most_output_tokens=total.most_output_tokens,
            batch_factor=batch_factor,
            live_s=takes_s,
            few=total.rows <= batch_tail,
        ),
        few=batch_factor is not None and total.rows <= batch_tail,
        live_up_to_tokens=_live_up_to(price, batch_factor, total),
        batch_cost=None if cost is None or batch_factor is None else cost.times(batch_factor),
        minute_cost=0.0 if price is None else price.minute,
        prices_of=None if price is None else price.date,
        lane=lane,
        seconds=takes_s,
        retired=kind.server.tariff.retired,
        prompts=prompts,
    )


def _cache(kind: Kind[Any]) -> Callable[[Any, RequestSize], int]:
    """What finds of each row, in their order, how many of its tokens can be cached."""
    if kind.cached_layout is None:
        return lambda _, __: 0
    key_of, beginnings = kind.cache_keys(), Beginnings()

    def cached(prepared: Any, size: RequestSize) -> int:
        met = kind.met(prepared, None if key_of is None else key_of(prepared))
        return min(beginnings.ask(met) + met.tokens_again(size.requests), size.input_tokens)

    return cached


def _live_up_to(price: Price | None, batch_factor: float | None, total: TotalRequests) -> int | None:
    if price is None or batch_factor is None or not total.rows:
        return None
    found = longest_answer_live(
        price,
        batch_factor,
        input_tokens=total.input_tokens / total.rows,
        cached_tokens=total.cached_tokens / total.rows,
    )
    return max(0, round(found)) if math.isfinite(found) else None


def _cached_input(kind: Kind[Any], total: TotalRequests) -> CachedInput | None:
    layout = kind.cached_layout
    if layout is None:
        return None
    return cached_input(layout, kind.server.price, total.requests, total.input_tokens, total.cached_tokens)
