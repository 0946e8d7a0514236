"""The worker's end of the way to its driver: shards come by it, and what becomes of them goes back."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any, Final

from mistill.errors import InputError
from mistill.shards.at_work import AtWork
from mistill.shards.workers import Begun, Event, Link, Said, Setup, Work

_ALIVE_EVERY_S: Final = 1.0


def serve(connection: Connection, setup: Setup) -> None:
    """Works on one shard after another, on the main thread of its process, until the driver ends the connection.

    However that comes: nothing more is sent then, and what is in flight is waited for.
    """
    with connection, _without_interrupts(), _with_variables(setup.environment):
        _Server(connection).serve(setup.work)


@contextmanager
def _with_variables(variables: Mapping[str, str]) -> Generator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def _without_interrupts() -> Generator[None]:
    """Ctrl-C is the driver's, which passes it on."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


class _Server:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._sending = threading.Lock()
        self._begun: deque[AtWork] = deque()
        self._has_begun = threading.Condition()
        self._is_over = False

    def serve(self, work: bytes) -> None:
        # Before the user's own modules are imported, which may take long.
        threading.Thread(target=self._listen, name="mistill-driver", daemon=True).start()
        threading.Thread(target=self._say_alive, name="mistill-alive", daemon=True).start()
        with _passed_on(self):
            do = _loaded(work)
            while (at_work := self._next()) is not None:
                at_work.do(do)

    def send(self, event: Event | None) -> None:
        with self._sending, suppress(OSError):  # the driver is gone, which the other thread finds out
            self._connection.send(event)

    def _next(self) -> AtWork | None:
        with self._has_begun:
            self._has_begun.wait_for(lambda: self._begun or self._is_over)
            return self._begun.popleft() if self._begun and not self._is_over else None

    def _listen(self) -> None:
        newest: AtWork | None = None
        try:
            while True:
                what, *given = self._connection.recv()
                if what == "begin":
                    newest = AtWork(given[0], self.send)
                    with self._has_begun:
                        self._begun.append(newest)
                        self._has_begun.notify()
                elif newest is not None:
                    _tell(newest, what, given)
        except (EOFError, OSError):
            pass
        with self._has_begun:
            self._is_over = True
            self._has_begun.notify()
        if newest is not None:
            newest.stop("its driver is gone")

    def _say_alive(self) -> None:
        while not self._is_over:
            self.send(None)
            time.sleep(_ALIVE_EVERY_S)


def _tell(at_work: AtWork, what: str, given: list[Any]) -> None:
    if what == "stop":
        at_work.stop(*given)
    elif what == "abandon":
        at_work.abandon()
    else:
        at_work.order(*given)


def _loaded(work: bytes) -> Work:
    """What is done with a shard; where that cannot be known here, each says why."""
    try:
        return pickle.loads(work)  # noqa: S301  it is of the process that has this one at work
    except Exception as error:  # of any type: it is the user's own modules that are loaded
        problem = InputError(
            f"the settings of the run cannot be read where a shard is worked on: {error}",
            hint="a schema must be a class of a module that can be imported there, or a JSON schema",
        )

    def refuse(begun: Begun, link: Link) -> None:  # noqa: ARG001  as each does
        raise problem

    return refuse


@contextmanager
def _passed_on(server: _Server) -> Generator[None]:
    """What is logged goes to the driver, which says it once."""
    logger, handler = logging.getLogger("mistill"), _PassOn(server)
    before = logger.propagate
    logger.addHandler(handler)
    logger.propagate = False
    try:
        yield
    finally:
        logger.propagate = before
        logger.removeHandler(handler)


class _PassOn(logging.Handler):
    def __init__(self, server: _Server) -> None:
        super().__init__()
        self._server = server

    def emit(self, record: logging.LogRecord) -> None:
        text = record.msg if isinstance(record.msg, str) and not record.args else record.getMessage()
        with suppress(Exception):
            self._server.send(Said(record.levelno, text))
