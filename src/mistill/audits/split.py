"""A bill, less what ledgers have, split by why the rest is there.

Units are compared, of each model, lane and tier, over all days on which an attempt of the ledgers can have been billed:
no clock of ours decides on which side of midnight a server counts. What is on the bill and not among the answers is
first taken for what answers took that did not say it, then for requests without an answer, each up to what it can have
taken, and the rest for other programs. Money follows from the units, by the bill's own prices; where it has none, by
the table.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from mistill.api.admin import STANDARD, Bill, BilledUnits, Lane, Pile, Unit
from mistill.api.prices import MILLION, factors_of, price_of, shipped_prices
from mistill.audits.charges import Cause, Charges, Doubt
from mistill.audits.report import Difference, Share

_DOLLARS = "USD"
_TOGETHER: Mapping[Unit, Unit] = {"cached": "input"}
"""Units of which one may have been billed as the other."""
_BOUNDS: Mapping[Unit, Literal["input_tokens", "output_tokens", "seconds"]] = {
    "input": "input_tokens",
    "cached": "input_tokens",
    "output": "output_tokens",
    "seconds": "seconds",
}
"""What bounds it of a `Doubt`."""


def split_bill(
    bills: Sequence[Bill], charges: Charges, *, months: Sequence[str], workspace: str | None
) -> Difference:
    """See the module.

    Args:
        bills: of the months, in their order.
    """
    ours = _Ours(bills, charges)
    answers, charged = ours.answers(), sum(one.charged * ours.price_of(one) for one in ours.units)
    ours.net()
    estimates, maybe_billed = ours.take("estimates"), ours.take("maybe_billed")
    others = ours.rest(above=True) + ours.elsewhere
    unexplained = ours.rest(above=False)
    currencies = sorted({bill.currency for bill in bills if bill.currency is not None})
    currency = "/".join(currencies) or None
    known = charges.cost + charges.estimated_cost
    in_dollars = currency == _DOLLARS
    amount = known if in_dollars else answers.amount + ours.netted
    days = [one.day for one in ours.units if one.day is not None]
    return Difference(
        months=list(months),
        workspace=workspace,
        currency=currency,
        billed=ours.billed,
        answers=Share(
            amount,
            answers.input_tokens + charges.estimated_input,
            answers.output_tokens + charges.estimated_output,
        ),
        prices=answers.amount + ours.netted - charges.cost if in_dollars else None,
        estimates=estimates
        + Share(
            -charges.estimated_cost if in_dollars else 0.0,
            -charges.estimated_input,
            -charges.estimated_output,
        ),
        maybe_billed=maybe_billed,
        other_programs=others,
        unexplained=unexplained,
        included=ours.billed.amount - charged - ours.further,
        unanswered=charges.unanswered,
        likely_tokens=charges.likely_tokens,
        tells_lanes=ours.tells_lanes or not charges.has_jobs,
        unpriced=ours.unpriced,
        last_day=max(days, default=None),
        at_edge=charges.at_edge,
        beside=sorted(charges.beside),
    )


class _Ours:
    """The units of a bill that may be ours, less those of the answers.

    Attributes:
        units: all lines of the bill. ``billed``: their sum, whoever's they are.
        elsewhere: of days on which nothing of the ledgers can have been billed, and what the bill has without units.
        netted: money by which what is billed as something else than the answers say costs more.
    """

    def __init__(self, bills: Sequence[Bill], charges: Charges) -> None:
        self.units = [one for bill in bills for one in bill.units]
        self.further = sum(bill.further for bill in bills)
        self.tells_lanes = any(bill.tells_lanes for bill in bills)
        self._tells_tiers = any(bill.tells_tiers for bill in bills)
        self._names = _Names(self.units, charges)
        self._doubts = [msgspec.structs.replace(doubt) for doubt in charges.doubts]
        self._exact = self._as_billed(charges.exact)
        self._over: dict[Pile, float] = {pile: -number for pile, number in self._exact.items()}
        self.netted = 0.0
        self.billed = self.elsewhere = Share(self.further)
        self.unpriced = 0
        self._prices: dict[Pile, float] = {}
        for bill in bills:
            self._prices |= {self._shown(pile): price for pile, price in bill.prices.items()}
        self._add_units(charges.days)

    def _add_units(self, days: set[str]) -> None:
        amounts: dict[Pile, float] = {}
        counts: dict[Pile, float] = {}
        for one in self.units:
            pile = self._shown(one.pile)
            amount = one.used * self.price_of(one)
            self.unpriced += round(one.used) if one.price is None else 0
            share = _share(pile.unit, one.used, amount)
            self.billed += share
            if one.day is not None and one.day not in days:
                self.elsewhere += share
                continue
            self._over[pile] = self._over.get(pile, 0) + one.used
            counts[pile] = counts.get(pile, 0) + one.used
            amounts[pile] = amounts.get(pile, 0) + amount
        self._prices |= {pile: amounts[pile] / number for pile, number in counts.items() if number}

    def _as_billed(self, exact: Mapping[Pile, float]) -> dict[Pile, float]:
        """By the names and kinds that the bill has."""
        found: dict[Pile, float] = {}
        for pile, number in exact.items():
            shown = self._shown(pile)
            found[shown] = found.get(shown, 0) + number
        return found

    def _shown(self, pile: Pile) -> Pile:
        lane: Lane = pile.lane if self.tells_lanes else "live"
        tier = pile.tier if self._tells_tiers else STANDARD
        return Pile(self._names.billed(pile.model), lane, tier, pile.unit)

    def _price(self, pile: Pile) -> float:
        price = self._prices.get(pile)
        return price_by_table(pile) if price is None else price

    @staticmethod
    def price_of(one: BilledUnits) -> float:
        """Of a unit of a line, by the table where the bill has none."""
        return price_by_table(one.pile) if one.price is None else one.price

    def answers(self) -> Share:
        """At the bill's prices."""
        shares = (
            _share(pile.unit, number, number * self._price(pile)) for pile, number in self._exact.items()
        )
        return sum(shares, Share())

    def net(self) -> None:
        """What is billed at another tier, by another name of the model, or not as cached, is no usage but a price."""
        for group in self._groups().values():
            missing = [pile for pile in group if self._over[pile] < 0]
            for pile in (pile for pile in group if self._over[pile] > 0):
                for other in missing:
                    units = min(self._over[pile], -self._over[other])
                    if units > 0:
                        self._over[pile] -= units
                        self._over[other] += units
                        self.netted += units * (self._price(pile) - self._price(other))

    def _groups(self) -> dict[tuple[str, Lane, Unit], list[Pile]]:
        groups: dict[tuple[str, Lane, Unit], list[Pile]] = {}
        for pile in sorted(self._over, key=msgspec.structs.astuple):
            unit = _TOGETHER.get(pile.unit, pile.unit)
            groups.setdefault((self._names.group(pile.model), pile.lane, unit), []).append(pile)
        return groups

    def take(self, cause: Cause) -> Share:
        """What doubts of this cause account for, which is taken away."""
        share = Share()
        for doubt in self._doubts:
            if doubt.cause != cause:
                continue
            group = self._names.group(next(iter(doubt.names)))
            lane: Lane = doubt.lane if self.tells_lanes else "live"
            for pile in sorted(self._over, key=msgspec.structs.astuple):
                if pile.lane == lane and self._names.group(pile.model) == group:
                    share += self._account(pile, doubt)
        return share

    def _account(self, pile: Pile, doubt: Doubt) -> Share:
        field = _BOUNDS.get(pile.unit)
        if field is None or self._over[pile] <= 0:
            return Share()
        units = min(self._over[pile], getattr(doubt, field))
        setattr(doubt, field, getattr(doubt, field) - units)
        self._over[pile] -= units
        return _share(pile.unit, units, units * self._price(pile))

    def rest(self, *, above: bool) -> Share:
        """What nothing accounts for: on the bill, or missing there."""
        left = ((pile, over) for pile, over in self._over.items() if over and (over > 0) is above)
        return sum((_share(pile.unit, over, over * self._price(pile)) for pile, over in left), Share())


