"""The course of a start: what it waited for, and by what limits it went, stretch by stretch of its time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from msgspec import Struct

from mistill.delivery.diagnostics import Snapshot

_MOST_STRETCHES: Final = 120
_FIRST_STRETCH_S: Final = 1.0
_NOTE_S: Final = 15.0
_NOTES_APART: Final = 5
"""So many stretches apart it is noted at least: a start that takes a day is noted a few dozen times."""


class Course(Struct, frozen=True):
    """What a start's time was like, in stretches of one length, all of them from its beginning on.

    Attributes:
        stretch_s: how long each is, in seconds; the last one may not be over.
        seconds_by_cause: how many seconds of each were spent waiting for what.
        in_flight: requests at the end of each.
        requests_per_minute, tokens_per_minute: the quotas by which it went at the end of each; ``None``: none was
            known.
    """

    stretch_s: float
    seconds_by_cause: dict[str, list[float]]
    in_flight: list[int]
    requests_per_minute: list[float | None]
    tokens_per_minute: list[float | None]


class _Stretch(Struct):
    seconds: dict[str, float]
    in_flight: int = 0
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None


class CourseRecorder:
    """Looks at a governor now and then, and keeps what it saw in a bounded number of stretches: when there are too many
    of them, each two become one.

    Args:
        snapshot: how the governor stands.
        clock: seconds that only go on.
    """

    def __init__(self, snapshot: Callable[[], Snapshot], clock: Callable[[], float] = time.monotonic) -> None:
        self._snapshot = snapshot
        self._clock = clock
        self._began_s = self._looked_s = clock()
        self._last = snapshot()
        self._stretch_s = _FIRST_STRETCH_S
        self._stretches: list[_Stretch] = []

    async def watch(self, note: Callable[[], Awaitable[None]]) -> None:
        """Looks until it is cancelled.

        Args:
            note: is called now and then, for whoever looks at the run meanwhile, or after a kill.
        """
        noted_s = self._clock()
        while True:
            await asyncio.sleep(self._stretch_s)
            self.look()
            if self._clock() - noted_s >= max(_NOTE_S, _NOTES_APART * self._stretch_s):
                await note()
                noted_s = self._clock()

    def look(self) -> None:
        """Adds what was since the last look."""
        now_s, now = self._clock(), self._snapshot()
        passed = now.since(self._last)
        first_s, last_s = self._looked_s - self._began_s, now_s - self._began_s
        while last_s >= _MOST_STRETCHES * self._stretch_s:
            self._halve()
        while len(self._stretches) <= last_s // self._stretch_s:
            self._stretches.append(_Stretch({}))
        self._spread(passed, first_s, last_s)
        stretch = self._stretches[-1]
        stretch.in_flight = now.in_flight
        stretch.requests_per_minute = now.requests_per_minute
        stretch.tokens_per_minute = now.tokens_per_minute
        self._looked_s, self._last = now_s, now

    def _spread(self, passed: Mapping[Any, float], first_s: float, last_s: float) -> None:
        """Over all stretches from one moment to another: what was between two looks, no one can tell apart."""
        length = last_s - first_s
        for place in range(int(first_s // self._stretch_s), len(self._stretches)):
            begins = place * self._stretch_s
            part = min(last_s, begins + self._stretch_s) - max(first_s, begins)
            seconds = self._stretches[place].seconds
            for cause, spent in passed.items():
                seconds[cause] = seconds.get(cause, 0.0) + (spent * part / length if length > 0 else spent)

    def _halve(self) -> None:
        pairs = zip(self._stretches[::2], [*self._stretches[1::2], None], strict=False)
        self._stretches = [_joined(one, two) for one, two in pairs]
        self._stretch_s *= 2

    def course(self) -> Course | None:
        """What was seen; ``None`` before the first look."""
        if not self._stretches:
            return None
        causes = dict.fromkeys(cause for stretch in self._stretches for cause in stretch.seconds)
        return Course(
            self._stretch_s,
            {
                cause: [round(stretch.seconds.get(cause, 0.0), 3) for stretch in self._stretches]
                for cause in causes
            },
            [stretch.in_flight for stretch in self._stretches],
            [_rounded(stretch.requests_per_minute) for stretch in self._stretches],
            [_rounded(stretch.tokens_per_minute) for stretch in self._stretches],
        )


def _joined(one: _Stretch, two: _Stretch | None) -> _Stretch:
    if two is None:
        return one
    causes = one.seconds | two.seconds
    seconds = {cause: one.seconds.get(cause, 0.0) + two.seconds.get(cause, 0.0) for cause in causes}
    return _Stretch(seconds, two.in_flight, two.requests_per_minute, two.tokens_per_minute)


def _rounded(per_minute: float | None) -> float | None:
    return None if per_minute is None else round(per_minute, 1)
