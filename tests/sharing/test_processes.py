"""Real processes that share a governor: one is always the host, whoever is killed, stopped or forked."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import time

import pytest
from tests.delivery.test_dispatcher import BODY, Notes
from tests.sharing.peers import IMPATIENT, Peers, until
from tests.sharing.processes import Process, Processes
from tests.sharing.stress import Stress

from mistill.api.chat import CHAT
from mistill.api.client import MistralClient
from mistill.delivery.diagnostics import advice
from mistill.delivery.dispatcher import Dispatcher, Request
from mistill.delivery.governor import ConcurrencyLimit
from mistill.delivery.sharing.guest import GuestGovernor
from mistill.simulator import Fault, Simulator


async def goes_on(process: Process) -> None:
    sent = process.state().sent
    await until(lambda: process.state().sent > sent + 10)


async def test_a_killed_host_is_followed_by_another(processes: Processes) -> None:
    host, *guests = processes.start(), processes.start(), processes.start()
    host.begun()
    for guest in guests:
        guest.begun()
        await goes_on(guest)
    assert [process.state().decides_itself for process in (host, *guests)].count(True) == 1
    first = next(process for process in (host, *guests) if process.state().decides_itself)
    others = [process for process in (host, *guests) if process is not first]
    first.kill()
    for process in others:
        await goes_on(process)
    assert [process.state().decides_itself for process in others].count(True) == 1
    next(process for process in others if process.state().decides_itself).end()
    (last,) = (process for process in others if not process.is_over)
    await goes_on(last)
    assert last.state().decides_itself


async def test_where_the_host_is_stopped_a_guest_goes_on_alone_and_comes_back(
    processes: Processes, peers: Peers, caplog: pytest.LogCaptureFixture
) -> None:
    host = processes.start(at_once=0).begun()
    governor = peers.start(tuning=IMPATIENT).governor
    assert isinstance(governor, GuestGovernor)
    limit = ConcurrencyLimit(8)

    async def send(requests: int) -> None:
        for _ in range(requests):
            governor.settle(governor.try_admit(limit, 1) or await governor.admit(limit, 1))

    await send(10)
    host.stop()
    began_s = time.monotonic()
    with caplog.at_level(logging.WARNING, "mistill"):
        await send(20)
        await until(lambda: bool(caplog.records))  # said by another thread, a moment later
    assert time.monotonic() - began_s < 10
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "goes on alone" in caplog.text
    assert governor.snapshot().alone_s >= IMPATIENT.out_of_reach_s
    assert "went on alone" in str(advice(governor.snapshot(), max_concurrent_requests=8))
    host.go_on()

    await until(lambda: not governor.decides_itself)
    await send(10)
    assert governor.in_flight == 0


async def test_an_attempt_that_failed_is_on_record_though_its_verdict_is_no_longer_awaited(
    processes: Processes, peers: Peers, simulator: Simulator
) -> None:
    host = processes.start(at_once=0).begun()
    governor = peers.start().governor
    assert isinstance(governor, GuestGovernor)
    simulator.script([Fault.delay(30)])
    client, limit, notes = MistralClient(simulator.url, "k", timeout_s=0.2), ConcurrencyLimit(1), Notes()
    dispatcher = Dispatcher(client, governor, limit, operation=CHAT, max_retries=5)
    task = asyncio.create_task(dispatcher.send(Request(BODY), observer=notes))
    await asyncio.to_thread(simulator.wait_until, lambda: simulator.in_flight == 1)
    host.stop()
    await until(lambda: governor.is_waiting)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert notes.entries == [("sending", 1, ""), ("ended", 1, "timeout")]
    assert limit.in_flight == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks here")
async def test_a_fork_of_a_process_keeps_none_of_its_places(processes: Processes) -> None:
    """Neither the lock of a host, nor the permits of a guest, are held by a child that was forked off."""
    host = processes.start().begun()
    guest = processes.start().begun()
    await goes_on(guest)
    children = [host.fork(), guest.fork()]
    try:
        host.kill()
        await goes_on(guest)
        assert guest.state().decides_itself
        other = processes.start().begun()
        await goes_on(other)
        children.append(other.fork())
        other.kill()
        await goes_on(guest)
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals of this kind")
async def test_never_two_hosts_and_never_none(processes: Processes) -> None:
    await Stress(processes, most=4, seed=17).run(events=8)
