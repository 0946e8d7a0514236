"""Processes of this machine that end before their shard does."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

from mistill.shards.processes import OwnMachine
from mistill.shards.workers import Begun, Ended, Link


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
