"""``make_llm``: a MistralLLM on the test's simulator, whose pauses after failures are too short to be felt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mistill.delivery import adaptive_limit, circuit_breaker, quota_estimate
from mistill.llms import MistralLLM
from mistill.simulator import Simulator

_PAUSES = {
    circuit_breaker: (
        "_COOL_DOWN_S",
        "_LONGEST_COOL_DOWN_S",
        "_PROBE_INTERVAL_S",
        "_LONGEST_PROBE_INTERVAL_S",
    ),
    quota_estimate: ("_FIRST_INTERVAL_S", "_AFTER_SUCCESS_S"),
    adaptive_limit: ("_QUIET_AFTER_ERROR_S",),
}


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the governor waits after refusals and in outages, in hundredths of what it is."""
    for module, names in _PAUSES.items():
        for name in names:
            monkeypatch.setattr(module, name, getattr(module, name) / 100)


@pytest.fixture
def make_llm(simulator: Simulator, short_pauses: None) -> Callable[..., MistralLLM]:
    def make(**attributes: Any) -> MistralLLM:
        llm = MistralLLM(**{"model": "mistral-small-latest", "endpoint": simulator.url} | attributes)
        llm._backoff_base_s = 0.001
        return llm

    return make
