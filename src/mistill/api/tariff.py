"""What the answers of one model cost at one endpoint: the table's price under the factors that hold there.

A price follows what was billed: an alias such as ``mistral-small-latest`` moves from model to model, and the answer
says which one gave it, and at which tier.
"""

from __future__ import annotations

import logging
from datetime import date
from functools import cache
from threading import Lock
from typing import Final

import msgspec

from mistill.api.endpoint import regional_host
from mistill.api.prices import (
    Price,
    Prices,
    factors_of,
    old_prices_note,
    price_of,
    retired_note,
    tables,
    unknown_price,
)
from mistill.wording import Words, words

_log = logging.getLogger("mistill")

PRIORITY: Final = "priority"
"""What ``usage.service_tier`` says of an answer of the priority tier; of others it says ``standard``, or nothing."""
_MOST_KEPT = 256
"""Prices of models that answered. A server that gives each answer another name must not fill the memory."""


class Tariff:
    """What answers that are billed by tokens cost. Safe to share by threads.

    Args:
        model: as it is asked for. ``endpoint``: base URL.
        prices: the user's own table.

    Attributes:
        price: of the model as it is asked for, at the standard tier; ``None`` where it is not known.
        retired: that the model is served no more, where that is known.
    """

    def __init__(self, model: str, endpoint: str = "", prices: Prices | None = None) -> None:
        self._model = model
        self._endpoint = endpoint
        self._prices = prices
        self._factors = factors_of(prices)
        self.retired = retired_note(model, prices)
        self._known: dict[tuple[str | None, str | None], Price] = {}
        self._lock = Lock()
        self.price = self._dearest = self._at_host(model)

    def price_of(self, model: str | None, tier: str | None) -> Price | None:
        """The price of an answer; ``None`` where it is not known.

        Args:
            model: which one gave it, as it says. One that no table has, under an alias that a table has, is another
                model than the table knew: its price is not guessed. A model that was asked for by its own name may be
                called otherwise by a server.
            tier: at which it was answered, as it says.
        """
        price = self._known.get((model, tier))
        if price is not None:
            return price
        price = self._price_of_answer(model)
        if price is None:
            return None
        with self._lock:
            self._dearest = price if self._dearest is None else self._dearest.or_more(price)
            if tier == PRIORITY:
                price = price.times(self._factors.priority)
            if len(self._known) < _MOST_KEPT:
                self._known[model, tier] = price
        return price

    def in_job(self, model: str | None, agreed: Price | None) -> Price | None:
        """The price of an answer that came in a batch job.

        Args:
            model: as for `price_of`.
            agreed: of a token of the model as it was asked for, when the job was made, where that was known. It holds
                unless another model answered.
        """
        found, batch = self.price_of(model, None), self._factors.batch
        if agreed is not None and (found == self.price or model == self._model):
            minute = 0.0 if self.price is None else self.price.minute * batch
            return msgspec.structs.replace(agreed, minute=minute)
        return None if found is None else found.times(batch)

    def worst(self, *, may_be_priority: bool) -> Price | None:
        """The most that an answer may cost, as far as it is known by now.

        Args:
            may_be_priority: nothing rules out that it is answered at the priority tier.
        """
        if self._dearest is None or not may_be_priority:
            return self._dearest
        return self._dearest.times(max(1.0, self._factors.priority))

    @property
    def is_of_alias(self) -> bool:
        """The model is asked for by a name that others stand behind, as far as a table knows, or its form says."""
        entries = [
            entry for table in tables(self._prices) if (entry := table.entry_of(self._model)) is not None
        ]
        return self._model.endswith("-latest") or any(self._model in entry.aliases for entry in entries)

    def unknown(self) -> str:
        """The words for a user whose model has no price."""
        return unknown_price(self._model, self._prices)

    def _price_of_answer(self, model: str | None) -> Price | None:
        asked = self._model
        if not model or model == asked:
            return self.price
        own = self._prices
        if own is not None and own.entry_of(model) is None and own.entry_of(asked) is not None:
            return self.price  # the user's word on what the alias costs
        found = self._at_host(model)
        if found is None and any(asked in table.models for table in tables(own)):
            return self.price
        return found

    def _at_host(self, model: str) -> Price | None:
        price = price_at(self._endpoint, model, self._prices)
        return price if price is not None and price.has_tokens else None


def price_at(endpoint: str, model: str, prices: Prices | None = None) -> Price | None:
    """The price of a model, whatever it is of, by its name and where it is asked."""
    price = price_of(model, prices)
    if price is None or regional_host(endpoint) is None:
        return price
    return price.times(factors_of(prices).regional)


def warn_if_old(price: Price | None, today: date) -> None:
    """Says that a price may have changed since, once for each date of a table."""
    if price is not None and (note := old_prices_note(price.date, today)) is not None:
        _warn(note)


@cache
def _warn(note: Words) -> None:
    _log.warning(words("prices: ", note))
