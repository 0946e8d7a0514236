"""Who was stopped while it worked on a shard, and is let go on when another has that shard, is nobody any more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from mistill import MistralLLM, Run
from mistill.ledger import LedgerReader
from mistill.ledger.files import lock_of
from mistill.ledger.shard_files import shard_of
from mistill.simulator import Settings, Simulator

if sys.platform == "win32":
    pytest.skip("no process is stopped here", allow_module_level=True)

_ROWS = 40
_AT_ONCE = 4


def _start(rows: Path, out: Path, simulator: Simulator) -> subprocess.Popen[str]:
    settings = ["--model", "mistral-small-latest", "--prompt", "{{ text }}", "--endpoint", simulator.url]
    command = ["run", str(rows), "--out", f"{out}/", "--shard", "0/1", *settings]
    at_once = ["--max-concurrent-requests", str(_AT_ONCE)]
    return subprocess.Popen(
        [sys.executable, "-m", "mistill", *command, *at_once], stderr=subprocess.PIPE, text=True
    )


def _whole_state(ledger: Path) -> list[object]:
    with LedgerReader(ledger) as reader:
        return [list(reader.rows()), reader.counts(), reader.spending(), reader.starts()]


def test_it_sends_nothing_more_and_writes_nothing(tmp_path: Path) -> None:
    rows, out = tmp_path / "in.jsonl", tmp_path / "out"
    rows.write_text("".join(json.dumps({"text": f"row {number}"}) + "\n" for number in range(_ROWS)))
    ledger = shard_of(tmp_path / "out.ledger", 0)
    with Simulator(Settings(latency_s=0.001)) as simulator:
        zombie = _start(rows, out, simulator)
        simulator.wait_until(lambda: simulator.answered >= _AT_ONCE, timeout_s=60)
        simulator.change(latency_s=1.0)
        # All of its requests are under way: it writes nothing at this moment.
        simulator.wait_until(lambda: simulator.in_flight == _AT_ONCE, timeout_s=60)
        zombie.send_signal(signal.SIGSTOP)
        os.waitpid(zombie.pid, os.WUNTRACED)
        simulator.change(latency_s=0.001)
        # As a file system does that gives the lock of a machine away which it does not reach.
        lock_of(ledger).unlink()
        llm = MistralLLM(model="mistral-small-latest", endpoint=simulator.url)
        report = Run(rows, llm=llm, out=out, prompt="{{ text }}", shard="0/1").start()
        assert report.completions == _ROWS
        assert report.maybe_billed == _AT_ONCE
        part, state, sent = (
            (out / "part-00000.jsonl").read_bytes(),
            _whole_state(ledger),
            len(simulator.requests),
        )

        zombie.send_signal(signal.SIGCONT)
        _, said = zombie.communicate(timeout=60)
        assert zombie.returncode not in (0, None)
        assert f"another process has taken over the ledger {ledger}" in said
        assert len(simulator.requests) == sent
        assert _whole_state(ledger) == state
        assert (out / "part-00000.jsonl").read_bytes() == part
