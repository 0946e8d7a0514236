"""``python -m benchmarks.batch_faults``: batch jobs through three tools, while something goes wrong, and again.

    python -m benchmarks.batch_faults --install     makes the others' environments, under --peers
    python -m benchmarks.batch_faults               all, a quarter of an hour: the tables of docs/batch.md
    python -m benchmarks.batch_faults --only killed --tools mistill

The official SDK's ``BatchClient`` (by its ``run``, and by its parts), curator's batches with Mistral, and ours. Each
gets the same rows, in its own environment, as a script of `benchmarks/batch_peers` that uses it as its documentation
says. It is started while the fault is there, and once more when it is gone, by the same command, with what it has
kept. Counted is what the tool gives (its answers), what the simulator has billed, and how much of that the tool knows
of. Writes benchmarks/results/batch_faults.json if all was measured.
"""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import tempfile
import textwrap
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.__main__ import machine
from benchmarks.peers import Found, compare, python_of, versions
from mistill.simulator import Fault, Settings, Simulator

ROWS = 200
MODEL = "mistral-small-latest"
LIMIT_S = 100
_USUAL = Settings(batch_line_s=0.001, batch_hour_s=60)
_WIDTH = 64
_LOOK_EVERY_S = 0.003
_PEERS = Path(__file__).parent / "batch_peers"


@dataclass(frozen=True)
class Tool:
    """What is measured.

    Attributes:
        script: in `benchmarks/batch_peers`, with the arguments that come before what is asked.
        known: how many answers that may be on the bill it has a count of, by what it has kept in its folder.
        environment: the folder of its own environment; empty: it is this one.
        packages: what is installed there, the first of which gives the version shown.
    """

    name: str
    script: tuple[str, ...]
    known: Callable[[Path], int]
    environment: str = ""
    packages: tuple[str, ...] = ()


def _known_to_sdk(kept: Path) -> int:
    """By the server's counts of the jobs that it has read."""
    path = kept / "counted.json"
    return sum(json.loads(path.read_text()).values()) if path.exists() else 0


def _known_to_curator(kept: Path) -> int:
    """By the server's counts of all batches that are in its tracker."""
    counts: dict[str, int] = {}
    for path in kept.glob("*/batch_objects.jsonl"):
        tracker = json.loads(path.read_text())
        for state in ("submitted", "to_resubmit", "finished", "downloaded"):
            for batch in tracker[f"{state}_batches"].values():
                counts[batch["id"]] = batch["request_counts"]["succeeded"]
    return sum(counts.values())


def _known_to_us(kept: Path) -> int:
    """Attempts that are answered, maybe billed, or with the server, in the ledger."""
    path = kept / "answers.jsonl.ledger"
    if not path.exists():
        return 0
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as ledger:
        asked = "SELECT count(*) FROM attempts WHERE status IN ('answered', 'maybe_billed') OR status IS NULL"
        return ledger.execute(asked).fetchone()[0]


_SDK = ("mistralai==3.7.0",)
# The newest instructor has no `handle_response_model`, without which curator's batches with Mistral raise at once.
_CURATOR = ("bespokelabs-curator==0.1.31", "instructor==1.15.1")
TOOLS = (
    Tool("SDK, `run()`", ("sdk.py", "run"), _known_to_sdk, "sdk", _SDK),
    Tool("SDK, its parts", ("sdk.py", "parts"), _known_to_sdk, "sdk", _SDK),
    Tool("curator", ("curated.py",), _known_to_curator, "curator", _CURATOR),
    Tool("mistill", ("ours.py",), _known_to_us),
)


@dataclass
class Start:
    """A tool's process while it runs: what a trouble can look at, and do."""

    simulator: Simulator
    process: subprocess.Popen[bytes]
    done: set[str] = field(default_factory=set)

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)

    def jobs(self) -> list[dict[str, Any]]:
        return _jobs(self.simulator)


