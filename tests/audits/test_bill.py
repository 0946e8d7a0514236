"""The bill is read in the form in which it was seen, and where it has another one."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from mistill.api.admin import Bill, BilledUnits, Pile, decode_bill


def entry(group: str, number: float, **others: Any) -> dict[str, Any]:
    """As it was seen, but for what is said."""
    seen = {
        "usage_type": "usage",
        "event_type": "api_tokens",
        "billing_metric": "mistral-small-2603",
        "billing_display_name": "mistral-small-latest",
        "billing_group": group,
        "timestamp": "2026-11-24",
        "value": number,
        "value_paid": number,
    }
    return {name: one for name, one in (seen | others).items() if one is not None}


def price(group: str, dollars: Any, **others: Any) -> dict[str, Any]:
    seen = {"event_type": "api_tokens", "billing_metric": "mistral-small-2603", "billing_group": group}
    return seen | {"price": dollars} | others


def bill(*entries: dict[str, Any], prices: Any = (), category: str = "completion", **others: Any) -> Bill:
    groups: dict[str, list[dict[str, Any]]] = {}
    for one in entries:
        groups.setdefault(str(one.get("billing_group", "input")), []).append(one)
    body = {
        "ocr": {"models": {}},
        "libraries_api": {"pages": {"models": {}}, "tokens": {"models": {}}},
        "fine_tuning": {"training": {}, "storage": {}},
        "vibe_usage": 0.0,
        "start_date": "2026-11-01T00:00:00Z",
        "currency": "USD",
        "prices": list(prices),
    }
    used = {category: {"models": {"mistral-small-latest::mistral-small-2603": groups}}}
    return decode_bill(msgspec.json.encode(body | used | others))


SMALL = Pile("mistral-small-2603", "live", "standard", "input")


def test_units_and_prices_as_they_were_seen() -> None:
    found = bill(entry("input", 120), entry("output", 30, value_paid=20), prices=[price("input", "8.50E-8")])
    assert found.currency == "USD"
    assert found.units == [
        BilledUnits(SMALL, "mistral-small-latest", "2026-11-24", 120, 120, 8.5e-8),
        BilledUnits(
            Pile("mistral-small-2603", "live", "standard", "output"),
            "mistral-small-latest",
            "2026-11-24",
            30,
            20,
            None,
        ),
    ]
    assert found.prices == {SMALL: 8.5e-8}
    assert not found.tells_lanes
    assert not found.tells_tiers


@pytest.mark.parametrize(
    "others",
    [
        {"billing_metric": "mistral-small-2603-batch"},
        {"billing_metric": "batch-mistral-small-2603"},
        {"billing_group": "batch_input"},
        {"billing_group": "input_batch"},
        {"usage_type": "batch"},
    ],
)
def test_batch_jobs_are_told_wherever_the_bill_says_so(others: dict[str, str]) -> None:
    found = bill(entry("input", 5) | others)
    assert [one.pile for one in found.units] == [Pile("mistral-small-2603", "batch", "standard", "input")]
    assert found.tells_lanes
    assert bill(entry("input", 5), category="batch").units[0].pile.lane == "batch"
    assert bill(entry("input", 5, billing_metric="batched-small")).units[0].pile.lane == "live"


def test_what_is_counted_follows_from_the_event_else_from_the_category() -> None:
    def unit(group: str, category: str, event: str | None) -> str:
        return bill(entry(group, 1, event_type=event), category=category).units[0].pile.unit

    assert unit("input", "completion", "api_audio_seconds") == "seconds"
    assert unit("input", "audio", None) == "seconds"
    assert unit("input", "ocr", None) == "pages"
    assert unit("pages", "ocr", "api_pages") == "pages"
    assert unit("cached", "completion", "api_tokens") == "cached"
    assert unit("cached_input", "completion", None) == "cached"
    assert unit("output", "chat", "api_tokens") == "output"
    assert unit("search", "connectors", "api_connectors") == "other"


def test_the_price_is_that_of_the_event_the_tier_and_the_zone() -> None:
    prices = [
        price("input", "3", event_type="api_audio_seconds", service_tier="standard", api_zone="global"),
        price("input", "5", service_tier="priority", api_zone="global"),
        price("input", "7", service_tier="standard", api_zone="eu"),
        price("input", "11", service_tier="standard", api_zone="global"),
    ]

    def found(**others: Any) -> float | None:
        return bill(entry("input", 1, **others), prices=prices).units[0].price

    assert found() == 11
    assert found(service_tier="priority") == 5
    assert found(api_zone="eu") == 7
    assert found(event_type="api_audio_seconds") == 3
    assert found(event_type="vibe_tokens") is None
    assert found(billing_metric="another") is None
    assert bill(prices=prices).prices[SMALL] == 11


def test_names_stand_in_the_path_where_they_stand_nowhere_else() -> None:
    found = bill({"value": "12"}).units[0]
    assert (found.pile, found.asked, found.day, found.used, found.charged) == (
        SMALL,
        "mistral-small-latest",
        None,
        12,
        12,
    )


def test_what_cannot_be_read_is_left_out() -> None:
    found = bill(
        entry("input", 1, value=None, value_paid=None),
        entry("input", 2, value="many", value_paid=None, timestamp=7),
        prices=[None, {"price": {}}, price("input", "NaN"), price("input", "1e400")],
        currency=None,
        chat=[1, None, {"value": None}],
    )
    assert [one.used for one in found.units] == [0, 0]
    assert found.prices == {}
    assert found.currency is None


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b'{"detail": "Not Found"}', b"<html>", b'{"data": []}'])
def test_what_is_no_bill_is_none(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_bill(raw)


@pytest.mark.parametrize(
    ("timestamp", "day"),
    [
        ("2026-11-30", "2026-11-30"),
        ("2026-11-30T23:59:59.999Z", "2026-11-30"),
        ("2026-12-01T00:30:00+02:00", "2026-11-30"),
        ("2026-12-31T23:30:00-01:00", "2027-01-01"),
        ("2026-11-30T23:59:59", "2026-11-30"),
        ("2026-11-30 UTC", "2026-11-30"),
        ("0001-01-01T00:00:00+05:00", "0001-01-01"),
        ("2026-02-30", None),
        ("today", None),
        ("", None),
    ],
)
def test_the_day_of_a_line_is_in_utc(timestamp: str, day: str | None) -> None:
    assert [one.day for one in bill(entry("input", 1, timestamp=timestamp)).units] == [day]
