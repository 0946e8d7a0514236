"""A shard that is worked on, in the process where that is: what it says, and what it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from typing import Literal

from msgspec.structs import replace

from mistill.delivery.diagnostics import Snapshot
from mistill.errors import MistillError, unforeseen
from mistill.progress.view import View
from mistill.shards.workers import Begun, Control, Ended, Event, Obeyed, Seen, Work
from mistill.steering.orders import Order


class AtWork:
    """One shard's. It is the `Link` of the work on it.

    Args:
        begun: what its start is told. ``tell``: hears of all that happens, from several threads.
    """

    def __init__(self, begun: Begun, tell: Callable[[Event], object]) -> None:
        self._begun = begun
        self._tell = tell
        self._control: Control | None = None
        self._ends: Literal["stop", "abandon"] | None = None
        self._message = ""
        self._orders: SimpleQueue[tuple[Order, str] | None] | None = None
        self._state = threading.Lock()
        self._is_taken = threading.Event()

    def do(self, work: Work) -> None:
        """Works on it, and tells how that has ended."""
        number = self._begun.number
        try:
            ended = Ended(number, stopped=work(self._begun, self))
        except MistillError as error:
            ended = Ended(number, error=error)
        except Exception as error:  # of any type: the driver says what it was
            ended = Ended(number, error=unforeseen(error))
        with self._state:
            self._control = None
            if self._orders is not None:
                self._orders.put(None)
        self._is_taken.set()
        self._tell(ended)

    def see(self, view: View, governor: Snapshot) -> None:
        known = replace(governor, seconds={})  # which are in the view as far as they are told
        self._tell(Seen(self._begun.number, view, known))

    def take(self, control: Control) -> None:
        with self._state:
            self._control = control
        self._is_taken.set()
        self._end()

    def stop(self, message: str) -> None:
        """Nothing more is sent; what is in flight is waited for. Before it has begun, too."""
        self._ends, self._message = self._ends or "stop", message
        self._end()

    def abandon(self) -> None:
        """Nothing is waited for."""
        self._ends = "abandon"
        self._end()

    def _end(self) -> None:
        if (control := self._control) is None:
            return
        if self._ends == "abandon":
            control.abandon()
        elif self._ends == "stop":
            control.stop(self._message)

    def order(self, order: Order, by: str) -> None:
        """It obeys as soon as it can. Orders are obeyed one after the other, on a thread of their own."""
        with self._state:
            if self._orders is None:
                self._orders = SimpleQueue()
                threading.Thread(
                    target=self._obey, args=(self._orders,), name="mistill-orders", daemon=True
                ).start()
            self._orders.put((order, by))

    def _obey(self, orders: SimpleQueue[tuple[Order, str] | None]) -> None:
        self._is_taken.wait()
        while (given := orders.get()) is not None:
            control = self._control
            if control is None:  # it has ended
                return
            with suppress(MistillError):  # it is ending: the driver hears of that
                control.obey(*given)
            self._tell(Obeyed(self._begun.number))