@dataclass(frozen=True)
class Trouble:
    """What goes wrong during the first start.

    Attributes:
        settings: of the simulator, for so long. ``once``: more of them, which hold until ``is_over`` does.
        act: called over and over while the tool runs.
        dies: the tool is killed as soon as its own client has the answer to the creation of its first job.
        refused: the text of a row that is refused with 422, at both starts.
    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    once: dict[str, Any] = field(default_factory=dict)
    is_over: Callable[[Start], bool] = lambda _: False
    act: Callable[[Start], None] = lambda _: None
    dies: bool = False
    refused: str = ""


def _has_job(start: Start) -> bool:
    return bool(start.simulator.stats().batch.jobs)


def _has_file(start: Start) -> bool:
    return start.simulator.stats().batch.files > 0


def _has_cut(start: Start) -> bool:
    return any(one.path.endswith("/content") and one.status == 0 for one in list(start.simulator.requests))


def _has(state: str) -> Callable[[Start], bool]:
    return lambda start: state in start.simulator.stats().batch.jobs


def _kill_at_work(start: Start) -> None:
    """Killed when its job has done a fourth: long since made, and known to whoever wrote that down."""
    if not start.done and any(job["completed_requests"] * 4 >= job["total_requests"] for job in start.jobs()):
        start.done.add("killed")
        start.kill()


def _cancel_half_way(start: Start) -> None:
    """Somebody else cancels it, at Mistral's console say."""
    for job in start.jobs() if not start.done else ():
        if job["completed_requests"] * 2 >= job["total_requests"]:
            start.done.add("cancelled")
            _ask(start.simulator, f"/v1/batch/jobs/{job['id']}/cancel", "POST")
            start.simulator.change(batch_line_s=0)


_SLOW = {"batch_line_s": 0.02}
_HIDDEN = {"batch_list_lag_s": 100_000, "batch_filter": "ignored"}
_CUT = {"batch_download_cut": 1}
_OUT_OF_TIME = {"batch_line_s": 0.04, "batch_hour_s": 0.1}
_BILLED = {"batch_bills_cancelled": True}
TROUBLES = (
    Trouble("nothing"),
    Trouble("killed while its job runs", _SLOW, act=_kill_at_work),
    Trouble("killed right after its job was made", dies=True),
    Trouble("answer to create lost", once={"batch_create_lost": 1}, is_over=_has_job),
    Trouble("answer to create lost, and no list has it", _HIDDEN, {"batch_create_lost": 1}, _has_job),
    Trouble("answer to upload lost", once={"batch_upload_lost": 1}, is_over=_has_file),
    Trouble("download cut: the connection ends", {"seed": 1}, _CUT, _has_cut),
    Trouble("download cut: as if it were whole", {"seed": 0}, _CUT, _has_cut),
    Trouble("3% of the lines in no file", {"batch_missing": 0.03}),
    Trouble("5% of the lines twice", {"batch_duplicate": 0.05}),
    Trouble("10% fail with 500, in the error file", {"batch_error_line": 0.1}),
    Trouble(
        "10% fail with 500, in the output file", {"batch_error_line": 0.1, "batch_errors_in": "output_file"}
    ),
    Trouble("one row gets 422, always", refused="Row 77 "),
    Trouble("2% of the lines break off half-way", {"batch_broken_line": 0.02}),
    Trouble("TIMEOUT_EXCEEDED, partial results", _BILLED, _OUT_OF_TIME, _has("TIMEOUT_EXCEEDED")),
    Trouble("CANCELLED half-way", _SLOW | _BILLED, act=_cancel_half_way),
    Trouble("FAILED, once", once={"batch_failed": 1}, is_over=_has("FAILED")),
)


@dataclass
class Seen:
    """What one start has come to.

    Attributes:
        right, wrong: rows with their own answer; with another one, or there twice.
        billed: answers on the bill so far; ``unseen``: how many more these are than the tool has a count of.
        sent: requests of this start, lines and live ones.
        said: its last word.
    """

    right: int
    wrong: int
    billed: int
    unseen: int
    sent: int
    said: str
    seconds: float


