"""``python -m benchmarks``: every client against one fast local server, in one run; a table, JSON and a plot.

    python -m benchmarks            all of it, about ten minutes on two cores
    python -m benchmarks --quick    one round, fewer requests: for a look, not for a figure to quote

Each measurement is a process of its own. Rounds go over all clients in turn, so that a machine whose speed drifts is
unfair to none; the table has medians, with the lowest and the highest beside them.
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
from collections.abc import Iterator
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
    return (1_000 if concurrency == 1 else 4_000) if quick else (3_000 if concurrency == 1 else 20_000)


def _cases() -> list[tuple[str, int, str]]:
    """Ours and the bare loops on both event loops, the others on the faster."""
    return [
        (client, concurrency, loop)
        for client in CLIENTS
        for concurrency in CONCURRENCIES
        for loop in (("uvloop",) if client in _SLOW else ("uvloop", "asyncio"))
    ]


def run(rounds: int, *, quick: bool) -> list[dict[str, Any]]:
    """All cases, ``rounds`` times over; one dict a case with every sample in it."""
    cases = _cases()
    samples: dict[tuple[str, int, str], list[dict[str, Any]]] = {case: [] for case in cases}
    with server() as port:
        for number in range(rounds):
            for client, concurrency, loop in cases:
                if number >= 2 and client in _SLOW:
                    continue  # seconds a case, and factors away: two samples tell
                requests = _requests(client, concurrency, quick=quick)
                sample = measure(client, port, requests, concurrency, loop)
                samples[client, concurrency, loop].append(sample)
                cost = f"{sample['cpu_us']:8.0f} µs" if "cpu_us" in sample else sample["error"]
                print(f"round {number + 1}  {client:30} {concurrency:5} {loop:8} {cost}", file=sys.stderr)
    return [_case(*case, found) for case, found in samples.items()]


def _case(client: str, concurrency: int, loop: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    case: dict[str, Any] = {"client": client, "concurrency": concurrency, "loop": loop, "runs": len(samples)}
    good = [sample for sample in samples if "error" not in sample]
    if len(good) < len(samples):
        case["error"] = next(sample["error"] for sample in samples if "error" in sample)
    for figure in ("cpu_us", "requests_per_s", "peak_mib") if good else ():
        values = sorted(sample[figure] for sample in good)
        case[figure] = {"low": values[0], "median": statistics.median(values), "high": values[-1]}
    return case


def table(cases: list[dict[str, Any]]) -> str:
    """The table in Markdown: CPU per request with its spread, the ratio to the bare loop, requests/s, peak memory."""
    base = {
        case["concurrency"]: case["cpu_us"]["median"]
        for case in cases
        if case["client"] == BASELINE and case["loop"] == "uvloop" and "cpu_us" in case
    }
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
        ratio = cpu["median"] / base[case["concurrency"]]
        lines.append(f"{head} {spread} | {ratio:,.2f} | {rate:,.0f} | {peak:,.0f} |")
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    """Where and with what it was measured."""
    packages = ("pyreqwest", "aiohttp", "uvloop", "mistralai", "openai", "langchain-mistralai", "instructor")
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
    print(table(cases))
    if not given.quick:
        folder = Path("benchmarks/results")
        folder.mkdir(parents=True, exist_ok=True)
        folder.joinpath("clients.json").write_text(json.dumps(results, indent=1))
        draw(results, Path("docs/clients.svg"))


if __name__ == "__main__":
    main()
