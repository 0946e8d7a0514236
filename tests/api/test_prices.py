from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from mistill.api.prices import (
    Price,
    factors_of,
    load_prices,
    old_prices_note,
    price_of,
    retired_note,
    shipped_prices,
    unknown_price,
)
from mistill.api.tariff import warn_if_old
from mistill.api.usage import Usage
from mistill.errors import InputError


@pytest.mark.parametrize(
    ("model", "price_in", "price_out"),
    [
        ("mistral-small-2603", 0.15, 0.60),
        ("mistral-small-latest", 0.15, 0.60),
        ("mistral-medium-3-5", 1.5, 7.5),
        ("mistral-medium-3", 1.5, 7.5),
        ("mistral-medium-latest", 1.5, 7.5),
        ("mistral-large-2512", 0.5, 1.5),
        ("mistral-large-latest", 0.5, 1.5),
        ("ministral-3b-2512", 0.1, 0.1),
        ("ministral-8b-latest", 0.15, 0.15),
        ("ministral-14b-latest", 0.2, 0.2),
        ("codestral-2508", 0.3, 0.9),
        ("codestral-latest", 0.3, 0.9),
        ("mistral-embed", 0.1, 0),
        ("codestral-embed", 0.15, 0),
        ("mistral-moderation-2603", 0, 0),
        ("voxtral-small-latest", 0.1, 0.4),
    ],
)
def test_published_prices(model: str, price_in: float, price_out: float) -> None:
    price = price_of(model)
    assert price is not None
    assert price.has_tokens
    assert (price.input, price.output, price.date) == (price_in, price_out, date(2026, 8, 1))
    assert price.cached_input == pytest.approx(price_in / 10)


@pytest.mark.parametrize(
    ("model", "a_thousand_pages", "a_thousand_annotated", "a_minute"),
    [
        ("mistral-ocr-latest", 4, 5, 0),
        ("mistral-ocr-2512", 2, 3, 0),
        ("mistral-ocr-2505", 1, 3, 0),
        ("voxtral-mini-2602", 0, 0, 0.003),
        ("voxtral-small-2507", 0, 0, 0.004),
    ],
)
def test_published_prices_of_pages_and_minutes(
    model: str, a_thousand_pages: float, a_thousand_annotated: float, a_minute: float
) -> None:
    price = price_of(model)
    assert price is not None
    assert price.page * 1000 == pytest.approx(a_thousand_pages)
    assert price.annotated_page * 1000 == pytest.approx(a_thousand_annotated)
    assert price.minute == a_minute


def test_cost_counts_cached_tokens_at_their_own_price() -> None:
    price = Price(input=1.0, output=10.0, cached_input=0.1)
    assert price.cost(Usage(1_000_000, 1_000_000)) == pytest.approx(11.0)
    assert price.cost(Usage(1_000_000, 0, cached_tokens=500_000)) == pytest.approx(0.55)


def test_cost_counts_sound_by_the_minute() -> None:
    price = Price(input=1.0, output=10.0, cached_input=0.1, minute=0.6)
    assert price.cost(Usage(1_000_000, 0, audio_seconds=90)) == pytest.approx(1.9)


def test_another_tariff_is_a_factor_of_everything() -> None:
    price = Price(1.0, 10.0, 0.1, date(2026, 1, 1), page=0.2, annotated_page=0.4, minute=0.6)
    assert price.times(0.5) == Price(0.5, 5.0, 0.05, date(2026, 1, 1), 0.1, 0.2, 0.3)
    half = price.times(factors_of().batch)
    assert half.cost(Usage(1000, 1000, 500, 30)) == pytest.approx(price.cost(Usage(1000, 1000, 500, 30)) / 2)


@pytest.mark.parametrize(
    ("tariff", "factor"), [("cached_input", 0.1), ("batch", 0.5), ("priority", 1.75), ("regional", 1.1)]
)
def test_the_published_tariffs(tariff: str, factor: float) -> None:
    assert getattr(factors_of(), tariff) == factor
    own = load_prices({"factors": {tariff: 0.25}})
    assert factors_of(own) == replace(factors_of(), **{tariff: 0.25})  # the others stay Mistral's
    assert factors_of(load_prices({"models": {}})) == factors_of()


def test_a_factor_of_ones_own_holds_for_shipped_prices_too() -> None:
    price = price_of("mistral-small-latest", load_prices({"factors": {"cached_input": 0.5}}))
    assert price is not None
    assert price.cached_input == pytest.approx(0.075)


