"""Fixtures for every room of the tests.

``simulator``  a running ``mistill.simulator.Simulator`` with plain settings
``simulate``   makes more of them: ``simulate(latency_s=0.05, faults={"503": 0.1})``; all end with the test

Every chat request that a simulator here was sent by our client and did not refuse is checked against Mistral's OpenAPI
specification when its test ends, where that file is at hand. Tests that go beyond it on purpose have the marker
``beyond_the_spec("why")``.

Every test runs with MISTRAL_API_KEY=``API_KEY`` and with no other MISTRAL_*, OPENAI_* or MISTILL_* variable.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from mistill.api.client import CHAT_PATH
from mistill.simulator import Settings, Simulator

API_KEY = "a-key-for-tests"
SPEC = Path(__file__).parents[2] / "shared" / "openapi" / "mistral-2026-08.yaml"


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(("MISTRAL_", "OPENAI_", "MISTILL_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MISTRAL_API_KEY", API_KEY)


@pytest.fixture
def simulate(request: pytest.FixtureRequest) -> Iterator[Callable[..., Simulator]]:
    started: list[Simulator] = []
    with ExitStack() as running:

        def start(**settings: Any) -> Simulator:
            started.append(running.enter_context(Simulator(Settings(**settings))))
            return started[-1]

        yield start
    if SPEC.exists() and request.node.get_closest_marker("beyond_the_spec") is None:
        for simulator in started:
            _check_requests(simulator)


def _check_requests(simulator: Simulator) -> None:
    for received in simulator.requests:
        is_ours = received.headers.get("user-agent") == "mistill" and received.path == CHAT_PATH
        if is_ours and received.status not in (400, 404, 422):
            errors = list(islice(_validator().iter_errors(received.body), 3))
            assert not errors, f"beyond the specification: {errors}\n{received.body}"


@pytest.fixture(scope="session")
def chat_request_validator() -> Any:
    """A validator of the specification's ``ChatCompletionRequest``."""
    if not SPEC.exists():
        pytest.skip(f"the specification is not at {SPEC}")
    return _validator()


@cache
def _validator() -> Any:
    components = yaml.safe_load(SPEC.read_text("utf-8"))["components"]
    schema = {"$ref": "#/components/schemas/ChatCompletionRequest", "components": components}
    return jsonschema_rs.validator_for(schema, validate_formats=False)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "beyond_the_spec(why): its requests are not checked against the specification"
    )


@pytest.fixture
def simulator(simulate: Callable[..., Simulator]) -> Simulator:
    return simulate()
