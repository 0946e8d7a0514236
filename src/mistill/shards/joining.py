"""How a worker on any machine joins its driver: by TCP, where each shows the other that it knows a token."""

from __future__ import annotations

import os
import socket
import struct
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any, Final

from msgspec import Struct

from mistill.shards.serving import serve

_CALL_WITHIN_S: Final = 10.0
_GONE_AFTER_MS: Final = 20_000
"""The other machine, where it takes nothing for so long: it has lost its power, say."""
_GREETINGS: Final = 6
_GREET_AGAIN_S: Final = 1.0


class Joined(Struct, frozen=True):
    """Who has joined.

    Attributes:
        number: of the place that it has among the workers. ``node``: the address of its machine.
    """

    number: int
    node: str
    process: int


def join(host: str, port: int, token: bytes, number: int, node: str) -> None:
    """Works for the driver at this address until it ends the connection.

    Raises:
        OSError, EOFError: the driver cannot be reached from here.
    """
    for left in reversed(range(_GREETINGS)):
        with _connection_of(socket.create_connection((host, port), _CALL_WITHIN_S)) as connection:
            try:
                setup = _greet(connection, token, Joined(number, node, os.getpid()))
            except (OSError, EOFError):
                if not left:
                    raise
            else:
                serve(connection, setup)
                return
        time.sleep(_GREET_AGAIN_S)  # it stands still, or did: somebody has stopped it, or its machine is busy


def _greet(connection: Connection, token: bytes, who: Joined) -> Any:
    """What the driver has set up."""
    with _in_time(connection):
        answer_challenge(connection, token)
        deliver_challenge(connection, token)
        connection.send(who)
        return connection.recv()


def welcome(called: socket.socket, token: bytes, setup: object) -> tuple[Connection, Joined] | None:
    """Who calls the driver, once he has shown that he knows the token; ``None``: he has not."""
    connection = _connection_of(called)
    try:
        with _in_time(connection):
            deliver_challenge(connection, token)
            answer_challenge(connection, token)
            joined: Joined = connection.recv()
            connection.send(setup)
    except (OSError, EOFError, AuthenticationError):
        connection.close()
        return None
    return connection, joined


def _connection_of(of: socket.socket) -> Connection:
    of.settimeout(None)
    of.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    of.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        of.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _GONE_AFTER_MS)
    return Connection(of.detach())


@contextmanager
def _in_time(connection: Connection) -> Generator[None]:
    """Within the block, whoever is at the other end has to answer soon."""
    _set_timeout(connection, _CALL_WITHIN_S, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)
    yield
    _set_timeout(connection, 0, socket.SO_RCVTIMEO, socket.SO_SNDTIMEO)


def receive_within(connection: Connection, seconds: float) -> None:
    """Whoever receives by it from now on waits for so long at most, and has a `BlockingIOError` then.

    Raises:
        OSError: too many files are open.
    """
    if sys.platform != "win32":  # where the way between processes is no socket
        _set_timeout(connection, seconds, socket.SO_RCVTIMEO)


def _set_timeout(connection: Connection, seconds: float, *options: int) -> None:
    whole = int(seconds)
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.settimeout(
            None
        )  # whatever `socket.setdefaulttimeout` says: that would hold for the connection, too
        for option in options:
            value = struct.pack("ll", whole, round((seconds - whole) * 1_000_000))
            same.setsockopt(socket.SOL_SOCKET, option, value)
