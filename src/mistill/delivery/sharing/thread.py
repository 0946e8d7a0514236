"""The thread that talks to other processes, for all that this one shares."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

_TURNS_TO_CLOSE = 10
"""Of the loop: one that is just being accepted is made first, and a connection that is closed takes one more."""
_END_WITHIN_S = 1.0


class SharingThread:
    """An event loop in a daemon thread, which begins with the first that is to be done there.

    Event loops of users come and go, and stand still while their code computes; those who wait in another process
    must not wait for that.

    Attributes:
        sockets: that it talks through. A forked child has to let go of them.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_over = False
        self.sockets: set[socket.socket] = set()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """Which runs."""
        if (running := self._loop) is not None:
            return running
        with self._lock:
            if self._loop is None:
                # The standard one: it leaves alone, in a forked child, what it shares with the parent. Not what the
                # program's policy makes: Ray's workers have uvloop's.
                self._loop = asyncio.SelectorEventLoop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="mistill-governor", daemon=True
                )
                self._thread.start()
            return self._loop

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Calls it there, soon; from any thread. Where the thread has ended nobody waits for it any more."""
        if self._is_over:
            return
        with suppress(RuntimeError):
            self.loop.call_soon_threadsafe(function, *args)

    def begin(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        """Begins a task there; from any thread."""
        self.call(self._begin, work, *args)

    def _begin(self, work: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        task = asyncio.get_running_loop().create_task(work(*args))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self) -> None:
        """In a forked child: the thread is the parent's."""
        self._is_over = True

    def end(self, farewell: Callable[[], object]) -> None:
        """Calls ``farewell`` there, cancels what goes on, and ends the thread; within a second, and for good."""
        with self._lock:
            self._is_over = True
            loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        said: Future[None] = Future()

        def stop(turns: int) -> None:
            if turns:
                loop.call_soon(stop, turns - 1)
            else:
                loop.stop()

        def say() -> None:
            try:
                farewell()
                for task in self._tasks:
                    task.cancel()
            finally:
                said.set_result(None)
                stop(_TURNS_TO_CLOSE)

        loop.call_soon_threadsafe(say)
        with suppress(TimeoutError):
            said.result(_END_WITHIN_S)
        thread.join(_END_WITHIN_S)
        with self._lock:
            self._loop = self._thread = None
        if not loop.is_running():
            loop.close()
