"""Ctrl-C, by the signal that a terminal sends for it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from tests.cli.conftest import Answers, Mistill, RunOf, Spawn
from tests.conftest import Simulate

from mistill.simulator import Fault


def first_line_about(process: subprocess.Popen[str], text: str) -> str:
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"the program ended without telling {text!r}")


def test_once_waits_for_what_is_in_flight(
    mistill: Mistill, spawn: Spawn, run_of: RunOf, simulate: Simulate, answers: Answers
) -> None:
    slow = simulate(latency_s=1.0)
    arguments = run_of(30, "--max-concurrent-requests", "4", at=slow)
    process = spawn(*arguments)
    slow.wait_until(lambda: slow.in_flight == 4, timeout_s=60)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "in flight, up to 30 s; Ctrl-C again cuts them off" in err
    assert "to go on: the same command again" in err
    status = mistill("status", "answers.jsonl", "--json").json
    assert (status["completions"], status["maybe_billed"]) == (slow.answered, 0)
    assert 0 < status["completions"] < 30
    slow.change(latency_s=0)
    assert mistill(*arguments).code == 0
    assert slow.answered == 30  # so none was paid twice
    assert len(answers()) == 30


def test_twice_ends_at_once_and_says_what_may_be_billed(
    mistill: Mistill, spawn: Spawn, run_of: RunOf, simulate: Simulate
) -> None:
    stuck = simulate()
    stuck.script([Fault.stall()])
    arguments = run_of(3, "--max-concurrent-requests", "1", at=stuck)
    process = spawn(*arguments, "--json")
    stuck.wait_until(lambda: stuck.in_flight == 1, timeout_s=60)
    process.send_signal(signal.SIGINT)
    first_line_about(process, "Ctrl-C again cuts them off")
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert process.stdout is not None
    summary = json.loads(process.stdout.read())
    assert (summary["exit_code"], summary["maybe_billed"]) == (130, 1)
    held = mistill(*arguments, "--on-unknown", "hold", "--json")
    assert (held.code, held.json["completions"], held.json["pending"]) == (1, 2, 1)
    assert mistill(*arguments).code == 0


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_while_the_input_is_cut_it_says_that_nothing_was_sent(
    spawn: Spawn, tmp_path: Path, simulate: Simulate
) -> None:
    server = simulate()
    model = ("--model", "mistral-small-latest", "--endpoint", server.url, "--prompt", "{{ text }}")
    process = spawn("run", "-", "--input-format", "csv", "--out", "answers", "--on", "processes:1", *model)
    assert process.stdin is not None
    process.stdin.write("text\nhello\n")
    process.stdin.flush()
    give_up_at = time.monotonic() + 60
    while not list(tmp_path.glob("answers.ledger/input.jsonl.*.partial")) and time.monotonic() < give_up_at:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, server.answered) == (130, 0)
    assert "interrupted: nothing was sent; start the same command again" in err
    assert not list(tmp_path.glob("answers.ledger/input*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_before_the_run_has_begun_is_an_interrupt_too(
    spawn: Spawn, run_of: RunOf, number: signal.Signals
) -> None:
    os.mkfifo("prompt.txt")  # whose reader waits for a writer, and a writer for a reader
    arguments = run_of(3)
    place = arguments.index("--prompt")
    process = spawn(*arguments[:place], *arguments[place + 2 :], "--prompt-file", "prompt.txt")
    with Path("prompt.txt").open("w"):
        process.send_signal(number)
    # A signal between the open and the read ends the read only now: Python sees it when the system call returns.
    _, err = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in err
