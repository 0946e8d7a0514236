"""What answers are billed as, and what that costs by the prices that mistill is shipped with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

from mistill.api.prices import factors_of, price_of
from mistill.api.tariff import PRIORITY
from mistill.api.usage import Usage


@dataclass(frozen=True, slots=True)
class Bill:
    """What an answer took. ``cached_tokens``: those of ``input_tokens`` that cost less.

    ``service_tier``: at which it was served, where usage says so. ``asked``: the model as it was asked for.
    """

    model: str
    input_tokens: int
    output_tokens: int = 0
    cached_tokens: int = 0
    audio_seconds: int = 0
    service_tier: str | None = None
    asked: str = ""

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


Bills: TypeAlias = dict[tuple[str, str | None, str], Bill]
"""The bills of each model at each tier, by each name that it was asked for, in sum."""


def add_bill(sums: Bills, bill: Bill) -> None:
    """Adds a bill to those like it."""
    like = bill.model, bill.service_tier, bill.asked
    so_far = sums.get(like)
    if so_far is not None:
        bill = Bill(
            bill.model,
            so_far.input_tokens + bill.input_tokens,
            so_far.output_tokens + bill.output_tokens,
            so_far.cached_tokens + bill.cached_tokens,
            so_far.audio_seconds + bill.audio_seconds,
            bill.service_tier,
            bill.asked,
        )
    sums[like] = bill


def cost_of(bills: Iterable[Bill]) -> float:
    """US dollars for them, outside of batch jobs; a model whose price nobody knows costs nothing."""
    return sum(map(_cost, bills))


def _cost(bill: Bill) -> float:
    price = price_of(bill.model)
    if price is None:
        return 0.0
    if bill.service_tier == PRIORITY:
        price = price.times(factors_of().priority)
    return price.cost(Usage(bill.input_tokens, bill.output_tokens, bill.cached_tokens, bill.audio_seconds))
