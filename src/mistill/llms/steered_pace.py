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

    What somebody else gives the model meanwhile stays. The model, whose own this is, is given to each call: if they
    knew each other, both would stay until a collection.
    """

    def __init__(self) -> None:
        self._starts: dict[object, Callable[[], None]] = {}
        self._values: dict[str, dict[object, Any]] = {}
        """By name, who has set what: first the model itself, then starts, the latest at the end."""

    def join(self, start: object, on_change: Callable[[], None]) -> None:
        """A start uses the model until it leaves; it is told when others have changed the pace, in their thread."""
        with _turn:
            self._starts[start] = on_change

    def set(self, llm: Paced, start: object, pace: Mapping[str, Any]) -> None:
        """Sets some of it, for what is under way too.

        Raises:
            pydantic.ValidationError: a value that does not fit; nothing is set then.
        """
        with _turn:
            own = {name: getattr(llm, name) for name in pace}
            llm.set_pace(pace)
            for name, value in own.items():
                values = self._values.setdefault(name, {self: value})
                values.pop(start, None)
                values[start] = getattr(llm, name)
        self._tell_others(start)

    def leave(self, llm: Paced, start: object) -> None:
        """The start has ended, and with it what it has set."""
        with _turn:
            self._starts.pop(start, None)
            again: dict[str, Any] = {}
            for name, values in list(self._values.items()):
                if start not in values:
                    continue
                held = _last(values)
                del values[start]
                if getattr(llm, name) == held:
                    again[name] = _last(values)
                if len(values) == 1:
                    del self._values[name]
            llm.set_pace(again)
        self._tell_others(start)

    def _tell_others(self, start: object) -> None:
        with _turn:
            others = [on_change for other, on_change in self._starts.items() if other is not start]
        for on_change in others:
            on_change()


def _last(values: Mapping[object, Any]) -> Any:
    return values[next(reversed(values))]
