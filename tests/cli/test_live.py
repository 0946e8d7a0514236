from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import RunOf
from tests.conftest import Simulate

from mistill.cli.terminal.live_view import View, count_lines
from mistill.llms.types import Usage
from mistill.progress.formatting import money, seconds, time_split
from mistill.progress.progress import Progress


def view_of(total: int | None, **progress: Any) -> View:
    return View(
        Progress(usage=Usage(1000, 200), **progress),
        total,
        8,
        {"server": 3.0, "adaptive_limit": 1.0},
        "server",
    )


def test_a_view_tells_rows_tokens_money_and_what_is_waited_for() -> None:
    began_s = time.monotonic() - 10_000  # so long ago that the time this test takes does not count
    view = view_of(2000, known=400, completions=95, failures=5, cost=0.5, started_at_s=began_s)
    assert view.rows() == "500 of 2,000 rows, 5 failed"
    assert view.spending() == "1,000 tokens in, 200 out, $0.50"
    assert view.waiting() == "8 in flight, waiting for: server"
    assert view.left_s() == pytest.approx(150_000, rel=0.01)
    assert view.speed().endswith(" left")


def test_what_is_not_known_is_left_out() -> None:
    view = view_of(None, completions=3)
    assert view.rows() == "3 rows"
    assert view.spending() == "1,000 tokens in, 200 out"
    assert not view.speed().endswith(" left")
    assert view_of(10).left_s() is None


def test_numbers_are_told_as_people_say_them() -> None:
    assert [seconds(value) for value in (0.42, 59.4, 61, 7800)] == [
        "0.4 s",
        "59 s",
        "1 min 1 s",
        "2 h 10 min",
    ]
    assert [money(value) for value in (12.345, 0.0, 0.0042, None)] == [
        "$12.35",
        "$0.00",
        "$0.0042",
        "no known price",
    ]
    assert (
        time_split({"server": 3.0, "quota_tokens": 1.0, "idle": 0.001}) == "75% server, 25% quota of tokens"
    )
    assert time_split({}) == ""


def test_rows_of_json_lines_are_counted() -> None:
    Path("a.jsonl").write_text("{}\n{}\n")
    Path("b.jsonl").write_text("{}\n{}")
    Path("c.csv").write_text("a\n1\n")
    assert count_lines(["a.jsonl"]) == 2
    assert count_lines(["a.jsonl", "b.jsonl"]) == 4
    assert count_lines(["*.jsonl"]) == 4
    assert count_lines(["a.jsonl", "c.csv"]) is None
    assert count_lines(["-"]) is None


def test_a_terminal_sees_a_bar_and_then_the_summary(run_of: RunOf, simulate: Simulate) -> None:
    slow = simulate(latency_s=0.6)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mistill", *run_of(4, at=slow)]
    process = subprocess.Popen(command, stderr=theirs, env=os.environ | {"TERM": "xterm", "COLUMNS": "100"})
    os.close(theirs)
    shown = read_all(ours)
    os.close(ours)
    assert process.wait() == 0
    assert "of 4 rows" in shown
    assert "in flight, waiting for: " in shown
    assert "\x1b[2K" in shown  # lines are drawn over
    assert "4 rows: 4 answered" in shown


def read_all(descriptor: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:  # how Linux tells that the other end is closed
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts).decode()
