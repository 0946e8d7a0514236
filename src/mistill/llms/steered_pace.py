"""The pace of a model while starts use it that are told to go faster or slower."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

_turn = threading.Lock()
"""A start ends in the thread that began it, while others are being steered on the event loop."""


class Paced(Protocol):
    """A model."""

    def set_pace(self, pace: Mapping[str, Any]) -> None: ...


class SteeredPace:
    """What starts have set of the pace of the model that they share: the latest counts, until the start that set it has
    ended. When none is left, the model has its own again.

    What somebody else gives the model meanwhile is its own from then on, in the place of all that was set before. The
    model, whose own this is, is given to each call: if they knew each other, both would stay until a collection.
    """

    def __init__(self) -> None:
        self._starts: dict[object, Callable[[], None]] = {}
        self._values: dict[str, dict[object, Any]] = {}
        """By name, with whose end which value ends: first the model's own, then what starts set, the latest at the
        end."""

    def join(self, start: object, on_change: Callable[[], None]) -> None:
        """A start uses the model until it leaves; it is told when others have changed the pace, in their thread."""
        with _turn:
            self._starts[start] = on_change

    def set(self, llm: Paced, start: object, pace: Mapping[str, Any], until: object) -> None:
        """A start sets some of it, for what is under way too, until ``until`` leaves: itself, or what it is a part of.

        Raises:
            pydantic.ValidationError: a value that does not fit; nothing is set then.
        """
        with _turn:
            self._give_way(llm)
            own = {name: getattr(llm, name) for name in pace}
            llm.set_pace(pace)
            now = {name: getattr(llm, name) for name in pace}
            for name, value in now.items():
                values = self._values.setdefault(name, {self: own[name]})
                values.pop(until, None)
                values[until] = value
        if now != own:
            self._tell_others(start)

    def leave(self, llm: Paced, start: object) -> None:
        """The start has ended, and with it what was set until then."""
        with _turn:
            self._starts.pop(start, None)
            self._give_way(llm)
            again: dict[str, Any] = {}
            for name, values in list(self._values.items()):
                held = _last(values)
                values.pop(start, None)
                if _last(values) != held:
                    again[name] = _last(values)
                if len(values) == 1:
                    del self._values[name]
            if again:
                llm.set_pace(again)
        if again:
            self._tell_others(start)

    def _give_way(self, llm: Paced) -> None:
        """Somebody else has given the model what it has."""
        for name, values in list(self._values.items()):
            if getattr(llm, name) != _last(values):
                del self._values[name]

    def _tell_others(self, start: object) -> None:
        with _turn:
            others = [on_change for other, on_change in self._starts.items() if other is not start]
        for on_change in others:
            on_change()


def _last(values: Mapping[object, Any]) -> Any:
    return values[next(reversed(values))]
