"""Kill workers and drivers of a run in shards, and whoever has their governor, with SIGKILL; look at what is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.child_processes import spawned_by
from tests.crash.harness import COMPLETIONS, MARKED, Crash, Judged, ask, faulty

from mistill.simulator import Simulator

_NEIGHBOUR = """
import sys
from mistill import MistralLLM
llm = MistralLLM(model="mistral-small-latest", endpoint=sys.argv[1])
print(llm.generate([sys.argv[2]]), flush=True)
sys.stdin.read()
"""
"""Another program with the same key, which is there first, and so has the governor."""
_OF_NEIGHBOUR = "somebody else's"


@dataclass(frozen=True, kw_only=True)
class ShardResult(Judged):
    """``hosts_killed``: whoever had the governor, another program or one of those that are counted beside it."""

    workers_killed: int
    drivers_killed: int
    hosts_killed: int


class ShardCrash(Crash):
    """Some process of a run in shards is killed.

    Args:
        workers: processes for its shards.
    """

    def __init__(
        self, directory: Path, simulator: Simulator, *, rows: int, kills: int, seed: int, workers: int
    ) -> None:
        texts = [f"row {number}" for number in range(rows)]
        super().__init__(COMPLETIONS, directory, simulator, texts=texts, kills=kills, seed=seed)
        self.options = ("--on", f"processes:{workers}", "--shards", str(2 * workers))
        self.environment.pop("MISTILL_GOVERNOR", None)
        self._killed: Counter[str] = Counter()
        self._hosts_killed = 0
        self._runtime = Path()

    def __call__(self) -> ShardResult:
        # Short, as the path of a socket has to be.
        with tempfile.TemporaryDirectory(prefix="ms", dir="/tmp") as runtime:
            self._runtime = Path(runtime)
            self.environment["XDG_RUNTIME_DIR"] = runtime
            with self._neighbour():
                return self._crash()

    @contextmanager
    def _neighbour(self) -> Generator[None]:
        neighbour = subprocess.Popen(
            [sys.executable, "-c", _NEIGHBOUR, self.simulator.url, _OF_NEIGHBOUR],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment,
        )
        assert neighbour.stdout is not None
        neighbour.stdout.readline()
        try:
            yield
        finally:
            neighbour.kill()
            neighbour.communicate()

    def _crash(self) -> ShardResult:
        driver = self.spawn()
        for moment in self.moments():
            self.wait_for(driver, moment)
            time.sleep(self.rng.uniform(0.0, 0.1))
            if driver.poll() is None and not self._kill_one_beside(driver):
                orphans = spawned_by(driver.pid)
                self._hosts_killed += self._host() == driver.pid
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                self._killed["driver"] += 1
                # Some are killed too, as when a machine goes down; the others end by themselves.
                for worker in orphans[: self.rng.randrange(len(orphans) + 1)]:
                    _kill(worker)
                driver = self.spawn()
        judged = self.judged(driver)
        return ShardResult(
            **judged,
            workers_killed=self._killed["worker"],
            drivers_killed=self._killed["driver"],
            hosts_killed=self._hosts_killed,
            marked_maybe_billed=sum(len(ask(path, MARKED)) for path in self.ledger.glob("shard-*.ledger")),
        )

    def _kill_one_beside(self, driver: subprocess.Popen[bytes]) -> bool:
        """In turn a worker, whoever has the governor (another program, then a worker), and none: then the driver is."""
        turn = self._killed.total() % 3
        if turn == 0 and (workers := self._wait_for_workers(driver)):
            self._kill_worker(self.rng.choice(workers))
            return True
        host = self._host()
        if turn != 1 or host is None or host == driver.pid:
            return False
        if host in spawned_by(driver.pid):
            self._kill_worker(host)
        else:
            _kill(host)
            self._killed["another program"] += 1
            self._hosts_killed += 1
        return True

    def _kill_worker(self, worker: int) -> None:
        self._hosts_killed += self._host() == worker
        _kill(worker)
        self._killed["worker"] += 1

    def _wait_for_workers(self, driver: subprocess.Popen[bytes]) -> list[int]:
        while not (workers := spawned_by(driver.pid)) and driver.poll() is None:
            time.sleep(0.005)
        return workers

    def _host(self) -> int | None:
        """The process that has the governor of the quota: it holds a lock."""
        locks = {str(path.stat().st_ino) for path in self._runtime.glob("mistill/*.lock")}
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()  # 1: FLOCK ADVISORY WRITE PROCESS DEVICE:INODE …
            if words[1] == "FLOCK" and words[5].rsplit(":", 1)[-1] in locks:
                return int(words[4])
        return None


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def crash_shards(directory: Path, *, rows: int, kills: int, seed: int, workers: int = 3) -> ShardResult:
    """A run of ``rows`` rows in shards, with faults, of which some process is killed ``kills`` times."""
    with Simulator(faulty(rows=rows, seed=seed)) as simulator:
        return ShardCrash(directory, simulator, rows=rows, kills=kills, seed=seed, workers=workers)()
