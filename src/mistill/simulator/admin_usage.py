"""``GET /v1/admin/usage``: the bill of a month, in the form that Mistral's has, with a key of its own.

The specification names categories with ``models`` → name → group → lists of objects, and prices; the objects' own
fields are those that were seen. How batch jobs stand in it is not published: here their groups begin with ``batch_``.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, NamedTuple

from mistill.api.prices import Price, factors_of, price_of
from mistill.api.tariff import PRIORITY
from mistill.simulator.bills import Bill
from mistill.simulator.payloads import Json
from mistill.simulator.queries import Query
from mistill.simulator.settings import Settings
from mistill.simulator.traffic import BillsByDay

USAGE: Final = "/v1/admin/usage"
_EPOCH = date(1970, 1, 1)
_STANDARD = "standard"
_MILLION = 1_000_000


class _Amount(NamedTuple):
    """So many units of one kind. ``price``: US dollars for one of them, where that is known."""

    category: str
    event_type: str
    group: str
    value: int
    price: float | None


def month_asked_for(query: Query) -> date:
    """Its first day; this month unless the query says another.

    Raises:
        RefusedRequest: it is none.
    """
    today = datetime.now(UTC).date()
    year = query.number("year", today.year, least=2023, most=2100)
    return date(year, query.number("month", today.month, least=1, most=12), 1)


def usage_report(
    live: BillsByDay, batch: BillsByDay, month: date, workspace: str | None, settings: Settings
) -> Json:
    """A ``UsageOUTJSON``.

    Args:
        live, batch: what was billed of requests, and of lines of jobs.
        workspace: as it is asked for; ``None``: all. There is one.
    """
    categories: dict[str, dict[str, dict[str, list[Json]]]] = {"completion": {}, "audio": {}}
    prices: dict[tuple[str, ...], Json] = {}
    following = (month + timedelta(days=31)).replace(day=1)
    if workspace in (None, settings.workspace_id):
        for bills, is_batch in ((live, False), (batch, True)):
            for number, of_day in sorted(bills.items()):
                day = _EPOCH + timedelta(days=number)
                for bill in of_day.values() if month <= day < following else ():
                    _add(bill, day, categories, prices, is_batch=is_batch)
    return {
        **{name: {"models": models} for name, models in categories.items()},
        **{name: {"models": {}} for name in ("ocr", "chat", "connectors", "audio_characters")},
        "libraries_api": {"pages": {"models": {}}, "tokens": {"models": {}}},
        "fine_tuning": {"training": {}, "storage": {}},
        "vibe_usage": 0.0,
        "date": f"{month}T00:00:00Z",
        "start_date": f"{month}T00:00:00Z",
        "end_date": f"{following - timedelta(days=1)}T23:59:59.999Z",
        "previous_month": (month - timedelta(days=1)).strftime("%Y-%m"),
        "next_month": following.strftime("%Y-%m"),
        "currency": "USD",
        "currency_symbol": "$",
        "prices": list(prices.values()),
    }


def _add(
    bill: Bill,
    day: date,
    categories: dict[str, dict[str, dict[str, list[Json]]]],
    prices: dict[tuple[str, ...], Json],
    *,
    is_batch: bool,
) -> None:
    tier = bill.service_tier or _STANDARD
    for amount in _amounts(bill, is_batch=is_batch):
        kind: dict[str, Any] = {
            "event_type": amount.event_type,
            "billing_metric": bill.model,
            "billing_group": amount.group,
            "service_tier": tier,
            "api_zone": "global",
        }
        name = f"{bill.asked or bill.model}::{bill.model}"
        groups = categories[amount.category].setdefault(name, {})
        groups.setdefault(amount.group, []).append(
            {
                "usage_type": "usage",
                **kind,
                "billing_display_name": bill.asked or bill.model,
                "timestamp": day.isoformat(),
                "value": amount.value,
                "value_paid": amount.value,
            }
        )
        if amount.price is not None:
            written = f"{Decimal(repr(amount.price)).normalize():E}"
            prices[bill.model, amount.event_type, amount.group, tier] = {**kind, "price": written}


def _amounts(bill: Bill, *, is_batch: bool) -> Iterator[_Amount]:
    price, prefix = _price(bill, is_batch=is_batch), "batch_" if is_batch else ""
    fresh = bill.input_tokens - bill.cached_tokens
    for group, value, per_million in (
        ("input", fresh, price and price.input),
        ("cached", bill.cached_tokens, price and price.cached_input),
        ("output", bill.output_tokens, price and price.output),
    ):
        if value:
            of_one = None if per_million is None else per_million / _MILLION
            yield _Amount("completion", "api_tokens", prefix + group, value, of_one)
    if bill.audio_seconds:
        of_one = None if price is None else price.minute / 60
        yield _Amount("audio", "api_audio_seconds", f"{prefix}input", bill.audio_seconds, of_one)


def _price(bill: Bill, *, is_batch: bool) -> Price | None:
    price, factors = price_of(bill.model), factors_of()
    if price is None:
        return None
    if bill.service_tier == PRIORITY:
        price = price.times(factors.priority)
    return price.times(factors.batch) if is_batch else price