def _share(unit: Unit, number: float, amount: float) -> Share:
    tokens = round(number)
    return Share(amount, tokens if unit in ("input", "cached") else 0, tokens if unit == "output" else 0)


def price_by_table(pile: Pile) -> float:
    """Of one unit, in US dollars, by the table of prices; 0 where that has none."""
    price, factors = price_of(pile.model), factors_of()
    if price is None:
        return 0.0
    by_unit: dict[Unit, float] = {
        "input": price.input / MILLION,
        "cached": price.cached_input / MILLION,
        "output": price.output / MILLION,
        "seconds": price.minute / 60,
    }
    factor = (factors.batch if pile.lane == "batch" else 1.0) * (
        1.0 if pile.tier == STANDARD else factors.priority
    )
    return by_unit.get(pile.unit, 0.0) * factor


class _Names:
    """What a model is called: by the bill, by its answers, and by whoever asked for it."""

    def __init__(self, units: Sequence[BilledUnits], charges: Charges) -> None:
        self._metrics = {one.pile.model for one in units}
        self._parents: dict[str, str] = {}
        self._shown: dict[str, set[str]] = {}
        for one in units:
            self._shown.setdefault(one.asked, set()).add(one.pile.model)
            self._unite((one.asked, one.pile.model))
        for names in charges.names:
            self._unite((*names, *map(self.billed, names)))

    def billed(self, name: str) -> str:
        """The name that the bill has for it, where it has one."""
        if name in self._metrics:
            return name
        for names in (self._shown.get(name, set[str]()), _other_names(name)):
            if len(found := names & self._metrics) == 1:
                return next(iter(found))
        return name

    def group(self, name: str) -> str:
        """The same for all names of a model."""
        while (parent := self._parents.get(name, name)) != name:
            name = parent
        return name

    def _unite(self, names: Iterable[str]) -> None:
        groups = sorted({self.group(name) for name in names})
        for group in groups[1:]:
            self._parents[group] = groups[0]


def _other_names(name: str) -> set[str]:
    """By the table of prices."""
    for model, entry in shipped_prices().models.items():
        if name == model or name in entry.aliases:
            return {model, *entry.aliases}
    return set()
