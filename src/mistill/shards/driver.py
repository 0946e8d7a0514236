"""The driver of a run in shards: who works on which shard, again where a worker died, and what ends all of it early."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from msgspec.structs import replace

from mistill.api.usage import Usage
from mistill.delivery.diagnostics import Snapshot, WaitCause
from mistill.errors import InputError, LedgerInUse, MistillError, Stopped
from mistill.ledger import Spending
from mistill.progress.formatting import count, seconds
from mistill.progress.progress import Progress
from mistill.progress.view import View
from mistill.shards.time_left import TimeLeft
from mistill.shards.workers import Begun, Ended, Obeyed, Said, Seen, Unable, Workers
from mistill.steering.orders import Order
from mistill.wording import START_AGAIN, words

_log = logging.getLogger("mistill")

_WAIT_S: Final = 0.5
_OBEYED_WITHIN_S: Final = 5.0
"""Shorter than whoever gives an order waits for its answer."""
_MOST_STILLBORN: Final = 3
_MOST_DEATHS: Final = 5
"""Of workers on one shard, one after the other, none of which got a row answered: it would kill the next one too."""


class Driver:
    """Works through shards.

    Args:
        workers: that work on them. ``shards``: which of them, in order.
        begun: what a start of a shard is told, now.
        progress: counts of the run, kept up to date.
        grace_s: how long a stop waits for what is in flight. ``deadline_s``: what all of it may take.

    Attributes:
        under_way: the shards that are worked on.
        on_begun: is told of each when the work on it begins.
        stopped: why it ended early.
        broke_off: the error that ended it, where nobody has asked for that.
        deadline_s: as given, or set since.
    """

    def __init__(
        self,
        workers: Workers,
        shards: Iterable[int],
        begun: Callable[[int], Begun],
        progress: Progress,
        *,
        grace_s: float,
        deadline_s: float | None = None,
    ) -> None:
        self.progress = progress
        self.stopped: MistillError | None = None
        self.broke_off: MistillError | None = None
        self._workers = workers
        self._waiting = deque(shards)
        self._begun = begun
        self._grace_s = grace_s
        self._views: dict[int, View] = {}
        self._governors: dict[int, Snapshot] = {}
        self.under_way: set[int] = set()
        self.on_begun: Callable[[int], object] = lambda _: None
        self._is_paused = False
        self._deaths: dict[int, tuple[int, int]] = {}
        progress.time_of_several = self._time_of
        self._time_left = TimeLeft()
        self._stillborn = 0
        self._later: list[tuple[float, int]] = []
        self._said: set[str] = set()
        self._ordered: dict[int, deque[asyncio.Future[None]]] = {}
        self._began_s = time.monotonic()
        self.deadline_s = deadline_s

    async def run(self) -> None:
        """Until every shard was worked through, or it is stopped."""
        try:
            while self._goes_on():
                for event in await self._workers.events():
                    if not (isinstance(event, Ended) and event.was_stillborn):
                        self._stillborn = 0
                    if isinstance(event, Seen):
                        self._see(event)
                    elif isinstance(event, Said):
                        self._say(event.level, event.text)
                    elif isinstance(event, Obeyed):
                        self._note_obeyed(event.shard)
                    elif isinstance(event, Unable):
                        self._break_off(event.error)
                    else:
                        self._end(event)
                self._count()
        finally:
            await asyncio.to_thread(self._workers.close)

    def stop(self, reason: MistillError) -> None:
        """Nothing more is sent; what is in flight is waited for."""
        if self.stopped is not None:
            return
        self.stopped = reason
        if self._is_paused:
            self.resume()
        self.progress.cut_off_at_s = time.monotonic() + self._grace_s
        self._workers.stop(reason.headline)

    def pause(self) -> None:
        """The work on no further shard begins until `resume`; those under way are paused by whoever says this."""
        self._is_paused = True
        self.progress.pause({})

    def resume(self) -> None:
        """It goes on."""
        self._is_paused = False
        self.progress.resume({})

    @property
    def time_left_s(self) -> float:
        """Seconds until the deadline; infinite without one."""
        return math.inf if self.deadline_s is None else self._began_s + self.deadline_s - time.monotonic()

    def abandon(self) -> None:
        """Nothing is waited for: what is in flight is marked as maybe billed."""
        self._workers.abandon()

    async def order(self, order: Order, by: str, shards: Iterable[int]) -> list[int]:
        """Those of the shards obey that are under way, unless they end before.

        Returns:
            Those that have not obeyed within some seconds: each does as soon as it can.
        """
        obeyed: dict[int, asyncio.Future[None]] = {}
        for shard in sorted(self.under_way.intersection(shards)):
            obeyed[shard] = asyncio.get_running_loop().create_future()
            self._ordered.setdefault(shard, deque()).append(obeyed[shard])
            self._workers.order(shard, order, by)
        if obeyed:
            await asyncio.wait(obeyed.values(), timeout=_OBEYED_WITHIN_S)
        return [shard for shard, future in obeyed.items() if not future.done()]

    def _note_obeyed(self, shard: int) -> None:
        waiting = self._ordered.get(shard)
        if waiting and not (obeyed := waiting.popleft()).done():
            obeyed.set_result(None)

    def snapshot(self) -> Snapshot:
        """All governors at one moment, as if they were one: a second of one of four is a quarter of one."""
        by_cause: dict[WaitCause, float] = {}
        for view in self._views.values():
            for cause, spent in view.seconds_by_cause.items():
                by_cause[cause] = by_cause.get(cause, 0.0) + spent
        total, elapsed_s = sum(by_cause.values()), self.progress.elapsed_s
        share = elapsed_s / total if total else 0.0
        return Snapshot(
            waiting=0,
            in_flight=self._in_flight(),
            adaptive_limit=0,
            requests_per_minute=None,
            requests_source=None,
            tokens_per_minute=None,
            tokens_source=None,
            answered=0,
            refused=0,
            seconds={cause: spent * share for cause, spent in by_cause.items()},
        )

    def quotas(self) -> Snapshot:
        """The same, with what the workers' governors know of the server, as one of them was told last."""
        now, governors = self.snapshot(), list(self._governors.values())
        if not governors:
            return now
        alone_s = 0.0 if self._workers.are_one_process else sum(one.alone_s for one in governors)
        return replace(
            governors[-1],
            waiting=now.waiting,
            in_flight=now.in_flight,
            adaptive_limit=max(one.adaptive_limit for one in governors),
            answered=self.progress.completions,
            refused=sum(one.refused for one in governors),
            seconds=now.seconds,
            quota_waits={cause: limit for one in governors for cause, limit in one.quota_waits.items()},
            alone_s=alone_s / len(governors),
        )

    def _in_flight(self) -> int:
        flying = [view.in_flight for view in self._views_of_work()]
        return max(flying, default=0) if self._workers.are_one_process else sum(flying)

    def _views_of_work(self) -> list[View]:
        return [self._views[shard] for shard in self.under_way if shard in self._views]

    def _see(self, seen: Seen) -> None:
        self._views[seen.shard] = seen.view
        if seen.governor is not None:
            self._governors.pop(seen.shard, None)
            self._governors[seen.shard] = seen.governor  # the newest is the last
        self._time_left.see(seen)

    def _time_of(self, rows: float) -> float | None:
        views, workers = self._views_of_work(), len(self.under_way)
        return self._time_left.of(rows, self.progress, views, self.snapshot(), workers=workers)

    def _goes_on(self) -> bool:
        now_s = time.monotonic()
        if self.time_left_s <= 0:
            self.stop(Stopped.at_deadline(seconds(self.deadline_s or 0.0)))
        self._waiting += [shard for at_s, shard in self._later if at_s <= now_s]
        self._later = [one for one in self._later if one[0] > now_s]
        while self._waiting and self._workers.free and self.stopped is None and not self._is_paused:
            shard = self._waiting.popleft()
            try:
                self._workers.begin(self._told(shard))
            except MistillError as error:
                self._break_off(error)  # those who have begun wait for what is in flight
            else:
                self.under_way.add(shard)
                self.on_begun(shard)
        return bool(self.under_way) or (self.stopped is None and bool(self._waiting or self._later))

    def _told(self, shard: int) -> Begun:
        begun = self._begun(shard)
        if begun.budget is None:
            return begun
        seen = Spending.together([begun.budget.seen, self._answered_beside(shard)])
        return replace(begun, budget=replace(begun.budget, seen=seen))

    def _answered_beside(self, shard: int) -> Spending:
        """By all other shards since it began, as far as they have told."""
        own, all_of_them = self._views.get(shard, View()), self.progress
        return Spending(
            answers=all_of_them.completions - own.completions,
            input_tokens=all_of_them.usage.input_tokens - own.usage.input_tokens,
            output_tokens=all_of_them.usage.output_tokens - own.usage.output_tokens,
            cost=(all_of_them.cost or 0.0) - (own.cost or 0.0),
        )

    def _end(self, ended: Ended) -> None:
        self.under_way.discard(ended.shard)
        while self._ordered.get(ended.shard):
            self._note_obeyed(ended.shard)
        if ended.died is not None and ended.was_stillborn and self._is_hopeless(ended.died):
            return
        if ended.died is not None:
            self._begin_again(ended.shard, ended.died)
        elif isinstance(ended.error, LedgerInUse):
            self._say(logging.WARNING, words(f"shard {ended.shard} waits: ", ended.error.message))
            self._later.append((time.monotonic() + _WAIT_S, ended.shard))
        elif ended.error is not None:
            self._break_off(ended.error)
        elif ended.stopped is not None:
            self.stop(ended.stopped)

    def _break_off(self, error: MistillError) -> None:
        if self.stopped is None:
            self.broke_off = error
        self.stop(error)

    def _is_hopeless(self, how: str) -> bool:
        """One worker after another ends before it has begun, which no shard can help."""
        self._stillborn += 1
        if self._stillborn < _MOST_STILLBORN:
            return False
        error = InputError(
            f"one process for shards after another ended before it began, the last: {how}",
            hint="in a script, what starts the run stands under: if __name__ == '__main__':",
        )
        self._break_off(error)
        return True

    def _begin_again(self, shard: int, how: str) -> None:
        """Whoever worked on it died: another one goes on, unless that does not help."""
        view = self._views.get(shard)
        # With those before it: each counts from its own start, and ends as many rows as the last one, maybe.
        done = 0 if view is None else view.done
        most, deaths = self._deaths.get(shard, (0, 0))
        deaths = deaths + 1 if done <= most else 1
        self._deaths[shard] = max(done, most), deaths
        if deaths >= _MOST_DEATHS:
            self.stop(
                Stopped(
                    f"{count(deaths, 'worker')} on shard {shard} died in turn, the last: {how}",
                    reason="stopped",
                    hint=words("is there memory enough? ", START_AGAIN, " to go on"),
                )
            )
        elif self.stopped is None:
            told = f"a worker died ({how}); another goes on with its shard"
            if self._begun(shard).budget is not None:  # for which others may have to wait
                told += ": until it does, what was in flight there counts at its longest for the budget"
            self._say(logging.WARNING, told)
            self._waiting.appendleft(shard)

    def _say(self, level: int, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            _log.log(level, text)

    def _count(self) -> None:
        views = self._views.values()
        progress = self.progress
        for name in ("known", "completions", "failures", "held", "requests", "busy_s"):
            setattr(progress, name, sum(getattr(view, name) for view in views))
        progress.usage = sum((view.usage for view in views), Usage())
        costs = [view.cost for view in views if view.cost is not None]
        progress.cost = sum(costs) if costs else None
