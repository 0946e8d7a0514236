"""Few files may be open (ulimit -n): as many as the system allows are taken, and where that is too few, it is said."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import ExitStack

import pytest
from tests.cli.conftest import Answers, Ended, Mistill, RunOf, Spawn
from tests.conftest import Simulate
from tests.libraries import library

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no ulimit there")

MORE = "raise how many there may be (ulimit -n 1024), or take fewer processes and connections"


def limited(limit: str, *arguments: str) -> Ended:
    """The program where so many may be open: ``-Sn 40``, and more if it asks for them; ``-n 40``, and no more."""
    command = ["sh", "-c", f'ulimit {limit}; exec "$@"', "sh", sys.executable, "-m", "mistill", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def test_what_the_system_allows_is_taken(run_of: RunOf, answers: Answers) -> None:
    assert limited("-Sn 24", *run_of(100)).code == 0
    assert len(answers()) == 100


@pytest.mark.parametrize("command", ["run", "view", "simulate"])
def test_so_few_that_nothing_could_work_are_refused_at_once(run_of: RunOf, command: str) -> None:
    arguments = run_of(2) if command == "run" else [command, "--port", "0"]
    told = "error: only 24 files may be open in this process, and it takes 48 at the least\n"
    assert limited("-n 24", *arguments) == (2, "", f"{told}hint: {MORE}\n")


def test_a_run_that_has_no_room_for_its_connections_ends_with_words_and_goes_on_with_fewer(
    mistill: Mistill, run_of: RunOf, simulate: Simulate, answers: Answers
) -> None:
    run = run_of(200, at=simulate(latency_s=0.2))
    ended = limited("-n 64", *run, "-q")
    assert ended.code == 3
    error, hint = ended.stderr.splitlines()
    assert error.endswith("too many files are open: this process may have 64")
    assert hint == f"hint: {MORE}"
    assert limited("-n 64", *run, "-q", "--max-concurrent-requests", "8").code == 0
    assert len(answers()) == 200


def test_a_page_with_more_connections_than_may_be_open_says_so(mistill: Mistill, spawn: Spawn) -> None:
    library("aiohttp")
    resource = library("resource")
    process = spawn("view", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (50, 50)))
    assert process.stdout is not None
    assert process.stderr is not None
    port = int(process.stdout.readline().partition("127.0.0.1:")[2].partition("/")[0])
    assert process.stderr.readline() == "open it in a browser; Ctrl-C ends it\n"
    with ExitStack() as connections:
        for _ in range(60):
            connections.enter_context(socket.create_connection(("127.0.0.1", port)))
        told = "too many files are open: this process may have 50: who connects has to wait; "
        assert process.stderr.readline() == f"{told}{MORE}\n"
    process.terminate()
    assert process.stderr.read() == ""
