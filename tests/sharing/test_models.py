"""Models of two processes, with one endpoint and key, have one governor: nothing has to be set."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

from tests.libraries import need_modules

from mistill import MistralLLM
from mistill.delivery.governor import Governor
from mistill.simulator import Simulator

CHILD = """
import sys
from mistill import MistralLLM
llm = MistralLLM(model="mistral-small-latest", endpoint=sys.argv[1])
print(llm.generate([f"row {number}" for number in range(5)])[-1][0])
"""
RUNS = """
import sys
from mistill import MistralLLM, Run
llm = MistralLLM(model="mistral-small-latest", endpoint=sys.argv[1])
for text in ("a", "b"):
    run = Run([{"text": text}], llm=llm, prompt="{{ text }}", out=sys.argv[2] + text + ".jsonl")
    print(run.start().completions)
"""

UVLOOP = """
import warnings
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # later Pythons are to have no such policies
    import uvloop
    uvloop.install()
"""


def in_another_process(simulator: Simulator, script: str = CHILD, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, simulator.url, *arguments],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return done.stdout.strip()


def hosted_by(llm: MistralLLM) -> Governor:
    llm.load()
    session = llm._session
    assert session is not None
    assert isinstance(session.dispatcher.governor, Governor)
    return session.dispatcher.governor


def test_another_process_asks_the_governor_of_the_first(runtime_dir: Path, simulator: Simulator) -> None:
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    llm.generate(["one"])
    assert in_another_process(simulator) == "Echo: row 4"
    assert hosted_by(llm).has_sent == 6
    assert hosted_by(llm).snapshot().answered == 1
    del llm
    gc.collect()


def test_a_program_that_has_chosen_another_event_loop_shares_too(
    runtime_dir: Path, simulator: Simulator
) -> None:
    need_modules("uvloop")
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    llm.generate(["one"])
    assert in_another_process(simulator, UVLOOP + CHILD) == "Echo: row 4"
    assert hosted_by(llm).has_sent == 6
    del llm
    gc.collect()


def test_a_quota_of_the_users_own_is_for_its_own_process(runtime_dir: Path, simulator: Simulator) -> None:
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    llm.generate(["one"])
    llm.set_runtime_parameters({"requests_per_minute": 6_000})
    llm.generate(["two"])
    assert in_another_process(simulator) == "Echo: row 4"
    assert hosted_by(llm).has_sent == 2
    del llm
    gc.collect()


def test_a_process_shares_in_each_of_its_runs(
    runtime_dir: Path, simulator: Simulator, tmp_path: Path
) -> None:
    llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
    llm.generate(["one"])
    assert in_another_process(simulator, RUNS, f"{tmp_path}/") == "1\n1"
    assert hosted_by(llm).has_sent == 3
    del llm
    gc.collect()
