"""A run in shards on this machine: how it grows with its workers, and the memory that it needs.

    python -m benchmarks.shards                                      1, 2 and 4 workers on a slow server without a quota
    python -m benchmarks.shards --memory --rows 1000000 --shards 20  4 workers on a server that answers at once

Workers: each has 64 requests in flight, of which each takes a second on average, so that no core is full; all ask the
same rows in four shards. Share of linear: rows a second beside those of one worker times the number of workers, over
the whole run, from its first process to its output; and between the answer of 20% and that of 80% of the rows, without
the processes' beginning (``null`` where that takes less than ten looks). Memory: the peak of resident memory of the
driver and of each of its workers, as Linux counts it (``VmHWM``, shared pages included), looked at twice a second.

Writes ``benchmarks/results/shards.json`` and ``shards_memory.json``. A million rows need about 1.5 GB where
``--folder`` is; it is cleared at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine, server
from benchmarks.child_processes import read, spawned_by

_WORKERS = (1, 2, 4)
_LATENCY_S = 1.0
_IN_FLIGHT = 64
_LOOK_S = 0.5
_MOMENTS = 10
"""At least so many looks make a rate."""


def measure(
    folder: Path,
    url: str,
    *,
    rows: int,
    workers: int,
    shards: int,
    in_flight: int,
    answered: Callable[[], int] = lambda: 0,
) -> dict[str, Any]:
    """One run: how long it took, what of the CPU, and the memory of each of its processes.

    Args:
        answered: how many requests the server has answered by now.
    """
    source = folder / "in.jsonl"
    with source.open("w") as file:
        file.writelines(f'{{"n": {n}, "name": "number {n}"}}\n' for n in range(rows))
    out = folder / f"out-{workers}"
    command = [
        sys.executable,
        "-m",
        "mistill",
        "run",
        str(source),
        "--out",
        str(out),
        "--endpoint",
        url,
        "--quiet",
    ]
    command += ["--model", "mistral-small-latest", "--prompt", "Say hello to {{ name }}."]
    command += ["--max-concurrent-requests", str(in_flight)]
    command += ["--on", f"processes:{workers}", "--shards", str(shards)]
    # Nobody else's governor is asked, and nothing was learned before.
    with tempfile.TemporaryDirectory(prefix="mb") as own:
        environment = {"XDG_RUNTIME_DIR": own, "MISTILL_CACHE_DIR": own, "MISTRAL_API_KEY": "benchmark"}
        before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        driver = subprocess.Popen(command, env=os.environ | environment)
        peaks, course = _watch(driver, answered)
        seconds, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert driver.returncode == 0, f"it ended with {driver.returncode}"
    written = sum(path.read_bytes().count(b"\n") for path in out.glob("part-*.jsonl"))
    assert written == rows, f"{written} of {rows} rows"
    ledgers = sum(path.stat().st_size for path in folder.rglob("*.ledger") if path.is_file())
    return {
        "rows": rows,
        "workers": workers,
        "shards": shards,
        "seconds": round(seconds, 2),
        "rows_a_second": round(rows / seconds, 1),
        "rows_a_second_between": _between(course, rows),
        "cpu_us_a_row": round((_cpu_s(after) - _cpu_s(before)) / rows * 1e6),
        "driver_mib": round(peaks.pop(driver.pid) / 1024),
        "workers_mib": sorted(round(peak / 1024) for peak in peaks.values()),
        "ledgers_mib": round(ledgers / 1024**2),
        "load": round(os.getloadavg()[0], 1),
    }


def _cpu_s(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime


def _between(course: Sequence[tuple[float, int]], rows: int) -> float | None:
    """Rows a second, without the first and the last fifth of them."""
    inner = [(at_s, answered) for at_s, answered in course if 0.2 * rows <= answered <= 0.8 * rows]
    if len(inner) < _MOMENTS:
        return None
    (began_s, first), (ended_s, last) = inner[0], inner[-1]
    return round((last - first) / (ended_s - began_s), 1)


def _watch(
    driver: subprocess.Popen[bytes], answered: Callable[[], int]
) -> tuple[dict[int, int], list[tuple[float, int]]]:
    """Until it has ended: the peak of it and of each of its workers, by process, in KiB; and how far it was when."""
    peaks: dict[int, int] = {driver.pid: 0}
    course: list[tuple[float, int]] = []
    while driver.poll() is None:
        course.append((time.perf_counter(), answered()))
        for process in (driver.pid, *spawned_by(driver.pid)):
            if (peak := _peak_kib(process)) is not None:
                peaks[process] = peak
        with suppress(subprocess.TimeoutExpired):
            driver.wait(_LOOK_S)
    return peaks, course


def _peak_kib(process: int) -> int | None:
    for line in read(process, "status").splitlines():
        if line.startswith(b"VmHWM:"):
            return int(line.split()[1])
    return None


def measure_workers(folder: Path, rows: int, shards: int, in_flight: int) -> list[dict[str, Any]]:
    """The same run by 1, 2 and 4 workers."""
    from mistill.simulator import Settings, SimulatorProcess

    settings = Settings(latency_s=_LATENCY_S, latency_distribution="uniform")  # else answers come in waves
    results: list[dict[str, Any]] = []
    for workers in _WORKERS:
        with (
            SimulatorProcess(settings) as simulator,
            tempfile.TemporaryDirectory(dir=folder, prefix="shards-") as own,
        ):
            found = measure(
                Path(own),
                simulator.url,
                rows=rows,
                workers=workers,
                shards=shards,
                in_flight=in_flight,
                answered=lambda simulator=simulator: simulator.stats().answered,
            )
        found["in_flight_each"] = in_flight
        for rate in ("rows_a_second", "rows_a_second_between"):
            one, all_of_them = (results[0] if results else found)[rate], found[rate]
            found[rate.replace("rows_a_second", "share_of_linear")] = (
                None if one is None or all_of_them is None else round(all_of_them / (workers * one), 3)
            )
        results.append(found)
        print(json.dumps(found), flush=True)
    return results


def measure_memory(folder: Path, rows: int, shards: int) -> list[dict[str, Any]]:
    """A run of many rows by four workers."""
    with (
        server() as port,
        tempfile.TemporaryDirectory(dir=folder, prefix="shards-") as own,
    ):
        url = f"http://127.0.0.1:{port}"
        found = measure(Path(own), url, rows=rows, workers=4, shards=shards, in_flight=_IN_FLIGHT)
    print(json.dumps(found), flush=True)
    return [found]


def main() -> None:
    """Measures one or the other."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--memory", action="store_true", help="many rows, and what memory they need")
    arguments.add_argument(
        "--rows",
        type=int,
        help="7,680 unless given, and 1,000,000 for the memory",
    )
    arguments.add_argument("--shards", type=int, help="4 unless given, and 20 for the memory")
    arguments.add_argument("--in-flight", type=int, default=_IN_FLIGHT, help="of each worker")
    arguments.add_argument("--folder", type=Path, help="where it writes; the current one unless given")
    given = arguments.parse_args()
    folder = given.folder or Path.cwd()
    if given.memory:
        name, results = "shards_memory", measure_memory(folder, given.rows or 1_000_000, given.shards or 20)
    else:
        name = "shards"
        results = measure_workers(folder, given.rows or 7_680, given.shards or 4, given.in_flight)
    path = Path(__file__).parent / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"machine": machine(()), "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
