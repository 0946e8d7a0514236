"""Fixtures for every room of the tests.

``simulator``  a running ``mistill.simulator.Simulator`` with plain settings
``simulate``   makes more of them: ``simulate(latency_s=0.05, faults={"503": 0.1})``; all end with the test

Every test runs with MISTRAL_API_KEY=``API_KEY`` and with no other MISTRAL_*, OPENAI_* or MISTILL_* variable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from mistill.simulator import Settings, Simulator

API_KEY = "a-key-for-tests"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("MISTRAL_", "OPENAI_", "MISTILL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MISTRAL_API_KEY", API_KEY)


@pytest.fixture
def simulate() -> Iterator[Callable[..., Simulator]]:
    with ExitStack() as running:

        def start(**settings: Any) -> Simulator:
            return running.enter_context(Simulator(Settings(**settings)))

        yield start


@pytest.fixture
def simulator(simulate: Callable[..., Simulator]) -> Simulator:
    return simulate()
