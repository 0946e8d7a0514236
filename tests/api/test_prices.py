from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from mistill.api.prices import Price, load_prices, price_of, shipped_prices
from mistill.api.usage import Usage
from mistill.errors import InputError


@pytest.mark.parametrize(
    ("model", "price_in", "price_out"),
    [
        ("mistral-small-4", 0.15, 0.60),
        ("mistral-small-latest", 0.15, 0.60),
        ("mistral-medium-3.5", 1.5, 7.5),
        ("mistral-large-2512", 0.5, 1.5),
        ("ministral-3b-latest", 0.1, 0.1),
        ("ministral-8b-latest", 0.15, 0.15),
        ("ministral-14b-latest", 0.2, 0.2),
    ],
)
def test_published_prices(model: str, price_in: float, price_out: float) -> None:
    price = price_of(model)
    assert price is not None
    assert (price.input, price.output, price.date) == (price_in, price_out, date(2026, 8, 1))
    assert price.cached_input == pytest.approx(price_in / 10)


def test_cost_counts_cached_tokens_at_their_own_price() -> None:
    price = Price(input=1.0, output=10.0, cached_input=0.1)
    assert price.cost(Usage(1_000_000, 1_000_000)) == pytest.approx(11.0)
    assert price.cost(Usage(1_000_000, 0, cached_tokens=500_000)) == pytest.approx(0.55)


def test_another_tariff_is_a_factor() -> None:
    price = Price(input=1.0, output=10.0, cached_input=0.1)
    half = price.times(shipped_prices().factors.batch)
    assert half.cost(Usage(1000, 1000, 500)) == pytest.approx(price.cost(Usage(1000, 1000, 500)) / 2)


@pytest.mark.parametrize(
    ("tariff", "factor"), [("cached_input", 0.1), ("batch", 0.5), ("priority", 1.75), ("regional", 1.1)]
)
def test_the_published_tariffs(tariff: str, factor: float) -> None:
    assert getattr(shipped_prices().factors, tariff) == factor
    assert getattr(load_prices({"models": {}, "factors": {tariff: 0.25}}).factors, tariff) == 0.25


def test_an_unknown_model_has_no_price_and_the_text_offers_the_nearest() -> None:
    assert price_of("mistral-smal-latest") is None
    assert "mistral-small-latest" in shipped_prices().unknown("mistral-smal-latest")
    assert "2026-08-01" in shipped_prices().unknown("gpt")


def test_the_users_table_comes_before_the_shipped_one(tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text(
        'date = 2027-01-01\n[models.mine]\ninput = 2\noutput = 3\naliases = ["mistral-small-latest"]\n'
    )
    own = load_prices(table)
    assert price_of("mine", own) == Price(2, 3, 0.2, date(2027, 1, 1))
    assert price_of("mistral-small-latest", own) == price_of("mine", own)
    assert price_of("mistral-large-3", own) == price_of("mistral-large-3")


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"models": {"m": {"input": -1, "output": 1}}}, "input"),
        ({"models": {"m": {"input": 1}}}, "output"),
        ({"models": {"m": {"input": 1, "output": 1, "inptu": 2}}}, "inptu"),
        ({"model": {}}, "model"),
        ({"models": {}, "factors": {"batch": "half"}}, "batch"),
    ],
)
def test_a_wrong_table_is_refused_and_the_place_named(table: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        load_prices(table)


def test_a_table_that_is_not_there_or_no_toml_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        load_prices(tmp_path / "absent.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("[models")
    with pytest.raises(InputError, match="not TOML"):
        load_prices(broken)
