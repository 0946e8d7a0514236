"""``python -m benchmarks.live_faults``: the same rows through several tools, live, while something goes wrong.

    python -m benchmarks.live_faults --install    makes the others' environments, under --peers
    python -m benchmarks.live_faults              all, a quarter of an hour: the table of README.md
    python -m benchmarks.live_faults --only half-way --tools litellm

Each tool runs in its own environment, by its function of `benchmarks/live_peers/ask.py`. Counted is what it gives (a
row is right with its own answer), what the simulator has answered, and the CPU time of its process, with its start.
Writes benchmarks/results/live_faults.json if all was measured.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine
from benchmarks.peers import Found, compare, python_of, versions
from mistill.simulator import Settings, Simulator

ROWS = 500
QUOTA = 400
LIMIT_S = 100
MODEL = "mistral-small-latest"
_ASK = Path(__file__).parent / "live_peers" / "ask.py"
_LOOK_EVERY_S = 0.005


@dataclass(frozen=True)
class Tool:
    """What is measured: ``function`` of `ask.py`, in an environment with ``packages``; none: it is this one."""

    name: str
    function: str
    packages: tuple[str, ...] = ()

    @property
    def environment(self) -> str:
        return f"live-{self.function}" if self.packages else ""


TOOLS = (
    Tool("mistill", "mistill"),
    Tool("flexllm", "flexllm", ("flexllm==0.17.0",)),
    Tool("async-batch-llm", "async_batch_llm", ("async-batch-llm[openai]==0.28.0",)),
    Tool("litellm", "litellm", ("litellm==1.110.2", "tenacity==9.2.1")),
    Tool("official SDK", "official_sdk", ("mistralai==3.7.0",)),
)


@dataclass(frozen=True)
class Case:
    """What goes wrong. ``is_killed``: at half of the answers, with ``kill -9``, and started again."""

    name: str
    settings: Settings
    is_killed: bool = False


_FOUR = {"503": 0.05, "429": 0.05, "disconnect": 0.05, "html": 0.05}
_USUAL = Settings(latency_s=0.2, seed=1)
CASES = (
    Case("nothing", _USUAL),
    Case("every fifth request gets 503", _USUAL.changed({"faults": {"503": 0.2}})),
    Case("every fifth fails: 503, 429, cut off, a page of HTML", _USUAL.changed({"faults": _FOUR})),
    Case("a quota", _USUAL.changed({"requests_per_minute": QUOTA})),
    Case("killed half-way", _USUAL, is_killed=True),
)


@dataclass
class Seen:
    """What it has come to.

    Attributes:
        right: rows. ``paid``: answers that the server has given. ``refused``: requests answered with 429.
        seconds, cpu_s: of all starts.
        ending: how its last start ended: ``done``, ``failed`` with an error, or by the ``limit`` of time.
    """

    right: int
    paid: int
    refused: int
    seconds: float
    cpu_s: float
    ending: str


def measure(tool: Tool, case: Case, peers: Path) -> Seen:
    """One tool, one case: in a folder of its own, against a simulator of its own."""
    rows = [(str(number), f"Row {number} of {ROWS}") for number in range(ROWS)]
    with tempfile.TemporaryDirectory(prefix="live-faults-") as name, Simulator(case.settings) as simulator:
        folder = Path(name)
        (folder / "kept").mkdir()
        before, started_at = _cpu_s(), time.monotonic()
        for number in range(2 if case.is_killed else 1):
            out = folder / f"{number}.jsonl"
            asked = {
                "url": simulator.url,
                "model": MODEL,
                "rows": rows,
                "folder": f"{folder}/kept",
                "out": str(out),
            }
            dies_at = ROWS // 2 if case.is_killed and number == 0 else None
            ending = _start(tool, asked, folder, peers, simulator, dies_at)
        stats = simulator.stats()
        given = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
        right = {row for row, answer in given if answer == f"Echo: Row {row} of {ROWS}"}
        refused = stats.counts_by_status.get("429", 0)
        seconds, cpu_s = time.monotonic() - started_at, _cpu_s() - before
        return Seen(len(right), stats.answered, refused, seconds, cpu_s, ending)


def _start(
    tool: Tool, asked: dict[str, Any], folder: Path, peers: Path, simulator: Simulator, dies_at: int | None
) -> str:
    """How it ended; it is killed as soon as so many answers are given."""
    with (folder / "said").open("ab") as said:
        process = subprocess.Popen(
            [str(python_of(tool, peers)), "-P", str(_ASK), tool.function, json.dumps(asked)],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            env=os.environ
            | {
                "HOME": str(folder),
                "MISTILL_GOVERNOR": "off",
            },
            start_new_session=True,
        )
    until = time.monotonic() + LIMIT_S
    while process.poll() is None and time.monotonic() < until:
        if dies_at is not None and simulator.stats().answered >= dies_at:
            break
        time.sleep(_LOOK_EVERY_S)
    is_done = process.poll() is not None
    if not is_done:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if is_done and process.returncode:
        print(f"{tool.name}: {(folder / 'said').read_text(errors='replace')[-600:]}", file=sys.stderr)
    return "limit" if not is_done else "failed" if process.returncode else "done"


def _cpu_s() -> float:
    """Of all processes that were waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cells(case: str, seen: dict[str, Seen | None]) -> list[tuple[str, list[str]]]:
    """The lines of the table that a case makes."""

    def line(cell: Any) -> list[str]:
        return ["not installed" if one is None else cell(one) for one in seen.values()]

    def right(one: Seen) -> str:
        ending = {"limit": f", not done in {LIMIT_S} s", "failed": ", ended with an error"}.get(
            one.ending, ""
        )
        return f"{one.right:,}{ending}"

    if case == "nothing":
        return [
            (
                f"CPU of the client for {ROWS} rows: seconds",
                line(lambda one: f"{one.cpu_s:.1f}" if one.right == ROWS else right(one)),
            )
        ]
    if case == "killed half-way":
        told = f"`kill -9` half-way, started again: requests paid ({ROWS} at best)"
        return [
            (told, line(lambda one: f"{one.paid:,}" + ("" if one.right == ROWS else f", {right(one)} right")))
        ]
    if case == "a quota":
        told = f"a quota of {QUOTA} a minute (60 s at best): rows right, seconds"
        return [
            (
                told,
                line(lambda one: f"{right(one)}" + (f", {one.seconds:.0f}" if one.ending == "done" else "")),
            ),
            ("requests that it refused meanwhile", line(lambda one: f"{one.refused:,}")),
        ]
    return [(f"{case}: rows right", line(right))]


def _print_table(found: Found[Seen], tools: Sequence[Tool]) -> None:
    where = machine(())
    told = (
        f"`python -m benchmarks.live_faults`, {where['date']}, once: {versions(tools)}; Python {where['python']}, "
        f"{where['cpu']}, {where['cores']} cores."
    )
    print(textwrap.fill(told, 120))
    print(f"\n| | {' | '.join(tool.name for tool in tools)} |\n|---|{'--:|' * len(tools)}")
    for case, seen in found.items():
        for name, cells in _cells(case, seen):
            print(f"| {name} | {' | '.join(cells)} |")


def main() -> None:
    """Measures, or installs, and prints."""
    compare("live_faults", __doc__, TOOLS, CASES, measure, _print_table)


if __name__ == "__main__":
    main()
