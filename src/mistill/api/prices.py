"""What tokens cost: one dated table (``prices.toml``), which the user may override.

An unknown model has no price. It is never guessed: a cost is then ``None``, and a limit on cost is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from mistill.api.usage import Usage
from mistill.errors import InputError, nearest_name
from mistill.foreign_text import read_toml

_MILLION = 1_000_000
_DIGITS = 12

Dollars = Annotated[float, Meta(ge=0)]


class Factors(Struct, frozen=True, forbid_unknown_fields=True):
    """What a price is multiplied with under another tariff.

    Attributes:
        cached_input: for input tokens that the server had cached, and for these only.
        batch: for answers of the batch API. ``priority``: of the priority tier. ``regional``: of regional hosts.
    """

    cached_input: Dollars = 0.1
    batch: Dollars = 0.5
    priority: Dollars = 1.75
    regional: Dollars = 1.1


class Price(Struct, frozen=True):
    """What a model's tokens cost.

    Attributes:
        input, output, cached_input: US dollars per million tokens.
        date: of the table; ``None`` where the user's own gave none.
    """

    input: float
    output: float
    cached_input: float
    date: date | None = None

    def cost(self, usage: Usage) -> float:
        """US dollars for these tokens."""
        fresh = usage.input_tokens - usage.cached_tokens
        dollars = (
            fresh * self.input + usage.cached_tokens * self.cached_input + usage.output_tokens * self.output
        ) / _MILLION
        return round(dollars, _DIGITS)  # without the noise of a float's last digits

    def most(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars for so many tokens if none is cached: the most that they can cost."""
        return (input_tokens * self.input + output_tokens * self.output) / _MILLION

    def times(self, factor: float) -> Price:
        """This price under another tariff: one of `Factors`."""
        return Price(self.input * factor, self.output * factor, self.cached_input * factor, self.date)


class ModelPrice(Struct, frozen=True, forbid_unknown_fields=True):
    """One model of a table.

    Attributes:
        input, output, cached_input: US dollars per million tokens; ``cached_input`` where the factor does not hold.
        aliases: other names of the model.
        context: tokens of prompt and answer together that it takes, where that is published.
    """

    input: Dollars
    output: Dollars
    cached_input: Dollars | None = None
    aliases: tuple[str, ...] = ()
    context: Annotated[int, Meta(gt=0)] | None = None


class Prices(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of prices, as `prices.toml` has it: ``date``, ``factors``, and ``models`` by name."""

    models: dict[str, ModelPrice]
    date: date | None = None
    factors: Factors = Factors()

    def entry_of(self, model: str) -> ModelPrice | None:
        """What the table has of a model by its name or an alias."""
        entry = self.models.get(model)
        return entry or next((each for each in self.models.values() if model in each.aliases), None)

    def price_of(self, model: str) -> Price | None:
        """The price of a model by its name or an alias, or None where it is unknown."""
        entry = self.entry_of(model)
        if entry is None:
            return None
        cached = entry.cached_input
        if cached is None:
            cached = entry.input * self.factors.cached_input
        return Price(entry.input, entry.output, cached, self.date)

    def unknown(self, model: str) -> str:
        """The words for a user whose model has no price here."""
        names = [*self.models, *(alias for each in self.models.values() for alias in each.aliases)]
        near = nearest_name(model, names)
        meant = "" if near is None else f"; did you mean {near!r}?"
        dated = "" if self.date is None else f" of {self.date}"
        return f"no price is known for {model!r} in the table{dated}{meant} (give your own table of prices)"


@cache
def shipped_prices() -> Prices:
    """Mistral's prices as this version knows them."""
    return _read(resources.files("mistill.api").joinpath("prices.toml").read_text("utf-8"), "prices.toml")


def load_prices(source: Path | str | Mapping[str, Any]) -> Prices:
    """The user's own table: a TOML file's path, or a mapping of the same form.

    Give it to `price_of`: models that it does not have keep their shipped price.

    Raises:
        InputError: it cannot be read, or is not such a table; the message says where it is wrong.
    """
    if isinstance(source, Mapping):
        return _convert(dict(source), "prices")
    try:
        text = Path(source).read_text("utf-8")
    except (OSError, ValueError) as error:  # the latter: no UTF-8, or a name that no file can have
        raise InputError(f"the prices in {source} cannot be read: {error}") from error
    return _read(text, str(source))


def price_of(model: str, prices: Prices | None = None) -> Price | None:
    """The price of ``model`` in the user's table if it has it, else in the shipped one; None where unknown."""
    own = prices.price_of(model) if prices is not None else None
    return own if own is not None else shipped_prices().price_of(model)


def context_of(model: str, prices: Prices | None = None) -> int | None:
    """The tokens of prompt and answer together that ``model`` takes, by the user's table or the shipped one."""
    for table in (prices, shipped_prices()):
        entry = None if table is None else table.entry_of(model)
        if entry is not None and entry.context is not None:
            return entry.context
    return None


def _read(text: str, name: str) -> Prices:
    return _convert(read_toml(text, f"the table of prices in {name}"), name)


def _convert(table: dict[str, Any], name: str) -> Prices:
    try:
        return msgspec.convert(table, Prices)
    except msgspec.ValidationError as error:
        raise InputError(
            f"the prices in {name} are not a table of prices: {error}",
            hint='the form is: [models."NAME"] with input and output, in US dollars per million tokens',
        ) from error
