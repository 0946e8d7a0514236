"""What works on shards, as a driver sees it: processes of this machine, or tasks of a cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from msgspec import Struct

from mistill.delivery.diagnostics import Snapshot
from mistill.errors import MistillError, Stopped
from mistill.ledger import Spending
from mistill.progress.view import View
from mistill.steering.orders import Order


class BudgetNow(Struct, frozen=True):
    """The limits of all shards together, as they are when one of them begins.

    Attributes:
        spent: what this one had spent before the start of the whole.
        seen: further answers, of all shards before that start, and of the others since.
    """

    max_cost: float | None
    max_tokens_total: int | None
    spent: Spending
    seen: Spending


class Begun(Struct, frozen=True):
    """What one start of a shard is told beside the settings of the run.

    Attributes:
        number: of the shard. ``sample``: rows to ask of it; ``None``: all.
        budget: where there is one.
        start: the number of the run's start, as the ledger of the whole has it.
    """

    number: int
    sample: int | None = None
    budget: BudgetNow | None = None
    start: int = 0

    @property
    def limits(self) -> dict[str, Any]:
        """Of money and tokens, as options of a run."""
        budget = self.budget
        return {
            "max_cost": None if budget is None else budget.max_cost,
            "max_tokens_total": None if budget is None else budget.max_tokens_total,
        }


class Seen(Struct, frozen=True):
    """How far the work on a shard is.

    Attributes:
        governor: how that stands which it asks; ``None``: not known.
    """

    shard: int
    view: View
    governor: Snapshot | None = None


class Said(Struct, frozen=True):
    """What whoever works on a shard has logged: ``text`` is a `Words` where it names settings."""

    level: int
    text: str


class Obeyed(Struct, frozen=True):
    """The work on a shard has done what an order asks, or could not: the orders of a shard are answered in turn."""

    shard: int


class Ended(Struct, frozen=True):
    """The work on a shard has ended.

    Attributes:
        stopped: why, where its input was not worked through. ``error``: it could not be worked on.
        died: it ended without a word: by which signal, or who it was. ``was_stillborn``: before it had said any.
    """

    shard: int
    stopped: MistillError | None = None
    error: MistillError | None = None
    died: str | None = None
    was_stillborn: bool = False


class Unable(Struct, frozen=True):
    """Somebody who was to work cannot work on any shard."""

    error: MistillError


Event: TypeAlias = "Seen | Said | Obeyed | Ended | Unable"


class Control(Protocol):
    """A start of a shard, for whoever steers it."""

    def stop(self, message: str = ...) -> None:
        """Sends nothing more; what is in flight is waited for."""
        ...

    def abandon(self) -> None:
        """Waits for nothing."""
        ...

    def obey(self, order: Order, by: str) -> None:
        """Does it, as soon as it can: a start that has just begun is waited for.

        Args:
            by: who asks.

        Raises:
            InputError: it has ended, or cannot do that; nothing was changed.
        """
        ...


class Link(Protocol):
    """What the work on a shard is connected to its driver by."""

    def see(self, view: View, governor: Snapshot) -> None:
        """It has come so far; see `Seen`."""
        ...

    def take(self, control: Control) -> None:
        """It can be steered by this, and is at once where that was asked for before."""
        ...


Work: TypeAlias = Callable[[Begun, Link], "Stopped | MistillError | None"]
"""Works on one shard; why it has ended early. It goes to other processes, so it can be pickled."""


class Setup(Struct, frozen=True):
    """What a worker needs before any shard. It has secrets in it.

    Attributes:
        work: what is done with a shard, a pickled `Work`.
        environment: variables that its process has while it works.
    """

    work: bytes
    environment: dict[str, str]


class Workers(Protocol):
    """What a driver gives shards to.

    Attributes:
        are_one_process: they have one governor, and what each says of it is of all.
    """

    are_one_process: bool

    @property
    def free(self) -> int:
        """How many more can be begun now."""
        ...

    def begin(self, begun: Begun) -> None:
        """Somebody works on it from now on.

        Raises:
            InputError: nobody can: this machine has no room for him.
        """
        ...

    async def events(self) -> list[Event]:
        """What has happened meanwhile, once something has, or after a moment."""
        ...

    def stop(self, message: str) -> None:
        """Nothing more is sent; what is in flight is waited for."""
        ...

    def abandon(self) -> None:
        """Nothing is waited for."""
        ...

    def order(self, shard: int, order: Order, by: str) -> None:
        """The work on this shard obeys, and there is an `Obeyed` of it; or it ends before."""
        ...

    def close(self) -> None:
        """All of it has ended when this returns."""
        ...


class Machines(Protocol):
    """Where workers are had.

    Attributes:
        host: the address of this machine by which they reach it.
        workers: how many can work at once now. ``most_workers``: as more machines come, too.
        are_apart: they are not all of this machine.
    """

    host: str
    workers: int
    most_workers: int
    are_apart: bool

    def at_work(self, count: int, work: Work, folder: Path) -> Workers:
        """So many of them.

        Args:
            folder: of the run's ledgers, which all have to see.

        Raises:
            InputError: the settings of the run cannot go there.
        """
        ...
