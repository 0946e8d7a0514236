"""Processes and threads of this machine that cannot begin, or end before their shard does."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from mistill.errors import InputError
from mistill.shards.here import Here
from mistill.shards.processes import OwnMachine
from mistill.shards.workers import Begun, Ended, Link, Workers
from mistill.steering.orders import Order


def _leave() -> None:
    """Its end of the way to the driver is closed some time before it has ended."""
    threading.Thread(target=time.sleep, args=(0.3,)).start()
    raise SystemExit(7)


class _Leaves:
    """Work that ends its process where it is read."""

    def __reduce__(self) -> tuple[object, tuple[()]]:
        return _leave, ()

    def __call__(self, begun: Begun, link: Link) -> None:
        raise NotImplementedError


def test_a_worker_that_ends_by_itself_is_told_of_by_its_exit_code(tmp_path: Path) -> None:
    workers = OwnMachine(1).at_work(1, _Leaves(), tmp_path)
    workers.begin(Begun(5))
    try:
        while not (ended := [one for one in asyncio.run(workers.events()) if isinstance(one, Ended)]):
            pass
    finally:
        workers.close()
    assert [(one.shard, one.died) for one in ended] == [(5, "exit code 7")]


def _work(begun: Begun, link: Link) -> None:
    pass


@pytest.mark.parametrize("left", [0, 1, 2, 3, 4, 5, 6, 7])
def test_where_no_more_files_can_be_opened_it_is_said_what_to_do(tmp_path: Path, left: int) -> None:
    pytest.importorskip("resource")
    resource_tracker.ensure_running()  # whose files stay open
    workers = OwnMachine(8).at_work(8, _work, tmp_path)
    free = _free_descriptor()
    try:
        with pytest.raises(InputError) as refused, _files_below(free + left):
            _begin(workers, 8)
        assert "of 8 for shards cannot be started: [Errno 24]" in str(refused.value)
        assert "ulimit -n" in str(refused.value)
        assert "on='processes:1'" in str(refused.value)
    finally:
        workers.close()
    del refused
    gc.collect()
    assert _free_descriptor() == free


def _begin(workers: Workers, count: int) -> None:
    for number in range(count):
        workers.begin(Begun(number))


@contextmanager
def _files_below(number: int) -> Iterator[None]:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def _free_descriptor() -> int:
    """The lowest."""
    with Path(os.devnull).open() as file:
        return file.fileno()


def test_threads_of_this_process_are_told_to_stop_before_they_are_waited_for() -> None:
    told: list[bool] = []

    class Start:
        def __init__(self) -> None:
            self.is_told = threading.Event()

        def stop(self, message: str = "") -> None:
            self.is_told.set()

        def abandon(self) -> None:
            raise NotImplementedError

        def obey(self, order: Order, by: str) -> None:
            raise NotImplementedError

    def work(begun: Begun, link: Link) -> None:
        start = Start()
        link.take(start)
        told.append(start.is_told.wait(30))

    workers = Here(work, 2)
    for number in range(2):
        workers.begin(Begun(number))
    workers.close()
    assert told == [True, True]
