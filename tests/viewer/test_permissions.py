"""Runs that this user may not read: the page says so, and is not without them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.permissions import BOUND_BY_MODES
from tests.viewer.conftest import Client, Runs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no modes there")


def command(place: Path) -> list[str]:
    return [*BOUND_BY_MODES, sys.executable, "-m", "mistill", "view", str(place)]


@contextmanager
def closed(path: Path) -> Iterator[None]:
    mode = path.stat().st_mode
    path.chmod(0)
    try:
        yield
    finally:
        path.chmod(mode)


@contextmanager
def viewed(place: Path) -> Iterator[Client]:
    with subprocess.Popen(command(place), stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Client(process.stdout.readline().strip())
        finally:
            process.terminate()


@pytest.mark.parametrize("path", ["a.ledger", "a.ledger/plan.json", "a.ledger/run.ledger", "b.jsonl.ledger"])
def test_a_run_of_a_folder_that_may_not_be_read_is_listed_with_why(runs: Runs, path: str) -> None:
    runs.run("a", ["one"], on="processes:1", shards=1)
    runs.run("b.jsonl", ["one"])
    name = path.partition(".ledger")[0]
    told = f"permission denied: {runs.folder / path}, which is "
    with closed(runs.folder / path), viewed(runs.folder) as client:
        problems = {line["name"]: line["problem"] for line in client.ask("home")["runs"]}
        assert {one for one, problem in problems.items() if problem is None} == {"a", "b.jsonl"} - {name}
        assert problems[name].startswith(told)
        assert client.ask("run", run=name)["problem"].startswith(told)


def test_one_run_whose_plan_may_not_be_read_is_shown_as_that(runs: Runs) -> None:
    runs.run("a", ["one"], on="processes:1", shards=1)
    plan = runs.folder / "a.ledger" / "plan.json"
    with closed(plan), viewed(runs.folder / "a") as client:
        home = client.ask("home")
        told = client.ask("rows", run=home["single"])["problem"]
    assert told.startswith(f"permission denied: {plan}, which is ")


def test_a_folder_that_may_not_be_read_is_none_without_runs(runs: Runs) -> None:
    runs.run("b.jsonl", ["one"])
    with closed(runs.folder):
        ended = subprocess.run(command(runs.folder), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (3, "")
    assert ended.stderr.startswith(f"error: permission denied: {runs.folder}, which is ")
