"""Kill workers and drivers of a run in shards with SIGKILL at random moments, and look at what is left."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from mistill.simulator import Settings, Simulator

_LONGEST_WAIT_S = 120.0


@dataclass(frozen=True)
class ShardResult:
    """What a run in shards was worth after all its crashes."""

    rows: int
    workers_killed: int
    drivers_killed: int
    lost: int
    twice: int
    wrong: int
    out_of_order: int
    paid_twice: int
    marked_maybe_billed: int
    sent_by_a_further_start: int
    seconds: float

    def problems(self) -> list[str]:
        """What was promised and not kept; nothing, one hopes."""
        promises = {
            "no row is lost": self.lost == 0,
            "no row comes twice": self.twice == 0,
            "every answer is its own row's": self.wrong == 0,
            "rows are in the order of the input": self.out_of_order == 0,
            "what is paid twice was in flight at a kill, and is marked": self.paid_twice
            <= self.marked_maybe_billed,
            "a further start sends nothing": self.sent_by_a_further_start == 0,
        }
        return [promise for promise, kept in promises.items() if not kept]


class ShardCrash:
    """One dataset in shards, one simulator with faults, and somebody who kills."""

    def __init__(
        self, directory: Path, simulator: Simulator, *, rows: int, kills: int, seed: int, workers: int
    ) -> None:
        self._rng = random.Random(seed)
        self._simulator = simulator
        self._kills = kills
        self._workers = workers
        self._input = directory / "in.jsonl"
        self._out = directory / "out.jsonl"
        self._texts = [f"row {number}" for number in range(rows)]
        lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(self._texts)]
        self._input.write_text("\n".join(lines) + "\n")
        self._killed: Counter[str] = Counter()

    def __call__(self) -> ShardResult:
        began_s = time.monotonic()
        driver = self._spawn()
        for threshold in sorted(self._rng.uniform(0.0, len(self._texts)) for _ in range(self._kills)):
            self._wait_for(driver, threshold)
            time.sleep(self._rng.uniform(0.0, 0.1))
            if driver.poll() is None and not self._kill_worker_of(driver):
                orphans = _workers_of(driver.pid)
                driver.send_signal(signal.SIGKILL)
                driver.wait()
                self._killed["driver"] += 1
                # Some are killed too, as when a machine goes down; the others end by themselves.
                for worker in orphans[: self._rng.randrange(len(orphans) + 1)]:
                    _kill(worker)
                driver = self._spawn()
        assert driver.wait(_LONGEST_WAIT_S) == 0, "the last start did not answer every row"
        answered = self._simulator.answered
        records = [json.loads(line) for line in self._out.read_text().splitlines()]
        by_text = Counter(
            request.body["messages"][-1]["content"]
            for request in self._simulator.requests
            if request.status == 200
        )
        assert self._spawn().wait(_LONGEST_WAIT_S) == 0, "a further start failed"
        ids = [record["id"] for record in records]
        return ShardResult(
            rows=len(self._texts),
            workers_killed=self._killed["worker"],
            drivers_killed=self._killed["driver"],
            lost=len(set(range(len(self._texts))) - set(ids)),
            twice=len(ids) - len(set(ids)),
            wrong=sum(record["generation"] != f"Echo: {self._texts[record['id']]}" for record in records),
            out_of_order=sum(one > other for one, other in pairwise(ids)),
            paid_twice=sum((by_text - Counter(self._texts)).values()),
            marked_maybe_billed=self._count("SELECT count(*) FROM attempts WHERE status = 'maybe_billed'"),
            sent_by_a_further_start=self._simulator.answered - answered,
            seconds=time.monotonic() - began_s,
        )

    def _kill_worker_of(self, driver: subprocess.Popen[bytes]) -> bool:
        """One worker in two cases of three, where there is one."""
        workers = _workers_of(driver.pid)
        if not workers or self._killed.total() % 3 == 2:
            return False
        _kill(self._rng.choice(workers))
        self._killed["worker"] += 1
        return True

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mistill", "run", str(self._input), "--out", str(self._out)]
        options = [
            "--model",
            "mistral-small-latest",
            "--prompt",
            "{{ text }}",
            "--endpoint",
            self._simulator.url,
        ]
        shards = ["--on", f"processes:{self._workers}", "--shards", str(2 * self._workers)]
        environment = os.environ | {"MISTRAL_API_KEY": "a-key-for-tests"}
        return subprocess.Popen(
            [*command, *options, *shards],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _wait_for(self, driver: subprocess.Popen[bytes], answered: float) -> None:
        deadline_s = time.monotonic() + _LONGEST_WAIT_S
        while self._simulator.answered < answered and driver.poll() is None:
            assert time.monotonic() < deadline_s, "the run hangs"
            time.sleep(0.005)

    def _count(self, query: str) -> int:
        found = 0
        for path in sorted(self._out.with_name(f"{self._out.name}.ledger").glob("shard-*.ledger")):
            with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
                assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
                found += connection.execute(query).fetchone()[0]
        return found


def _workers_of(driver: int) -> list[int]:
    """The processes for shards that a driver has started by now."""
    found: list[int] = []
    for children in Path("/proc").glob(f"{driver}/task/*/children"):  # by the thread that started them
        with suppress(OSError):
            found += map(int, children.read_text().split())
    return [child for child in found if _is_for_shards(child)]


def _is_for_shards(process: int) -> bool:
    with suppress(OSError):
        return b"spawn_main" in Path(f"/proc/{process}/cmdline").read_bytes()
    return False


def _kill(process: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def crash_shards(directory: Path, *, rows: int, kills: int, seed: int, workers: int = 3) -> ShardResult:
    """A run of ``rows`` rows in shards, with faults, whose workers and drivers are killed ``kills`` times."""
    settings = Settings(
        seed=seed,
        latency_s=0.03,
        latency_distribution="lognormal",
        faults={"503": 0.02, "disconnect": 0.01, "missing_usage": 0.01},
        requests_kept=10 * rows,
    )
    with Simulator(settings) as simulator:
        return ShardCrash(directory, simulator, rows=rows, kills=kills, seed=seed, workers=workers)()
