"""``python -m benchmarks``: every client against one fast local server, in one run; a table, JSON and a plot.

    python -m benchmarks            all of it, about 15 minutes on two cores
    python -m benchmarks --quick    one round, fewer requests: for a look, not for a figure to quote

Each measurement is a process of its own. A shared machine's speed drifts by half within minutes, so each client but the
slowest is measured between two runs of the bare loop, and its ratio is to the mean of these. The table has medians over
the rounds, with the lowest and the highest beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.clients import CLIENTS
from benchmarks.plot import draw

CONCURRENCIES = (1, 64, 1024)
BASELINE = "pyreqwest, bare loop"
_SLOW = {"openai SDK", "langchain-mistralai", "mistralai SDK", "instructor over the SDK"}
_TIMEOUT_S = 300


@contextmanager
def server(latency_s: float = 0.0) -> Iterator[int]:
    """The benchmark server in a process of its own; gives its port."""
    command = [sys.executable, "-m", "benchmarks.server", "0", str(latency_s)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def measure(client: str, port: int, requests: int, concurrency: int, loop: str) -> dict[str, Any]:
    """One run of one client in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.clients", client, "--port", str(port)]
    command += ["--requests", str(requests), "--concurrency", str(concurrency), "--loop", loop]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def _requests(client: str, concurrency: int, *, quick: bool) -> int:
    if client in _SLOW:
        return 100 if concurrency == 1 else 400 if quick else max(400, concurrency)
    return (1_000 if concurrency == 1 else 4_000) if quick else (3_000 if concurrency == 1 else 10_000)


def _cases(concurrency: int) -> list[tuple[str, int, str]]:
    """Ours and the bare loops on both event loops, the others on the faster; the slowest last."""
    return [
        (client, concurrency, loop)
        for client in sorted(CLIENTS, key=_SLOW.__contains__)
        for loop in (("uvloop",) if client in _SLOW else ("uvloop", "asyncio"))
        if (client, loop) != (BASELINE, "uvloop")
    ]


Case = tuple[str, int, str]
Samples = dict[Case, list[dict[str, Any]]]


def run(rounds: int, *, quick: bool) -> list[dict[str, Any]]:
    """All cases, ``rounds`` times over; one dict a case with every sample in it."""
    samples: Samples = {
        case: []
        for concurrency in CONCURRENCIES
        for case in [(BASELINE, concurrency, "uvloop"), *_cases(concurrency)]
    }
    with server() as port:

        def sample(case: Case, number: int) -> dict[str, Any]:
            client, concurrency, loop = case
            found = measure(client, port, _requests(client, concurrency, quick=quick), concurrency, loop)
            samples[case].append(found)
            cost = f"{found['cpu_us']:8.0f} µs" if "cpu_us" in found else found["error"]
            print(f"round {number}  {client:30} {concurrency:5} {loop:8} {cost}", file=sys.stderr)
            return found

        for number in range(1, rounds + 1):
            for concurrency in CONCURRENCIES:
                _round(sample, number, concurrency)
    return [_case(case, found) for case, found in samples.items()]


def _round(sample: Callable[[Case, int], dict[str, Any]], number: int, concurrency: int) -> None:
    bare = (BASELINE, concurrency, "uvloop")
    before = sample(bare, number)
    for case in _cases(concurrency):
        is_slow = case[0] in _SLOW
        if number > 2 and is_slow:
            continue  # seconds a case, and factors away: two samples tell
        found = sample(case, number)
        after = before if is_slow else sample(bare, number)
        if "cpu_us" in found:
            found["ratio"] = found["cpu_us"] / statistics.mean((before["cpu_us"], after["cpu_us"]))
        before = after


def _case(case: Case, samples: list[dict[str, Any]]) -> dict[str, Any]:
    client, concurrency, loop = case
    found: dict[str, Any] = {"client": client, "concurrency": concurrency, "loop": loop, "runs": len(samples)}
    good = [sample for sample in samples if "error" not in sample]
    if len(good) < len(samples):
        found["error"] = next(sample["error"] for sample in samples if "error" in sample)
    for figure in ("cpu_us", "ratio", "requests_per_s", "peak_mib"):
        values = [sample[figure] for sample in good if figure in sample]
        if values:
            found[figure] = {
                "low": min(values),
                "median": statistics.median(values),
                "high": max(values),
                "samples": values,
            }
    return found


