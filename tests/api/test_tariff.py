from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistill.api.prices import Price, load_prices
from mistill.api.tariff import Tariff
from mistill.api.usage import Usage

EU = "https://api.eu.mistral.ai"
MEDIUM = {"models": {"mistral-medium-latest": {"input": 3, "output": 4}}}


def input_price(tariff: Tariff, model: str | None, tier: str | None = None) -> float | None:
    price = tariff.price_of(model, tier)
    return None if price is None else price.input


@pytest.mark.parametrize(
    ("asked", "answered", "own", "price"),
    [
        ("mistral-small-latest", "mistral-small-latest", None, 0.15),
        ("mistral-small-latest", "mistral-small-2603", None, 0.15),
        ("mistral-small-latest", None, None, 0.15),
        # The alias moved: to a model with a price of its own, and to one that is newer than the table.
        ("mistral-small-latest", "mistral-medium-3-5", None, 1.5),
        ("mistral-small-latest", "mistral-small-2711", None, None),
        # A server calls the model that was asked for by its own name something else.
        ("mistral-small-2603", "mistralai/Mistral-Small-4", None, 0.15),
        # The user's own word on what the alias costs, and on what the model that answers does.
        ("mistral-medium-latest", "mistral-medium-3-5", MEDIUM, 3),
        ("mistral-medium-latest", "mistral-medium-2711", MEDIUM, 3),
        (
            "mistral-medium-latest",
            "m",
            {"models": MEDIUM["models"] | {"m": {"input": 9, "output": 9}}},
            9,
        ),
        ("unheard-of", "unheard-of", None, None),
        ("unheard-of", "mistral-small-2603", None, 0.15),
        ("mistral-ocr-latest", "mistral-ocr-latest", None, None),  # its tokens have no price
    ],
)
def test_a_price_follows_the_model_that_answered(
    asked: str, answered: str | None, own: dict[str, Any] | None, price: float | None
) -> None:
    tariff = Tariff(asked, prices=None if own is None else load_prices(own))
    assert input_price(tariff, answered) == price
    assert input_price(tariff, answered) == price  # a second time, as it is kept then


@pytest.mark.parametrize(
    ("endpoint", "tier", "factor"),
    [
        ("https://api.mistral.ai", None, 1),
        ("https://api.mistral.ai", "standard", 1),
        ("https://api.mistral.ai", "priority", 1.75),
        (EU, None, 1.1),
        ("https://api.us.mistral.ai", "standard", 1.1),
        (EU, "priority", 1.1 * 1.75),
        ("http://127.0.0.1:8080", "of tomorrow", 1),
    ],
)
@given(tokens=st.tuples(*[st.integers(0, 10**6)] * 3))
def test_factors_are_of_all_tokens(
    endpoint: str, tier: str | None, factor: float, tokens: tuple[int, int, int]
) -> None:
    usage = Usage(max(tokens[0], tokens[2]), tokens[1], tokens[2])
    plain = Tariff("mistral-small-latest").price_of("mistral-small-2603", None)
    price = Tariff("mistral-small-latest", endpoint).price_of("mistral-small-2603", tier)
    assert plain is not None
    assert price is not None
    assert price.cost(usage) == pytest.approx(plain.cost(usage) * factor, abs=1e-11)


def test_in_a_job_an_answer_costs_half_of_what_its_model_does() -> None:
    tariff, agreed = Tariff("mistral-small-latest"), Price(7, 7)
    for model, price, later in (
        ("mistral-small-2603", 0.075, 7),
        (None, 0.075, 7),
        ("mistral-medium-3-5", 0.75, 0.75),
    ):
        now, then = tariff.in_job(model, None), tariff.in_job(model, agreed)
        assert now is not None
        assert then is not None
        # What the job was made at holds, unless another model answered.
        assert (now.input, then.input) == (price, later)
    assert tariff.in_job("mistral-small-2711", agreed) is None
    assert Tariff("unheard-of").in_job("unheard-of", agreed) == agreed
    sound = Tariff("voxtral-small-latest").in_job("voxtral-small-latest", agreed)
    assert sound is not None
    assert (sound.input, sound.minute) == (7, 0.002)


def test_the_factor_of_regions_is_the_users_where_his_table_says_one() -> None:
    price = Tariff("mistral-small-latest", EU, load_prices({"factors": {"regional": 2}})).price
    assert price is not None
    assert price.input == 0.3


def test_the_worst_is_that_of_the_dearest_model_that_answered() -> None:
    tariff = Tariff("mistral-small-latest")
    worst = tariff.worst(may_be_priority=False)
    assert worst is not None
    assert (worst.input, worst.output) == (0.15, 0.6)
    tariff.price_of("ministral-14b-2512", None)
    worst = tariff.worst(may_be_priority=False)
    assert worst is not None
    assert (worst.input, worst.output) == (0.2, 0.6)  # of the one the input, of the other the output
    worst = tariff.worst(may_be_priority=True)
    assert worst is not None
    assert (worst.input, worst.output) == (pytest.approx(0.35), pytest.approx(1.05))


def test_a_server_that_gives_each_answer_another_name_fills_no_memory() -> None:
    tariff = Tariff("mistral-small-2603")
    for number in range(2_000):
        assert input_price(tariff, f"model-{number}") == 0.15
    assert len(tariff._known) < 1_000


@pytest.mark.parametrize(
    ("model", "is_alias"),
    [
        ("mistral-small-latest", True),
        ("mistral-tiny-latest", True),
        ("mistral-small-2603", False),
        ("own", True),
    ],
)
def test_an_alias_is_known_by_the_tables_or_by_its_form(model: str, is_alias: bool) -> None:
    own = load_prices({"models": {"mine": {"input": 1, "output": 1, "aliases": ["own"]}}})
    assert Tariff(model, prices=own).is_of_alias is is_alias
