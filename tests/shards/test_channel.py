"""How long a driver waits for what a worker says."""

from __future__ import annotations

import pickle
import socket
import sys
import threading
from collections.abc import Iterator
from multiprocessing.connection import Connection

import pytest

from mistill.shards import channel as channel_of_driver
from mistill.shards.channel import Channel
from mistill.shards.serving import _Server
from mistill.shards.workers import Begun, Ended, Link

if sys.platform == "win32":
    pytest.skip("no socket is between processes here", allow_module_level=True)

_HUNG_S = 60.0


class Clock:
    """What is taken for `time`."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(channel_of_driver, "time", clock)
    return clock


@pytest.fixture
def ends() -> Iterator[tuple[Connection, Connection]]:
    """The driver's, and the worker's."""
    ours, theirs = (Connection(one.detach()) for one in socket.socketpair())
    with ours, theirs:
        yield ours, theirs


def test_a_new_worker_has_time_for_its_imports_and_one_that_has_spoken_has_not(
    ends: tuple[Connection, Connection], clock: Clock
) -> None:
    channel = Channel(ends[0])
    channel.begin(Begun(3))
    clock.now_s += 590
    assert (channel.read(), channel.is_lost) == ([], False)
    ends[1].send(None)
    assert (channel.read(), channel.is_lost) == ([], False)
    clock.now_s += 21
    assert (channel.read(), channel.is_lost, channel.silence) == ([], True, "said nothing for 20 s")


def test_a_new_worker_that_never_speaks_is_given_up(
    ends: tuple[Connection, Connection], clock: Clock
) -> None:
    channel = Channel(ends[0])
    channel.begin(Begun(3))
    clock.now_s += 601
    assert (channel.read(), channel.is_lost, channel.silence) == ([], True, "said nothing for 10 min 0 s")


@pytest.mark.parametrize("has_spoken", [False, True])
def test_who_is_to_stop_is_waited_for_where_he_has_spoken(
    ends: tuple[Connection, Connection], clock: Clock, has_spoken: bool
) -> None:
    channel = Channel(ends[0], has_spoken=has_spoken)
    channel.begin(Begun(3))
    clock.now_s += 1
    channel.tell("stop", "enough")
    channel.read()
    assert channel.is_lost is not has_spoken


def test_what_has_come_in_part_is_not_waited_for_without_end(
    ends: tuple[Connection, Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel_of_driver, "_SILENT_S", 0.05)
    channel = Channel(ends[0], has_spoken=True)
    channel.begin(Begun(3))
    with socket.socket(fileno=ends[1].fileno()) as cut_off:
        cut_off.send(b"\0\0\1\0" + b"some of 256 bytes")
        cut_off.detach()
    reading = threading.Thread(target=channel.read, daemon=True)
    reading.start()
    reading.join(_HUNG_S)
    assert not reading.is_alive()
    assert (channel.is_lost, channel.silence) == (True, "said nothing for 50 ms")


_imports = threading.Event()


def _import_slowly() -> object:
    assert _imports.wait(_HUNG_S)
    return _work


def _work(begun: Begun, link: Link) -> None:
    pass


class _Slow:
    """Work of a module whose import takes long."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _import_slowly, ()


def test_a_worker_says_that_it_is_there_before_it_imports_what_it_is_to_do(
    ends: tuple[Connection, Connection],
) -> None:
    ours, theirs = ends
    _imports.clear()
    serving = threading.Thread(target=_Server(theirs).serve, args=(pickle.dumps(_Slow()),))
    serving.start()
    try:
        assert ours.poll(_HUNG_S / 2), "it says nothing while it imports"
        assert ours.recv() is None
        ours.send(("begin", Begun(3)))
        _imports.set()
        while (said := ours.recv()) is None:
            pass
        assert said == Ended(3)
    finally:
        _imports.set()
        ours.close()
        serving.join()
