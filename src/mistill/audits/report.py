"""`Audit`: what attempts have taken by day, model and lane, and how that differs from the bill."""

from __future__ import annotations

import csv
import io
from typing import Any

import msgspec
from msgspec import Struct

from mistill.api.admin import Lane

_DIGITS = 9


class AuditLine(Struct, frozen=True, kw_only=True):
    """What was asked of one model on one day in one lane.

    Attributes:
        day: in UTC, in ISO 8601; ``None``: it is damaged in the ledger. Lines of batch jobs are of the day on which
            their job was seen to have ended; requests that nothing ended are of the day on which they were sent.
        model: that gave the answers, as they say; of requests without an answer, the one that answered the others, or
            that was asked for.
        requests: that were answered.
        input_tokens, output_tokens: of the answers. ``cached_tokens``: those of the input that cost less.
        minutes: of sound in prompts.
        cost: US dollars; ``None``: no price is known. ``unpriced``: answers that are not in it.
        maybe_billed: requests without an answer that may be on the bill. ``with_server``: that are in batch jobs which
            have not ended.
        estimated: answers, of ``requests``, that did not say what they took.
    """

    day: str | None
    model: str
    lane: Lane
    requests: int
    input_tokens: int
    output_tokens: int
    cached_tokens: int
    minutes: float
    cost: float | None
    unpriced: int = 0
    maybe_billed: int = 0
    with_server: int = 0
    estimated: int = 0


class Share(Struct, frozen=True):
    """A part of the bill, or of the ledger. ``amount``: money. Cached tokens are some of ``input_tokens``."""

    amount: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: Share) -> Share:
        return Share(
            self.amount + other.amount,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )


class Difference(Struct, frozen=True, kw_only=True):
    """How a bill differs from what ledgers have: ``billed`` is the sum of all the others but ``included``.

    Attributes:
        months: of the bill, such as ``2026-11``. ``workspace``: whose; ``None``: all of the organisation.
        currency: of all amounts; ``None``: the bill names none.
        billed: what was used by the bill, whoever used it.
        answers: of the ledgers. Where the bill is not in US dollars, they have its prices.
        prices: what the bill's own prices make of the same answers, more or less; ``None``: it is not in US dollars.
        estimates: what answers took that did not say it, more or less than the ledgers have.
        maybe_billed: of requests without an answer.
        other_programs: what is left: whatever else was used there.
        unexplained: answers of the ledgers that are not on the bill; amounts and tokens are below 0.
        included: what was used and is not charged.
        unanswered: requests without an answer that may be on the bill. ``likely_tokens``: what these take if they are
            like those that were answered.
        tells_lanes: the bill tells batch jobs from requests.
        unpriced: units on it that it has no price for: they have that of the table.
        last_day: the newest that is on the bill.
        at_edge: answers that came so near the edge of these months that another one may have them on its bill.
            ``beside``: which ones.
    """

    months: list[str]
    workspace: str | None
    currency: str | None
    billed: Share
    answers: Share
    prices: float | None
    estimates: Share
    maybe_billed: Share
    other_programs: Share
    unexplained: Share
    included: float
    unanswered: int
    likely_tokens: int
    tells_lanes: bool
    unpriced: int
    last_day: str | None
    at_edge: int
    beside: list[str]

    @property
    def total(self) -> Share:
        """By how much the bill is larger than the ledgers."""
        billed, answers = self.billed, self.answers
        return Share(
            billed.amount - answers.amount,
            billed.input_tokens - answers.input_tokens,
            billed.output_tokens - answers.output_tokens,
        )


class Audit(Struct, frozen=True, kw_only=True):
    """See `Run.audit`.

    Attributes:
        ledgers: where all this was read.
        lines: the oldest day first.
        difference: from the bill; ``None``: that was not asked for.
    """

    ledgers: list[str]
    lines: list[AuditLine]
    difference: Difference | None = None

    @property
    def total(self) -> AuditLine:
        """The sum of all lines."""
        names = ("requests", "input_tokens", "output_tokens", "cached_tokens", "minutes")
        counts = ("unpriced", "maybe_billed", "with_server", "estimated")
        sums: dict[str, Any] = {
            name: sum(getattr(line, name) for line in self.lines) for name in (*names, *counts)
        }
        costs = [line.cost for line in self.lines if line.cost is not None]
        unknown = any(line.cost is None for line in self.lines)
        return AuditLine(
            day=None, model="", lane="live", cost=None if unknown and not costs else sum(costs), **sums
        )

    def describe(self) -> dict[str, Any]:
        """As JSON values."""
        values = msgspec.to_builtins(self)
        total = _rounded(msgspec.to_builtins(self.total))
        values["total"] = {
            name: value for name, value in total.items() if name not in ("day", "model", "lane")
        }
        if self.difference is not None:
            values["difference"]["total"] = msgspec.to_builtins(self.difference.total)
        return _rounded(values)

    def to_csv(self) -> str:
        """The lines as CSV, with a header."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(AuditLine.__struct_fields__)
        for line in self.lines:
            writer.writerow(_rounded([*msgspec.structs.astuple(line)]))
        return text.getvalue()

    def __str__(self) -> str:
        from mistill.audits.text import audit_lines

        return "\n".join(audit_lines(self))


def _rounded(value: Any) -> Any:
    """Without the digits of sums of floats that mean nothing, nor a minus before 0."""
    if isinstance(value, float):
        return round(value, _DIGITS) + 0.0
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}  # pyright: ignore[reportUnknownVariableType]  JSON
    if isinstance(value, list):
        return [_rounded(one) for one in value]  # pyright: ignore[reportUnknownVariableType]  the same
    return value
