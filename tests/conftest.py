"""Fixtures for every room of the tests; those of databases and stores are in ``databases.py`` and ``stores.py``.

``simulator``  a running ``mistill.simulator.Simulator`` with plain settings
``simulate``   makes more of them: ``simulate(latency_s=0.05, faults={"503": 0.1})``; all end with the test
``opened``     the databases that this process opens while the test goes on

Every request that a simulator here was sent by our client and did not refuse is checked against the table of Mistral's
fields (``tests/contract/fields.py``) when its test ends. Tests that go beyond it on purpose have the marker
``beyond_the_spec("why")``.

The simulator is an extra: where aiohttp is missing, the tests that need it are skipped, and say so.

Every test runs with MISTRAL_API_KEY=``API_KEY`` and with no other MISTRAL_*, OPENAI_* or MISTILL_* variable but that of
the cache. It is one of the tests' own, so that none takes up limits that were learned elsewhere; of the user's, it has
the weights of the demo model. And with ``MISTILL_GOVERNOR=off``, in all processes that a test starts: how a test goes
hangs on nobody else. Those of sharing have a ``runtime_dir``.

Their files are in memory (``/dev/shm``) where there is room and ``TMPDIR`` names no other place: a ledger has the disk
make sure of each commit, which takes most of a test's time where others use the disk, and proves nothing here.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from tests.contract.fields import problems_of_request
from tests.libraries import library

from mistill.simulator import Settings, Simulator
from mistill.user_folders import cache_dir

# Their servers are started once, whoever asks for them.
pytest_plugins = ("tests.databases", "tests.stores")

API_KEY = "a-key-for-tests"

# Where it is set, each of the many processes that tests start would compile all of the package again: half of its time.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

MEMORY = Path("/dev/shm")
MEMORY_NEEDED = 1 << 30  # bytes; what a test leaves is removed after it
if (
    "TMPDIR" not in os.environ
    and os.access(MEMORY, os.W_OK)
    and shutil.disk_usage(MEMORY).free > MEMORY_NEEDED
):
    os.environ["TMPDIR"] = str(MEMORY)
    tempfile.tempdir = None

# What is started in the background, or by nohup, ignores these, and so would the programs that tests start, and send
# them to. A handler is not inherited, and as deaf.
for number in (signal.SIGINT, getattr(signal, "SIGHUP", signal.SIGINT)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)

# How long an example takes to make is a matter of what else the machine does.
hypothesis.settings.register_profile(
    "suite", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("suite")

Simulate = Callable[..., Simulator]

_opened: list[list[str]] = []


def _note_opened(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "sqlite3.connect":
        for names in _opened:
            names.append(str(arguments[0]))


sys.addaudithook(_note_opened)  # for good: none can be taken back


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The databases that this process opens while the test goes on, each as often as it does."""
    _opened.append([])
    yield _opened[-1]
    _opened.pop()


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    for weights in cache_dir().glob("*.gguf"):
        cache.joinpath(weights.name).symlink_to(weights)
    return cache


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    for name in os.environ:
        if name.startswith(("MISTRAL_", "OPENAI_", "MISTILL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MISTRAL_API_KEY", API_KEY)
    monkeypatch.setenv("MISTILL_CACHE_DIR", str(own_cache))
    monkeypatch.setenv("MISTILL_STATE_DIR", str(own_cache / "state"))
    monkeypatch.setenv("MISTILL_GOVERNOR", "off")


@pytest.fixture
def runtime_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where processes of this test find each other, and share governors. Short, as the path of a socket has to be."""
    folder = Path(tempfile.mkdtemp(prefix="ms", dir="/tmp"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(folder))
    monkeypatch.delenv("MISTILL_GOVERNOR")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)  # a process that ends removes its own files


@pytest.fixture
def simulate(request: pytest.FixtureRequest) -> Iterator[Simulate]:
    library("aiohttp")
    started: list[Simulator] = []
    with ExitStack() as running:

        def start(**settings: Any) -> Simulator:
            started.append(running.enter_context(Simulator(Settings(**settings))))
            return started[-1]

        yield start
    if request.node.get_closest_marker("beyond_the_spec") is None:
        for received in (received for simulator in started for received in simulator.requests):
            problems = problems_of_request(received)
            assert not problems, f"beyond the specification: {problems[:3]}\n{received.body}"


@pytest.fixture
def simulator(simulate: Simulate) -> Simulator:
    return simulate()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "charts: its pages have charts, and not their tables alone")
    config.addinivalue_line(
        "markers", "beyond_the_spec(why): its requests are not checked against the specification"
    )
