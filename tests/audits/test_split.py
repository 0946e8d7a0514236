"""What a bill has more, or less, than ledgers: split by why, and nothing is lost in between."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistill.api.admin import Bill, BilledUnits, Lane, Pile, Unit
from mistill.audits.charges import Charges, Doubt
from mistill.audits.report import Difference, Share
from mistill.audits.split import split_bill

DAY, OTHER_DAY = "2026-11-24", "2026-11-02"
SMALL, LARGE, ALIAS = "mistral-small-2603", "mistral-large-2512", "mistral-small-latest"
PRICES: dict[Unit, float] = {"input": 1e-6, "cached": 1e-7, "output": 4e-6, "seconds": 1e-4}
FACTORS = {"standard": 1.0, "priority": 1.75}


def pile(model: str = SMALL, unit: Unit = "input", lane: Lane = "live", tier: str = "standard") -> Pile:
    return Pile(model, lane, tier, unit)


def price_of(of: Pile) -> float:
    return PRICES[of.unit] * FACTORS[of.tier] * (0.5 if of.lane == "batch" else 1)


def bill_of(*used: tuple[Pile, float], day: str | None = DAY, currency: str | None = "USD") -> Bill:
    units = [BilledUnits(of, of.model, day, number, number, price_of(of)) for of, number in used]
    return Bill(currency, units, {}, tells_lanes=True, tells_tiers=True)


def charges_of(
    exact: dict[Pile, float], *doubts: Doubt, names: tuple[frozenset[str], ...] = (frozenset({SMALL}),)
) -> Charges:
    cost = sum(number * price_of(of) for of, number in exact.items())
    return Charges(exact=exact, cost=cost, doubts=list(doubts), names=[*names], days={DAY})


def split(*bills: Bill, charges: Charges) -> Difference:
    return split_bill(bills, charges, months=["2026-11"], workspace=None)


def doubt(tokens_in: float, tokens_out: float, *names: str, lane: Lane = "live") -> Doubt:
    return Doubt("maybe_billed", frozenset(names or {SMALL}), lane, tokens_in, tokens_out, 0)


def near(amount: float) -> Any:
    return pytest.approx(amount, abs=1e-15)


def is_whole(found: Difference) -> bool:
    """The parts are the bill."""
    parts = found.answers + found.estimates + found.maybe_billed + found.other_programs + found.unexplained
    return (parts.input_tokens, parts.output_tokens) == (
        found.billed.input_tokens,
        found.billed.output_tokens,
    ) and parts.amount + (found.prices or 0.0) == pytest.approx(found.billed.amount, abs=1e-12)


def test_answers_that_are_on_the_bill_leave_nothing() -> None:
    exact = {pile(): 100.0, pile(unit="cached"): 64.0, pile(unit="output"): 7.0}
    found = split(bill_of(*exact.items()), charges=charges_of(exact))
    assert found.answers == found.billed == Share(near(134.4e-6), 164, 7)
    assert found.total == Share(near(0), 0, 0)
    assert found.maybe_billed == found.other_programs == found.unexplained == Share()
    assert is_whole(found)


def test_what_attempts_without_an_answer_can_have_taken_is_theirs_and_no_more() -> None:
    exact = {pile(): 100.0}
    bill = bill_of((pile(), 130), (pile(unit="output"), 9))
    found = split(bill, charges=charges_of(exact, doubt(20, 50)))
    assert found.maybe_billed == Share(near(20e-6 + 9 * 4e-6), 20, 9)
    assert found.other_programs == Share(near(10e-6), 10, 0)
    assert is_whole(found)


def test_what_is_asked_by_jobs_explains_no_requests_of_others() -> None:
    bill = bill_of((pile(), 30), (pile(lane="batch"), 30))
    found = split(bill, charges=charges_of({}, doubt(100, 0, lane="batch")))
    assert (found.maybe_billed.input_tokens, found.other_programs.input_tokens) == (30, 30)


def test_other_models_and_other_days_are_other_programs() -> None:
    bills = bill_of((pile(LARGE), 30)), bill_of((pile(), 40), day=OTHER_DAY), bill_of((pile(), 5), day=None)
    found = split(*bills, charges=charges_of({}, doubt(1000, 1000)))
    assert (found.maybe_billed.input_tokens, found.other_programs.input_tokens) == (5, 70)
    assert is_whole(found)


def test_answers_that_are_not_on_the_bill_are_unexplained() -> None:
    exact = {pile(): 100.0, pile(unit="output"): 10.0}
    found = split(bill_of((pile(), 60)), charges=charges_of(exact))
    assert (found.unexplained.input_tokens, found.unexplained.output_tokens) == (-40, -10)
    assert found.unexplained.amount == pytest.approx(-40e-6 - 10 * 0.6e-6)  # of the output by the table
    assert is_whole(found)


def test_a_price_of_the_bill_that_is_another_one_is_a_matter_of_prices() -> None:
    exact = {pile(): 1000.0}
    charges = charges_of(exact)
    charges.cost *= 2
    found = split(bill_of(*exact.items()), charges=charges)
    assert found.prices == pytest.approx(-1000e-6)
    assert found.unexplained == found.other_programs == Share()
    assert is_whole(found)


@pytest.mark.parametrize(
    "billed",
    [pile(unit="cached"), pile(tier="priority"), pile(LARGE)],
    ids=["as cached", "at another tier", "by another name"],
)
def test_the_same_tokens_billed_as_something_else_are_a_matter_of_prices(billed: Pile) -> None:
    names = (frozenset({SMALL, LARGE, ALIAS}),)
    found = split(bill_of((pile(), 60), (billed, 40)), charges=charges_of({pile(): 100.0}, names=names))
    assert found.prices == pytest.approx(40 * (price_of(billed) - 1e-6))
    assert found.unexplained == found.other_programs == Share()
    assert is_whole(found)


def test_a_bill_by_aliases_is_that_of_the_models_behind_them() -> None:
    of_alias = [BilledUnits(pile(ALIAS), ALIAS, DAY, 10, 10, 1e-6)]
    bill = Bill("USD", of_alias, {}, tells_lanes=False, tells_tiers=False)
    found = split(bill, charges=charges_of({pile(): 10.0}))
    assert found.unexplained == found.other_programs == Share()


def test_a_bill_that_does_not_tell_jobs_apart_counts_them_with_the_others() -> None:
    bill = msgspec.structs.replace(bill_of((pile(), 150)), tells_lanes=False)
    found = split(bill, charges=charges_of({pile(): 100.0, pile(lane="batch"): 50.0}))
    assert found.prices == pytest.approx(25e-6)
    assert found.unexplained == found.other_programs == Share()
    assert not found.tells_lanes


def test_another_currency_is_held_against_no_dollars() -> None:
    exact = {pile(): 100.0}
    found = split(bill_of(*exact.items(), currency="EUR"), charges=charges_of(exact))
    assert (found.currency, found.prices) == ("EUR", None)
    assert found.answers.amount == found.billed.amount
    assert is_whole(found)


def test_what_a_plan_includes_is_told_beside() -> None:
    units = [BilledUnits(pile(), ALIAS, DAY, 100, 25, 1e-6)]
    bill = Bill("USD", units, {}, tells_lanes=True, tells_tiers=True, further=2.5)
    found = split(bill, charges=charges_of({pile(): 100.0}))
    assert found.included == pytest.approx(75e-6)
    assert found.other_programs == Share(2.5)
    assert is_whole(found)


def test_estimates_give_way_to_what_the_bill_says() -> None:
    unsaid = Doubt("estimates", frozenset({SMALL}), "live", 500, 20, 0)
    charges = charges_of({}, unsaid)
    charges.estimated_cost, charges.estimated_input, charges.estimated_output = 0.01, 500, 20
    found = split(bill_of((pile(), 60), (pile(unit="output"), 3)), charges=charges)
    assert (found.answers.input_tokens, found.answers.output_tokens) == (500, 20)
    assert found.estimates == Share(near(72e-6 - 0.01), -440, -17)
    assert found.unexplained == found.other_programs == Share()
    assert is_whole(found)


_piles = st.builds(
    Pile,
    st.sampled_from([SMALL, LARGE]),
    st.sampled_from(["live", "batch"]),
    st.sampled_from(["standard", "priority"]),
    st.sampled_from(["input", "cached", "output"]),
)
_used = st.dictionaries(_piles, st.integers(1, 10**6).map(float), max_size=8)


@settings(max_examples=60)
@given(_used, _used, _used, st.booleans())
def test_all_of_a_bill_is_split(
    exact: dict[Pile, float], unanswered: dict[Pile, float], others: dict[Pile, float], is_bounded: bool
) -> None:
    doubts = [
        doubt(
            0 if of.unit == "output" else number, number if of.unit == "output" else 0, of.model, lane=of.lane
        )
        for of, number in unanswered.items()
    ]
    names = (frozenset({SMALL}), frozenset({LARGE}))
    bill = bill_of(*exact.items(), *(unanswered if is_bounded else {}).items(), *others.items())
    found = split(bill, charges=charges_of(exact, *doubts, names=names))
    assert is_whole(found)
    assert found.unexplained == Share()
    assert found.prices == pytest.approx(0, abs=1e-9)
    truly = sum(others.values())
    told = found.other_programs.input_tokens + found.other_programs.output_tokens
    assert told <= truly
    if is_bounded or not doubts:  # what may be billed was: nothing is left that could hide others
        assert told == truly


@settings(max_examples=40)
@given(_used, _used)
def test_no_answer_that_is_missing_goes_unseen(exact: dict[Pile, float], missing: dict[Pile, float]) -> None:
    ledger = {of: exact.get(of, 0) + missing.get(of, 0) for of in exact | missing}
    names = (frozenset({SMALL}), frozenset({LARGE}))
    found = split(bill_of(*exact.items()), charges=charges_of(ledger, names=names))
    assert is_whole(found)
    assert found.unexplained.input_tokens + found.unexplained.output_tokens == -sum(missing.values())
    assert found.other_programs == found.maybe_billed == Share()
