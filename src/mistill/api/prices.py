"""What answers cost: one dated table (``prices.toml``), which the user may override.

An unknown model has no price. It is never guessed: a cost is then ``None``, and a limit on cost is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import replace

from mistill.api.usage import Usage
from mistill.errors import InputError, nearest_name
from mistill.foreign_text import read_toml
from mistill.same_place import check_is_here
from mistill.struct_types import look_at
from mistill.wording import Setting, Words, words

MILLION: Final = 1_000_000
"""Tokens that a price is of."""
_DIGITS = 12
_OLD_DAYS = 90

Dollars = Annotated[float, Meta(ge=0, le=1_000_000)]


class Factors(Struct, frozen=True):
    """What a price is multiplied with under another tariff.

    Attributes:
        cached_input: for input tokens that the server had cached, and for these only.
        batch: for answers of the batch API. ``priority``: of the priority tier. ``regional``: of regional hosts.
    """

    cached_input: float
    batch: float
    priority: float
    regional: float


class TableFactors(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Those of `Factors` that a table has: the shipped one all of them, the user's those that are his own."""

    cached_input: Dollars | None = None
    batch: Dollars | None = None
    priority: Dollars | None = None
    regional: Dollars | None = None


class Price(Struct, frozen=True):
    """What a model's answers cost, in US dollars.

    Attributes:
        input, output, cached_input: a million tokens.
        date: as of when; ``None`` where the user's own table says none.
        page, annotated_page: one page of a document, and one that is annotated.
        minute: of sound, whether it is transcribed or goes along with a prompt.
        has_tokens: tokens have a price, be it 0; else what costs is something else.
    """

    input: float = 0.0
    output: float = 0.0
    cached_input: float = 0.0
    date: date | None = None
    page: float = 0.0
    annotated_page: float = 0.0
    minute: float = 0.0
    has_tokens: bool = True

    def cost(self, usage: Usage) -> float:
        """US dollars for these tokens, and for the sound that came with them."""
        fresh = usage.input_tokens - usage.cached_tokens
        dollars = (
            fresh * self.input + usage.cached_tokens * self.cached_input + usage.output_tokens * self.output
        ) / MILLION
        if usage.audio_seconds:
            dollars += usage.audio_seconds * self.minute / 60
        return round(dollars, _DIGITS)  # without the noise of a float's last digits

    def most(self, input_tokens: int, output_tokens: int) -> float:
        """US dollars for so many tokens, cached or not: the most that they can cost."""
        input_price = max(self.cached_input, self.input)
        return (input_tokens * input_price + output_tokens * self.output) / MILLION

    @property
    def cache_saves(self) -> float:
        """US dollars that a million tokens of input cost less where they were cached."""
        return self.input - self.cached_input

    def times(self, factor: float) -> Price:
        """This price under another tariff: one of `Factors`."""
        return replace(self, **{name: amount * factor for name, amount in self._amounts().items()})

    def or_more(self, other: Price) -> Price:
        """What neither of the two exceeds in anything."""
        theirs = other._amounts()
        dearer = {name: max(amount, theirs[name]) for name, amount in self._amounts().items()}
        return replace(self, **dearer)

    def _amounts(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in _AMOUNTS}


_AMOUNTS = ("input", "output", "cached_input", "page", "annotated_page", "minute")


class ModelPrice(Struct, frozen=True, forbid_unknown_fields=True):
    """One model of a table, in US dollars: of tokens, of pages, of sound, or of several of them.

    Attributes:
        input, output, cached_input: a million tokens; ``cached_input`` where the factor does not hold.
        page, annotated_page: one page; ``annotated_page`` where it is not as much.
        minute: of sound.
        aliases: other names of the model.
        date: as of when, where it is not the table's.
        context: tokens of prompt and answer together that it takes, where that is published.
    """

    input: Dollars | None = None
    output: Dollars | None = None
    cached_input: Dollars | None = None
    page: Dollars | None = None
    annotated_page: Dollars | None = None
    minute: Dollars | None = None
    aliases: tuple[str, ...] = ()
    date: date | None = None
    context: Annotated[int, Meta(gt=0)] | None = None

    def __post_init__(self) -> None:
        if (self.input is None) != (self.output is None):
            missing = "input" if self.input is None else "output"
            raise ValueError(f"`{missing}` is missing (0 where it is free)")
        if self.input is None and self.cached_input is not None:
            raise ValueError("`input` is missing beside `cached_input`")
        if self.page is None and self.annotated_page is not None:
            raise ValueError("`page` is missing beside `annotated_page`")
        if self.input is None and self.page is None and self.minute is None:
            raise ValueError("it has no price: neither `input` and `output`, nor `page`, nor `minute`")

    def price(self, factors: Factors, dated: date | None) -> Price:
        """The same as a price; ``dated``: of the table."""
        page, per_token = self.page or 0.0, self.input or 0.0
        cached = self.cached_input
        return Price(
            per_token,
            self.output or 0.0,
            per_token * factors.cached_input if cached is None else cached,
            self.date or dated,
            page,
            page if self.annotated_page is None else self.annotated_page,
            self.minute or 0.0,
            self.input is not None,
        )


