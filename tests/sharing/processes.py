"""Real processes that share a governor: started, asked how they are, stopped, killed and ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from msgspec import Struct

ROOT = Path(__file__).parent.parent.parent


class State(Struct):
    """What a process says of itself.

    Attributes:
        sent: requests that it was allowed to send, so far.
        decides_itself: it asks no other process.
        alone_s: seconds in which no host answered it.
    """

    sent: int
    decides_itself: bool
    alone_s: float


class Process:
    """One that sends requests, a few at a time, each answered at once; see ``tests.sharing.sender``."""

    def __init__(self, environment: dict[str, str], options: dict[str, Any]) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-m", "tests.sharing.sender", json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )
        self.pid = self._popen.pid

    def begun(self) -> Self:
        """Once it has its governor."""
        self._hear()
        return self

    def state(self) -> State:
        return State(**self._ask("state"))

    def fork(self) -> int:
        """A child of it, which does nothing; its number."""
        return self._ask("fork")["pid"]

    def stop(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        self._popen.kill()
        self._close()

    def end(self) -> None:
        """Cleanly."""
        self._ask("end")
        self._close()

    def _ask(self, what: str) -> Any:
        assert self._popen.stdin is not None
        self._popen.stdin.write(what + "\n")
        self._popen.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._popen.stdout is not None
        return json.loads(self._popen.stdout.readline())

    def _close(self) -> None:
        for pipe in (self._popen.stdin, self._popen.stdout):
            assert pipe is not None
            pipe.close()
        self._popen.wait(30)

    @property
    def is_over(self) -> bool:
        return self._popen.returncode is not None


class Processes:
    def __init__(self, environment: dict[str, str]) -> None:
        self._environment = environment
        self._started: list[Process] = []

    def start(self, **options: Any) -> Process:
        self._started.append(Process(self._environment, options))
        return self._started[-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            if not process.is_over:
                process.kill()
