"""Kill a run of batch jobs, at a point or at random, start it again until it ends, and look at what is left."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.error import HTTPError

import msgspec
from tests.crash.batch_child import KEY, LEAKED, Spec
from tests.crash.ledger_copy import query_copy

from mistill.cli.exit_codes import Exit
from mistill.ledger.jobs import decode_record
from mistill.simulator import Simulator

_LONGEST_WAIT_S = 60.0
_MOST_STARTS = 12
POISON = "poisoned"


@dataclass(frozen=True)
class Condition:
    """What the server and its user do to a run.

    Attributes:
        settings: of the simulator. ``changes``: others, once so many starts have been made.
        options: of each start. ``options_of``: further ones, of the start of a number; those of the last start of all
            are of -1.
        command_of: what is called in place of such a start: ``cancel``; or ``None``.
        tuning: constants of delivery that differ.
        hides: the server hides jobs or lines: what is paid once more is marked.
        stops: starts may end before all is done, until the last change has been made.
        fails: texts whose rows fail.
        misfits: answers that do not fit, so that rows are asked again, eight times at most.
        two_at_once: two processes are started each time.
        has_faults: answers to live requests are lost, and the usage of some is not told.
        pause_s: between two starts.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    changes: dict[int, dict[str, Any]] = field(default_factory=dict[int, dict[str, Any]])
    options: tuple[str, ...] = ()
    options_of: Callable[[int], tuple[str, ...]] = lambda _: ()
    command_of: Callable[[int], str | None] = lambda _: None
    tuning: dict[str, float] = field(default_factory=dict[str, float])
    hides: bool = False
    stops: bool = False
    fails: str | None = None
    misfits: bool = False
    two_at_once: bool = False
    has_faults: bool = False
    pause_s: float = 0.0


@dataclass
class Result:
    """What a run was worth after all its crashes."""

    starts: int = 0
    kills: int = 0
    jobs: int = 0
    doubtful: int = 0
    billed: int = 0
    answered: int = 0
    marked: int = 0
    paid_twice: int = 0
    problems: list[str] = field(default_factory=list[str])


_REASKED = """SELECT position FROM rows
    WHERE (SELECT count(*) FROM attempts WHERE attempts.row = rows.id AND status = 'answered') > 1"""


class Starter:
    """Processes that start runs, see `batch_child`."""

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "tests.crash.batch_child"]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait(_LONGEST_WAIT_S)
        self._server.stdout.close()

    def run(self, spec: Spec, *, kill_after_s: float | None = None, twice: bool = False) -> int:
        """How a new process ended: its exit code, or minus the signal's number.

        Args:
            twice: two such processes are started; it is the first to have the ledger that is told of.
        """
        processes = [self._begin(spec) for _ in range(1 + twice)]
        if kill_after_s is not None and not self._says_more(kill_after_s):
            for process in processes:
                os.kill(process, signal.SIGKILL)
        codes = [self._end(processes) for _ in processes]
        others = [code for code in codes if code != Exit.STOPPED]  # that one found the ledger in use
        return others[0] if others else Exit.STOPPED

    def _begin(self, spec: Spec) -> int:
        """The number of the new process."""
        assert self._server.stdin is not None
        self._server.stdin.write(msgspec.json.encode(spec) + b"\n")
        return self._line()

    def _end(self, processes: Sequence[int]) -> int:
        if not self._says_more(_LONGEST_WAIT_S):
            for process in processes:
                os.kill(process, signal.SIGKILL)
            raise AssertionError("a start hangs")
        return self._line()

    def _says_more(self, within_s: float) -> bool:
        assert self._server.stdout is not None
        return bool(select.select([self._server.stdout], [], [], within_s)[0])

    def _line(self) -> int:
        assert self._server.stdout is not None
        return int(self._server.stdout.readline())


