"""One object from many threads and event loops; Ctrl-C; forks."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from mistill.llms import MistralLLM
from mistill.simulator import Simulator

MakeLLM = Callable[..., MistralLLM]


def test_64_at_once_and_never_65(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(latency_s=0.05)
    make_llm().generate(["row"] * 600)
    assert simulator.peak_in_flight == 64


def test_threads_that_share_an_object_share_its_limit(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(latency_s=0.02)
    llm = make_llm(max_concurrent_requests=8)
    with ThreadPoolExecutor(4) as threads:
        outputs = list(threads.map(lambda number: llm.generate([f"{number}"] * 20), range(4)))
    assert outputs == [[[f"Echo: {number}"]] * 20 for number in range(4)]
    assert simulator.peak_in_flight == 8


async def test_a_gather_keeps_the_limit(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(latency_s=0.02)
    llm = make_llm(max_concurrent_requests=8)
    texts = await asyncio.gather(*(llm.agenerate(f"{number}") for number in range(40)))
    assert texts == [[f"Echo: {number}"] for number in range(40)]
    assert simulator.peak_in_flight == 8


def test_a_raised_limit_counts_from_the_next_call(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(latency_s=0.02)
    llm = make_llm(max_concurrent_requests=2)
    llm.generate(["row"] * 8)
    assert simulator.peak_in_flight == 2
    llm.set_runtime_parameters({"max_concurrent_requests": 4})
    llm.generate(["row"] * 8)
    assert simulator.peak_in_flight == 4


def test_an_object_works_across_event_loops(make_llm: MakeLLM) -> None:
    llm = make_llm()
    for number in range(3):
        assert asyncio.run(llm.agenerate(f"{number}")) == [f"Echo: {number}"]
    assert llm.generate(["blocking"]) == [["Echo: blocking"]]


def test_event_loops_at_the_same_time_share_the_limit(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(latency_s=0.02)
    llm = make_llm(max_concurrent_requests=4)

    async def many() -> None:
        await asyncio.gather(*(llm.agenerate("row") for _ in range(20)))

    threads = [threading.Thread(target=asyncio.run, args=(many(),), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert simulator.answered == 60
    assert simulator.peak_in_flight == 4


async def test_a_blocking_call_works_inside_a_running_loop(make_llm: MakeLLM) -> None:
    assert make_llm().generate(["Hello"]) == [["Echo: Hello"]]


def test_a_cancelled_call_gives_its_slots_back(simulator: Simulator, make_llm: MakeLLM) -> None:
    simulator.change(latency_s=30)
    llm = make_llm(max_concurrent_requests=2)

    async def give_up() -> None:
        tasks = [asyncio.create_task(llm.agenerate("slow")) for _ in range(6)]
        await asyncio.to_thread(simulator.wait_until, lambda: simulator.in_flight == 2)
        for task in tasks:
            task.cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(end, asyncio.CancelledError) for end in ends)

    asyncio.run(give_up())
    simulator.change(latency_s=0)
    assert llm.generate(["quick"] * 4) == [["Echo: quick"]] * 4


INTERRUPTED = """
    import asyncio, sys, time
    from mistill.llms import MistralLLM
    from mistill.llms.event_loop import background
    llm = MistralLLM(model="mistral-small-latest", endpoint=sys.argv[1])
    async def in_a_running_loop():
        llm.generate(["slow"] * 50)
    try:
        asyncio.run(in_a_running_loop()) if "loop" in sys.argv else llm.generate(["slow"] * 50)
    except KeyboardInterrupt as error:
        interrupted_at = time.monotonic()
    async def others():
        return [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    assert background.run(others()) == [], "stray tasks"
    print("unwound")
"""


@pytest.mark.parametrize("where", ["script", "loop"])
def test_ctrl_c_ends_a_call_and_leaves_no_stray_tasks(simulator: Simulator, where: str) -> None:
    simulator.change(latency_s=60)
    code = textwrap.dedent(INTERRUPTED)
    process = subprocess.Popen(
        [sys.executable, "-c", code, simulator.url, where], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    simulator.wait_until(lambda: simulator.in_flight >= 2 or process.poll() is not None, timeout_s=60)
    assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (out, err) == (b"unwound\n", b"")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_opens_connections_of_its_own(make_llm: MakeLLM) -> None:
    llm = make_llm()
    llm.generate(["parent"])
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply_async(llm.generate, (["child"],)).get(30) == [["Echo: child"]]
    assert llm.generate(["parent"]) == [["Echo: parent"]]
