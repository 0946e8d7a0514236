"""The bill of a month: ``GET /v1/admin/usage``. Pure data, no network.

What is known of its form: the specification has categories (``completion``, ``ocr``, ``audio`` …), each with ``models``
→ name → group → a list of objects, then ``prices``, a currency and the period. Which fields those objects have, it does
not say; they were seen in answers of the console: https://github.com/steipete/CodexBar (docs/mistral.md). So whatever
is a list of objects with a ``value`` is read, wherever it stands.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias, cast

from msgspec import Struct

from mistill.api.decoding import load_json
from mistill.api.tariff import PRIORITY

USAGE_PATH: Final = "/v1/admin/usage"

Lane: TypeAlias = Literal["live", "batch"]
Unit: TypeAlias = Literal["input", "cached", "output", "seconds", "pages", "characters", "other"]
"""What is counted. Tokens of the prompt that were cached are ``cached``, the others ``input``."""

STANDARD: Final = "standard"
_GLOBAL = "global"
_BATCH = re.compile(r"(?<![a-z])batch(?![a-z])", re.IGNORECASE)
_BATCH_IN_NAME = re.compile(r"^batch[-_ :]|[-_ :]batch(?![a-z])", re.IGNORECASE)
_DAY_CHARS = len("2026-11-24")
_EVENTS: tuple[tuple[str, Unit], ...] = (
    ("second", "seconds"),
    ("page", "pages"),
    ("character", "characters"),
    ("token", "input"),
)
_CATEGORIES: tuple[tuple[str, Unit], ...] = (
    ("audio_characters", "characters"),
    ("audio", "seconds"),
    ("ocr", "pages"),
    ("pages", "pages"),
    ("completion", "input"),
    ("chat", "input"),
    ("tokens", "input"),
)


class Pile(Struct, frozen=True):
    """What is counted together: units of one kind, which cost the same.

    Attributes:
        model: that is billed. ``tier``: ``standard`` or ``priority``.
    """

    model: str
    lane: Lane
    tier: str
    unit: Unit


class BilledUnits(Struct, frozen=True):
    """A line of a bill.

    Attributes:
        asked: another name of the model, which may be the one that it was asked for by.
        day: in ISO 8601, in UTC as far as is known; ``None``: it has none.
        used: units. ``charged``: those of them that are paid for: not what a plan includes.
        price: of one unit, in the bill's currency; ``None``: the bill has none.
    """

    pile: Pile
    asked: str
    day: str | None
    used: float
    charged: float
    price: float | None


class Bill(Struct, frozen=True):
    """What a workspace, or all of them, used in a month.

    Attributes:
        currency: such as ``USD``; ``None``: the bill names none.
        units: its lines.
        prices: of one unit, those too that nothing was used of.
        tells_lanes, tells_tiers: something in it names batch jobs; service tiers.
        further: money that it names without units.
    """

    currency: str | None
    units: list[BilledUnits]
    prices: dict[Pile, float]
    tells_lanes: bool
    tells_tiers: bool
    further: float = 0.0


def decode_bill(raw: bytes) -> Bill:
    """The body of an answer → the bill.

    Raises:
        ValueError: it is none.
    """
    said = load_json(raw)
    if not isinstance(said, dict) or not ({"completion", "prices", "start_date"} & said.keys()):
        raise ValueError("it has no usage in it")
    body = cast("dict[str, Any]", said)
    prices = _Prices(body.get("prices"))
    entries = [
        (path, entry)
        for name, part in body.items()
        if name != "prices"
        for path, entry in _entries(part, (name,))
    ]
    units = [_billed(path, entry, prices) for path, entry in entries]
    currency = body.get("currency")
    return Bill(
        currency.upper() if isinstance(currency, str) and currency.strip() else None,
        units,
        prices.of_piles(),
        any(one.pile.lane == "batch" for one in units) or prices.names_batch,
        any("service_tier" in entry for _, entry in entries),
        _number(body.get("vibe_usage")) or 0.0,
    )


def _entries(part: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    if isinstance(part, dict):
        for name, below in cast("dict[str, Any]", part).items():
            yield from _entries(below, (*path, name))
    elif isinstance(part, list):
        for entry in cast("list[Any]", part):
            if isinstance(entry, dict) and ("value" in entry or "value_paid" in entry):
                yield path, cast("dict[str, Any]", entry)


def _billed(path: tuple[str, ...], entry: Mapping[str, Any], prices: _Prices) -> BilledUnits:
    name = path[-2] if len(path) > 1 else ""
    asked, _, billed = name.rpartition("::")
    metric = _text(entry, "billing_metric") or billed or name
    group = _text(entry, "billing_group") or path[-1]  # pyright: ignore[reportGeneralTypeIssues]  never empty
    event = _text(entry, "event_type")
    told = " ".join((*path, metric, group, event, _text(entry, "usage_type")))
    pile = _pile(metric, group, event, _text(entry, "service_tier"), "/".join(path[:-1]), told)
    used, charged = _number(entry.get("value")), _number(entry.get("value_paid"))
    return BilledUnits(
        pile,
        _without_batch(_text(entry, "billing_display_name") or asked or metric),
        _day(_text(entry, "timestamp")),
        (charged if used is None else used) or 0.0,
        (used if charged is None else charged) or 0.0,
        prices.find(metric, group, event, _text(entry, "service_tier"), _text(entry, "api_zone")),
    )


def _day(timestamp: str) -> str | None:
    """In UTC, where it is a moment that says its zone; else as it stands there."""
    for written in (timestamp, timestamp[:_DAY_CHARS]):
        with suppress(ValueError, OverflowError):
            moment = datetime.fromisoformat(written)
            return (moment if moment.tzinfo is None else moment.astimezone(UTC)).date().isoformat()
    return None


def _pile(metric: str, group: str, event: str, tier: str, category: str, told: str) -> Pile:
    return Pile(
        _without_batch(metric),
        "batch" if _BATCH.search(told) else "live",
        PRIORITY if tier == PRIORITY else STANDARD,
        _unit(_without_batch(group).lower(), event, category),
    )


def _unit(group: str, event: str, category: str) -> Unit:
    for word, unit in _EVENTS if event else _CATEGORIES:
        if word in (event or category):
            return _token_of(group) if unit == "input" else unit
    return "other"


def _token_of(group: str) -> Unit:
    if "cach" in group:
        return "cached"
    if group.startswith(("in", "prompt")):
        return "input"
    return "output" if group.startswith(("out", "completion")) else "other"


class _Prices:
    """What one unit costs, by metric and group; there may be several, of other events, tiers and zones.

    Attributes:
        names_batch: some price is one of batch jobs.
    """

    def __init__(self, given: Any) -> None:
        self._found: dict[tuple[str, str], list[tuple[str, str, str, float]]] = {}
        self.names_batch = False
        for one in cast("list[Any]", given) if isinstance(given, list) else []:
            if not isinstance(one, dict):
                continue
            entry = cast("dict[str, Any]", one)
            price = _number(entry.get("price"))
            if price is None:
                continue
            metric, group = _text(entry, "billing_metric"), _text(entry, "billing_group")
            told = (_text(entry, "event_type"), _text(entry, "service_tier"), _text(entry, "api_zone"))
            self._found.setdefault((metric, group), []).append((*told, price))
            self.names_batch |= _BATCH.search(" ".join((metric, group, *told))) is not None

    def find(self, metric: str, group: str, event: str, tier: str, zone: str) -> float | None:
        """The price that fits best; ``None`` where there is none for such an event."""
        fitting = [
            ((one_zone not in ("", zone or _GLOBAL)), (one_tier not in ("", tier or STANDARD)), price)
            for one_event, one_tier, one_zone, price in self._found.get((metric, group), ())
            if not event or one_event in ("", event)
        ]
        return min(fitting)[2] if fitting else None

    def of_piles(self) -> dict[Pile, float]:
        """By what is counted together, in the global zone where there is one."""
        piles: dict[Pile, float] = {}
        for (metric, group), prices in self._found.items():
            for event, tier, zone, price in sorted(prices, key=lambda one: one[2] in ("", _GLOBAL)):
                told = " ".join((metric, group, event, tier, zone))
                piles[_pile(metric, group, event or "token", tier, "", told)] = price
        return piles


def _without_batch(text: str) -> str:
    return _BATCH_IN_NAME.sub("", text) or text


def _text(entry: Mapping[str, Any], name: str) -> str:
    value = entry.get(name)
    return value if isinstance(value, str) else ""


def _number(value: Any) -> float | None:
    try:
        number = float(value) if isinstance(value, str | int | float) else None
    except (ValueError, OverflowError):
        return None
    return number if number is not None and abs(number) < float("inf") else None