def measure(tool: Tool, trouble: Trouble, peers: Path) -> list[Seen]:
    """Two starts, the second when the trouble is over."""
    texts = {str(number): f"Row {number} of {ROWS}" for number in range(ROWS)}
    with (
        tempfile.TemporaryDirectory(prefix="batch-faults-") as name,
        Simulator(_USUAL.changed(trouble.settings | trouble.once)) as simulator,
    ):
        folder = Path(name)
        rows = [{"id": int(row), "text": text} for row, text in texts.items()]
        (folder / "rows.json").write_text(json.dumps(rows))
        (folder / "kept").mkdir()
        if trouble.refused:
            refused = [Fault.status(422, {"detail": "refused"})] * 1000
            simulator.script(refused, when=lambda body: trouble.refused in str(body["messages"]))
        seen: list[Seen] = []
        sent = 0
        for number in (1, 2):
            started_at = time.monotonic()
            found = _started(tool, trouble, folder, simulator, peers, number)
            seconds = time.monotonic() - started_at
            _end(trouble.settings | trouble.once, simulator)
            if number == 2:
                _wait_for_jobs(simulator)
            sent, before = _sent(simulator), sent
            known = tool.known(folder / "kept")
            seen.append(_seen(found, texts, simulator, known, sent - before, seconds))
        return seen


def _started(
    tool: Tool, trouble: Trouble, folder: Path, simulator: Simulator, peers: Path, number: int
) -> dict[str, Any]:
    """What the script of a tool has written at its end; what there is of that if it was killed."""
    out = folder / f"{number}.json"
    asked = {
        "url": simulator.url,
        "model": MODEL,
        "rows": str(folder / "rows.json"),
        "folder": str(folder / "kept"),
        "out": str(out),
        "start": number,
        "dies": trouble.dies and number == 1,
    }
    script, *how = tool.script
    command = [str(python_of(tool, peers)), "-P", str(_PEERS / script), *how, json.dumps(asked)]
    with (folder / f"{number}.stderr").open("wb") as errors:
        process = subprocess.Popen(
            command, stdout=errors, stderr=errors, env=_environment(folder), start_new_session=True
        )
    start = Start(simulator, process)
    try:
        ended = _watched(start, trouble if number == 1 else Trouble(trouble.name))
    finally:
        if process.poll() is None:
            start.kill()
            process.wait()
    if not ended:
        return {"said": f"no end in {LIMIT_S} s", "answers": []}
    if out.exists():
        return json.loads(out.read_text())
    killed = process.returncode == -signal.SIGKILL
    last = (folder / f"{number}.stderr").read_text(errors="replace").strip().splitlines() or ["no word"]
    return {
        "said": "killed" if killed else f"ended with {process.returncode}: {last[-1]}",
        "answers": [],
    }


def _watched(start: Start, trouble: Trouble) -> bool:
    """Whether the tool came to its end in time; the trouble is made meanwhile, and ended."""
    is_over, until = False, time.monotonic() + LIMIT_S
    while start.process.poll() is None:
        trouble.act(start)
        if not is_over and trouble.is_over(start):
            is_over = True
            _end(trouble.once, start.simulator)
        if time.monotonic() > until:
            return False
        time.sleep(_LOOK_EVERY_S)
    return True


def _end(settings: dict[str, Any], simulator: Simulator) -> None:
    simulator.change(**{each: getattr(_USUAL, each) for each in settings})


def _wait_for_jobs(simulator: Simulator) -> None:
    """What is still under way at the server is billed too, whoever waits for it."""
    simulator.wait_until(
        lambda: not {"QUEUED", "RUNNING", "CANCELLATION_REQUESTED"} & simulator.stats().batch.jobs.keys()
    )


