"""``python -m tests.crash.batch_child``: starts runs of batch jobs, each in a process that is killed where one says.

Reads a `Spec` a line, forks, and writes a line with the process's number, and one with how it ended. What it forks has
the program already in memory, so that a start takes a tenth of a second. No code of the program knows of being killed:
what it calls is wrapped here, in the process that is to die.
"""

from __future__ import annotations

import functools
import os
import select
import signal
import sys
from collections import Counter
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

from mistill.api.client import MistralClient
from mistill.cli import main as program
from mistill.delivery.tuning import Tuning, use_tuning
from mistill.jobs import job_server, results
from mistill.jobs.lookout import TAG_KEY
from mistill.ledger import Job, Ledger

KEY = "a-key-for-tests-that-nobody-else-has"
_COMMANDS = ("run", "cancel", "status", "retry", "export")
_LIBRARIES = ("jinja2", "uvloop", "zoneinfo")
_LOADED = (*(f"mistill.cli.commands.{name}" for name in _COMMANDS), "mistill.cli.program", *_LIBRARIES)
_LOOK_S = 0.005
LEAKED = 99
"""The exit code of a process that would have told the key."""


class Spec(Struct, frozen=True, kw_only=True):
    """One start.

    Attributes:
        arguments: of the program.
        point: where it is killed, and the how manieth time it comes there; ``None``: nowhere.
        crossing: or: when it has passed so many points, whichever.
        words: a file for what it says. ``trace``: one for the points that it passed.
        tuning: constants of delivery that differ from `without_waiting`.
        lines_together: lines that are taken over in one commit.
    """

    arguments: list[str]
    words: str
    trace: str
    point: tuple[str, int] | None = None
    crossing: int | None = None
    tuning: dict[str, float] = {}
    lines_together: int = 500


class Points:
    """The points that a process passes, and the one at which it ends."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._seen: Counter[str] = Counter()
        self._trace = os.open(spec.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __call__(self, name: str) -> None:
        self._seen[name] += 1
        os.write(self._trace, f"{name}\n".encode())
        is_there = self._spec.point == (name, self._seen[name])
        if is_there or self._spec.crossing == self._seen.total():
            os.kill(os.getpid(), signal.SIGKILL)

    def around(self, owner: Any, method: str, name: Callable[..., str | None]) -> None:
        """Before and after each call of an asynchronous method. ``name``: of it, by what it is called with."""
        inner = getattr(owner, method)

        @functools.wraps(inner)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            called = name(*args, **kwargs)
            if called is None:
                return await inner(*args, **kwargs)
            self(f"before {called}")
            result = await inner(*args, **kwargs)
            self(f"after {called}")
            return result

        setattr(owner, method, wrapped)

    def before(self, owner: Any, method: str, name: Callable[..., str | None]) -> None:
        """Before, and right after, each call of a method that waits for nothing."""
        inner = getattr(owner, method)

        @functools.wraps(inner)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            called = name(*args, **kwargs)
            if called is not None:
                self(f"before {called}")
            result = inner(*args, **kwargs)
            if called is not None:
                self(f"after {called}")
            return result

        setattr(owner, method, wrapped)


def watch(points: Points) -> None:
    """Has all that a start tells the server, or the disk, pass a point before and after."""
    points.around(MistralClient, "upload_file", _upload)
    points.around(MistralClient, "create_job", _create)
    points.around(MistralClient, "cancel_job", lambda *_: "cancel")
    points.around(MistralClient, "download_file", lambda *_: "download")
    points.around(MistralClient, "delete_file", lambda *_: "delete")
    points.around(MistralClient, "exchange", lambda *_, **__: "live request")
    points.around(job_server, "look_for", lambda _, jobs: f"look for {jobs[0].state}")
    points.around(Ledger, "begin_job", lambda *_: "commit planned")
    points.around(Ledger, "note_job", lambda _, job: f"commit {_told(job)}")
    points.around(Ledger, "end_open_attempts", lambda _, job, *__: f"commit {_told(job)}, attempts ended")
    points.around(Ledger, "begin_attempts", lambda *_: "commit of a live attempt")
    points.around(Ledger, "flush", lambda *_: "flush")
    points.before(
        Ledger, "answer", lambda _, attempt, *__: "answer of a job" if attempt.job else "live answer"
    )
    points.before(Ledger, "complete", lambda *_, **__: "outcome")
    points.before(Path, "replace", lambda path, _: f"rename of {_kind_of(path)}")


def _told(job: Job) -> str:
    record = job.record
    said = [job.state]
    if job.state == "running":
        said += ["cancelled"] if record.is_cancelled else []
        said += ["looked at"] if record.total is not None else []
    elif job.state in ("read", "dropped"):
        said += ["cleaned"] if record.is_clean else []
    return " ".join(said)


def _kind_of(path: Path) -> str:
    for kind in ("output.jsonl", "errors.jsonl"):
        if path.name.endswith(f"{kind}.part"):
            return kind.partition(".")[0]
    return "input" if path.parent.suffix == ".jobs" else "another file"


def _upload(_: MistralClient, path: Path, *, name: str, **__: Any) -> str:
    if KEY.encode() in path.read_bytes() or KEY in name:
        os._exit(LEAKED)
    return "upload"


def _create(*_: Any, metadata: dict[str, str], **__: Any) -> str:
    if KEY in str(metadata):
        os._exit(LEAKED)
    return "create" if TAG_KEY in metadata else "probe"


def start(spec: Spec) -> int:
    """In the process that is to die."""
    nothing, words = (
        os.open(os.devnull, os.O_RDWR),
        os.open(spec.words, os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
    )
    for there, here in ((nothing, 0), (nothing, 1), (words, 2)):
        os.dup2(there, here)
    watch(Points(spec))
    results._LINES_TOGETHER = spec.lines_together
    with use_tuning(msgspec.structs.replace(Tuning().without_waiting(), **spec.tuning)):
        return program(spec.arguments)


def main() -> None:
    os.environ["MISTRAL_API_KEY"] = KEY
    for module in _LOADED:
        import_module(module)
    children = 0
    while True:
        if select.select([sys.stdin], [], [], _LOOK_S if children else None)[0]:
            line = sys.stdin.buffer.readline()  # the next one comes once this has been answered
            if not line:
                return
            print(_forked(msgspec.json.decode(line, type=Spec)), flush=True)
            children += 1
        pid, status = os.waitpid(-1, os.WNOHANG) if children else (0, 0)
        if pid:
            print(os.waitstatus_to_exitcode(status), flush=True)
            children -= 1


def _forked(spec: Spec) -> int:
    pid = os.fork()
    if not pid:
        code = 70
        try:
            code = start(spec)
        finally:
            sys.stderr.flush()
            os._exit(code)
    return pid


if __name__ == "__main__":
    main()
