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
from collections.abc import Callable, Sequence
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


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What a run was worth after all its crashes."""

    rows: int
    lost: int
    twice: int
    wrong: int
    out_of_order: int
    answered: int
    paid_twice: int
    marked_maybe_billed: int
    sent_by_a_further_start: int
    seconds: float

    def promises(self) -> dict[str, bool]:
        """What was promised, and whether it was kept."""
        return {
            "no row is lost": self.lost == 0,
            "no row comes twice": self.twice == 0,
            "every answer is its own row's": self.wrong == 0,
            "rows are in the order of the input": self.out_of_order == 0,
            "what is paid twice is marked": self.paid_twice <= self.marked_maybe_billed,
            "a further start sends nothing": self.sent_by_a_further_start == 0,
        }

    def problems(self) -> list[str]:
        """What was promised and not kept; nothing, one hopes."""
        return [promise for promise, kept in self.promises().items() if not kept]


@dataclass(frozen=True, kw_only=True)
class Result(Judged):
    """``in_flight``: attempts under way at the kills, all together."""

    kills: int
    kills_before_the_end: int
    in_flight: int

    def promises(self) -> dict[str, bool]:
        return super().promises() | {
            "no more is paid twice than was in flight at the kills": self.paid_twice <= self.in_flight,
            "what was in flight is marked": self.marked_maybe_billed >= self.in_flight,
        }


class Crash:
    """One dataset, one simulator with faults, one command that is killed again and again.

    Attributes:
        options: of the command, beside its places. ``environment``: that it gets.
    """

    options: Sequence[str] = ()

    def __init__(
        self, kind: Kind, directory: Path, simulator: Simulator, *, texts: list[str], kills: int, seed: int
    ) -> None:
        self.simulator = simulator
        self.kills = kills
        self.rng = random.Random(seed)
        self.texts = texts
        self.out = directory / "out.jsonl"
        self.ledger = directory / "out.jsonl.ledger"
        self.environment = os.environ | {"MISTRAL_API_KEY": "a-key-for-tests"}
        self._kind = kind
        self._input = directory / "in.jsonl"
        lines = [json.dumps({"id": number, "text": text}) for number, text in enumerate(texts)]
        self._input.write_text("\n".join(lines) + "\n")
        self._began_s = time.monotonic()

    def moments(self) -> list[float]:
        """After how many answers in all somebody is killed."""
        requests = len(self.texts) / self._kind.texts_a_request
        return sorted(self.rng.uniform(0.0, requests) for _ in range(self.kills))

    def spawn(self) -> subprocess.Popen[bytes]:
        """A start."""
        command = [sys.executable, "-m", "mistill", *self._kind.command, str(self._input)]
        places = ["--out", str(self.out), "--endpoint", self.simulator.url]
        return subprocess.Popen(
            [*command, *places, *self.options],
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait_for(self, child: subprocess.Popen[bytes], answered: float) -> None:
        """Until so much is answered in all, or it has ended."""
        deadline_s = time.monotonic() + _LONGEST_WAIT_S
        while self.simulator.answered < answered and child.poll() is None:
            assert time.monotonic() < deadline_s, "the run hangs"
            time.sleep(0.002)

    def judged(self, last: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Once the last start has ended, and a further one: the fields of `Judged`."""
        assert last.wait(_LONGEST_WAIT_S) == 0, "the last start did not answer every row"
        records = [json.loads(line) for line in self.out.read_text().splitlines()]
        answered = self.simulator.answered
        paid = Counter(
            text
            for request in self.simulator.requests
            if request.status == 200
            for text in self._kind.texts_of(request.body)
        )
        assert self.spawn().wait(_LONGEST_WAIT_S) == 0, "a further start failed"
        ids = [record["id"] for record in records]
        wanted = Counter(self.texts)
        return {
            "rows": len(self.texts),
            "lost": len(set(range(len(self.texts))) - set(ids)),
            "twice": len(ids) - len(set(ids)),
            "wrong": sum(not self._kind.is_right(record, self.texts[record["id"]]) for record in records),
            "out_of_order": sum(one > other for one, other in pairwise(ids)),
            "answered": answered,
            "paid_twice": sum((Counter({text: paid[text] for text in wanted}) - wanted).values()),
            "sent_by_a_further_start": self.simulator.answered - answered,
            "seconds": time.monotonic() - self._began_s,
        }


def ask(ledger: Path, query: str) -> list[Any]:
    """What a ledger says."""
    with closing(sqlite3.connect(f"{ledger.as_uri()}?mode=ro", uri=True)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return connection.execute(query).fetchall()


MARKED = "SELECT id FROM attempts WHERE status = 'maybe_billed'"


class CrashRun(Crash):
    """The whole run is killed."""

    def __call__(self) -> Result:
        early = 0
        in_flight: set[int] = set()  # a start that is killed before it marks them leaves them for the next
        for moment in self.moments():
            was_running = self._start_and_kill(moment)
            early += was_running
            in_flight |= self._open_attempts()
            assert not self.out.exists() or not was_running, "an output before the end"
        judged = self.judged(self.spawn())
        return Result(
            **judged,
            kills=self.kills,
            kills_before_the_end=early,
            in_flight=len(in_flight),
            marked_maybe_billed=len(ask(self.ledger, MARKED)),
        )

    def _start_and_kill(self, moment: float) -> bool:
        """Whether it was still running when it was killed, a random moment after so many answers in all."""
        child = self.spawn()
        self.wait_for(child, moment)
        time.sleep(self.rng.uniform(0.0, 0.6 if moment < 1 else 0.05))
        was_running = child.poll() is None
        child.send_signal(signal.SIGKILL)
        child.wait()
        # The kill closes the child's sockets; what the simulator still answers, nobody receives.
        self.simulator.wait_until(lambda: self.simulator.in_flight == 0)
        return was_running

    def _open_attempts(self) -> set[int]:
        tables = "SELECT 1 FROM sqlite_master WHERE name = 'attempts'"
        if not self.ledger.exists() or not ask(self.ledger, tables):
            return set()
        return {attempt for (attempt,) in ask(self.ledger, "SELECT id FROM attempts WHERE status IS NULL")}


def _texts_with_duplicates(rows: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    texts: list[str] = []
    for number in range(rows):
        is_duplicate = bool(texts) and rng.random() < _SHARE_OF_DUPLICATES
        texts.append(rng.choice(texts) if is_duplicate else f"row {number}")
    return texts


def faulty(*, rows: int, seed: int, **more: Any) -> Settings:
    """What the simulator does in a run of so many rows."""
    return Settings(
        seed=seed,
        latency_s=0.03,
        latency_distribution="lognormal",
        faults={"503": 0.02, "disconnect": 0.01, "missing_usage": 0.01} | more.pop("faults", {}),
        requests_kept=10 * rows,
        **more,
    )


def crash(kind: Kind, directory: Path, *, rows: int, kills: int, seed: int) -> Result:
    """A run of ``rows`` rows with faults and duplicates, killed ``kills`` times."""
    settings = faulty(rows=rows, seed=seed, faults={"truncate": 0.01}, embedding_dimension=_DIMENSION)
    with Simulator(settings) as simulator:
        texts = _texts_with_duplicates(rows, seed)
        return CrashRun(kind, directory, simulator, texts=texts, kills=kills, seed=seed)()
