"""Another terminal: ``mistill ctl``, and ``mistill status --watch``."""

from __future__ import annotations

import html
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from tests.cli.conftest import Mistill, Rows, RunOf, Spawn
from tests.conftest import Simulate

from mistill import MistralLLM, Run
from mistill.runs.watching import follow_run
from mistill.simulator import Simulator
from mistill.steering.address import find_address

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no Unix sockets here")


def texts(page: str) -> str:
    """What a page says."""
    bare = re.sub(r"<[^>]*>", " ", re.sub(r"<(style|svg).*?</\1>", "", page, flags=re.DOTALL))
    return " ".join(html.unescape(bare).split())


class Running(NamedTuple):
    """A run of 60 rows, of which some are answered."""

    process: subprocess.Popen[str]
    simulator: Simulator


@pytest.fixture
def running(spawn: Spawn, run_of: RunOf, simulate: Simulate) -> Running:
    """One in another process."""
    slow = simulate(latency_s=0.1)
    process = spawn(*run_of(60, "--max-concurrent-requests", "2", "--max-cost", "5", at=slow))
    slow.wait_until(lambda: slow.answered > 0, timeout_s=60)
    return Running(process, slow)


@pytest.fixture
def run(rows: Rows, simulate: Simulate) -> Iterator[Run]:
    """One in another thread."""
    slow = simulate(latency_s=0.1)
    llm = MistralLLM(model="mistral-small-latest", endpoint=slow.url, max_concurrent_requests=8)
    run = Run(rows(60), llm=llm, prompt="{{ text }}", out="answers.jsonl")
    thread = threading.Thread(target=run.start)
    thread.start()
    slow.wait_until(lambda: slow.answered > 0)
    yield run
    thread.join(60)
    assert not thread.is_alive()


def test_a_run_is_steered_from_another_terminal(mistill: Mistill, running: Running) -> None:
    process, simulator = running
    shown = mistill("ctl", "answers.jsonl")
    assert shown.code == 0
    assert f"answers.jsonl: running (process {process.pid})" in shown.stdout
    assert "max_concurrent_requests  2\n" in shown.stdout
    assert "max_cost                 $5.00  ($0" in shown.stdout
    paused = mistill("ctl", "answers.jsonl", "pause")
    assert "paused: nothing more is sent" in paused.stderr
    assert "it is paused already" in mistill("ctl", "answers.jsonl", "pause").stderr
    simulator.wait_until(lambda: simulator.in_flight == 0)
    assert f"paused (process {process.pid})" in mistill("status", "answers.jsonl").stdout
    done = mistill("ctl", "answers.jsonl", "set", "max_concurrent_requests=4", "max-cost=20", "deadline=2h")
    assert (
        "set max_concurrent_requests 2 → 4, max_cost $5.00 → $20.00, deadline none → 2 h 0 min" in done.stderr
    )
    standing = mistill("ctl", "answers.jsonl", "--json").json
    assert standing["paused_s"] > 0
    assert {one["name"]: one["value"] for one in standing["settings"]} == {
        "max_concurrent_requests": 4,
        "requests_per_minute": None,
        "tokens_per_minute": None,
        "max_cost": 20,
        "max_tokens_total": None,
        "deadline": 7200,
    }
    simulator.change(latency_s=0.5)
    assert "resumed" in mistill("ctl", "answers.jsonl", "resume").stderr
    simulator.wait_until(lambda: simulator.in_flight == 4)
    assert "stopped: nothing more is sent" in mistill("ctl", "answers.jsonl", "stop").stderr
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, "as after one Ctrl-C"
    assert "paused: nothing more is sent" in err
    assert "changed: set max_concurrent_requests 2 → 4" in err
    assert "to go on: the same command again" in err
    status = mistill("status", "answers.jsonl", "--json").json
    assert [change["do"] for change in status["changes"]] == ["pause", "set", "resume", "stop"]
    assert status["completions"] == simulator.answered < 60
    assert status["maybe_billed"] == 0
    assert status["stopped"]["message"].startswith("stopped by ")
    page = texts(mistill("report", "answers.jsonl", "--to", "-").stdout)
    assert "max_cost $20.00 since it was changed, $5.00 as it began" in page
    assert "deadline 2 h 0 min since it was changed, none as it began" in page
    assert "of the budget under 1% of $20.00" in page
    _, _, done = page.partition("What was done while it went on")
    places = [
        done.index(text) for text in ("paused", "set max_concurrent_requests 2 → 4", "resumed", "stopped")
    ]
    assert places == sorted(places)
    assert "was stopped: stopped" not in page


def test_a_run_is_watched_until_it_ends(mistill: Mistill, run: Run) -> None:
    watched = mistill("status", "answers.jsonl", "--watch", "--json")
    assert watched.code == 0
    views = watched.records
    assert [view["is_last"] for view in views] == [*[False] * (len(views) - 1), True]
    assert views[-1]["completions"] == views[-1]["done"] == 60


def test_a_run_is_watched_as_text_and_its_status_told_at_the_end(mistill: Mistill, run: Run) -> None:
    lines = mistill("status", "answers.jsonl", "--watch").stdout.splitlines()
    assert " in flight, waiting for: " in lines[0]
    assert any(line.startswith("60 of 60 rows") for line in lines)
    assert "60 answered (100%), 0 failed, 0 to go" in lines


