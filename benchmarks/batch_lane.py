"""``python -m benchmarks.batch_lane``: what a row costs in the batch lane, beside the live one, and a run of 100,000.

    python -m benchmarks.batch_lane                   CPU a row, then 100,000 rows: lines for docs/performance.md
    python -m benchmarks.batch_lane --most 1000000    a million, which need about 2 GB in the current folder

Each run is a process of its own. The live one is against the server of ``benchmarks.server``, as in the table of
clients; the batch one against the simulator, in a process of its own, whose jobs take no time but for answering. They
take turns, so that the drift of a shared machine reaches both. Of a batch run's CPU time, all is counted: rows,
files, looks at its jobs, ledger and output.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine, server
from mistill.simulator import Settings, SimulatorProcess

_ROUNDS = 5
_ROWS = 20_000
_LOOK_EVERY_S = 0.05


def part(lane: str, folder: Path, rows: int, url: str) -> dict[str, float]:
    """A durable run of ``rows`` rows, from opening its ledger to its output; one of ten live rows goes before it."""
    from mistill import MistralLLM, Run

    llm = MistralLLM(
        model="mistral-small-latest", endpoint=url, api_key="benchmark", max_concurrent_requests=64
    )
    prompt = "Say hello to {{ name }}."
    first = Run([{"name": "first"}] * 10, llm=llm, prompt=prompt, out=folder / "first.jsonl", progress=False)
    first.start()
    path = folder / "rows.jsonl"
    with path.open("w") as file:
        file.writelines(f'{{"n": {n}, "name": "number {n}"}}\n' for n in range(rows))
    options: dict[str, Any] = {"lane": "batch", "batch_tail": 0} if lane == "batch" else {}
    run = Run(path, out=folder / "out.jsonl", llm=llm, prompt=prompt, progress=False, **options)
    started_at, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    report = run.start()
    seconds, after = time.perf_counter() - started_at, resource.getrusage(resource.RUSAGE_SELF)
    assert report.completions == rows, report
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_us": cpu_s / rows * 1e6, "seconds": seconds, "peak_mib": after.ru_maxrss / 1024}


def _measure(lane: str, rows: int, url: str) -> dict[str, float]:
    """The same in a process of its own, and the most that its files took on the disk."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="batch-lane-") as name:
        command = [sys.executable, "-m", "benchmarks.batch_lane", "--part", lane, name, str(rows), url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        most_mib = 0.0
        while process.poll() is None:
            most_mib = max(most_mib, sum(_sizes(Path(name).glob("*.jobs/*"))))
            time.sleep(_LOOK_EVERY_S)
        text, _ = process.communicate()
        assert process.returncode == 0, text
        found = json.loads(text)
        found |= {"jobs_mib": most_mib, "ledger_mib": sum(_sizes(Path(name).glob("out.jsonl.ledger")))}
    print(
        f"{lane:6}{rows:>10,}  {', '.join(f'{key} {value:,.1f}' for key, value in found.items())}", flush=True
    )
    return found


def _sizes(paths: Iterator[Path]) -> Iterator[float]:
    """In MiB, of those that are there: files come and go."""
    for path in paths:
        try:
            yield path.stat().st_size / 2**20
        except FileNotFoundError:
            continue


def _lines(
    live: list[dict[str, float]], batch: list[dict[str, float]], large: dict[str, float], most: int
) -> str:
    where = machine(())
    rows = [
        (f"{most:,} rows in the batch lane, from start to output", f"{large['seconds']:,.0f} s", ""),
        ("its CPU a row", f"{large['cpu_us']:.0f} µs", ""),
        ("its peak memory", f"{large['peak_mib']:.0f} MiB", ""),
        ("the files of its jobs, at most at once", f"{large['jobs_mib']:.0f} MiB", ""),
        ("its ledger", f"{large['ledger_mib']:.0f} MiB", ""),
    ]
    if live:
        live_us, batch_us = (statistics.median(one["cpu_us"] for one in several) for several in (live, batch))
        ratio = statistics.median(b["cpu_us"] / a["cpu_us"] for a, b in zip(live, batch, strict=True))
        rows[:0] = [
            (f"CPU a row of a live durable run, {_ROWS:,} rows", f"{live_us:.0f} µs", ""),
            ("the same in the batch lane", f"{batch_us:.0f} µs", ""),
            ("beside the live one", f"{ratio:.2f} ×", f"≤ 1.5 ×: {'met' if ratio <= 1.5 else '**missed**'}"),
        ]
    turns = f"; medians of {len(live)} turns" if live else ""
    head = f"`python -m benchmarks.batch_lane`, {where['date']}: {where['cpu']}, {where['cores']} cores, "
    head += f"Python {where['python']}{turns}:"
    table = "\n".join(f"| {name} | {found} | {wanted} |" for name, found, wanted in rows)
    return f"{head}\n\n| | found | wanted |\n|---|--:|---|\n{table}"


def main() -> None:
    """Measures both lanes in turn and then the large run, or with ``--part`` one run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", nargs=4, metavar=("LANE", "FOLDER", "ROWS", "URL"))
    parser.add_argument("--most", type=int, default=100_000, help="rows of the large run")
    parser.add_argument(
        "--rounds", type=int, default=_ROUNDS, help="turns of both lanes; 0: the large run alone"
    )
    given = parser.parse_args()
    if given.part:
        lane, folder, rows, url = given.part
        print(json.dumps(part(lane, Path(folder), int(rows), url)))
        return
    live: list[dict[str, float]] = []
    batch: list[dict[str, float]] = []
    with server() as port, SimulatorProcess(Settings()) as simulator:
        for _ in range(given.rounds):
            live.append(_measure("live", _ROWS, f"http://127.0.0.1:{port}"))
            batch.append(_measure("batch", _ROWS, simulator.url))
        large = _measure("batch", given.most, simulator.url)
    print(_lines(live, batch, large, given.most))


if __name__ == "__main__":
    main()
