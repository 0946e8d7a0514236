"""How a worker joins a driver that does not answer at first."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from mistill.shards import joining
from mistill.shards.joining import Joined, join, welcome
from mistill.shards.workers import Setup

_TOKEN = b"a token"


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    monkeypatch.setattr(joining, "_GREET_AGAIN_S", 0.0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def _address(driver: socket.socket) -> tuple[str, int]:
    return driver.getsockname()[:2]


def test_a_driver_that_stood_still_for_the_greeting_is_greeted_again(driver: socket.socket) -> None:
    joined: list[Joined] = []

    def drive() -> None:
        driver.accept()[0].close()  # what came of it when it had no time
        found = welcome(driver.accept()[0], _TOKEN, Setup(b"", {}))
        assert found is not None
        found[0].close()  # there is nothing to do
        joined.append(found[1])

    driving = threading.Thread(target=drive)
    driving.start()
    join(*_address(driver), _TOKEN, 3, "10.0.0.7")
    driving.join()
    assert [(one.number, one.node) for one in joined] == [(3, "10.0.0.7")]


def test_who_never_greets_is_no_driver(driver: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joining, "_GREETINGS", 2)
    called: list[int] = []

    def hang_up() -> None:
        for number in range(2):
            driver.accept()[0].close()
            called.append(number)

    hanging_up = threading.Thread(target=hang_up)
    hanging_up.start()
    with pytest.raises((OSError, EOFError)):
        join(*_address(driver), _TOKEN, 0, "10.0.0.7")
    hanging_up.join()
    assert called == [0, 1]