class RetiredModel(Struct, frozen=True, forbid_unknown_fields=True):
    """A model that is served no more.

    Attributes:
        on: since when. ``successor``: what its maker names in its place.
        aliases: its other names.
    """

    on: date
    successor: str
    aliases: tuple[str, ...] = ()


class Prices(Struct, frozen=True, forbid_unknown_fields=True):
    """A table of prices, as `prices.toml` has it.

    Attributes:
        models: by name. ``date``: as of when.
        factors: those of other tariffs; the others are as in the shipped table.
        retired: models that are served no more, by name.
    """

    models: dict[str, ModelPrice] = {}
    date: date | None = None
    factors: TableFactors = TableFactors()
    retired: dict[str, RetiredModel] = {}

    def __post_init__(self) -> None:
        seen = set[str]()
        for name in self.names():
            if name in seen:
                raise ValueError(f"{name!r} names two models")
            seen.add(name)

    def names(self) -> Iterator[str]:
        """All names and aliases of models that have a price."""
        yield from self.models
        for each in self.models.values():
            yield from each.aliases

    def entry_of(self, model: str) -> ModelPrice | None:
        """What the table has of a model by its name or an alias."""
        entry = self.models.get(model)
        return entry or next((each for each in self.models.values() if model in each.aliases), None)


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
    check_is_here(str(source), "prices")
    try:
        text = Path(source).read_text("utf-8")
    except (OSError, ValueError) as error:  # the latter: no UTF-8, or a name that no file can have
        raise InputError(f"the prices in {source} cannot be read: {error}") from error
    return _read(text, str(source))


def tables(prices: Prices | None) -> tuple[Prices, ...]:
    """Where to look: the user's table before the shipped one."""
    return (shipped_prices(),) if prices is None else (prices, shipped_prices())


def factors_of(prices: Prices | None = None) -> Factors:
    """The factors of other tariffs: each the user's, where the table has it, else the shipped one."""
    shipped = _shipped_factors()
    return shipped if prices is None else replace(shipped, **msgspec.to_builtins(prices.factors))


@cache
def _shipped_factors() -> Factors:
    return msgspec.convert(msgspec.to_builtins(shipped_prices().factors), Factors)


def price_of(model: str, prices: Prices | None = None) -> Price | None:
    """The price of ``model`` in the user's table if it has it, else in the shipped one; None where unknown."""
    for table in tables(prices):
        entry = table.entry_of(model)
        if entry is not None:
            return entry.price(factors_of(prices), table.date)
    return None


def cached_factor(price: Price | None) -> float:
    """What a cached token costs, as a share of another one of the input; where no price is known, as a rule."""
    if price is None or not price.input:
        return factors_of().cached_input
    return price.cached_input / price.input


def context_of(model: str, prices: Prices | None = None) -> int | None:
    """The tokens of prompt and answer together that ``model`` takes, by the user's table or the shipped one."""
    for table in tables(prices):
        entry = table.entry_of(model)
        if entry is not None and entry.context is not None:
            return entry.context
    return None


def unknown_price(model: str, prices: Prices | None = None) -> str:
    """The words for a user whose model has no price."""
    gone = retired_note(model, prices)
    near = nearest_name(model, [name for table in tables(prices) for name in table.names()])
    meant = "" if near is None else f"; did you mean {near!r}?"
    return (
        f"no price is known for {model!r} in the table of {shipped_prices().date}{f'; {gone}' if gone else meant} "
        "(give your own table of prices)"
    )


def retired_note(model: str, prices: Prices | None = None) -> str | None:
    """Since when a model is served no more, and what came in its place; ``None``: it is not known to be gone."""
    for table in tables(prices):
        for name, retired in table.retired.items():
            if model == name or model in retired.aliases:
                called = "" if model == name else f" (another name of {name})"
                return f"{model}{called} was retired on {retired.on}; its successor is {retired.successor}"
    return None


def old_prices_note(dated: date | None, today: date) -> Words | None:
    """That prices of such a date may have changed since; ``None``: they are new, or nobody knows of when they are."""
    if dated is None or (age := (today - dated).days) <= _OLD_DAYS:
        return None
    said = f"those of {dated}, {age} days ago, may have changed; your own table goes before them: "
    return words(said, Setting("prices"))


def _read(text: str, name: str) -> Prices:
    return _convert(read_toml(text, f"the table of prices in {name}"), name)


def _convert(table: dict[str, Any], name: str) -> Prices:
    try:
        return msgspec.convert(table, Prices)
    except msgspec.ValidationError as error:
        raise InputError(
            f"the prices in {name} are not a table of prices: {_placed(table, error)}",
            hint='the form is: [models."NAME"] with input and output, in US dollars per million tokens',
        ) from error


def _placed(table: dict[str, Any], error: msgspec.ValidationError) -> str:
    """What is wrong, with the name of the model that it is wrong with."""
    models: Any = table.get("models")
    for model, entry in models.items() if isinstance(models, dict) else ():  # pyright: ignore[reportUnknownVariableType, reportUnknownMemberType]  a user's own
        try:
            msgspec.convert(entry, ModelPrice)
        except msgspec.ValidationError as of_model:
            return f"{model!r}: {str(of_model).replace('`$', '`')}"
    return str(error)


look_at(Prices, ModelPrice, Factors)
