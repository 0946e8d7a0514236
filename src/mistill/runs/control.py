"""Who may start a run, and how one that goes on is stopped and waited for: from any thread, by Ctrl-C."""

from __future__ import annotations

import threading
import time
from collections.abc import Coroutine, Generator, Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from mistill.errors import InputError, LedgerError, LedgerInUse, MistillError, Stopped, StopReason
from mistill.llms.event_loop import BackgroundWork, background, next_of
from mistill.process import OwnProcess
from mistill.progress.progress import Progress
from mistill.steering.orders import Order, Standing, Steered
from mistill.steering.peer import this_process
from mistill.wording import START_AGAIN, words

T = TypeVar("T")

_JUST_BEGUN_S = 0.005


class Stoppable(Protocol):
    """What works through rows: a runner, or the driver of several. Called on the background loop."""

    progress: Progress

    def stop(self, reason: MistillError) -> None:
        """Sends nothing more; what is in flight is waited for."""
        ...

    def abandon(self) -> None:
        """Waits for nothing."""
        ...


class RunControl:
    """One start at a time, what it is told while it goes on, and what ends it early."""

    def __init__(self) -> None:
        self._state = threading.Lock()
        self._turn: object = None
        self._runner: Stoppable | None = None
        self._stopped_early: Stopped | None = None
        self._steering: Steered | None = None
        self._is_ending = False
        self._process = OwnProcess()

    @contextmanager
    def steered(self, steering: Steered) -> Generator[None]:
        """Within the block, the start obeys orders."""
        self._steering = steering
        try:
            yield
        finally:
            self._is_ending, self._steering = True, None

    def order(self, order: Order, by: str | None = None) -> Standing:
        """The start that goes on obeys, as soon as it can: one that has just begun is waited for.

        Args:
            by: who asks; this process unless given.

        Raises:
            InputError: none goes on, or it cannot be; nothing was changed.
        """
        while (steering := self._steering) is None and self.goes_on and not self._is_ending:
            time.sleep(_JUST_BEGUN_S)
        if steering is None:
            raise InputError("no start of this run goes on", hint="start it: run.start(), in another thread")
        self._process.check("the run was started", InputError, "give the order there, or by `mistill ctl`")
        answer = background.run(steering.obey(order, by or this_process()))
        assert answer.standing is not None, "no view was asked for"
        return answer.standing

    @contextmanager
    def in_turn(self, turn: object) -> Generator[None]:
        """A start, from `begin`, unless that was before, to `end`."""
        try:
            self.begin(turn)
            yield
        finally:
            if self._turn is turn:  # as `end`, without a call: an interrupt may fall on the beginning of one
                self._turn = self._runner = None

    def begin(self, turn: object) -> None:
        """A start begins. ``turn`` is its own, for `end`: whoever is interrupted cannot know whether it has begun.

        Raises:
            LedgerInUse: another one goes on.
        """
        with self._state:
            if self._turn is turn:
                return
            if self._turn is not None:
                raise LedgerInUse(
                    "this run is going on already", hint="wait for its end, or stop it: run.stop()"
                )
            self._stopped_early = None
            self._is_ending = False
            self._process = OwnProcess()
            self._turn = turn

    def end(self, turn: object) -> None:
        """It has ended, if it had begun."""
        with self._state:
            if self._turn is turn:
                self._turn = self._runner = None

    @property
    def goes_on(self) -> bool:
        """A start has begun, and has not ended."""
        return self._turn is not None

    def take(self, runner: Stoppable) -> None:
        """From now on it is this that is stopped; at once where that was asked for before."""
        with self._state:
            self._runner, stopped_early = runner, self._stopped_early
        if stopped_early is not None:
            runner.stop(stopped_early)

    def stop(self, message: str, reason: StopReason) -> None:
        """Sends nothing more; what is in flight is waited for. From any thread."""
        stopped = Stopped(message, reason=reason, hint=words(START_AGAIN, " to go on"))
        with self._state:
            runner = self._runner
            if runner is None and self._turn is not None and self._stopped_early is None:
                self._stopped_early = stopped  # it is just starting
        if runner is not None:
            background.call(lambda: runner.stop(stopped))

    def interrupt(self) -> None:
        """Ctrl-C: a stop; and the second one, `abandon`."""
        runner = self._runner
        if runner is not None:
            runner.progress.interrupted = True
        if runner is None or runner.progress.cut_off_at_s is None:
            self.stop("interrupted", "interrupted")
        else:
            self.abandon()

    def abandon(self) -> None:
        """Waits for nothing any more."""
        runner = self._runner
        if runner is not None:
            background.call(runner.abandon)

    @contextmanager
    def working(self, work: Coroutine[Any, Any, None]) -> Generator[BackgroundWork[None]]:
        """The work of a runner, for the block to begin and wait for.

        However the block is left, by an interrupt at any moment too: nothing of it goes on after it, when its ledger is
        closed.
        """
        process = OwnProcess()
        begun = background.work(self._until_its_end(work))
        try:
            yield begun
        finally:
            if process.is_this() and not begun.future.done():
                self.stop("stopped", "stopped")
                with suppress(Exception):  # another one is on its way, or nobody listens
                    self.wait(begun)

    async def _until_its_end(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._runner = None

    def wait(self, work: BackgroundWork[None]) -> None:
        """Begins it, and waits for its end. Ctrl-C is an `interrupt` of it."""
        while True:
            try:
                return work.result()
            except KeyboardInterrupt as error:
                if work.future.done() and work.future.exception() is error:
                    raise  # the user's own code raised it, and would for ever
                self.interrupt()

    def each(self, unread: SimpleQueue[T | None], work: BackgroundWork[None]) -> Iterator[T]:
        """What comes out of the queue while the work goes on.

        Raises:
            LedgerError: this is a fork of the process that began, in which nothing comes.
        """
        process = OwnProcess()
        work.future.add_done_callback(lambda _: unread.put(None))
        work.begin()
        while (one := next_of(unread)) is not None:
            yield one
            process.check("the run was started", LedgerError, "leave the loop in this process")