def table(cases: list[dict[str, Any]]) -> str:
    """The table in Markdown: CPU per request with its spread, the ratio to the bare loop, requests/s, peak memory."""
    lines = [
        "| client | loop | at once | CPU µs a request (low to high) | × bare loop | requests/s | peak MiB |",
        "|---|---|--:|--:|--:|--:|--:|",
    ]
    for case in cases:
        head = f"| {case['client']} | {case['loop']} | {case['concurrency']:,} |"
        if "cpu_us" not in case:
            lines.append(f"{head} failed: {case['error'][:60]} | | | |")
            continue
        cpu, rate, peak = case["cpu_us"], case["requests_per_s"]["median"], case["peak_mib"]["median"]
        spread = f"{cpu['median']:,.0f} ({cpu['low']:,.0f} to {cpu['high']:,.0f})"
        ratio = case.get("ratio")
        beside = (
            "1" if ratio is None else f"{ratio['median']:,.2f} ({ratio['low']:,.2f} to {ratio['high']:,.2f})"
        )
        lines.append(f"{head} {spread} | {beside} | {rate:,.0f} | {peak:,.0f} |")
    return "\n".join(lines)


def targets(cases: list[dict[str, Any]]) -> str:
    """What was aimed at, and what was found."""
    found = {(case["client"], case["concurrency"]): case for case in cases if case["loop"] == "uvloop"}

    def ratio(client: str, concurrency: int) -> float:
        return found[client, concurrency]["ratio"]["median"]

    # By their ratios, since the machine's drift between the two would be most of a difference in µs.
    more = ratio("mistill generate, structured", 64) - ratio("mistill generate", 64)
    more_us = more * found[BASELINE, 64]["cpu_us"]["median"]
    sdk = ratio("mistralai SDK", 64)
    rows = [
        ("`generate` at 64 at once, beside the bare loop", "≤ 1.5 ×", ratio("mistill generate", 64), 1.5),
        (
            "`generate` at 1,024 at once, beside the bare loop",
            "≤ 2.0 ×",
            ratio("mistill generate", 1024),
            2.0,
        ),
        ("`mistill run`, fully durable, at 64 at once", "≤ 3.0 ×", ratio("mistill run, durable", 64), 3.0),
        ("`generate` beside the official SDK", "≥ 80 ×", sdk / ratio("mistill generate", 64), -80),
        ("a durable run beside the official SDK", "≥ 30 ×", sdk / ratio("mistill run, durable", 64), -30),
        ("structured (native, pydantic) beside plain text", "≤ 30 µs more", more_us, 30),
    ]
    lines = ["| target | wanted | found | |", "|---|---|--:|---|"]
    for name, wanted, value, limit in rows:
        is_met = value <= limit if limit > 0 else value >= -limit
        unit = " µs" if "µs" in wanted else " ×"
        shown = f"{value:,.0f}" if value >= 20 else f"{value:,.2f}"
        lines.append(f"| {name} | {wanted} | {shown}{unit} | {'met' if is_met else '**missed**'} |")
    return "\n".join(lines)


_COMPARED = ("pyreqwest", "aiohttp", "uvloop", "mistralai", "openai", "langchain-mistralai", "instructor")


def machine(packages: Sequence[str] = _COMPARED) -> dict[str, Any]:
    """Where and with what it was measured: the machine, and the versions of these packages."""
    cpu = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": cpu,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
    }


def main() -> None:
    """Measures, prints, and writes ``benchmarks/results/clients.json`` and ``docs/clients.svg``."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--quick", action="store_true")
    arguments.add_argument("--rounds", type=int, default=5)
    given = arguments.parse_args()
    cases = run(1 if given.quick else given.rounds, quick=given.quick)
    results = {"machine": machine(), "cases": cases}
    print(table(cases), targets(cases), sep="\n\n")
    if not given.quick:
        folder = Path("benchmarks/results")
        folder.mkdir(parents=True, exist_ok=True)
        folder.joinpath("clients.json").write_text(json.dumps(results, indent=1))
        draw(results, Path("docs/clients.svg"))


if __name__ == "__main__":
    main()
