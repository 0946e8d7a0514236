"""What the cache of prompts and batch jobs save: in what was paid, and in what a template would pay if it stood
otherwise."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from mistill.api.prices import MILLION, Price, cached_factor
from mistill.api.usage import Usage
from mistill.progress.formatting import money, share
from mistill.prompts.prompt_layout import PromptLayout


def saved_by_cache(price: Price | None, usage: Usage, cost: float | None) -> float | None:
    """US dollars that so many tokens would have cost more if none had been cached.

    Args:
        price: of the model. What was paid may be under another tariff, the same for all of it. Sound
            is left out, as far as it is billed: what it cost is not cached, and the price of tokens is taken as it is.
        cost: what was paid.

    Returns ``None`` where no price is known.
    """
    if price is None or cost is None:
        return None
    paid = price.cost(usage.without_sound)
    if not paid or not usage.cached_tokens:
        return 0.0
    tariff = 1.0 if price.minute else cost / paid
    return tariff * usage.cached_tokens * price.cache_saves / MILLION


class Savings(Struct, frozen=True):
    """US dollars that answers would have cost more.

    Attributes:
        by_cache: if nothing of their prompts had been cached; ``None``: no price is known.
        by_jobs: if they had come live; ``None``: none of them came in a batch job, or no price is known.
    """

    by_cache: float | None
    by_jobs: float | None = None

    def __add__(self, other: Savings) -> Savings:
        unknown = None in (self.by_cache, other.by_cache)
        by_jobs = [one for one in (self.by_jobs, other.by_jobs) if one is not None]
        return Savings(
            None if unknown else (self.by_cache or 0.0) + (other.by_cache or 0.0),
            sum(by_jobs) if by_jobs else None,
        )


def savings(
    price: Price | None, usage: Usage, cost: float | None, *, in_jobs: bool, batch_factor: float
) -> Savings:
    """What answers of one lane have saved.

    Args:
        price, usage, cost: as for `saved_by_cache`.
        batch_factor: what a batch job costs of the same live.
    """
    is_cheaper = in_jobs and cost is not None and 0 < batch_factor < 1
    by_jobs = cost / batch_factor - cost if is_cheaper and cost is not None else None
    return Savings(saved_by_cache(price, usage, cost), by_jobs)


class CachedInput(Struct, frozen=True):
    """What of the input of a run can be cached. Tokens are estimated.

    Attributes:
        same_tokens: of each prompt, those that are the same in all rows. ``front_tokens``: those of them that stand in
            front of all that differs, and so can be cached.
        cached_tokens: of all requests, if each but the first finds what it can.
        saves: US dollars that these cost less; ``None`` where no price is known.
        early: what differs and stands too early, as the templates have it. ``more``: which share of the cost of input
            it would save to move it to the end; ``None``: nothing to speak of. ``hint``: the same in words.
    """

    same_tokens: int
    front_tokens: int
    cached_tokens: int
    saves: float | None
    early: list[str]
    more: float | None
    hint: str | None

    def lines(self, input_tokens: int) -> Iterator[str]:
        """The same as text; ``input_tokens``: of all requests."""
        if self.cached_tokens:
            saves = f", which makes the cost below {money(self.saves)} less" if self.saves else ""
            yield f"of these in Mistral's cache: about {share(self.cached_tokens, input_tokens)}{saves}"
        if self.hint is not None:
            yield self.hint


def cached_input(
    layout: PromptLayout, price: Price | None, requests: float, input_tokens: int, cached: int
) -> CachedInput | None:
    """What of a run's input can be cached.

    Args:
        layout: of its prompts. ``requests``, ``input_tokens``: all of them. ``cached``: those of the tokens that an
            earlier request of the run begins with.

    Returns ``None`` where there is nothing to say.
    """
    cheaper = cached_factor(price)
    more = layout.saves(input_tokens / requests, cached / requests, cheaper) if requests else None
    if not cached and more is None:
        return None
    saves = None if price is None else price.most(cached, 0) * (1 - cheaper)
    hint = None
    if more is not None:
        hint = f"{layout.where(input_tokens / requests)}: {layout.hint(more)}"
    return CachedInput(layout.same_tokens, layout.front_tokens, cached, saves, list(layout.early), more, hint)
