"""A random walk of all that one may do to a run: kill it, edit its input, change its options, retry, export."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.ledger_copy import query_copy

from mistill.simulator import Settings, Simulator
from mistill.simulator.settings import FaultName

_LONGEST_WAIT_S = 120.0
_PAUSE_S = 0.002
_FAULTS: dict[FaultName, float] = {"503": 0.03, "disconnect": 0.02, "truncate": 0.02, "missing_usage": 0.02}

# Options that may differ from start to start without making it another run.
_OPTIONS: tuple[tuple[str, ...], ...] = (
    (),
    ("--max-concurrent-requests", "2"),
    ("--max-concurrent-requests", "64"),
    ("--max-retries", "0"),
    ("--no-retry-failed",),
    ("--on-unknown", "hold"),
    ("--limit", "25"),
    ("--max-tokens-total", "100000"),
    ("--grace", "0.1"),
    ("--column", "generation=answer"),
    ("--extra-column", "model"),
    ("--dedupe",),
)


@dataclass
class Walk:
    """What a walk met. ``problems``: what was promised and not kept."""

    steps: Counter[str] = field(default_factory=Counter[str])
    signals: int = 0
    killed_under_way: int = 0
    records: int = 0
    in_flight: int = 0
    paid_twice: int = 0
    problems: list[str] = field(default_factory=list[str])


class RandomWalk:
    """One run, to which anything is done; after each step what is there must be right.

    Args:
        rows: of the input when it begins.
    """

    def __init__(self, directory: Path, simulator: Simulator, *, rows: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._simulator = simulator
        self._input = directory / "in.jsonl"
        self._out = directory / "out.jsonl"
        self._ledger = directory / "out.jsonl.ledger"
        self._errors = directory / "errors.txt"
        self._copies = directory / "copies"
        self._copies.mkdir()
        self._names = 0
        self._rows: list[dict[str, Any]] = []
        self._open_before: set[int] = set()
        self._asked_again = 0
        self.seen = Walk()
        self._add(rows)

    def __call__(self, steps: int) -> Walk:
        """So many steps at random, then a start that ends the run, and what is left compared with what was asked."""
        weighted: list[tuple[Callable[[], None], int]] = [
            (self._kill, 5), (self._interrupt, 2), (self._start, 2), (self._edit, 4), (self._retry, 2),
            (self._export, 3), (self._look, 1), (self._lose_output, 1),
        ]  # fmt: skip
        actions, weights = zip(*weighted, strict=True)
        for _ in range(steps):
            (action,) = self._rng.choices(actions, weights)
            self.seen.steps[action.__name__.lstrip("_")] += 1
            action()
            self._check_ledger()
        self._finish()
        return self.seen

    # --- what is done to it -----------------------------------------------------------------------------------------

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _interrupt(self) -> None:
        self._signal(self._rng.choice((signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))

    def _signal(self, number: signal.Signals) -> None:
        """A start, or a retry, that is ended by a signal at a random moment."""
        child = self._spawn(*self._command())
        wanted = self._simulator.answered + self._rng.randrange(30)
        deadline_s = time.monotonic() + self._rng.uniform(0.1, 1.5)
        while self._simulator.answered < wanted and child.poll() is None and time.monotonic() < deadline_s:
            time.sleep(_PAUSE_S)
        time.sleep(self._rng.uniform(0.0, 0.05))
        self.seen.killed_under_way += child.poll() is None
        self.seen.signals += 1
        child.send_signal(number)
        self._wait(child)
        self._simulator.wait_until(lambda: self._simulator.in_flight == 0)
        self._note_open_attempts()

    def _start(self) -> None:
        child = self._spawn(*self._command())
        self._promise(self._wait(child) in (0, 1, 3), "a start ends in a known way", of_child=True)

    def _retry(self) -> None:
        if not self._has_run():
            return
        where = self._rng.choice(("state=failure", "row<5", "finish_reason=stop, row<20", "state=completion"))
        before = self._answered_by_text()
        settings = self._rng.choice(((), ("--temperature", "0.5"), ("--model", "mistral-large-latest")))
        child = self._spawn("retry", str(self._out), "--where", where, *settings, *self._endpoint())
        if self._rng.random() < 0.5:
            time.sleep(self._rng.uniform(0.0, 0.6))
            child.send_signal(signal.SIGKILL)
        self._promise(self._wait(child) in (0, 1, 2, 3, -9), "a retry ends in a known way", of_child=True)
        self._simulator.wait_until(lambda: self._simulator.in_flight == 0)
        self._note_open_attempts()
        # What a person asks for again is paid again. What it did not come to, no start of the run goes on with.
        self._asked_again += sum((self._answered_by_text() - before).values())

    def _edit(self) -> None:
        """Rows added anywhere, removed, edited, put in another order, doubled."""
        for _ in range(self._rng.randint(1, 4)):
            place = self._rng.randrange(len(self._rows) or 1)
            match self._rng.randrange(6):
                case 0 | 1:
                    self._add(self._rng.randint(1, 10))
                case 2:
                    del self._rows[place : place + 3]
                case 3 if self._rows:
                    self._rows[place] = {"id": self._name(), "text": f"text {self._names}"}
                case 4:
                    self._rng.shuffle(self._rows)
                case _:
                    self._rows[place:place] = [dict(row) for row in self._rows[place : place + 2]]
        if not self._rows:
            self._add(3)
        self._write_input()

    def _export(self) -> None:
        if not self._has_run():
            return
        suffix = self._rng.choice(("jsonl", "csv", "json"))
        to = self._out.with_name(f"export.{suffix}")
        child = self._spawn("export", str(self._out), "--to", str(to), "--partial", "--overwrite")
        if self._promise(self._wait(child) == 0, "what there is can be exported", of_child=True):
            self._check_records(_read(to))

    def _look(self) -> None:
        if self._has_run():
            for command in ("status", "rows"):  # a status of failed rows is 1
                code = self._wait(self._spawn(command, str(self._out)))
                self._promise(code in (0, 1), f"{command} works at any time", of_child=True)

    def _lose_output(self) -> None:
        self._out.unlink(missing_ok=True)

    # --- what must be right ------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        """With no faults and no limits, all of the input comes out, each row once, with its own answer."""
        self._simulator.change(faults={})
        child = self._spawn(*self._run_command())
        self._promise(self._wait(child) == 0, "a last start answers every row", of_child=True)
        records = [json.loads(line) for line in self._out.read_text().splitlines()]
        self.seen.records = len(records)
        rows = [{name: record[name] for name in ("id", "text")} for record in records]
        self._promise(rows == self._rows, "the output has the rows of the input, in order, each once")
        self._check_records(records)
        self._promise(all(record["generation"] for record in records), "every row has its answer")
        answered = self._simulator.answered
        self._promise(self._wait(self._spawn(*self._run_command())) == 0, "a further start is good")
        self._promise(self._simulator.answered == answered, "a further start sends nothing")
        self._promise(
            not self._query("SELECT 1 FROM attempts WHERE status IS NULL"), "no attempt is left open"
        )
        records_of_requests = "records JOIN rows ON id = row WHERE same_as IS NULL"
        most = Counter(
            json.loads(record)["text"]
            for (record,) in self._query(f"SELECT record FROM {records_of_requests}")
        )
        self.seen.in_flight = len(self._open_before)
        self.seen.paid_twice = sum((self._answered_by_text() - most).values())
        allowed = self.seen.in_flight + self._asked_again + self._lost_answers()
        self._promise(
            self.seen.paid_twice <= allowed, "no more is paid twice than was in flight, or asked for again"
        )

    def _lost_answers(self) -> int:
        """Answers that a fault cut on their way: the simulator gave them, and nobody has them."""
        return self._query("SELECT count(*) FROM attempts WHERE status = 'maybe_billed'")[0][0]

    def _check_records(self, records: list[dict[str, Any]]) -> None:
        for record in records:
            answer = record.get("generation", record.get("answer"))
            if answer and answer != f"Echo: {record['text']}":
                self.seen.problems.append(f"{record['text']!r} has the answer {answer!r}")

    def _check_ledger(self) -> None:
        if self._ledger.exists():
            self._promise(self._query("PRAGMA integrity_check") == [("ok",)], "the ledger is sound")

    def _promise(self, kept: bool, promise: str, *, of_child: bool = False) -> bool:
        if not kept:
            words = self._errors.read_text("utf-8", "replace")[-500:] if of_child else ""
            self.seen.problems.append(f"not kept: {promise} {words}")
        return kept

    # --- how --------------------------------------------------------------------------------------------------------

    def _add(self, count: int) -> None:
        for _ in range(count):
            row = {"id": self._name(), "text": f"text {self._names}"}
            self._rows.insert(self._rng.randint(0, len(self._rows)), row)
        self._write_input()

    def _name(self) -> int:
        self._names += 1
        return self._names

    def _write_input(self) -> None:
        self._input.write_text("".join(json.dumps(row) + "\n" for row in self._rows))

    def _command(self) -> tuple[str, ...]:
        options = self._rng.choices(_OPTIONS, k=2)
        return (
            *self._run_command(),
            *dict.fromkeys(options[0]),
            *(() if options[0] == options[1] else options[1]),
        )

    def _run_command(self) -> tuple[str, ...]:
        prompt = ("--prompt", "{{ text }}", "--model", "mistral-small-latest")
        return ("run", str(self._input), "--out", str(self._out), *prompt, *self._endpoint())

    def _endpoint(self) -> tuple[str, ...]:
        return ("--endpoint", self._simulator.url)

    def _spawn(self, *command: str) -> subprocess.Popen[bytes]:
        environment = os.environ | {"MISTRAL_API_KEY": "a-key-for-tests"}
        program = [sys.executable, "-m", "mistill"]
        with self._errors.open("wb") as errors:
            return subprocess.Popen(
                [*program, *command], env=environment, stdout=subprocess.DEVNULL, stderr=errors
            )

    def _wait(self, child: subprocess.Popen[bytes]) -> int:
        try:
            return child.wait(_LONGEST_WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            self._promise(False, "no command hangs", of_child=True)
            return child.wait()

    def _has_run(self) -> bool:
        return self._ledger.exists() and bool(self._query("SELECT 1 FROM sqlite_master WHERE name = 'rows'")) and bool(
            self._query("SELECT 1 FROM rows")
        )  # fmt: skip

    def _note_open_attempts(self) -> None:
        if self._ledger.exists() and self._query("SELECT 1 FROM sqlite_master WHERE name = 'attempts'"):
            self._open_before |= {
                number for (number,) in self._query("SELECT id FROM attempts WHERE status IS NULL")
            }

    def _answered_by_text(self) -> Counter[str]:
        requests = self._simulator.requests
        return Counter(one.body["messages"][-1]["content"] for one in requests if one.status == 200)

    def _query(self, query: str) -> list[Any]:
        return query_copy(self._ledger, self._copies, query)


def _read(path: Path) -> list[dict[str, Any]]:
    text = path.read_text()
    if path.suffix == ".csv":
        return list(csv.DictReader(text.splitlines()))
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def walk(directory: Path, *, rows: int, steps: int, seed: int) -> Walk:
    """A walk of so many steps over a run whose simulator has faults."""
    settings = Settings(
        seed=seed, latency_s=0.02, latency_distribution="lognormal", faults=_FAULTS, requests_kept=1_000_000
    )
    with Simulator(settings) as simulator:
        return RandomWalk(directory, simulator, rows=rows, seed=seed)(steps)
