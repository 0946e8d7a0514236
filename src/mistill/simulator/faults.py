"""What can go wrong on purpose, and what a test can have the simulator say next."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, get_args

from mistill.simulator.settings import FaultName

Body = dict[str, Any]
When = Callable[[Body], bool]

_REFUSALS = frozenset({"429", "capacity", "500", "503", "503_text", "status"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. ``name`` is as in ``Settings.faults``, or ``status`` / ``delay`` for the scripted ones."""

    name: str
    http_status: int = 200
    payload: Body | str | None = None
    headers: dict[str, str] = field(default_factory=dict[str, str])
    delay_s: float = 0.0

    @property
    def is_refusal(self) -> bool:
        """Whether it is an answer with an error status, in the place of a good one."""
        return self.name in _REFUSALS

    @classmethod
    def status(
        cls, status: int, payload: Body | str | None = None, headers: dict[str, str] | None = None
    ) -> Fault:
        """This status with this body (JSON if a dict, plain text if a string; ``None``: Mistral's usual)."""
        return cls("status", status, payload, headers or {})

    @classmethod
    def named(cls, name: FaultName) -> Fault:
        """One of those that ``Settings.faults`` gives a rate to."""
        return cls(name)

    @classmethod
    def delay(cls, delay_s: float) -> Fault:
        """A good answer, this many seconds late."""
        return cls("delay", delay_s=delay_s)

    @classmethod
    def disconnect(cls) -> Fault:
        """The connection is closed before the answer begins."""
        return cls("disconnect")

    @classmethod
    def truncate(cls) -> Fault:
        """The connection is closed in the middle of the body."""
        return cls("truncate")

    @classmethod
    def stall(cls) -> Fault:
        """Half of the body, then nothing more, for ever."""
        return cls("stall")

    @classmethod
    def html(cls) -> Fault:
        """Status 200 with a page of HTML, as a proxy in between would send."""
        return cls("html")

    @classmethod
    def cut_stream(cls) -> Fault:
        """A stream that ends cleanly before ``data: [DONE]``; for a whole answer the same as truncate."""
        return cls("cut_stream")


@dataclass(frozen=True, slots=True)
class Answer:
    """A scripted good answer: this text, whatever was asked."""

    text: str


Scripted = Fault | Answer


@dataclass(slots=True)
class _Scene:
    items: deque[Scripted]
    when: When | None


class Script:
    """What comes next, in order; each request takes one item at most, from the first scene that wants it."""

    def __init__(self) -> None:
        self._scenes: deque[_Scene] = deque()

    def add(self, items: Iterable[Scripted | str], when: When | None) -> None:
        scripted = deque(Answer(item) if isinstance(item, str) else item for item in items)
        self._scenes.append(_Scene(scripted, when))

    @property
    def left(self) -> int:
        return sum(len(scene.items) for scene in list(self._scenes))

    def take(self, body: Callable[[], Body]) -> Scripted | None:
        """The next item for this request. ``body`` decodes lazily: most requests meet no script at all."""
        while self._scenes and not self._scenes[0].items:
            self._scenes.popleft()
        for scene in list(self._scenes):  # another thread may add one meanwhile
            if scene.items and (scene.when is None or scene.when(body())):
                return scene.items.popleft()
        return None


class FaultDice:
    """Draws a fault for each request, in order of arrival, from the rates of the settings."""

    def __init__(self, rates: dict[FaultName, float], rng: random.Random) -> None:
        self._rng = rng
        self._steps: list[tuple[float, Fault]] = []
        threshold = 0.0
        for name in get_args(FaultName):
            if rate := rates.get(name):
                threshold += rate
                self._steps.append((threshold, Fault(name)))

    def throw(self) -> Fault | None:
        if not self._steps:
            return None
        drawn = self._rng.random()
        for threshold, fault in self._steps:
            if drawn < threshold:
                return fault
        return None


def happens(rng: random.Random, rate: float) -> bool:
    """Whether something does that happens at this rate. What never happens draws nothing."""
    return rate > 0 and rng.random() < rate
