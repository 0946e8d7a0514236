"""A request may not grow by more than a tenth in calls of our functions: no clock, so no noise.

After a change that is worth its calls: ``python tests/performance/count_calls.py > tests/performance/calls.json``.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.libraries import library

FOLDER = Path(__file__).parent


def test_a_request_makes_no_more_calls_than_before() -> None:
    library("aiohttp")
    counted = subprocess.run(
        [sys.executable, FOLDER / "count_calls.py"], capture_output=True, text=True, check=True, timeout=120
    )
    found, allowed = json.loads(counted.stdout), json.loads((FOLDER / "calls.json").read_text())
    assert found.keys() == allowed.keys()
    grown = {name: (allowed[name], calls) for name, calls in found.items() if calls > 1.1 * allowed[name]}
    assert not grown, "calls a request (allowed, now): find what grew, or write calls.json anew and say why"
