"""Shards on a Ray cluster: each worker is a task of it, which Ray places, and starts again where it was killed."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import wait
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from mistill._version import __version__
from mistill.errors import InputError, MistillError
from mistill.extras import install_command
from mistill.shards import ray_task
from mistill.shards.channel import Channel
from mistill.shards.joining import Joined, welcome
from mistill.shards.workers import Begun, Ended, Event, Said, Setup, Unable
from mistill.steering.orders import Order

_LOOK_S: Final = 0.25
_CLOSE_S: Final = 10.0
_NOBODY_S: Final = 30.0
"""After so long without any worker, that is said."""
_MARK: Final = "driver.mark"


class RayWorkers:
    """Tasks of a Ray cluster; see `Workers`.

    Each is a task for as long as there are shards, and has a connection to here. One that dies is started again by Ray,
    and joins anew; one that hangs is ended, so that its CPU is free for another. Its shard is the driver's to give.

    Args:
        ray: the library, connected. ``host``: this machine's address.
        count: as many as there may be; those for which the cluster has no room yet wait for it.
    """

    are_one_process = False

    def __init__(self, ray: Any, host: str, count: int, setup: Setup, folder: Path) -> None:
        self._ray = ray
        self._setup = setup
        self._token = secrets.token_bytes(32)
        self._listening = _listen(host)
        self._address: tuple[str, int] = self._listening.getsockname()[:2]
        self._mark = folder.absolute() / _MARK, secrets.token_hex(16)
        self._joining: SimpleQueue[_Worker] = SimpleQueue()
        self._workers: list[_Worker] = []
        self._tasks: dict[Any, int] = {}
        self._ended_here: set[Any] = set()
        self._nobody_since_s: float | None = time.monotonic()
        try:
            self._begin_tasks(count)
        except BaseException:
            self.close()
            raise

    def _begin_tasks(self, count: int) -> None:
        path, text = self._mark
        try:
            path.write_text(text, "ascii")
        except OSError as error:
            raise InputError(f"cannot write into the folder of the ledgers: {error}") from error
        ray = self._ray
        ray.cloudpickle.register_pickle_by_value(sys.modules[ray_task.__name__])
        self._task = ray.remote(ray_task.work_here).options(
            name="mistill worker", num_cpus=1, max_retries=-1, scheduling_strategy="SPREAD"
        )
        for number in range(count):
            self._tasks[self._begin_task(number)] = number

    def _begin_task(self, number: int) -> Any:
        path, text = self._mark
        return self._task.remote(
            self._address, self._token, number, __version__, (str(path), text), str(Path.cwd())
        )

    @property
    def free(self) -> int:
        return sum(worker.channel.shard is None for worker in self._workers)

    def begin(self, begun: Begun) -> None:
        next(worker for worker in self._workers if worker.channel.shard is None).channel.begin(begun)

    async def events(self) -> list[Event]:
        return await asyncio.to_thread(self._events)

    def _events(self) -> list[Event]:
        connections = [worker.channel.connection for worker in self._workers]
        ready = wait([self._listening, *connections], timeout=_LOOK_S)
        found = self._accept() if self._listening in ready else []
        for worker in list(self._workers):
            found += worker.channel.read()
            if worker.channel.is_lost:
                found += self._lose(worker)
        with suppress(Empty):
            while True:
                self._workers.append(self._joining.get_nowait())
        return [*found, *self._look_at_tasks()]

    def _accept(self) -> list[Event]:
        try:
            called, _ = self._listening.accept()
        except ConnectionError:  # whoever called has hung up
            return []
        except OSError as error:
            problem = InputError(
                f"worker {len(self._workers) + 1} on Ray cannot join: {error}",
                hint="each takes open files of the driver: raise how many there may be (ulimit -n 4096)",
            )
            return [Unable(problem)]
        threading.Thread(target=self._welcome, args=(called,), name="mistill-join", daemon=True).start()
        return []

    def _welcome(self, called: socket.socket) -> None:
        if (joined := welcome(called, self._token, self._setup)) is not None:
            connection, who = joined
            try:
                channel = Channel(connection, has_spoken=True)
            except OSError:  # too many open files: it calls again, or others cannot
                connection.close()
            else:
                self._joining.put(_Worker(channel, who))

    def _lose(self, worker: _Worker) -> list[Event]:
        """Nothing more comes of it: it was killed, which Ray sees too; or it hangs, and is ended."""
        self._workers.remove(worker)
        worker.channel.connection.close()
        shard, who = worker.channel.shard, worker.who
        how = f"process {who.process} on {who.node}"
        if worker.channel.silence:
            how = f"{how} {worker.channel.silence}"
            self._end_task(who.number)
        return [] if shard is None else [Ended(shard, died=how)]

    def _end_task(self, number: int) -> None:
        """By force: it would keep its CPU. Where its place has another worker by now, Ray has ended it before."""
        if all(worker.who.number != number for worker in self._workers):
            for task in [task for task, place in self._tasks.items() if place == number]:
                self._ended_here.add(task)
                self._ray.cancel(task, force=True)

    def _look_at_tasks(self) -> list[Event]:
        """Tasks that have ended: there is something wrong; or they were ended, or the connection broke, and another one
        is begun."""
        if not self._tasks:
            return []
        done, _ = self._ray.wait(
            list(self._tasks), num_returns=len(self._tasks), timeout=0, fetch_local=False
        )
        found: list[Event] = []
        for task in done:
            number = self._tasks.pop(task)
            was_ended = task in self._ended_here
            self._ended_here.discard(task)
            if not was_ended and (problem := self._problem(task)) is not None:
                found.append(Unable(problem))
            else:
                self._tasks[self._begin_task(number)] = number
        return [*found, *self._say_nobody()]

    def _problem(self, task: Any) -> MistillError | None:
        try:
            problem = self._ray.get(task)
        except self._ray.exceptions.RayError as error:
            text = str(error).strip().rpartition("\n")[2]
            return InputError(f"Ray could not run a worker: {text}", hint="look into the logs of its nodes")
        if problem is None:
            return None
        kind, node, detail = problem
        return _PROBLEMS[kind](node, detail, self._mark[0].parent, self._address)

    def _say_nobody(self) -> list[Event]:
        if self._workers:
            self._nobody_since_s = time.monotonic()
        elif self._nobody_since_s is not None and time.monotonic() > self._nobody_since_s + _NOBODY_S:
            self._nobody_since_s = None
            return [
                Said(
                    logging.WARNING,
                    "no worker has joined for 30 s: Ray has no free CPU for one, or starts it yet; the run waits",
                )
            ]
        return []

    def stop(self, message: str) -> None:
        for worker in self._busy():
            worker.channel.tell("stop", message)

    def abandon(self) -> None:
        for worker in self._busy():
            worker.channel.tell("abandon")

    def order(self, shard: int, order: Order, by: str) -> None:
        for worker in self._busy():
            if worker.channel.shard == shard:
                worker.channel.tell("order", order, by)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._workers if worker.channel.shard is not None]

    def close(self) -> None:
        self._listening.close()
        at_work = {worker.who.number for worker in self._workers}
        for worker in self._workers:
            worker.channel.connection.close()  # by which it ends
        with suppress(self._ray.exceptions.RayError):
            for task, number in self._tasks.items():
                if number not in at_work:
                    self._ray.cancel(task)
            for task in self._left():
                self._ray.cancel(task, force=True)
            self._left()
        self._tasks.clear()
        self._workers.clear()
        self._mark[0].unlink(missing_ok=True)

    def _left(self) -> list[Any]:
        """Those that have not ended in time."""
        if not self._tasks:
            return []
        tasks = list(self._tasks)
        return self._ray.wait(tasks, num_returns=len(tasks), timeout=_CLOSE_S, fetch_local=False)[1]


def _listen(host: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, 0), family=family, backlog=512)
    except OSError as error:
        raise InputError(
            f"nobody can call this machine at {host}, the address that Ray knows it by: {error}",
            hint="its nodes have to reach the driver: start this on a machine of the cluster, by an address of its own",
        ) from error


class _Worker:
    def __init__(self, channel: Channel, who: Joined) -> None:
        self.channel = channel
        self.who = who


def _missing(node: str, *_: Any) -> InputError:
    return InputError(
        f"{node}, a node of the Ray cluster, has no mistill",
        hint=f"install the same on every node: {install_command('ray')}",
    )


def _other_version(node: str, version: str, *_: Any) -> InputError:
    return InputError(
        f"{node}, a node of the Ray cluster, has mistill {version}, and this is {__version__}",
        hint="install the same version on every node",
    )


def _unseen(node: str, _: str, folder: Path, *__: Any) -> InputError:
    return InputError(
        f"{node}, a node of the Ray cluster, does not see the folder {folder} of this run",
        hint="ledgers and output have to be in a folder that every machine of the cluster sees by the same path",
    )


def _unreachable(node: str, detail: str, _: Path, address: tuple[str, int]) -> InputError:
    return InputError(
        f"{node}, a node of the Ray cluster, cannot reach this machine at {address[0]}:{address[1]}: {detail}",
        hint="its workers call the driver of the run, by a port that is free: let them through",
    )


_PROBLEMS: Final = {
    "missing": _missing,
    "version": _other_version,
    "folder": _unseen,
    "driver": _unreachable,
}
