"""One event loop in a thread of its own, for callers who have none to spare.

A blocking call works alike from a script, inside a running loop (a notebook), and from many threads at once, because
the work never runs on the caller's loop. The thread starts with the first blocking call and ends with the process.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import sys
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import Future, wait
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from mistill.errors import InputError
from mistill.open_files import check_limit, explain_shortages
from mistill.process import OwnProcess, keep_unused

T = TypeVar("T")

LEAVE_STREAM = "leave it to that process, and begin one of your own here"
"""What a forked child does with a stream of its parent."""

_UNWIND_S = 1.0
LOOK_S = 0.1
"""How often whoever waits looks for an interrupt."""


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed (about half the CPU per request), else the standard one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


def _keep_thread_state(loop: asyncio.AbstractEventLoop) -> None:
    """Lets the transport's own thread keep its thread state, which is else made anew whenever it wakes the loop up.

    Making one takes a lock of the interpreter (``HEAD_LOCK``), without the GIL. A process that forks at that moment has
    a child that waits for it for ever: Python before 3.12 takes it (``_PyThreadState_DeleteExcept``) before it makes it
    anew (``PyOS_AfterFork_Child``). It was one fork in 600 on a machine with too much to do.
    """
    import ctypes  # here: in that thread, no file may be open any more, and nothing would be told

    wake = loop.call_soon_threadsafe

    def wake_and_keep(*args: Any, **context: Any) -> asyncio.Handle:
        if threading.get_ident() not in [thread.ident for thread in threading.enumerate()]:
            ctypes.pythonapi.PyGILState_Ensure()
            del loop.call_soon_threadsafe
        return wake(*args, **context)

    loop.call_soon_threadsafe = wake_and_keep  # type: ignore[method-assign]  of this one loop, until it was called


class BackgroundLoop:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Awaitable[T]) -> T:
        """Runs ``work`` to its end and returns its result. Ctrl-C cancels it and waits until it has ended."""
        begun = self.work(work)
        try:
            return begun.result()
        except KeyboardInterrupt:
            begun.cancel()
            raise

    def work(self, work: Awaitable[T]) -> BackgroundWork[T]:
        """``work``, to be begun and waited for."""
        return BackgroundWork(self, work)

    def refuse_own_thread(self) -> None:
        if threading.current_thread() is self._thread:
            raise RuntimeError(
                "a blocking call inside mistill's own event loop would wait for itself; await instead"
            )

    def iterate(self, items: AsyncGenerator[T]) -> Generator[T]:
        """What ``items`` yields, each made on the loop when it is asked for; closed when this is closed.

        Raises:
            InputError: it was begun by another process, of which this is a fork.
        """
        loop = self._running_loop()
        process = OwnProcess()
        try:
            while True:
                try:
                    item = self.run(anext(items))
                except StopAsyncIteration:
                    return
                yield item
                process.check("the stream was begun", InputError, LEAVE_STREAM)
        finally:
            if loop is not self._loop:
                pass  # in a forked child, or after the end: nothing is left that it could be closed on
            elif threading.current_thread() is self._thread:  # the garbage collector runs anywhere
                self.call(lambda: asyncio.ensure_future(items.aclose()))
            else:
                self.run(items.aclose())

    def call(self, function: Callable[[], object]) -> None:
        """Calls ``function`` on the loop, soon, from any thread."""
        self._running_loop().call_soon_threadsafe(function)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                check_limit()
                loop = new_event_loop()
                explain_shortages(loop)
                if sys.version_info < (3, 12):
                    _keep_thread_state(loop)
                self._thread = threading.Thread(target=_serve, args=(loop,), name="mistill", daemon=True)
                self._thread.start()
                self._loop = loop
            return self._loop

    def close(self) -> None:
        """Ends the thread; a later call starts another."""
        with self._lock:
            loop, thread = self._loop, self._thread
            self._loop = self._thread = None
        if loop is not None and thread is not None:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(timeout=1)
            if not loop.is_running():
                loop.close()

    def forget(self) -> None:
        """After a fork the thread is gone, so its loop is of no use. What is under way on it is the parent's."""
        keep_unused(self._loop)
        self.__init__()


class BackgroundWork(Generic[T]):
    """Work on a background loop, of which a thread waits for the result.

    An interrupt may fall between any two steps of that thread. So to begin it once more does nothing, and whoever was
    interrupted, wherever it was, calls `result` again, or `cancel`.

    Attributes:
        future: its result, once it is there.
    """

    def __init__(self, loop: BackgroundLoop, work: Awaitable[T]) -> None:
        self.future: Future[T] = Future()
        self._loop = loop
        self._work = work
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False

    def begin(self) -> None:
        """Returns at once."""
        if self._task is None:
            try:
                self._loop.refuse_own_thread()
                self._loop.call(self._begin)
            except (RuntimeError, OSError, InputError):  # the latter two: too few files may be open
                _never_awaited(self._work)
                raise

    def result(self) -> T:
        """Begins it, unless it has begun, and waits.

        Raises:
            KeyboardInterrupt: see `Interrupts`. The work goes on.
        """
        self.begin()
        interrupts = Interrupts()
        while not wait([self.future], timeout=LOOK_S).done:
            interrupts.check()
        return self.future.result()

    def cancel(self) -> None:
        """Ends it, and waits a second for that at most."""
        self._loop.call(self._cancel)
        wait([self.future], timeout=_UNWIND_S)

    def _begin(self) -> None:
        if self._task is None and not self._is_cancelled:
            self._task = asyncio.ensure_future(self._run())

    def _cancel(self) -> None:
        self._is_cancelled = True
        if self._task is not None:
            self._task.cancel()
        elif not self.future.done():
            _never_awaited(self._work)
            self.future.set_exception(asyncio.CancelledError())

    async def _run(self) -> None:
        try:
            result = await self._work
        except BaseException as error:
            # What would end a program is the error of who waits, and no concern of the loop.
            self.future.set_exception(error)
        else:
            self.future.set_result(result)


class Interrupts:
    """What ends the waiting of a blocking call, looked for now and then.

    A signal that comes as a thread begins to wait for a lock, or that another thread is given, wakes nobody up: Python
    raises it once the thread does something. And in a coroutine of ``asyncio.run``, Ctrl-C cancels its task and no
    more, which a task that waits here, and blocks its loop, would notice only at the end.
    """

    def __init__(self) -> None:
        self._task = _caller()
        self._cancelled_before = 0 if self._task is None else self._task.cancelling()

    def check(self) -> None:
        """Raises ``KeyboardInterrupt`` where the caller's task was cancelled. Others Python raises by itself."""
        if self._task is not None and self._task.cancelling() > self._cancelled_before:
            raise KeyboardInterrupt


def next_of(queue: SimpleQueue[T]) -> T:
    """What comes next out of a queue, once it is there.

    Raises:
        KeyboardInterrupt: see `Interrupts`.
    """
    interrupts = Interrupts()
    while True:
        with suppress(Empty):
            return queue.get(timeout=LOOK_S)
        interrupts.check()


def _caller() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None


def _never_awaited(work: Awaitable[Any]) -> None:
    """Closes it, where it is a coroutine: Python would say that it was forgotten."""
    if asyncio.iscoroutine(work):
        work.close()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    """Runs the loop until it is stopped, whatever is raised on it: what would end a program, and so leaves the loop,
    is the error of the one task that raised it. All others, whoever waits for them, go on."""
    is_stopped = False
    while not is_stopped:
        try:
            loop.run_forever()
            is_stopped = True
        except (SystemExit, KeyboardInterrupt):
            pass


background = BackgroundLoop()
atexit.register(background.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=background.forget)
