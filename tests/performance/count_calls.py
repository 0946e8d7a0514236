"""Counts the calls of our own functions for each request: what a change costs, without a clock.

    python tests/performance/count_calls.py

prints ``{"generate": …, "structured": …, "run": …}``. A call is an event of Python's profiler in a function of the
package, the resumption of a coroutine included. The simulator's own functions are left out, and so is the thread that
writes the ledger, whose groups depend on the disk.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import threading
from pathlib import Path
from types import FrameType
from typing import Any

from pydantic import BaseModel

import mistill
from mistill import MistralLLM, Run
from mistill.simulator import Simulator

ROWS = 400
_OURS = str(Path(mistill.__file__).parent)
_LEDGER_THREAD = ("ledger/commits.py", "ledger/files_in_use.py", "ledger/write_ahead_log.py")
_LEFT_OUT = tuple(str(Path(_OURS, name)) for name in ("simulator", *_LEDGER_THREAD))


class Answer(BaseModel):
    text: str


class Counter:
    def __init__(self) -> None:
        self.calls = 0
        self._is_ours: dict[str, bool] = {}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        if event != "call":
            return
        file = frame.f_code.co_filename
        ours = self._is_ours.get(file)
        if ours is None:
            ours = self._is_ours[file] = file.startswith(_OURS) and not file.startswith(_LEFT_OUT)
        self.calls += ours


def main() -> None:
    counter = Counter()
    threading.setprofile(counter)  # before the background loop's thread begins
    sys.setprofile(counter)
    logging.disable()
    found: dict[str, float] = {}
    with Simulator() as simulator, tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {
            "model": "mistral-small-latest",
            "endpoint": simulator.url,
            "api_key": "k",
        }
        settings["max_concurrent_requests"] = 8
        llm = MistralLLM(**settings)
        rows = [f"row {n}" for n in range(ROWS)]
        llm.generate(rows[:50])

        def count(name: str, work: Any) -> None:
            before = counter.calls
            work()
            found[name] = (counter.calls - before) / ROWS

        count("generate", lambda: llm.generate(rows))
        count("structured", lambda: llm.generate(rows, structured_output={"schema": Answer}))
        run = Run(
            [{"text": row} for row in rows], llm=llm, prompt="{{ text }}", ledger=Path(folder, "ledger")
        )
        count("run", run.start)
    sys.setprofile(None)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
