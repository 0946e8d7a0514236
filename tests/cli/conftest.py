"""``mistill`` calls the program in this process, ``spawn`` starts it in one of its own; both in an empty directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mistill.cli import main
from mistill.simulator import Simulator


class Ended(NamedTuple):
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    @property
    def records(self) -> list[Any]:
        return [json.loads(line) for line in self.stdout.splitlines()]


Mistill = Callable[..., Ended]
Spawn = Callable[..., "subprocess.Popen[str]"]
Rows = Callable[[int], str]
RunOf = Callable[..., list[str]]
Answers = Callable[..., list[Any]]


@pytest.fixture(autouse=True)
def _own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))  # the program adds the working directory


@pytest.fixture
def mistill(capfd: pytest.CaptureFixture[str]) -> Mistill:
    def call(*arguments: str) -> Ended:
        capfd.readouterr()
        code = main(arguments)
        captured = capfd.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    with ExitStack() as started:

        def start(*arguments: str, **settings: Any) -> subprocess.Popen[str]:
            pipes: dict[str, Any] = {
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
            }
            process = subprocess.Popen(
                [sys.executable, "-m", "mistill", *arguments],
                text=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
                **(pipes | settings),
            )
            started.enter_context(process)
            started.callback(process.kill)
            return process

        yield start


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Writes ``prompts.jsonl`` with so many rows, ``{"text": "word 0"}`` …; its name."""

    def write(count: int) -> str:
        lines = [json.dumps({"text": f"word {place}"}) + "\n" for place in range(count)]
        (tmp_path / "prompts.jsonl").write_text("".join(lines))
        return "prompts.jsonl"

    return write


@pytest.fixture
def run_of(rows: Rows, simulator: Simulator) -> RunOf:
    """Arguments of a run of so many rows against the simulator, or another: ``run_of(5, "--limit", "3")``."""

    def arguments(
        count: int, *more: str, at: Simulator | None = None, out: str = "answers.jsonl"
    ) -> list[str]:
        endpoint = (at or simulator).url
        model = ["--model", "mistral-small-latest", "--endpoint", endpoint]
        return ["run", rows(count), "--out", out, *model, "--prompt", "Say {{ text }}", *more]

    return arguments


@pytest.fixture
def answers() -> Answers:
    """The records in a JSONL file."""

    def read(path: str = "answers.jsonl") -> list[Any]:
        return [json.loads(line) for line in Path(path).read_text().splitlines()]

    return read