def test_an_unknown_model_has_no_price_and_the_text_offers_the_nearest() -> None:
    assert price_of("mistral-smal-latest") is None
    assert "mistral-small-latest" in unknown_price("mistral-smal-latest")
    assert "2026-08-01" in unknown_price("gpt")
    own = load_prices({"models": {"our-own-model": {"input": 1, "output": 1}}})
    assert "'our-own-model'" in unknown_price("our-own-modell", own)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("open-mixtral-8x22b", ["2025-03-30", "mistral-small-latest"]),
        ("open-mixtral-8x22b-2404", ["open-mixtral-8x22b)", "2025-03-30", "mistral-small-latest"]),
        ("open-mixtral-8x7b", ["2025-03-30", "mistral-small-latest"]),
        ("codestral-2405", ["2025-06-16", "codestral-latest"]),
        ("open-mistral-nemo", ["open-mistral-nemo-2407", "2026-07-31", "ministral-8b-latest"]),
        ("open-mistral-7b", ["2025-03-30", "ministral-8b-latest"]),
        ("mistral-tiny", ["open-mistral-7b", "ministral-8b-latest"]),
    ],
)
def test_a_retired_model_is_told_with_its_successor(model: str, words: list[str]) -> None:
    note = retired_note(model)
    assert note is not None
    assert all(word in note for word in [model, *words])
    assert note in unknown_price(model)


def test_every_successor_has_a_price_and_no_retired_model_has_one() -> None:
    table = shipped_prices()
    for name, retired in table.retired.items():
        assert price_of(retired.successor) is not None
        assert all(price_of(each) is None for each in (name, *retired.aliases))
        assert retired_note(retired.successor) is None


def test_no_name_is_of_two_retired_models() -> None:
    names = [each for name, gone in shipped_prices().retired.items() for each in (name, *gone.aliases)]
    assert len(names) == len(set(names))


def test_prices_are_old_after_ninety_days() -> None:
    dated = date(2026, 8, 1)
    assert old_prices_note(dated, date(2026, 10, 30)) is None
    note = old_prices_note(dated, date(2026, 10, 31))
    assert note is not None
    assert "2026-08-01, 91 days ago" in note
    assert old_prices_note(None, date(2030, 1, 1)) is None


def test_that_prices_are_old_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    today = date(2020, 6, 1)
    for _ in range(3):
        warn_if_old(Price(1, 1, date=date(2020, 2, 1)), today)
        warn_if_old(Price(1, 1, date=today), today)
        warn_if_old(None, today)
    (record,) = caplog.records
    assert "2020-02-01" in record.getMessage()


def test_the_users_table_comes_before_the_shipped_one(tmp_path: Path) -> None:
    table = tmp_path / "prices.toml"
    table.write_text(
        'date = 2027-01-01\n[models.mine]\ninput = 2\noutput = 3\naliases = ["mistral-small-latest"]\n'
        "[models.newer]\ninput = 1\noutput = 1\ndate = 2027-02-01\n"
    )
    own = load_prices(table)
    assert price_of("mine", own) == Price(2, 3, 0.2, date(2027, 1, 1))
    assert price_of("mistral-small-latest", own) == price_of("mine", own)
    assert price_of("mistral-large-2512", own) == price_of("mistral-large-2512")
    newer = price_of("newer", own)
    assert newer is not None
    assert newer.date == date(2027, 2, 1)


def test_a_page_is_annotated_for_as_much_unless_the_table_says_otherwise() -> None:
    price = price_of("mine", load_prices({"models": {"mine": {"page": 0.5}}}))
    assert price is not None
    assert (price.page, price.annotated_page, price.has_tokens) == (0.5, 0.5, False)


@pytest.mark.parametrize(
    ("table", "complaint"),
    [
        ({"models": {"m": {"input": -1, "output": 1}}}, "input"),
        ({"models": {"m": {"input": 1}}}, "output"),
        ({"models": {"m": {"output": 1}}}, "`input` is missing"),
        ({"models": {"m": {"page": 1, "cached_input": 1}}}, "cached_input"),
        ({"models": {"m": {"annotated_page": 1, "minute": 1}}}, "`page` is missing"),
        ({"models": {"m": {"aliases": ["n"]}}}, "no price"),
        ({"models": {"m": {"minute": 1, "aliases": ["n"]}, "n": {"minute": 1}}}, "'n' names two models"),
        ({"models": {"m": {"input": 1, "output": 1, "inptu": 2}}}, "inptu"),
        ({"model": {}}, "model"),
        ({"models": {}, "factors": {"batch": "half"}}, "batch"),
        ({"retired": {"m": {"successor": "n"}}}, "on"),
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
