"""What `benchmarks.governor --processes` runs: several processes that share one quota, by real windows of a minute.

Each has an even part of the rows; all begin together, as soon as each has its governor. ``--unshared`` measures the
same with ``MISTILL_GOVERNOR=off``: each process with a governor of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.governor import quota_time_s

_LATENCY_S = 0.2
_TIMEOUT_S = 900
_ROUND_TRIP_S = 0.02
_TOKEN = "a-token-for-the-benchmark"


@dataclass(frozen=True)
class SharedCase:
    """One measurement. ``is_host_killed``: by a host that has no rows itself, half-way."""

    name: str
    quota: int
    is_told: bool
    is_host_killed: bool = False

    @property
    def slots(self) -> int:
        return 64 if self.quota < 6_000 else 256


def cases(processes: int) -> tuple[SharedCase, ...]:
    """All of them."""
    quotas = [(quota, is_told) for is_told in (True, False) for quota in (60, 600, 6_000)]
    plain = [SharedCase(_name(processes, *each), *each) for each in quotas]
    killed = [
        SharedCase(f"{_name(processes, *each)}, host killed", *each, is_host_killed=True)
        for each in quotas
        if each[0] != 60
    ]
    return (*plain, *killed)


def _name(processes: int, quota: int, is_told: bool) -> str:
    return f"{processes} processes, {quota} a minute, {'told' if is_told else 'not told'}"


class Worker:
    """A process with rows to send, or with none: then it is only there to be the host."""

    def __init__(self, url: str, rows: int, slots: int, environment: dict[str, str]) -> None:
        command = [sys.executable, "-m", "benchmarks.governor_processes", url, str(rows), str(slots)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._popen = subprocess.Popen(command, env=environment, **pipes)
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._stdin, self._stdout = self._popen.stdin, self._popen.stdout

    def await_ready(self) -> None:
        self._stdout.readline()

    def go(self) -> None:
        self._stdin.write("go\n")
        self._stdin.flush()

    def result(self) -> dict[str, float]:
        return json.loads(self._stdout.readline())

    def kill(self) -> None:
        self._popen.kill()
        self._popen.wait()
        self._stdin.close()
        self._stdout.close()


@contextmanager
def _environment(*, is_shared: bool) -> Iterator[dict[str, str]]:
    """A runtime folder and a cache of its own: nobody else is met, and nothing was learned before."""
    folder = tempfile.mkdtemp(prefix="mb")
    shared = {
        "XDG_RUNTIME_DIR": folder,
        "MISTILL_CACHE_DIR": folder,
        "MISTILL_GOVERNOR": "" if is_shared else "off",
    }
    try:
        yield os.environ | shared
    finally:
        shutil.rmtree(folder)


def measure(case: SharedCase, processes: int, *, is_shared: bool) -> dict[str, Any]:
    """Sends the rows of a case, and compares."""
    from mistill.simulator import Settings, SimulatorProcess

    rows = 3 * case.quota // processes
    ideal_s = quota_time_s(rows * processes, ((0.0, case.quota),)) + _LATENCY_S
    told = {"requests_per_minute": case.quota, "quota_headers": "2026" if case.is_told else "none"}
    with ExitStack() as stack:
        simulator = stack.enter_context(SimulatorProcess(Settings(**told | {"latency_s": _LATENCY_S})))
        environment = stack.enter_context(_environment(is_shared=is_shared))
        hosts = [Worker(simulator.url, 0, 1, environment)] if case.is_host_killed else []
        for host in hosts:
            host.await_ready()
        workers = [Worker(simulator.url, rows, case.slots, environment) for _ in range(processes)]
        for worker in (*hosts, *workers):
            stack.callback(worker.kill)
        for worker in workers:
            worker.await_ready()
        began_s = time.monotonic()
        for worker in workers:
            worker.go()
        timers = [threading.Timer(ideal_s / 2, host.kill) for host in hosts]
        for timer in timers:
            timer.start()
        results = [worker.result() for worker in workers]
        refused = simulator.stats().counts_by_status.get("429", 0) / (rows * processes)
    ended_s = [result["ended_s"] - began_s for result in results]
    took_s, lost = max(ended_s), int(sum(result["lost"] for result in results))
    spread = (took_s - min(ended_s)) / took_s
    slack, most_refused = (1.10, 0.01) if case.is_told else (1.15, 0.05)
    allowed_s = slack * ideal_s + (5.0 if case.is_host_killed else 0.0)
    is_kept = took_s <= allowed_s and refused <= most_refused and not lost and spread <= 0.10
    return {
        "case": case.name,
        "is_shared": is_shared,
        "rows": rows * processes,
        "took_s": round(took_s, 2),
        "ideal_s": round(ideal_s, 2),
        "ratio": round(took_s / ideal_s, 3),
        "refused": round(refused, 4),
        "first_done_s": round(min(ended_s), 2),
        "spread": round(spread, 3),
        "lost": lost,
        "is_kept": is_kept,
    }


ROUND_TRIP = f"{_ROUND_TRIP_S * 1000:.0f} ms from guest to host and back"


def measure_round_trip(rows: int = 40_000, slots: int = 1_024) -> dict[str, Any]:
    """Rows a second of one guest whose host is as far away as a machine in another building; no quota."""
    from mistill.simulator import Settings, SimulatorProcess

    with ExitStack() as stack:
        simulator = stack.enter_context(SimulatorProcess(Settings(latency_s=_LATENCY_S)))
        environment = stack.enter_context(_environment(is_shared=True))
        far = _FarAway()
        address = {"MISTILL_GOVERNOR": f"tcp://127.0.0.1:{far.host_port}", "MISTILL_GOVERNOR_TOKEN": _TOKEN}
        host = Worker(simulator.url, 0, 1, environment | address)
        stack.callback(host.kill)
        host.await_ready()
        far.start()
        address["MISTILL_GOVERNOR"] = f"tcp://127.0.0.1:{far.port}"
        guest = Worker(simulator.url, rows, slots, environment | address)
        stack.callback(guest.kill)
        guest.await_ready()
        began_s = time.monotonic()
        guest.go()
        result = guest.result()
    rate = rows / (result["ended_s"] - began_s)
    return {"case": ROUND_TRIP, "rows": rows, "rows_a_second": round(rate), "is_kept": rate >= 2_500}


class _FarAway:
    """Passes on what guest and host say, half a round trip later; in a thread."""

    def __init__(self) -> None:
        import socket

        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.host_port = free.getsockname()[1]

    def start(self) -> None:
        threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True).start()

    async def _serve(self) -> None:
        server = await asyncio.start_server(self._pass_on, sock=self._listening)
        await server.serve_forever()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.host_port)
        await asyncio.gather(_delayed(reader, back), _delayed(there, writer))


async def _delayed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    loop = asyncio.get_running_loop()
    while data := await reader.read(1 << 16):
        loop.call_later(_ROUND_TRIP_S / 2, writer.write, data)
    loop.call_later(_ROUND_TRIP_S / 2, writer.close)


def line(result: dict[str, Any]) -> str:
    """A result as a line of text."""
    verdict = "kept  " if result["is_kept"] else "MISSED"
    if "rows_a_second" in result:
        return f"{verdict}  {result['case']:<54} {result['rows_a_second']:,} rows/s"
    return (
        f"{verdict}  {result['case']:<54} {result['took_s']:7.1f} s of {result['ideal_s']:7.1f} s ideal"
        f" = {result['ratio']:.3f}   refused {result['refused']:6.2%}   first done {result['first_done_s']:.1f} s"
        f" ({result['spread']:.0%})   lost {result['lost']}{'' if result['is_shared'] else '   UNSHARED'}"
    )


def run(processes: int, *, only: str, is_shared: bool) -> int:
    """All cases, one after the other; 1 if a target is missed. Writes ``results/governor_processes_N.json``."""
    results: list[dict[str, Any]] = []
    for case in cases(processes):
        if only in case.name and (is_shared or not case.is_host_killed):
            results.append(measure(case, processes, is_shared=is_shared))
            print(line(results[-1]), flush=True)
    if only in ROUND_TRIP and is_shared:
        results.append(measure_round_trip())
        print(line(results[-1]), flush=True)
    if not only:
        kind = "" if is_shared else "_unshared"
        path = Path(__file__).parent / "results" / f"governor_processes_{processes}{kind}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"date": time.strftime("%Y-%m-%d"), "results": results}, indent=2) + "\n")
    return 0 if all(result["is_kept"] for result in results) else 1


def _work(url: str, rows: int, slots: int) -> None:
    """What a `Worker` does."""
    from mistill.llms import MistralLLM

    llm = MistralLLM(
        model="mistral-small-latest", endpoint=url, api_key="benchmark", max_concurrent_requests=slots
    )
    llm.load()
    print("ready", flush=True)
    sys.stdin.readline()
    if rows:
        outcomes = llm.outcomes(["hello"] * rows)
        lost = sum(outcome.error is not None for outcome in outcomes)
        print(json.dumps({"ended_s": time.monotonic(), "lost": lost}), flush=True)
    sys.stdin.readline()  # a host is there until it is ended


if __name__ == "__main__":
    _work(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
