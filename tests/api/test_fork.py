"""Clients in a forked child of a process that had clients of its own: pools of multiprocessing make such children."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mistill.simulator import Simulator

FORKS = """
import asyncio, os, signal, sys
from mistill.api.client import MistralClient

endpoint = sys.argv[1]

async def models():
    client = MistralClient(endpoint, "a-key", 10)
    return len(await client.models())

assert asyncio.run(models()) > 0
child = os.fork()
if child == 0:
    signal.alarm(20)  # a runtime whose threads are gone would wait for ever
    os._exit(0 if asyncio.run(models()) > 0 else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_child_can_open_clients_after_its_parent_did(simulator: Simulator) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKS, simulator.url],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr


GENERATIONS = """
import os, signal, sys
from mistill.errors import InputError
from mistill.llms import MistralLLM

uses = sys.argv[2].split(",")
llm = MistralLLM(model="mistral-small-latest", endpoint=sys.argv[1], max_retries=0)
for use in uses:
    signal.alarm(30)
    if use == "ask":
        try:
            print(llm.generate(["a"])[0][0], flush=True)
        except InputError as error:
            print("refused:", error.hint, flush=True)
    child = os.fork()
    if child:
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize(
    ("uses", "answered"),
    [
        ("ask,ask", 2),
        ("ask,idle,ask", 2),
        ("idle,ask,ask", 2),
        ("idle,idle,ask,idle,ask", 2),
        ("ask,ask,ask", 2),
        ("ask,idle,ask,ask,ask", 2),
    ],
)
def test_a_fork_of_a_fork_asks_or_says_why_it_cannot(simulator: Simulator, uses: str, answered: int) -> None:
    ended = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", GENERATIONS, simulator.url, uses],
        capture_output=True,
        text=True,
        check=False,
    )
    lines = ended.stdout.splitlines()
    assert ended.returncode == 0, ended.stderr
    assert lines[:answered] == ["Echo: a"] * answered
    assert len(lines) == uses.count("ask")
    assert all("spawn or forkserver" in line for line in lines[answered:])
