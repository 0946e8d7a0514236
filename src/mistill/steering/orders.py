"""What a start may be told, and what it answers: the lines that go over its socket, each a JSON object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from mistill.ledger import ErrorRecord
from mistill.progress.formatting import money, seconds
from mistill.progress.view import View

OrderName = Literal["show", "pause", "resume", "stop", "set", "view"]

MAX_LINE_BYTES = 2**16
"""Of an order or an answer: more is none of ours."""


_MOST_CHANGES = 100
"""All of them are written with each that is added."""


class Order(Struct, frozen=True, omit_defaults=True):
    """What is to be done.

    Attributes:
        do: ``show``: nothing; ``view``: nothing, and the answers say how far the work is.
        settings: of ``set``: which → what; ``None``: no limit.
        every_s: of ``view``: seconds between the answers, of which the last one comes as the work ends; ``None``: there
            is one.
    """

    do: OrderName
    settings: dict[str, Any] = {}
    every_s: float | None = None


class SettingState(Struct, frozen=True):
    """A setting that may be changed while a start goes on.

    Attributes:
        value: as it is set; ``None``: it is not.
        told: what is known of it besides, for a person: what was learned in its place, or is used of it.
    """

    name: str
    value: float | int | None
    told: str | None = None


class Standing(Struct, frozen=True, kw_only=True):
    """How a start that goes on stands towards orders.

    Attributes:
        process: which it is.
        paused_s: for how long it has been paused; ``None``: it is not.
        is_stopping: it sends nothing more, and waits for what is in flight.
        in_flight: requests.
        settings: those that may be changed.
    """

    process: int
    paused_s: float | None
    is_stopping: bool
    in_flight: int
    settings: list[SettingState]


class Change(Struct, frozen=True, omit_defaults=True):
    """What was done to a start while it went on, as its ledger keeps it.

    Attributes:
        at: unix seconds. ``by``: who, as far as that is known: the user, and the process that sent the order.
        do: ``pause``, ``resume``, ``stop`` or ``set``.
        settings: of ``set``: which → what it was before, and what it is since; ``None``: not set.
    """

    at: float
    by: str
    do: OrderName
    settings: dict[str, tuple[float | int | None, float | int | None]] = {}


class EarlierChanges(Struct, frozen=True, omit_defaults=True):
    """What was done before the changes that are kept one by one.

    Attributes:
        count: how many. ``settings``: which they set → what it was before all of them, and what it was after.
    """

    count: int = 0
    settings: dict[str, tuple[float | int | None, float | int | None]] = {}

    def then(self, change: Change) -> EarlierChanges:
        """With one more."""
        settings = dict(self.settings)
        for name, (before, now) in change.settings.items():
            settings[name] = settings.get(name, (before, now))[0], now
        return EarlierChanges(self.count + 1, settings)


class Changes:
    """What was done to a start: the last changes, and of those before how many, however many orders come.

    Attributes:
        last: the first of them at the beginning. Who has paused it is among them as long as it is.
    """

    def __init__(self) -> None:
        self.last: list[Change] = []
        self.earlier = EarlierChanges()

    def add(self, change: Change) -> None:
        """One more was done."""
        self.last.append(change)
        if len(self.last) > _MOST_CHANGES:
            oldest = self.last.pop(1 if paused_by(self.last) is self.last[0] else 0)
            self.earlier = self.earlier.then(oldest)


class Answer(Struct, frozen=True, omit_defaults=True):
    """What a start answers.

    Attributes:
        standing: after the order; ``view``: where that was asked for.
        told: what was done, for a person.
        error: why nothing was.
    """

    standing: Standing | None = None
    view: View | None = None
    told: str | None = None
    error: ErrorRecord | None = None


class Steered(Protocol):
    """What obeys orders. On mistill's own event loop."""

    async def obey(self, order: Order, by: str) -> Answer:
        """Does it, and keeps who did what; all of it or nothing.

        Raises:
            InputError: it cannot be; says what can.
            LedgerError: it was done, and could not be kept.
        """
        ...

    def view(self, *, is_last: bool = False) -> View:
        """How far the work is. ``is_last``: it has ended."""
        ...


def shown_settings(settings: Mapping[str, tuple[Any, Any]]) -> str:
    """``max_cost $5.00 → $20.00, requests_per_minute none → 300``."""
    return ", ".join(
        f"{name} {shown_value(name, before)} → {shown_value(name, now)}"
        for name, (before, now) in settings.items()
    )


def shown_value(name: str, value: float | None) -> str:
    """A setting's value for people: ``$20.00``, ``2 h 0 min``, ``1,500``, ``0.5``, ``none``."""
    if value is None:
        return "none"
    if name == "max_cost":
        return money(value)
    if name == "deadline":
        return seconds(value)
    return f"{value:,.12g}"


def paused_by(changes: Sequence[Change]) -> Change | None:
    """Who has paused a start that goes on, of what was done to it; ``None``: it is not paused."""
    last = next((change for change in reversed(changes) if change.do in ("pause", "resume", "stop")), None)
    return last if last is not None and last.do == "pause" else None


decode_order = msgspec.json.Decoder(Order).decode
decode_answer = msgspec.json.Decoder(Answer).decode
