"""Rows of a source, some hundreds at a time, for an event loop that must not wait for them.

A file or a list is read in place, for a moment at a stretch. What can be read only once (stdin, a pipe, a generator)
may take its time with every row, as may what comes over a network, and a filter may read any number before it gives
one: so a thread reads these, and a window is whatever has come by then.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from time import monotonic

from mistill.datasets.sources import NotWanted, Row, Source
from mistill.errors import InputError

WINDOW_ROWS = 512
_WINDOW_BYTES = 16 << 20  # rows can be long: one of 50 MB is a window of its own
_WINDOW_S = 0.1
"""How long rows are read at a stretch, where they are read on the loop: what is in flight waits meanwhile."""


class Windows:
    """The rows of a source, in order, a window at a time.

    Attributes:
        ended: the input was read to its end.
        error: why it broke off, by its own fault or that of who made it.
        may_wait: the next window may be long in coming, by the will of whoever makes the rows.
    """

    may_wait = False

    def __init__(self, source: Source) -> None:
        self.ended = False
        self.error: Exception | None = None
        self._rows = self._rows_of(source)
        self._name = source.name

    async def next(self) -> list[Row]:
        """At least one row, unless the input has ended or broken off."""
        rows: list[Row] = []
        size_bytes = 0
        until_s = monotonic() + _WINDOW_S
        try:
            for row in self._rows:
                rows.append(row)
                size_bytes += len(row.raw)
                if len(rows) >= WINDOW_ROWS or size_bytes >= _WINDOW_BYTES or monotonic() > until_s:
                    return rows
            self.ended = True
        except BaseException as error:  # kept until those in flight are answered
            self.error = self._failed(error)
        return rows

    def close(self) -> None:
        """No more rows are wanted."""

    def _rows_of(self, source: Source) -> Iterator[Row]:
        return iter(source)

    def _failed(self, error: BaseException) -> Exception:
        """Why the input breaks off; one that is code of the user's own may even call ``sys.exit()``."""
        if isinstance(error, Exception):
            return error
        failed = InputError(f"{self._name} ended in {type(error).__name__}: {error}")
        failed.__cause__ = error
        return failed


class StreamedWindows(Windows):
    """Windows of a source that a thread reads ahead: by one window at most, until the input or the process ends, or no
    more rows are wanted.

    Only one task may wait for the next window at a time.
    """

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self.may_wait = not source.repeatable
        self._condition = threading.Condition()
        self._buffer: deque[Row] = deque()
        self._buffer_bytes = 0
        self._exhausted = False
        self._closed = False
        self._wakeup = asyncio.Event()
        self._waiting_loop: asyncio.AbstractEventLoop | None = None
        # A daemon: it may wait for a row that never comes.
        self._reader = threading.Thread(target=self._read_ahead, name=f"reading {source.name}", daemon=True)

    async def next(self) -> list[Row]:
        if self._reader.ident is None:
            self._reader.start()
        while True:
            with self._condition:
                rows = list(self._buffer)
                self._buffer.clear()
                self._buffer_bytes = 0
                self._condition.notify_all()
                if rows or self._exhausted or self._closed:
                    self.ended = self._exhausted and self.error is None
                    return rows
                self._wakeup.clear()
                self._waiting_loop = asyncio.get_running_loop()
            await self._wakeup.wait()

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._condition.notify_all()
            self._wake_loop()

    def _rows_of(self, source: Source) -> Iterator[Row]:
        return source.rows_while(lambda: not self._closed)

    def _read_ahead(self) -> None:
        try:
            for row in self._rows:
                with self._condition:
                    self._buffer.append(row)
                    self._buffer_bytes += len(row.raw)
                    self._wake_loop()
                    self._condition.wait_for(self._has_room)
                    if self._closed:
                        return
        except NotWanted:
            pass
        except BaseException as error:
            self.error = self._failed(error)
        finally:
            with self._condition:
                self._exhausted = True
                self._wake_loop()

    def _has_room(self) -> bool:
        return self._closed or (len(self._buffer) < WINDOW_ROWS and self._buffer_bytes < _WINDOW_BYTES)

    def _wake_loop(self) -> None:
        """Called with the condition held, by whichever thread."""
        loop, self._waiting_loop = self._waiting_loop, None
        if loop is not None:
            with suppress(RuntimeError):  # the loop is closed, so nobody waits any more
                loop.call_soon_threadsafe(self._wakeup.set)


def open_windows(source: Source) -> Windows:
    """The windows of ``source``; read in place if that cannot take long, else by a thread."""
    in_place = source.repeatable and not source.is_far and not source.is_changed_in_number
    return Windows(source) if in_place else StreamedWindows(source)
