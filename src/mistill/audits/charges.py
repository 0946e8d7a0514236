"""What ledgers say of attempts → lines by day, model and lane, and what of a bill they can account for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Final, Literal, TypeAlias

from msgspec import Struct, field

from mistill.api.admin import STANDARD, Lane, Pile, Unit
from mistill.audits.report import AuditLine
from mistill.estimates.budget import longest_answer
from mistill.kinds.kept_settings import read_manifest, read_retried_manifests
from mistill.kinds.manifest import RunManifest
from mistill.ledger import LedgerReader, Takings

_EPOCH: Final = date(1970, 1, 1)
_LONGEST_AUDIO_S = 3600
"""The sound of one prompt at its worst."""

_TIMES_LONGER = 4
"""How much more than what had come of an answer its server may have written when it was cut off."""

Cause: TypeAlias = Literal["estimates", "maybe_billed"]


class Doubt(Struct):
    """Attempts of which nobody knows what they took: up to so much of it may be on the bill.

    Attributes:
        names: of the model, any of which the bill may have.
        input_tokens, output_tokens, seconds: the most.
    """

    cause: Cause
    names: frozenset[str]
    lane: Lane
    input_tokens: float
    output_tokens: float
    seconds: float


class Charges(Struct):
    """What ledgers can account for on a bill.

    Attributes:
        exact: what answers took, by the model's name as they say it. ``cost``: US dollars for it.
        estimated_cost, estimated_input, estimated_output: what the ledger has of answers that did not say it.
        doubts: what may be on the bill besides.
        names: each a set of names of one model: as it was asked for, and as it answered.
        days: on which any attempt can have been billed.
        unanswered, likely_tokens, at_edge, beside: as in `Difference`.
    """

    exact: dict[Pile, float] = field(default_factory=dict[Pile, float])
    cost: float = 0.0
    estimated_cost: float = 0.0
    estimated_input: int = 0
    estimated_output: int = 0
    doubts: list[Doubt] = field(default_factory=list[Doubt])
    names: list[frozenset[str]] = field(default_factory=list[frozenset[str]])
    days: set[str] = field(default_factory=set[str])
    unanswered: int = 0
    likely_tokens: int = 0
    at_edge: int = 0
    beside: set[str] = field(default_factory=set[str])

    @property
    def has_jobs(self) -> bool:
        """Some of it was asked in batch jobs."""
        return any(pile.lane == "batch" for pile in self.exact) or any(
            doubt.lane == "batch" for doubt in self.doubts
        )


class LedgerTakings(Struct, frozen=True):
    """What the attempts of one ledger have taken, and what they asked.

    Attributes:
        own: what the run asks. ``retried``: what retries of it do, by the number of their settings.
        models: which have answered, and how many, by the same number.
    """

    takings: list[Takings]
    own: RunManifest
    retried: dict[int, RunManifest]
    models: dict[int | None, dict[str, int]]

    def asked(self, takings: Takings) -> RunManifest:
        return self.own if takings.settings is None else self.retried.get(takings.settings, self.own)

    def model(self, takings: Takings) -> str:
        """That gave the answers; of attempts without one, the most likely."""
        models = self.models.get(takings.settings, {})
        return takings.model or max(models, key=models.__getitem__, default=self.asked(takings).model)

    def most_output_tokens(self, takings: Takings) -> int:
        """Of one answer to such an attempt."""
        asked = self.asked(takings)
        if asked.kind == "embedding":
            return 0
        settings = asked.settings()
        limit = settings.get("max_new_tokens")
        if isinstance(limit, int) and "max_new_tokens" not in (settings.get("row_parameters") or ()):
            return limit * max(1, int(settings.get("num_generations") or 1))
        alike = [one for one in self.takings if one.settings == takings.settings and one.state == "answered"]
        longest = max((one.longest_output_tokens for one in alike), default=0)
        return longest_answer(sum(one.requests for one in alike), longest)

    def mean_tokens(self, settings: int | None) -> float:
        """Of an answer and what was asked for it."""
        alike = [one for one in self.takings if one.settings == settings and one.state == "answered"]
        requests = sum(one.requests for one in alike)
        return sum(one.input_tokens + one.output_tokens for one in alike) / requests if requests else 0.0


def read_ledger(path: Path) -> LedgerTakings:
    """Reads all of a ledger.

    Raises:
        LedgerError: it cannot be read.
    """
    with LedgerReader(path) as reader:
        return takings_in(reader)


def takings_in(reader: LedgerReader) -> LedgerTakings:
    """The same of a ledger that is open."""
    kind, own = read_manifest(reader)
    takings, retried = reader.takings(kind.terms_of), read_retried_manifests(reader)
    models: dict[int | None, dict[str, int]] = {}
    for one in takings:
        if one.model is not None:
            alike = models.setdefault(one.settings, {})
            alike[one.model] = alike.get(one.model, 0) + one.requests
    return LedgerTakings(takings, own, retried, models)


def iso_day(day: int | None) -> str | None:
    return None if day is None else (_EPOCH + timedelta(days=day)).isoformat()


def lane_of(takings: Takings) -> Lane:
    return "batch" if takings.in_job else "live"


def lines_of(ledgers: Sequence[LedgerTakings]) -> list[AuditLine]:
    """By day, model and lane, the oldest first."""
    found: dict[tuple[str, str, Lane], list[Takings]] = {}
    for ledger in ledgers:
        for one in ledger.takings:
            key = iso_day(one.day) or "", ledger.model(one), lane_of(one)
            found.setdefault(key, []).append(one)
    return [_line(day or None, model, lane, alike) for (day, model, lane), alike in sorted(found.items())]


def _line(day: str | None, model: str, lane: Lane, alike: Sequence[Takings]) -> AuditLine:
    answered = [one for one in alike if one.state in ("answered", "estimated")]
    requests, unpriced = _sum(one.requests for one in answered), _sum(one.unpriced for one in answered)
    cost = sum(one.cost for one in answered)
    return AuditLine(
        day=day,
        model=model,
        lane=lane,
        requests=requests,
        input_tokens=_sum(one.input_tokens for one in answered),
        output_tokens=_sum(one.output_tokens for one in answered),
        cached_tokens=_sum(one.cached_tokens for one in answered),
        minutes=_sum(one.audio_seconds for one in answered) / 60,
        cost=None if unpriced and not cost else cost,
        unpriced=unpriced,
        maybe_billed=_sum(one.requests for one in alike if one.state == "maybe_billed"),
        with_server=_sum(one.requests for one in alike if one.state == "with_server"),
        estimated=_sum(one.requests for one in alike if one.state == "estimated"),
    )


def _sum(numbers: Iterable[int]) -> int:
    return sum(numbers)


def charges_of(ledgers: Sequence[LedgerTakings], months: Iterable[str], *, begun: str) -> Charges:
    """What ledgers can account for on the bills of some months, such as ``2026-11``.

    Answers are of the month in which they came. What nobody knows of may be on any of them.

    Args:
        begun: the last month that has a bill by now.
    """
    charges, wanted = Charges(), set(months)
    for ledger in ledgers:
        for one in ledger.takings:
            day, days = iso_day(one.day), {each for each in map(iso_day, one.days) if each is not None}
            possible = {each[:7] for each in days if each[:7] <= begun}
            is_known = one.state in ("answered", "estimated")
            is_of_them = day is None or day[:7] in wanted
            if is_known and possible & wanted and not possible <= wanted:
                charges.at_edge += one.requests
                charges.beside |= possible - wanted
            if is_of_them or (possible & wanted and not is_known):
                _charge(ledger, one, charges)
                charges.days |= days if day is None else days | {day}
    return charges


def _charge(ledger: LedgerTakings, one: Takings, charges: Charges) -> None:
    asked, lane = ledger.asked(one).model, lane_of(one)
    names = (
        frozenset((asked, one.model))
        if one.model
        else frozenset((asked, *ledger.models.get(one.settings, {})))
    )
    charges.names.append(names)
    if one.state == "answered":
        _charge_exactly(one.model or asked, lane, one, charges)
        return
    # An answer that was cut off, or says nothing, may be far longer than those that say what they took.
    longest = _TIMES_LONGER * one.longest_output_tokens if one.state == "estimated" else 0
    outputs = one.requests * max(ledger.most_output_tokens(one), longest)
    seconds = one.requests * _LONGEST_AUDIO_S
    if one.state == "estimated":
        charges.estimated_cost += one.cost
        charges.estimated_input += one.input_tokens
        charges.estimated_output += one.output_tokens
    else:
        charges.unanswered += one.requests
        charges.likely_tokens += round(one.requests * ledger.mean_tokens(one.settings))
    cause: Cause = "estimates" if one.state == "estimated" else "maybe_billed"
    charges.doubts.append(Doubt(cause, names, lane, one.most_input_tokens, outputs, seconds))


def _charge_exactly(model: str, lane: Lane, one: Takings, charges: Charges) -> None:
    charges.cost += one.cost
    took: dict[Unit, int] = {
        "input": one.input_tokens - one.cached_tokens,
        "cached": one.cached_tokens,
        "output": one.output_tokens,
        "seconds": one.audio_seconds,
    }
    for unit, number in took.items():
        if number:
            pile = Pile(model, lane, one.tier or STANDARD, unit)
            charges.exact[pile] = charges.exact.get(pile, 0) + number