def _environment(folder: Path) -> dict[str, str]:
    """Its own home, so that what a tool keeps there ends with its folder; and nothing is reported to anybody."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "MISTRAL_API_KEY": "benchmark",
        "TELEMETRY_ENABLED": "false",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HF_HUB_OFFLINE": "1",
    }


def _seen(
    found: dict[str, Any], texts: dict[str, str], simulator: Simulator, known: int, sent: int, seconds: float
) -> Seen:
    times = Counter(row for row, _ in found["answers"])
    right = {
        row for row, answer in found["answers"] if answer == f"Echo: {texts.get(row)}" and times[row] == 1
    }
    billed = sum(simulator.billed_ids().values()) + _answered_live(simulator)
    said = found.get("error") or found["said"]
    return Seen(len(right), len(times) - len(right), billed, max(0, billed - known), sent, said, seconds)


def _answered_live(simulator: Simulator) -> int:
    return sum(
        one.path.endswith("/chat/completions") and one.status == 200 for one in list(simulator.requests)
    )


def _sent(simulator: Simulator) -> int:
    """Requests so far: the lines of all jobs, and those sent live."""
    return sum(job["total_requests"] for job in _jobs(simulator)) + _answered_live(simulator)


def _jobs(simulator: Simulator) -> list[dict[str, Any]]:
    return _ask(simulator, "/v1/batch/jobs?page_size=100", "GET")["data"]


def _ask(simulator: Simulator, path: str, method: str) -> Any:
    request = urllib.request.Request(
        simulator.url + path, method=method, headers={"authorization": "Bearer benchmark"}
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def _cell(starts: list[Seen] | None) -> str:
    """Rows right after each start; answers paid a row, and what of it nobody knows of; requests beyond one a row."""
    if starts is None:
        return "not installed"
    first, second = starts
    wrong = f", {second.wrong} wrong" if second.wrong else ""
    unseen = f", {second.unseen} unseen" if second.unseen else ""
    again = max(0, first.sent + second.sent - ROWS)
    return f"{first.right} → {second.right}{wrong}; paid {second.billed / ROWS:.2f}{unseen}; again {again}"


def _words(starts: list[Seen] | None) -> str:
    """What was said at the first start, and at the second where that was no success."""
    if starts is None:
        return ""
    first, second = (_short(each.said) for each in starts)
    return first if second == "complete" else f"{first}; then {'the same' if second == first else second}"


def _short(text: str) -> str:
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= _WIDTH else f"{line[: _WIDTH - 1]}…"


def _head(tools: Sequence[Tool]) -> str:
    where = machine(())
    return textwrap.fill(
        f"`python -m benchmarks.batch_faults`, {where['date']}: {versions(tools)}; Python "
        f"{where['python']}, {where['cpu']}, {where['cores']} cores. {ROWS} rows. Each cell: rows that are right after "
        "the first start → after the second, when the fault is over (*wrong*: with another answer, or there twice); "
        "answers on the bill for each row, with those *unseen*, which are more than the tool has a count of; requests "
        "sent again, beyond one for each row.",
        120,
    )


def _print_tables(found: Found[list[Seen]], tools: Sequence[Tool]) -> None:
    names = [tool.name for tool in tools]
    head = f"| what goes wrong | {' | '.join(names)} |\n|---|{'---|' * len(names)}"
    print(f"{_head(tools)}\n\n{head}")
    for trouble, by_tool in found.items():
        print(f"| {trouble} | {' | '.join(_cell(by_tool[name]) for name in names)} |")
    print(
        f"\nWhat their users are told, at the first start, and at the second where that is no success:\n\n{head}"
    )
    for trouble, by_tool in found.items():
        print(f"| {trouble} | {' | '.join(_words(by_tool[name]) for name in names)} |")


def main() -> None:
    """Measures, or installs, and prints."""
    compare("batch_faults", __doc__, TOOLS, TROUBLES, measure, _print_tables, cell=_cell)


if __name__ == "__main__":
    main()
