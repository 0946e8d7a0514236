"""One event loop in a thread of its own, for callers who have none to spare.

A blocking call works alike from a script, inside a running loop (a notebook), and from many threads at once, because
the work never runs on the caller's loop. The thread starts with the first blocking call and ends with the process.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from concurrent.futures import Future, wait
from typing import Any, TypeVar

T = TypeVar("T")

_UNWIND_S = 1.0
_LOOK_S = 0.1


def new_event_loop() -> asyncio.AbstractEventLoop:
    """uvloop's where it is installed (about half the CPU per request), else the standard one."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


class BackgroundLoop:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None

    def run(self, work: Awaitable[T]) -> T:
        """Runs ``work`` to its end and returns its result. Ctrl-C cancels it and waits until it has ended."""
        ended = threading.Event()
        future = self.submit(_with_end(work, ended))
        try:
            return result_of(future)
        except KeyboardInterrupt:
            future.cancel()
            # A cancelled future counts as done before its task has unwound, hence the event.
            ended.wait(_UNWIND_S)
            raise

    def submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """Starts ``work`` and returns at once."""
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError(
                "a blocking call inside mistill's own event loop would wait for itself; await instead"
            )
        return asyncio.run_coroutine_threadsafe(work, self._running_loop())

    def iterate(self, items: AsyncGenerator[T]) -> Generator[T]:
        """What ``items`` yields, each made on the loop when it is asked for; closed when this is closed."""
        loop = self._running_loop()
        try:
            while True:
                try:
                    item = self.run(anext(items))
                except StopAsyncIteration:
                    return
                yield item
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
                loop = new_event_loop()
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
        """After a fork the thread is gone, so its loop is of no use."""
        self.__init__()


def result_of(future: Future[T]) -> T:
    """The result, once it is there.

    Raises:
        KeyboardInterrupt: Ctrl-C, in a coroutine of ``asyncio.run`` too. That answers it by cancelling its task and no
            more, which a task that waits here, and blocks its loop, would notice only at the end; so look now and then.
    """
    task = _caller()
    if task is None:
        return future.result()
    cancelled_before = task.cancelling()
    while not wait([future], timeout=_LOOK_S).done:
        if task.cancelling() > cancelled_before:
            raise KeyboardInterrupt
    return future.result()


def _caller() -> asyncio.Task[Any] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # no loop runs in this thread
        return None


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


async def _with_end(work: Awaitable[T], ended: threading.Event) -> T:
    try:
        return await work
    finally:
        ended.set()


background = BackgroundLoop()
atexit.register(background.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=background.forget)