class BatchRun:
    """One dataset, one simulator, one command that is killed again and again.

    Args:
        texts: of the rows; some may be alike.

    Attributes:
        rows: id → text, in the order of the input.
        hides: see `Condition`; also where a person asks again.
    """

    def __init__(
        self,
        directory: Path,
        simulator: Simulator,
        starter: Starter,
        condition: Condition,
        texts: Sequence[str],
        *,
        options: tuple[str, ...] = (),
        tuning: Mapping[str, float] | None = None,
    ) -> None:
        self.result = Result()
        self._options = () if "--batch-rows" in condition.options else options
        self._tuning = dict(tuning or {}) | condition.tuning
        self.condition = condition
        self._simulator = simulator
        self._starter = starter
        self._input = directory / "in.jsonl"
        self._out = directory / "out.jsonl"
        self._ledger = directory / "out.jsonl.ledger"
        self._words = directory / "words.txt"
        self._trace = directory / "trace.txt"
        self._trace.touch()
        self._schema = directory / "schema.json"
        self._schema.write_text(
            '{"type": "object", "properties": {"echo": {"type": "string"}}, "required": ["echo"]}'
        )
        self._copies = directory / "copies"
        self._copies.mkdir()
        self.hides = condition.hides
        self.rows: dict[int, str] = {}
        self.edit(dict(enumerate(texts)))

    # --- starts -----------------------------------------------------------------------------------------------------

    def start(
        self,
        *options: str,
        point: tuple[str, int] | None = None,
        crossing: int | None = None,
        kill_after_s: float | None = None,
        is_last: bool = False,
    ) -> int:
        """Its exit code, or minus the number of the signal that ended it. ``is_last``: no options but these."""
        number, condition = self.result.starts, self.condition
        if changed := condition.changes.get(number):
            self._simulator.change(**changed)
        time.sleep(condition.pause_s)
        if condition.command_of(number) == "cancel":
            return self.call("cancel", point=point, crossing=crossing, kill_after_s=kill_after_s)
        arguments = self._run_arguments(options or (() if is_last else condition.options_of(number)))
        return self._call(arguments, point=point, crossing=crossing, kill_after_s=kill_after_s)

    def call(
        self,
        command: str,
        *options: str,
        point: tuple[str, int] | None = None,
        crossing: int | None = None,
        kill_after_s: float | None = None,
    ) -> int:
        """Another command, about what has been run; its exit code, or minus the signal's number."""
        arguments = [command, str(self._out), "--endpoint", self._simulator.url, *options]
        return self._call(arguments, point=point, crossing=crossing, kill_after_s=kill_after_s)

    def _call(
        self,
        arguments: list[str],
        *,
        point: tuple[str, int] | None,
        crossing: int | None,
        kill_after_s: float | None,
    ) -> int:
        self.result.starts += 1
        spec = Spec(
            arguments=arguments,
            words=str(self._words),
            trace=str(self._trace),
            point=point,
            crossing=crossing,
            tuning=self._tuning,
            lines_together=10,
        )
        code = self._starter.run(spec, kill_after_s=kill_after_s, twice=self.condition.two_at_once)
        self.result.kills += code == -signal.SIGKILL
        self._promise(code != LEAKED, "no key is in what is uploaded, or said of it")
        good = {-signal.SIGKILL, Exit.ANSWERED, Exit.SOME_FAILED, Exit.WAITING}
        self._promise(code in good or self.condition.stops, f"no {arguments[0]} ends with {code}", tell=True)
        return code

    def edit(self, rows: dict[int, str]) -> None:
        """Other rows in the input."""
        self.rows = rows
        lines = [json.dumps({"id": number, "text": text}) + "\n" for number, text in rows.items()]
        self._input.write_text("".join(lines))

    def finish(self) -> None:
        """Starts it until it ends, and looks at all that was promised."""
        code = None
        for _ in range(_MOST_STARTS):
            code = self.start(*self.condition.options_of(-1), is_last=True)
            if code in (Exit.ANSWERED, Exit.SOME_FAILED):
                break
        fails = self.condition.fails is not None
        self._promise(
            code == (Exit.SOME_FAILED if fails else Exit.ANSWERED), f"it ends well: {code}", tell=True
        )
        if not self._promise(self._out.exists(), "there is an output"):
            return
        self._check_output()
        self._check_bill()
        self._simulator.change(batch_list_lag_s=0.0, batch_busy=0.0, batch_download_cut=0.0)
        self._check_quiet()
        self._check_jobs()

    def points(self) -> list[str]:
        """Those that all starts have passed by now, in order."""
        return self._trace.read_text().splitlines()

    def _run_arguments(self, further: Sequence[str]) -> list[str]:
        lane = () if "--lane" in (*further, *self.condition.options) else ("--lane", "batch")
        prompt = '<<answer: {"echo": "{{ text }}"}>>' if self.condition.misfits else "{{ text }}"
        asked = ("--model", "mistral-small-latest", "--prompt", prompt, *lane)
        if self.condition.misfits:
            asked += ("--schema", str(self._schema), "--schema-mode", "json_object")
        paths = (str(self._input), "--out", str(self._out), "--endpoint", self._simulator.url)
        return ["run", *paths, *asked, *self._options, *self.condition.options, *further]

    # --- promises ---------------------------------------------------------------------------------------------------

    def check_ledger(self) -> None:
        """What holds between any two starts."""
        if not self._ledger.exists() or not self._query("SELECT 1 FROM sqlite_master WHERE name = 'jobs'"):
            return
        self._promise(self._query("PRAGMA integrity_check") == [("ok",)], "the ledger is sound")
        answers = self._query(
            """SELECT record, body FROM outcomes AS o JOIN records AS r ON r.row = o.row
            JOIN answers AS a ON a.attempt = o.answer WHERE state = 'completion'"""
        )
        for record, body in answers:
            text = json.loads(record)["text"]
            self._promise(f'"Echo: {text}"'.encode() in bytes(body), f"{text!r} has its own answer")
        statuses = dict(self._query("SELECT id, status FROM attempts"))
        for number in self._simulator.billed_ids():
            status = statuses.get(int(number), "unknown")
            self._promise(status in (None, "answered", "maybe_billed"), f"what is billed is not {status}")
        tags = {tag for (tag,) in self._query("SELECT tag FROM jobs")}
        for job in self._jobs_at_server():
            self._promise((job["metadata"] or {}).get("mistill_job") in tags, "jobs at the server are known")

    def _check_output(self) -> None:
        records = [json.loads(line) for line in self._out.read_text().splitlines()]
        right_order = [record["id"] for record in records] == list(self.rows)
        self._promise(right_order, "every row is in the output, once, in the order of the input")
        reasked = {place for (place,) in self._query(_REASKED)} if self.condition.misfits else set[int]()
        for place, record in enumerate(records):
            text, answer = self.rows[record["id"]], record["generation"]
            if self.condition.fails is not None and self.condition.fails in text:
                self._promise(answer is None and bool(record["error"]), f"{text!r} fails by itself: {record}")
            elif place in reasked:  # what it is asked then has not its own text any more
                self._promise(bool(answer), f"{text!r} is answered")
            else:
                wanted = json.dumps({"echo": text}) if self.condition.misfits else f"Echo: {text}"
                self._promise(answer == wanted, f"{text!r} has its own answer, not {answer!r}")

    def _check_jobs(self) -> None:
        self._promise(not self._query("SELECT 1 FROM attempts WHERE status IS NULL"), "no attempt is open")
        kept = {
            tag: (state, decode_record(record))
            for tag, state, record in self._query("SELECT tag, state, record FROM jobs")
        }
        self.result.jobs = len(kept)
        self.result.doubtful = sum(state == "doubtful" for state, _ in kept.values())
        for tag, (state, record) in kept.items():
            self._promise(state in ("read", "dropped", "doubtful"), f"job {tag} is at its end, not {state}")
            self._promise(state != "read" or self._has_left(record), f"the files of job {tag} are deleted")
        for job in self._jobs_at_server():
            tag = (job["metadata"] or {}).get("mistill_job")
            if not self._promise(tag in kept, f"the job {job['id']} at the server is in the ledger"):
                continue
            state, record = kept[tag]
            hidden = state == "doubtful" and self.hides
            known = record.job_id == job["id"] or hidden or job["status"] == "CANCELLED"
            self._promise(known, f"the job {job['id']} at the server is known, doubtful or cancelled")
            self._promise(KEY not in str(job), "no key is in a job")
        if not self.result.doubtful:
            files = self._simulator.stats().batch.files
            self._promise(not files, f"no file of ours is left at the server, and {files} are")
        leftovers = list(self._ledger.with_name(f"{self._ledger.name}.jobs").glob("*"))
        self._promise(not leftovers, f"no file of a job is left here: {leftovers}")
        for path in self._ledger.parent.glob("out.jsonl*"):
            self._promise(path.is_dir() or KEY.encode() not in path.read_bytes(), f"no key is in {path.name}")

    @staticmethod
    def _has_left(record: Any) -> bool:
        return record.is_clean or record.file_id is None

    def _check_bill(self) -> None:
        stats = self._simulator.stats()
        attempts = {
            number: (row, asked, status, job)
            for number, row, asked, status, job in self._query(
                "SELECT id, row, asked, status, job FROM attempts"
            )
        }
        statuses = Counter(status for _, _, status, _ in attempts.values())
        result = self.result
        by_line = self._simulator.billed_ids()
        result.billed = by_line.total() + self._answered_live()
        result.answered, result.marked = statuses["answered"], statuses["maybe_billed"]
        self._promise(
            result.billed <= result.answered + result.marked, f"what is billed is known or marked: {result}"
        )
        # A row that is asked again may be asked the very same thing, where its answers were alike.
        most_asks = 9 if self.condition.misfits else 1
        paid: Counter[tuple[int, int]] = Counter()
        for number, times in by_line.items():
            if self._promise(int(number) in attempts, f"the line {number} on the bill is in the ledger"):
                paid[attempts[int(number)][:2]] += times
        failed: Counter[tuple[int, int]] = Counter()
        for row, asked, status, job in attempts.values():
            if status == "answered":
                paid[row, asked] += job is None
            failed[row, asked] += status == "failed" and job is not None
        result.paid_twice = sum(max(0, times - most_asks) for times in paid.values())
        if not self.hides:
            self._promise(not result.paid_twice, f"nothing is paid twice: {result.paid_twice}")
        rows: Counter[int] = Counter()
        for (row, _), times in paid.items():
            rows[row] += times
        most = max(rows.values(), default=0)
        self._promise(self.hides or most <= most_asks, f"no row is asked too often: {most} times")
        self._promise(max(failed.values(), default=0) <= 6, "no request fails in more jobs than it may")
        (cost,) = self._query("SELECT coalesce(sum(cost), 0) FROM attempts")[0]
        is_right = abs(cost - stats.cost) < 1e-9 or (result.marked > 0 and cost < stats.cost)
        self._promise(is_right or self.condition.has_faults, f"the cost is {stats.cost}, not {cost}")

    def _check_quiet(self) -> None:
        before = self._sent()
        codes = (Exit.SOME_FAILED, Exit.ANSWERED)
        further = self.condition.options_of(-1)
        if self.condition.fails is not None:
            further += ("--no-retry-failed",)
        self._promise(self.start(*further, is_last=True) in codes, "a further start is good", tell=True)
        self._promise(self._sent() == before, f"a further start sends nothing: {before}, {self._sent()}")

    def _sent(self) -> tuple[int, int]:
        return self._answered_live(), sum(self._simulator.stats().batch.jobs.values())

    def _answered_live(self) -> int:
        requests = self._simulator.requests
        return sum(one.path == "/v1/chat/completions" and one.status == 200 for one in requests)

    # --- how --------------------------------------------------------------------------------------------------------

    def _promise(self, kept: bool, promise: str, *, tell: bool = False) -> bool:
        if not kept:
            words = self._words.read_text("utf-8", "replace")[-500:] if tell else ""
            self.result.problems.append(f"{promise} {words}")
        return kept

    def _jobs_at_server(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        while True:
            query = f"/v1/batch/jobs?page_size=100&page={len(found) // 100}"
            asked = urllib.request.Request(
                self._simulator.url + query, headers={"Authorization": f"Bearer {KEY}"}
            )
            try:
                with urllib.request.urlopen(asked) as answer:
                    page = json.load(answer)["data"]
            except HTTPError:  # one of its faults
                continue
            found += page
            if len(page) < 100:
                return found

    def _query(self, query: str) -> list[Any]:
        return query_copy(self._ledger, self._copies, query)


def make_texts(rows: int, *, seed: int = 0, alike: float = 0.2) -> list[str]:
    """Some of them alike."""
    rng = random.Random(seed)
    texts: list[str] = []
    for number in range(rows):
        texts.append(rng.choice(texts) if texts and rng.random() < alike else f"row {number}")
    return texts
