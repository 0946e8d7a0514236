"""Files of a run that this user may not read: that is said, and not that they are something else."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.conftest import Ended, Mistill, RunOf
from tests.permissions import BOUND_BY_MODES

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no modes there")


def denied(*arguments: str) -> Ended:
    command = [*BOUND_BY_MODES, sys.executable, "-m", "mistill", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.parametrize(
    "command",
    [["status"], ["view", "--port", "0"], ["ctl"], ["export", "--to", "other.jsonl"]],
    ids=lambda one: one[0],
)
def test_a_ledger_that_may_not_be_read(mistill: Mistill, run_of: RunOf, command: list[str]) -> None:
    assert mistill(*run_of(2)).code == 0
    ledger = Path("answers.jsonl.ledger")
    owner = ledger.owner()
    ledger.chmod(0)
    name, *more = command
    told = (
        f"error: permission denied: {ledger}, which is {owner}'s, may not be read by this user\n"
        f"hint: do it as {owner}, or have that user allow it (chmod, setfacl)\n"
    )
    assert denied(name, "answers.jsonl", *more) == (3, "", told)


def test_a_ledger_that_may_not_be_read_is_not_gone_on_with(mistill: Mistill, run_of: RunOf) -> None:
    run = run_of(2)
    assert mistill(*run).code == 0
    Path("answers.jsonl.ledger").chmod(0)
    assert "error: permission denied: answers.jsonl.ledger, " in denied(*run).stderr


def test_a_lock_that_may_not_be_written(mistill: Mistill, run_of: RunOf) -> None:
    run = run_of(2)
    assert mistill(*run).code == 0
    lock = Path("answers.jsonl.ledger.lock")
    lock.write_text("99999 0")
    lock.chmod(0o444)
    ended = denied(*run)
    assert (ended.code, ended.stderr.count("error: permission denied: answers.jsonl.ledger.lock, ")) == (3, 1)
    assert "may not be written by this user" in ended.stderr


@pytest.mark.parametrize("closed", ["answers.ledger/plan.json", "answers.ledger", ""])
def test_a_run_in_shards_that_may_not_be_read(
    mistill: Mistill, run_of: RunOf, closed: str, tmp_path: Path
) -> None:
    folder = tmp_path / "of another"
    folder.mkdir()
    out = str(folder / "answers")
    assert mistill(*run_of(2, "--on", "processes:1", "--shards", "1", out=out)).code == 0
    (folder / closed).chmod(0)
    try:
        told = denied("status", out).stderr.splitlines()[0]
    finally:
        (folder / closed).chmod(0o700)
    assert told.startswith(f"error: permission denied: {folder / closed}, which is ")
