"""Ctrl-C at any moment, one that wakes nobody up among them; and children that are forked inside of a loop."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.runs.conftest import MODEL, Place, sent

import mistill
from mistill import MistralLLM, Run
from mistill.simulator import Simulator

TEXTS = [f"row {number}" for number in range(6)]
NEVER_S = 3600.0
SOURCE = Path(mistill.__file__).parent
STEPS_OF = {str(SOURCE / name) for name in ("runs/run.py", "runs/control.py", "llms/event_loop.py")}


async def as_coroutine(work: Callable[[], object]) -> None:
    work()


def one_by_one(run: Run) -> None:
    for _ in run:
        pass


@pytest.fixture
def python_handles_it() -> Iterator[None]:
    """What runs the tests may ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("python_handles_it")
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="signals go to no thread here")
@pytest.mark.parametrize(
    "way",
    [
        lambda run, _: run.start(),
        lambda run, _: one_by_one(run),
        lambda _, llm: llm.generate(["Hello"]),
        lambda _, llm: list(llm.stream("Hello")),
    ],
    ids=["start", "loop", "generate", "stream"],
)
def test_an_interrupt_that_wakes_nobody_up_is_noticed(
    place: Place, simulator: Simulator, way: Callable[[Run, MistralLLM], object]
) -> None:
    # Python takes note of a signal that another thread got, or that came as the main thread began to wait for a lock,
    # and its waiting goes on.
    place.write(TEXTS)
    simulator.change(latency_s=NEVER_S)

    def interrupt() -> None:
        simulator.wait_until(lambda: simulator.in_flight > 0)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    began_s = time.monotonic()
    run = place.run(grace=0.0)
    with pytest.raises(KeyboardInterrupt) as raised:
        way(run, place.llm())
    told = f"0 answered, {len(TEXTS)} to go, "
    if run.summary is not None:  # it is what was interrupted
        assert str(raised.value).startswith(told)
        assert "start the same run again to go on" in str(raised.value)
    assert time.monotonic() - began_s < 20
    thread.join()


def test_ctrl_c_in_a_coroutine_ends_a_loop_that_waits(place: Place, simulator: Simulator) -> None:
    place.write(TEXTS)
    simulator.change(latency_s=NEVER_S)
    command = [sys.executable, "-W", "error", "-c", LOOP, place.input, place.out, simulator.url, MODEL]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        simulator.wait_until(lambda: simulator.in_flight > 0, timeout_s=30)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert out == "interrupted\n", err


LOOP = """
import asyncio, sys
from mistill import MistralLLM, Run
llm = MistralLLM(model=sys.argv[4], endpoint=sys.argv[3])
run = Run(sys.argv[1], out=sys.argv[2], llm=llm, prompt="{{ text }}", grace=0)
async def main():
    for outcome in run:
        pass
try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""


def interrupting(step: int) -> Callable[[FrameType, str, Any], None]:
    """A profiler that raises where Python would: as it enters a function, or comes back from one in C."""
    steps = itertools.count()

    def profile(frame: FrameType, event: str, _: Any) -> None:
        is_step = event in ("call", "c_return") and frame.f_code.co_filename in STEPS_OF
        if is_step and next(steps) == step:
            raise KeyboardInterrupt

    return profile


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
@pytest.mark.parametrize("way", [Run.start, one_by_one])
def test_after_an_interrupt_at_any_step_the_run_goes_on_and_nothing_is_paid_twice(
    place: Place, simulator: Simulator, way: Callable[[Run], object]
) -> None:
    interrupted = 0
    for step in itertools.count(0, 13):
        texts = [f"{text}, {step}" for text in TEXTS]
        place.write(texts)
        place.ledger.unlink(missing_ok=True)
        place.out.unlink(missing_ok=True)
        run = place.run(llm_settings={"max_concurrent_requests": 2})
        sys.setprofile(interrupting(step))
        try:
            way(run)
            was_interrupted = False
        except KeyboardInterrupt:
            was_interrupted = True
        finally:
            sys.setprofile(None)
        interrupted += was_interrupted
        assert run.start().completions == len(texts)
        assert sorted(text for text in sent(simulator) if text in texts) == texts
        if not was_interrupted and step > 65:
            break
    assert interrupted > 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("way", ["loop", "stream", "astream", "results"])
def test_a_child_that_is_forked_in_a_loop_does_not_wait_in_it(
    place: Place, simulator: Simulator, way: str
) -> None:
    place.write(TEXTS)
    code = IN_CHILD.replace("WAY", way)
    ended = subprocess.run(
        [
            sys.executable,
            "-W",
            "ignore::DeprecationWarning",
            "-c",
            code,
            place.input,
            place.out,
            simulator.url,
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    child, parent = ended.stdout.splitlines()
    if way == "results":  # it reads by itself
        assert (child, parent) == ("child: 6", "parent: 6")
    else:
        assert "by process" in child
        assert "and this is a fork of it" in child
        assert parent.startswith("parent: ")
        assert int(parent.split()[1]) > 1


IN_CHILD = """
import asyncio, os, sys
from mistill import MistralLLM, Run
llm = MistralLLM(model="mistral-small-latest", endpoint=sys.argv[3])
run = Run(sys.argv[1], out=sys.argv[2], llm=llm, prompt="{{ text }}")
child = None
seen = 0

def fork():
    global child, seen
    seen += 1
    if child is None:
        child = os.fork()
        if child:
            os.waitpid(child, 0)

async def main():
    try:
        async for _ in llm.astream("Tell me about the sea, and the ships on it."):
            fork()
    except Exception as error:
        print(error, flush=True)
        os._exit(0)  # the loop is the parent's

try:
    if "WAY" == "results":
        run.start()
    if "WAY" == "astream":
        asyncio.run(main())
    else:
        chunks = {"loop": lambda: run, "stream": lambda: llm.stream("Tell me about the sea."), "results": run.results}
        for _ in chunks["WAY"]():
            fork()
    print("parent:" if child else "child:", seen, flush=True)
except Exception as error:
    print(error, flush=True)
finally:
    if not child:
        os._exit(0)
"""
