"""``python -m benchmarks.scale``: runs of 10,000 to 1,000,000 rows, resume, export, many in flight, start-up.

Each part is a process of its own, against the server of ``benchmarks.server``. Files go to a temporary folder under the
current one, on a real disk: a million rows need about 1 GB there.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine, server

_ROWS = (10_000, 100_000, 1_000_000)
_ROUNDS = {10_000: 9, 100_000: 3}
"""Runs of seconds are repeated before, between and after the long one, and their median taken: the speed of a shared
machine drifts within minutes, of which a long run has the mean."""


def _run_of(folder: Path, rows: int, port: int) -> Any:
    from mistill import MistralLLM, Run

    llm = MistralLLM(model="mistral-small-latest", endpoint=f"http://127.0.0.1:{port}", api_key="benchmark")
    return Run(
        folder / f"{rows}.jsonl", out=folder / f"{rows}.out.jsonl", llm=llm, prompt="Say hello to {{ name }}."
    )


def part_run(folder: Path, rows: int, port: int) -> dict[str, float]:
    """A durable run over ``rows`` rows, export included."""
    with Path(folder, f"{rows}.jsonl").open("w") as file:
        file.writelines(f'{{"n": {n}, "name": "number {n}"}}\n' for n in range(rows))
    started_at, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF)
    summary = _run_of(folder, rows, port).start()
    seconds, after = time.perf_counter() - started_at, resource.getrusage(resource.RUSAGE_SELF)
    assert summary.completions == rows, summary
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"us_per_row": seconds / rows * 1e6, "cpu_us_per_row": cpu_s / rows * 1e6}


def part_resume(folder: Path, rows: int, port: int) -> dict[str, float]:
    """The same run with one more row: seconds until its request leaves, and until the run has ended."""
    with Path(folder, f"{rows}.jsonl").open("a") as file:
        file.write(f'{{"n": {rows}, "name": "number {rows}"}}\n')
    run = _run_of(folder, rows, port)
    started_at = time.perf_counter()
    sent_after_s: list[float] = []
    governor = run.plan.work.governor

    def watch() -> None:
        while not governor.in_flight and not run.progress.attempts:
            time.sleep(0.001)
        sent_after_s.append(time.perf_counter() - started_at)

    watcher = threading.Thread(target=watch)
    watcher.start()
    summary = run.start()
    watcher.join()
    assert summary.sent == 1, summary
    return {"begins_sending_after_s": sent_after_s[0], "ends_after_s": time.perf_counter() - started_at}


def part_export(folder: Path, rows: int, port: int) -> dict[str, float]:  # noqa: ARG001
    """The output made again from the ledger."""
    from mistill.runs.export import export, record_shape

    started_at = time.perf_counter()
    export(folder / f"{rows}.out.jsonl.ledger", folder / "again.jsonl", record_shape())
    return {"seconds": time.perf_counter() - started_at}


def part_in_flight(folder: Path, rows: int, port: int) -> dict[str, float]:  # noqa: ARG001
    """``rows`` requests in flight at once on one object, with a server that takes 10 s for each."""
    from mistill import MistralLLM

    llm = MistralLLM(
        model="mistral-small-latest",
        endpoint=f"http://127.0.0.1:{port}",
        api_key="benchmark",
        max_concurrent_requests=rows,
    )
    governor = llm.generation().dispatcher.governor
    peak = 0
    ended = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not ended.wait(0.02):
            peak = max(peak, governor.in_flight)

    watcher = threading.Thread(target=watch)
    watcher.start()
    started_at = time.perf_counter()
    answers = llm.generate([f"row {n}" for n in range(2 * rows)])
    seconds = time.perf_counter() - started_at
    ended.set()
    watcher.join()
    assert len(answers) == 2 * rows
    return {"peak_in_flight": peak, "seconds": seconds}


PARTS: dict[str, Callable[[Path, int, int], dict[str, float]]] = {
    "run": part_run,
    "resume": part_resume,
    "export": part_export,
    "in_flight": part_in_flight,
}


def _measure_runs(folder: Path, sizes: list[int], port: int) -> dict[int, dict[str, float]]:
    """Runs of each size, the small ones several times over; the median of each figure."""
    samples: dict[int, list[dict[str, float]]] = {rows: [] for rows in sizes}
    for third in range(3):
        for rows in sizes:
            times = _ROUNDS.get(rows, 0) // 3 or int(third == 1)
            for _ in range(times):
                for left in folder.glob(f"{rows}.*"):
                    left.unlink()
                samples[rows].append(_measure("run", folder, rows, port))
    return {
        rows: {name: statistics.median(one[name] for one in found) for name in found[0]}
        for rows, found in samples.items()
    }


def _measure(part: str, folder: Path, rows: int, port: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", "--part", part, str(folder), str(rows), str(port)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    told = ", ".join(f"{name} {value:,.2f}" for name, value in found.items())
    print(f"{part:10} {rows:>9,}  {told}", flush=True)
    return found


def _start_up() -> dict[str, float]:
    """Best of ten, in seconds: an interpreter that imports something and ends."""

    def best(*command: str) -> float:
        times: list[float] = []
        for _ in range(10):
            started_at = time.perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
            times.append(time.perf_counter() - started_at)
        return min(times)

    model = "from pydantic import BaseModel, SecretStr\nclass M(BaseModel): key: SecretStr | None = None"
    found = {
        "interpreter and pydantic": best("-c", model),
        "the same and mistill.llms": best("-c", model + "\nimport mistill.llms"),
        "mistill --help": best("-m", "mistill", "--help"),
    }
    for name, seconds in found.items():
        print(f"start-up   {name}: {seconds * 1000:.0f} ms", flush=True)
    return found


def main() -> None:
    """Measures all parts, or with ``--part`` one of them."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--part", nargs=4, metavar=("PART", "FOLDER", "ROWS", "PORT"))
    arguments.add_argument("--most", type=int, default=_ROWS[-1], help="leave out runs with more rows")
    given = arguments.parse_args()
    if given.part:
        part, folder, rows, port = given.part
        found = PARTS[part](Path(folder), int(rows), int(port))
        found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(found))
        return
    results: dict[str, Any] = {"machine": machine(), "start_up": _start_up()}
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="scale-") as name:
        folder = Path(name)
        with server() as port:
            sizes = [rows for rows in _ROWS if rows <= given.most]
            results["run"] = _measure_runs(folder, sizes, port)
            results["resume"] = _measure("resume", folder, sizes[-1], port)
            results["export"] = _measure("export", folder, sizes[-1], port)
        with server(latency_s=10.0) as port:
            results["in_flight"] = _measure("in_flight", folder, 10_000, port)
    Path("benchmarks/results").mkdir(parents=True, exist_ok=True)
    Path("benchmarks/results/scale.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