def test_a_run_that_takes_no_orders_is_watched_by_its_ledger(mistill: Mistill, run: Run) -> None:
    address = find_address(run.ledger_path)
    assert address is not None
    address.unlink()
    views = mistill("status", "answers.jsonl", "--watch", "--json").records
    assert views[-1]["completions"] == 60
    assert views[-1]["is_last"]


def test_the_last_view_of_a_run_that_is_killed_is_the_last(mistill: Mistill, running: Running) -> None:
    views = follow_run("answers.jsonl", every_s=0.1)
    assert not next(views).is_last
    running.process.kill()
    running.process.wait()
    *_, last = views
    assert last.is_last


def test_what_was_done_to_a_run_that_is_killed_is_known(mistill: Mistill, running: Running) -> None:
    process, _ = running
    mistill("ctl", "answers.jsonl", "set", "max_tokens_total=1000000")
    mistill("ctl", "answers.jsonl", "pause")
    process.send_signal(signal.SIGKILL)
    process.wait()
    status = mistill("status", "answers.jsonl", "--json").json
    assert status["has_died"]
    assert [change["do"] for change in status["changes"]] == ["set", "pause"]
    assert "running" not in (shown := mistill("status", "answers.jsonl").stdout)
    assert "paused (process" not in shown
    assert mistill("ctl", "answers.jsonl").code == 2


def test_a_deadline_that_is_over_is_told_to_stop_the_run(mistill: Mistill, running: Running) -> None:
    done = mistill("ctl", "answers.jsonl", "set", "deadline=0.001")
    assert "deadline none → " in done.stderr
    assert "it has gone on for longer than that: the run stops" in done.stderr
    assert running.process.wait(timeout=60) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["set"], "nothing is to be set"),
        (["set", "max_cost"], "'max_cost' is not of the form NAME=VALUE"),
        (["set", "max_cost=much"], "max_cost: 'much' is no number"),
        (["set", "max_cost=inf"], "max_cost must be a number"),
        (["set", "max_cost=1", "deadline=2h", "max-cost=2"], "max_cost is set twice"),
        (["set", "deadline=soon"], "'soon' is no time"),
        (["set", "max_cost=\u0663"], "is no number"),
        (["set", "deadline=\u0663h"], "is no time"),
        (["set", "prompt=x"], "prompt cannot be changed while a run goes on"),
        (["set", "model=x"], "model cannot be changed while a run goes on"),
        (["set", "endpoint=x"], "endpoint cannot be changed while a run goes on"),
        (["set", "temperature=1"], "temperature cannot be changed while a run goes on"),
        (["set", "max_costs=x"], "did you mean 'max_cost'?"),
        (["set", "prompt=1"], "prompt cannot be changed while a run goes on"),
        (["pause", "max_cost=1"], "only set takes settings"),
        (["explode"], "'explode' is not one of"),
        (["paus"], "Did you mean 'pause'?"),
        (["set", "max_concurrent_requests=none"], "there is no run without one"),
        (["set", "max_concurrent_requests=none"], "for example max_concurrent_requests=16\n"),
        (["set", "requests_per_minute=0"], "for example requests_per_minute=300; none is no limit"),
        (["set", "deadline=0"], "for example deadline=2h; none is no limit"),
    ],
)
def test_what_is_refused(mistill: Mistill, running_once: None, arguments: list[str], told: str) -> None:
    refused = mistill("ctl", "answers.jsonl", *arguments)
    assert refused.code == 2
    assert told in refused.stderr


@pytest.fixture
def running_once(mistill: Mistill, run_of: RunOf) -> None:
    mistill(*run_of(1))


def test_no_run_is_known(mistill: Mistill) -> None:
    refused = mistill("ctl", "none.jsonl", "pause")
    assert refused.code == 2
    assert "no run is known for none.jsonl" in refused.stderr


def test_a_ledger_that_is_damaged_is_told_as_everywhere_else(mistill: Mistill, running_once: None) -> None:
    ledger = Path("answers.jsonl.ledger")
    whole = ledger.read_bytes()
    garbage = b"\xa5" * (len(whole) // 2)
    for damaged in (b"", b"a text\n", whole[:5000], bytes(len(whole)), whole[: len(garbage)] + garbage):
        ledger.write_bytes(damaged)
        refused, status = mistill("ctl", "answers.jsonl", "pause"), mistill("status", "answers.jsonl")
        assert (refused.code, refused.stderr) == (3, status.stderr)
        assert "is damaged" in refused.stderr or "is not a ledger" in refused.stderr


def test_a_run_that_has_ended_is_shown_at_once(mistill: Mistill, run_of: RunOf) -> None:
    mistill(*run_of(2))
    told = mistill("status", "answers.jsonl").stdout
    assert "2 answered (100%)" in told
    assert (
        mistill("status", "answers.jsonl", "--watch").stdout == told
    )  # once, and no line of progress before it
    (last,) = mistill("status", "answers.jsonl", "--watch", "--json").records
    assert (last["completions"], last["is_last"]) == (2, True)  # which a script may wait for


def test_the_report_of_a_run_that_has_ended_is_read_once(
    mistill: Mistill, run_of: RunOf, opened: list[str]
) -> None:
    mistill(*run_of(2))
    opened.clear()
    mistill("status", "answers.jsonl", "--json")
    once = len(opened)
    opened.clear()
    mistill("status", "answers.jsonl", "--watch", "--json")
    assert len(opened) == once
