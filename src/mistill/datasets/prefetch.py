"""Rows of a source, some hundreds at a time, for an event loop that must not wait for them.

A file or a list is read in place. What can be read only once (stdin, a pipe, a generator) may take its time with every
row, so a thread reads it, and a window is whatever has come by then.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

from mistill.datasets.sources import Row, Source

WINDOW_ROWS = 512
_WINDOW_BYTES = 16 << 20  # rows can be long: one of 50 MB is a window of its own


class Windows:
    """``ended``: the input was read to its end. ``error``: it broke off, by its own fault or that of who made it.
    ``may_wait``: the next window may be long in coming.
    """

    may_wait = False

    def __init__(self, source: Source) -> None:
        self.ended = False
        self.error: Exception | None = None
        self._rows = iter(source)

    async def next(self) -> list[Row]:
        """At least one row, unless the input has ended or broken off."""
        rows: list[Row] = []
        size_bytes = 0
        try:
            for row in self._rows:
                rows.append(row)
                size_bytes += len(row.raw)
                if len(rows) >= WINDOW_ROWS or size_bytes >= _WINDOW_BYTES:
                    return rows
            self.ended = True
        except Exception as error:  # kept until those in flight are answered
            self.error = error
        return rows

    def close(self) -> None:
        """No more rows are wanted."""


class StreamedWindows(Windows):
    """Reads ahead, at most one window, in a thread that ends with the input or with the process."""

    may_wait = True

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._changed = threading.Condition()
        self._read: deque[Row] = deque()
        self._read_bytes = 0
        self._has_ended = False
        self._closed = False
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | None = None
        # A daemon: it may wait for a row that never comes.
        self._thread = threading.Thread(target=self._work, name=f"reading {source.name}", daemon=True)

    async def next(self) -> list[Row]:
        if self._thread.ident is None:
            self._thread.start()
        while True:
            loop = asyncio.get_running_loop()
            with self._changed:
                rows = list(self._read)
                self._read.clear()
                self._read_bytes = 0
                self._changed.notify_all()
                if rows or self._has_ended or self._closed:
                    self.ended = self._has_ended and self.error is None
                    return rows
                arrived = loop.create_future()
                self._waiter = loop, arrived
            await arrived

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._wake()

    def _work(self) -> None:
        try:
            for row in self._rows:
                with self._changed:
                    self._read.append(row)
                    self._read_bytes += len(row.raw)
                    self._wake()
                    self._changed.wait_for(self._has_room)
                    if self._closed:
                        return
        except Exception as error:
            self.error = error
        finally:
            with self._changed:
                self._has_ended = True
                self._wake()

    def _has_room(self) -> bool:
        return self._closed or (len(self._read) < WINDOW_ROWS and self._read_bytes < _WINDOW_BYTES)

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter[0].is_closed():
            waiter[0].call_soon_threadsafe(_tell, waiter[1])


def _tell(arrived: asyncio.Future[None]) -> None:
    if not arrived.done():
        arrived.set_result(None)


def open_windows(source: Source) -> Windows:
    return Windows(source) if source.repeatable else StreamedWindows(source)
