"""``python -m benchmarks.scale``: runs of 10,000 to 1,000,000 rows, resume, export, many in flight, start-up.

Each part is a process of its own, against the server of ``benchmarks.server``. Files go to a temporary folder under the
current one, on a real disk: a million rows need about 1 GB there.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine, server

_ROWS = (10_000, 100_000, 1_000_000)
_SLICE_S = 10.0
_BETWEEN = (10_000, 10_000, 10_000, 100_000)


def _run_of(folder: Path, rows: int, port: int) -> Any:
    from mistill import MistralLLM, Run

    llm = MistralLLM(model="mistral-small-latest", endpoint=f"http://127.0.0.1:{port}", api_key="benchmark")
    return Run(
        folder / f"{rows}.jsonl", out=folder / f"{rows}.out.jsonl", llm=llm, prompt="Say hello to {{ name }}."
    )


def part_run(folder: Path, rows: int, port: int) -> dict[str, float]:
    """A durable run over ``rows`` rows, from opening its ledger to its output.

    One of ten rows goes before, so that what is loaded at first use is: start-up is measured by itself.
    """
    for count in (10, rows):
        with Path(folder, f"{count}.jsonl").open("w") as file:
            file.writelines(f'{{"n": {n}, "name": "number {n}"}}\n' for n in range(count))
    _run_of(folder, 10, port).start()
    for left in folder.glob("10.*"):
        left.unlink()
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
    governor = run.kind.dispatcher.governor

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
    from mistill.runs.export import export
    from mistill.runs.record_shape import record_shape

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


def _measure_runs(folder: Path, sizes: Sequence[int], port: int) -> dict[int, dict[str, float]]:
    """Runs of all sizes at the same time, in slices: the longest is halted every 10 s while a shorter one runs.

    So the drift of a shared machine, whose speed moves by half within minutes, reaches all of them alike. Of the
    shorter ones the mean counts, as it does of the long one's slices.
    """
    samples: dict[int, list[dict[str, float]]] = {rows: [] for rows in sizes}
    if len(sizes) > 1:
        between = cycle([rows for rows in _BETWEEN if rows < sizes[-1]])
        long = _start("run", folder, sizes[-1], port)
        halted_s = 0.0
        while _is_running_after(long, _SLICE_S):
            rows = next(between)
            halted_at = time.perf_counter()
            long.send_signal(signal.SIGSTOP)
            for left in folder.glob(f"{rows}.*"):
                left.unlink()
            samples[rows].append(_measure("run", folder, rows, port))
            long.send_signal(signal.SIGCONT)
            halted_s += time.perf_counter() - halted_at
        found = _result_of(long)
        found["us_per_row"] -= halted_s / sizes[-1] * 1e6
        samples[sizes[-1]].append(found)
    for rows, several in samples.items():
        if not several:
            several.append(_measure("run", folder, rows, port))
    means = {
        rows: {name: statistics.mean(one[name] for one in several) for name in several[0]}
        for rows, several in samples.items()
    }
    for rows, mean in means.items():
        _print_figures(f"run, mean of {len(samples[rows])}", rows, mean)
    return means


def _is_running_after(process: subprocess.Popen[str], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return True
    return False


def _start(part: str, folder: Path, rows: int, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "benchmarks.scale", "--part", part, str(folder), str(rows), str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _result_of(process: subprocess.Popen[str]) -> dict[str, float]:
    text, _ = process.communicate()
    assert process.returncode == 0, text
    return json.loads(text)


def _measure(part: str, folder: Path, rows: int, port: int) -> dict[str, float]:
    found = _result_of(_start(part, folder, rows, port))
    _print_figures(part, rows, found)
    return found


def _print_figures(part: str, rows: int, found: dict[str, float]) -> None:
    text = ", ".join(f"{name} {value:,.2f}" for name, value in found.items())
    print(f"{part:15} {rows:>9,}  {text}", flush=True)


def _start_up() -> dict[str, float]:
    """In seconds, best of twenty: an interpreter that imports something and ends. In turn, as the machine drifts."""
    model = "from pydantic import BaseModel, SecretStr\nclass M(BaseModel): key: SecretStr | None = None"
    commands = {
        "interpreter and pydantic": ("-c", model),
        "the same and mistill.llms": ("-c", model + "\nimport mistill.llms"),
        "mistill --help": ("-m", "mistill", "--help"),
    }
    found = dict.fromkeys(commands, math.inf)
    for _ in range(20):
        for name, command in commands.items():
            started_at = time.perf_counter()
            subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, check=True)
            found[name] = min(found[name], time.perf_counter() - started_at)
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
