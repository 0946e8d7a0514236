"""Shards in processes of this machine: each works on one after another, and ends with its driver, however that ends."""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import pickle
import signal
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final

from mistill.errors import InputError, MistillError, unforeseen
from mistill.progress.view import View
from mistill.shards.workers import Begun, Control, Ended, Event, Said, Seen, Work

_LOOK_S: Final = 0.25
_ALIVE_EVERY_S: Final = 1.0
_SILENT_S: Final = 20.0
"""A worker that says nothing for so long has been stopped, or hangs: it is ended, and another takes its shard."""
_CLOSE_S: Final = 10.0


class Processes:
    """So many processes; see `Workers`.

    Args:
        count: how many. ``work``: what each does with a shard.

    Raises:
        InputError: the settings of the run cannot go to another process.
    """

    def __init__(self, count: int, work: Work) -> None:
        try:
            self._work = pickle.dumps(work)
        except Exception as error:  # of any type: it is the user's own objects that refuse
            raise InputError(
                f"the settings of the run cannot go to another process: {error}",
                hint="a schema must be a class of a module that can be imported, or a JSON schema",
            ) from error
        self._slots = [_Slot(self._work) for _ in range(count)]

    @property
    def free(self) -> int:
        return sum(slot.shard is None for slot in self._slots)

    def begin(self, begun: Begun) -> None:
        next(slot for slot in self._slots if slot.shard is None).begin(begun)

    async def events(self) -> list[Event]:
        return await asyncio.to_thread(self._events)

    def _events(self) -> list[Event]:
        busy = [slot for slot in self._slots if slot.shard is not None]
        ready = wait([slot.connection for slot in busy], timeout=_LOOK_S)
        found: list[Event] = []
        for slot in busy:
            found += slot.read(is_ready=slot.connection in ready)
        return found

    def stop(self, message: str) -> None:
        for slot in self._slots:
            slot.tell("stop", message)

    def abandon(self) -> None:
        for slot in self._slots:
            slot.tell("abandon", None)

    def close(self) -> None:
        for slot in self._slots:
            slot.close()


class _Slot:
    """The place of one process, which is started when there is something to do, and again when it has died."""

    def __init__(self, work: bytes) -> None:
        self.shard: int | None = None
        self.connection: Connection = None  # type: ignore[assignment]  there is one while a shard is under way
        self._work = work
        self._process: BaseProcess | None = None
        self._was_ready = False
        self._heard_at_s = 0.0

    def begin(self, begun: Begun) -> None:
        if self._process is None or not self._process.is_alive():
            self._start()
        self.shard, self._heard_at_s = begun.number, time.monotonic()
        self.tell("begin", begun)

    def _start(self) -> None:
        self.close()
        # Not a fork: threads and connections are this process's own.
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, self._work), name="mistill-shards", daemon=True
        )
        self._was_ready = False
        self._process.start()
        theirs.close()

    def tell(self, what: str, value: Any) -> None:
        if self._process is not None:
            with suppress(OSError):  # it has died, which is found out where it is read
                self.connection.send((what, value))

    def read(self, *, is_ready: bool) -> list[Event]:
        """What has come of it by now."""
        found: list[Event] = []
        try:
            while is_ready and self.connection.poll():
                event = self.connection.recv()
                self._heard_at_s, self._was_ready = time.monotonic(), True
                if isinstance(event, Ended):
                    self.shard = None
                if event is not None:
                    found.append(event)
        except (EOFError, OSError):
            return [*found, self._died()]
        if self.shard is not None and time.monotonic() > self._heard_at_s + _SILENT_S:
            return [*found, self._died()]
        return found

    def _died(self) -> Ended:
        process, shard = self._process, self.shard
        assert process is not None, "it was at work"
        assert shard is not None, "the same"
        process.kill()
        process.join()
        code = process.exitcode
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        self.shard = None
        return Ended(shard, died=how, was_stillborn=not self._was_ready)

    def close(self) -> None:
        if self._process is None:
            return
        self.connection.close()  # by which it ends
        self._process.join(_CLOSE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process = None


# --- in the other process -----------------------------------------------------------------------------------------


def _serve(connection: Connection, work: bytes) -> None:
    """What such a process does until its driver ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's, which passes it on
    _Server(connection).serve(work)


class _Server:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._control: Control | None = None
        self._asked: str | None = None
        self._begun: list[Begun] = []
        self._has_begun = threading.Condition()
        self._is_over = False
        self._shard = -1

    def serve(self, work: bytes) -> None:
        do: Work = pickle.loads(work)  # noqa: S301  it is of the process that started this one
        threading.Thread(target=self._listen, name="mistill-driver", daemon=True).start()
        threading.Thread(target=self._say_alive, name="mistill-alive", daemon=True).start()
        logger = logging.getLogger("mistill")
        logger.addHandler(_PassOn(self))
        logger.propagate = False
        while (begun := self._next()) is not None:
            self._shard = begun.number
            try:
                ended = Ended(begun.number, stopped=do(begun, self))
            except MistillError as error:
                ended = Ended(begun.number, error=error)
            except Exception as error:  # of any type: the driver says what it was
                ended = Ended(begun.number, error=unforeseen(error))
            self._control = None
            self.send(ended)

    def see(self, view: View) -> None:
        self.send(Seen(self._shard, view))

    def take(self, control: Control) -> None:
        self._control = control
        if self._asked is not None:
            self._end(control)

    def send(self, event: Event | None) -> None:
        with self._sending, suppress(OSError):  # the driver is gone, which the other thread finds out
            self._connection.send(event)

    def _next(self) -> Begun | None:
        with self._has_begun:
            self._has_begun.wait_for(lambda: self._begun or self._is_over)
            return self._begun.pop(0) if self._begun and not self._is_over else None

    def _listen(self) -> None:
        try:
            while True:
                what, value = self._connection.recv()
                if what == "begin":
                    with self._has_begun:
                        self._begun.append(value)
                        self._has_begun.notify()
                else:
                    self._ask(what)
        except (EOFError, OSError):
            pass
        with self._has_begun:
            self._is_over = True
            self._has_begun.notify()
        self._ask("stop")

    def _ask(self, what: str) -> None:
        self._asked = what
        if (control := self._control) is not None:
            self._end(control)

    def _end(self, control: Control) -> None:
        if self._asked == "abandon":
            control.abandon()
        else:
            control.stop()

    def _say_alive(self) -> None:
        while not self._is_over:
            self.send(None)
            time.sleep(_ALIVE_EVERY_S)


class _PassOn(logging.Handler):
    """What is logged goes to the driver, which says it once."""

    def __init__(self, server: _Server) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        text = record.msg if isinstance(record.msg, str) and not record.args else record.getMessage()
        with suppress(Exception):
            self._server.send(Said(record.levelno, text))
