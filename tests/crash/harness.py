"""Kill a run with SIGKILL at random moments, resume it each time, and look at what is left."""

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
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from mistill.simulator import Settings, Simulator
from mistill.simulator.catalogue import vector

_DIMENSION = 4
_SHARE_OF_DUPLICATES = 0.2
_LONGEST_WAIT_S = 120.0


@dataclass(frozen=True)
class Kind:
    """What is asked for: ``command`` of the program; what a request asks and what a record should be."""

    command: tuple[str, ...]
    texts_a_request: int
    texts_of: Callable[[Any], list[str]]
    is_right: Callable[[Any, str], bool]


COMPLETIONS = Kind(
    ("run", "--model", "mistral-small-latest", "--prompt", "{{ text }}"),
    1,
    lambda body: [body["messages"][-1]["content"]],
    lambda record, text: record["generation"] == f"Echo: {text}",
)
VECTORS = Kind(
    ("embed", "--max-batch-tokens", "60"),  # a text is taken for three tokens or four
    18,
    lambda body: body["input"],
    lambda record, text: record["embedding"] == vector(text, _DIMENSION),
)


@dataclass(frozen=True)
class Result:
    """What a run was worth after all its crashes. ``in_flight``: attempts under way at the kills, all together."""

    rows: int
    kills: int
    kills_before_the_end: int
    lost: int
    twice: int
    wrong: int
    out_of_order: int
    answered: int
    paid_twice: int
    in_flight: int
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
            "no more is paid twice than was in flight at the kills": self.paid_twice <= self.in_flight,
            "what was in flight is marked": self.marked_maybe_billed >= self.in_flight,
            "a further start sends nothing": self.sent_by_a_further_start == 0,
        }
        return [promise for promise, kept in promises.items() if not kept]


class CrashRun:
    """One dataset, one simulator with faults, one command that is killed again and again."""

    def __init__(
        self, kind: Kind, directory: Path, simulator: Simulator, *, rows: int, kills: int, seed: int
    ) -> None:
        self._kind = kind
        self._rng = random.Random(seed)
        self._simulator = simulator
        self._kills = kills
        self._input = directory / "in.jsonl"
        self._out = directory / "out.jsonl"
        self._ledger = directory / "out.jsonl.ledger"
        self._texts = self._make_texts(rows)
        lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(self._texts)]
        self._input.write_text("\n".join(lines) + "\n")

    def __call__(self) -> Result:
        began_s = time.monotonic()
        requests = len(self._texts) / self._kind.texts_a_request
        thresholds = sorted(self._rng.uniform(0.0, requests) for _ in range(self._kills))
        early = 0
        in_flight: set[int] = set()  # a start that is killed before it marks them leaves them for the next
        for threshold in thresholds:
            was_running = self._start_and_kill(threshold)
            early += was_running
            in_flight |= self._open_attempts()
            assert not self._out.exists() or not was_running, "an output before the end"
        self._finish()
        records = [json.loads(line) for line in self._out.read_text().splitlines()]
        answered = self._simulator.answered
        answered_by_text = Counter(
            text
            for request in self._simulator.requests
            if request.status == 200
            for text in self._kind.texts_of(request.body)
        )
        self._finish()
        wanted = Counter(self._texts)
        ids = [record["id"] for record in records]
        return Result(
            rows=len(self._texts),
            kills=self._kills,
            kills_before_the_end=early,
            lost=len(set(range(len(self._texts))) - set(ids)),
            twice=len(ids) - len(set(ids)),
            wrong=sum(not self._kind.is_right(record, self._texts[record["id"]]) for record in records),
            out_of_order=sum(one > other for one, other in pairwise(ids)),
            answered=answered,
            paid_twice=sum((answered_by_text - wanted).values()),
            in_flight=len(in_flight),
            marked_maybe_billed=len(self._query("SELECT id FROM attempts WHERE status = 'maybe_billed'")),
            sent_by_a_further_start=self._simulator.answered - answered,
            seconds=time.monotonic() - began_s,
        )

    def _make_texts(self, rows: int) -> list[str]:
        texts: list[str] = []
        for number in range(rows):
            is_duplicate = bool(texts) and self._rng.random() < _SHARE_OF_DUPLICATES
            texts.append(self._rng.choice(texts) if is_duplicate else f"row {number}")
        return texts

    def _start_and_kill(self, threshold: float) -> bool:
        """Whether it was still running when it was killed, a random moment after so many answers in all."""
        child = self._spawn()
        deadline_s = time.monotonic() + _LONGEST_WAIT_S
        while self._simulator.answered < threshold and child.poll() is None:
            assert time.monotonic() < deadline_s, "the run hangs"
            time.sleep(0.002)
        time.sleep(self._rng.uniform(0.0, 0.6 if threshold < 1 else 0.05))
        was_running = child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        # The kill closes the child's sockets; what the simulator still answers, nobody receives.
        self._simulator.wait_until(lambda: self._simulator.in_flight == 0)
        return was_running

    def _finish(self) -> None:
        child = self._spawn()
        assert child.wait(_LONGEST_WAIT_S) == 0, "the last start did not answer every row"

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "mistill", *self._kind.command, str(self._input)]
        options = ["--out", str(self._out), "--endpoint", self._simulator.url]
        environment = os.environ | {"MISTRAL_API_KEY": "a-key-for-tests"}
        return subprocess.Popen(
            [*command, *options], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def _open_attempts(self) -> set[int]:
        if not self._ledger.exists():
            return set()
        assert self._query("PRAGMA integrity_check") == [("ok",)]
        if not self._query("SELECT 1 FROM sqlite_master WHERE name = 'attempts'"):
            return set()
        return {attempt for (attempt,) in self._query("SELECT id FROM attempts WHERE status IS NULL")}

    def _query(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(f"{self._ledger.as_uri()}?mode=ro", uri=True)) as connection:
            return connection.execute(query).fetchall()


def crash(kind: Kind, directory: Path, *, rows: int, kills: int, seed: int) -> Result:
    """A run of ``rows`` rows with faults and duplicates, killed ``kills`` times."""
    settings = Settings(
        seed=seed,
        latency_s=0.03,
        latency_distribution="lognormal",
        faults={"503": 0.02, "disconnect": 0.01, "truncate": 0.01, "missing_usage": 0.01},
        requests_kept=10 * rows,
        embedding_dimension=_DIMENSION,
    )
    with Simulator(settings) as simulator:
        return CrashRun(kind, directory, simulator, rows=rows, kills=kills, seed=seed)()
