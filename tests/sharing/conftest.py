"""Processes that share a governor, in a runtime folder of the test's own.

``peers``      makes processes within this one: each has its own thread, sockets and locks, as if it were one
``processes``  starts real ones, which are killed, stopped and ended
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sharing.peers import Peers
from tests.sharing.processes import Processes

if sys.platform == "win32":
    pytest.skip("sockets of a user's own are not to be had here", allow_module_level=True)


@pytest.fixture
def peers(runtime_dir: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Peers]:
    with Peers() as started:
        yield started
    # What an event loop's callback raises is only logged.
    assert [record.getMessage() for record in caplog.get_records("call") if record.name == "asyncio"] == []


@pytest.fixture
def processes(runtime_dir: Path) -> Iterator[Processes]:
    with Processes(dict(os.environ)) as started:
        yield started
