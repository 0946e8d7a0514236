"""Shards in processes of this machine: each works on one after another, and ends with its driver, however that ends."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import pickle
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Final

from mistill.errors import InputError
from mistill.shards.channel import Channel
from mistill.shards.serving import serve
from mistill.shards.workers import Begun, Ended, Event, Setup, Work, Workers
from mistill.steering.orders import Order
from mistill.wording import Setting, words

_LOOK_S: Final = 0.25
_CLOSE_S: Final = 10.0
_DIES_WITHIN_S: Final = 5.0
"""Whoever has closed its end of the way: by what it ends is seen then."""


class OwnMachine:
    """See `Machines`: so many processes of this one."""

    host = "127.0.0.1"
    are_apart = False

    def __init__(self, workers: int) -> None:
        self.workers = self.most_workers = workers

    def at_work(self, count: int, work: Work, folder: Path) -> Workers:  # noqa: ARG002  they see what this one sees
        return Processes(count, Setup(pickled(work, pickle.dumps), {}))


def pickled(work: Work, dumps: Callable[[Work], bytes]) -> bytes:
    """What goes to other processes.

    Raises:
        InputError: it cannot.
    """
    try:
        return dumps(work)
    except Exception as error:  # of any type: it is the user's own objects that refuse
        raise InputError(
            f"the settings of the run cannot go to another process: {error}",
            hint="a schema must be a class of a module that can be imported, or a JSON schema",
        ) from error


class Processes:
    """So many processes; see `Workers`."""

    are_one_process = False

    def __init__(self, count: int, setup: Setup) -> None:
        self._slots = [_Slot(setup) for _ in range(count)]

    @property
    def free(self) -> int:
        return sum(slot.shard is None for slot in self._slots)

    def begin(self, begun: Begun) -> None:
        slot = next(slot for slot in self._slots if slot.shard is None)
        try:
            slot.begin(begun)
        except OSError as error:
            at_work = sum(slot.shard is not None for slot in self._slots)
            raise _no_room(error, at_work, len(self._slots)) from error

    async def events(self) -> list[Event]:
        return await asyncio.to_thread(self._events)

    def _events(self) -> list[Event]:
        busy = [slot for slot in self._slots if slot.shard is not None]
        wait([slot.channel.connection for slot in busy], timeout=_LOOK_S)
        return [event for slot in busy for event in slot.read()]

    def stop(self, message: str) -> None:
        for slot in self._slots:
            if slot.shard is not None:
                slot.channel.tell("stop", message)

    def abandon(self) -> None:
        for slot in self._slots:
            if slot.shard is not None:
                slot.channel.tell("abandon")

    def order(self, shard: int, order: Order, by: str) -> None:
        for slot in self._slots:
            if slot.shard == shard:
                slot.channel.tell("order", order, by)

    def close(self) -> None:
        for slot in self._slots:  # all of them end at the same time
            slot.let_end()
        for slot in self._slots:
            slot.close()


def _no_room(error: OSError, at_work: int, wanted: int) -> InputError:
    """Another process cannot be started beside so many."""
    fewer = words("take fewer processes, such as ", Setting("on", f"processes:{max(1, at_work // 2)}"))
    if error.errno in (errno.EMFILE, errno.ENFILE):
        hint = words(
            f"each takes open files here: raise how many there may be (ulimit -n {64 * wanted}), or ", fewer
        )
    else:
        hint = words("memory has no room for it, or its user may have no more processes (ulimit -u): ", fewer)
    return InputError(f"process {at_work + 1} of {wanted} for shards cannot be started: {error}", hint=hint)


class _Slot:
    """The place of one process, which is started when there is something to do, and again when it has died."""

    channel: Channel  # there is one while a shard is under way

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._process: BaseProcess | None = None

    @property
    def shard(self) -> int | None:
        return None if self._process is None else self.channel.shard

    def begin(self, begun: Begun) -> None:
        if self._process is None or not self._process.is_alive():
            self._start()
        self.channel.begin(begun)

    def _start(self) -> None:
        self.close()
        # Not a fork: threads and connections are this process's own.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        with theirs, ExitStack() as on_failure:
            on_failure.enter_context(ours)
            channel = Channel(ours)
            process = context.Process(
                target=serve, args=(theirs, self._setup), name="mistill-shards", daemon=True
            )
            process.start()
            on_failure.pop_all()
        self.channel, self._process = channel, process

    def read(self) -> list[Event]:
        """What has come of it by now."""
        found = self.channel.read()
        if self.channel.is_lost and self.channel.shard is not None:
            found.append(self._died(self.channel.shard))
        return found

    def _died(self, shard: int) -> Ended:
        process, self._process = self._process, None
        assert process is not None, "it was at work"
        self.channel.connection.close()
        how = self.channel.silence or _ended(process)
        process.kill()
        process.join()
        return Ended(shard, died=how, was_stillborn=not self.channel.has_spoken)

    def let_end(self) -> None:
        if self._process is not None:
            self.channel.connection.close()  # by which it ends

    def close(self) -> None:
        self.let_end()
        if self._process is None:
            return
        self._process.join(_CLOSE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process = None


def _ended(process: BaseProcess) -> str:
    """By what it has ended, of itself or by somebody else, before anybody here ends it."""
    process.join(_DIES_WITHIN_S)
    code = process.exitcode
    if code is None:
        return "it hung as it ended"
    return f"signal {-code}" if code < 0 else f"exit code {code}"
