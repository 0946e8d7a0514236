"""A request may not grow in calls of our functions: no clock, and hardly any noise.

After a change that is worth its calls, or that saves some: ``python tests/performance/count_calls.py >
tests/performance/calls.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.libraries import library

FOLDER = Path(__file__).parent
_MAX_GROWN = 1.04
"""Which task of the event loop comes first moves a count by about one percent, a busy machine by three."""
_MIN_SHRUNK = 0.95
"""What was saved further is to be kept: a stale count would let it grow again unseen."""


_TRIES = 3
"""On a busy machine more answers wait for the loop, and a count is some percent higher: the lowest of a few counts."""


def count(runtime_dir: Path) -> dict[str, float]:
    """As for a user: the governor is one that others may share, and nobody does."""
    counted = subprocess.run(
        [sys.executable, FOLDER / "count_calls.py"],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env=os.environ | {"XDG_RUNTIME_DIR": str(runtime_dir), "MISTILL_GOVERNOR": ""},
    )
    return json.loads(counted.stdout)


def test_a_request_makes_no_more_calls_than_before(runtime_dir: Path) -> None:
    library("aiohttp")
    allowed: dict[str, float] = json.loads((FOLDER / "calls.json").read_text())
    found = count(runtime_dir)
    for _ in range(_TRIES - 1):
        if all(found[name] <= _MAX_GROWN * calls for name, calls in allowed.items()):
            break
        found = {name: min(calls, found[name]) for name, calls in count(runtime_dir).items()}
    assert found.keys() == allowed.keys()
    pairs = {name: (allowed[name], calls) for name, calls in found.items()}
    grown = {name: pair for name, pair in pairs.items() if pair[1] > _MAX_GROWN * pair[0]}
    assert not grown, "calls a request (allowed, now): find what grew, or write calls.json anew and say why"
    shrunk = {name: pair for name, pair in pairs.items() if pair[1] < _MIN_SHRUNK * pair[0]}
    assert not shrunk, "calls a request (allowed, now): fewer than ever, so write calls.json anew"
