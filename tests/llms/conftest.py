"""``make_llm``: a MistralLLM on the test's simulator, whose pauses after failures are too short to be felt."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from mistill.llms import MistralLLM
from mistill.simulator import Simulator
from mistill.testing import without_waiting


@pytest.fixture
def short_pauses() -> Iterator[None]:
    with without_waiting():
        yield


@pytest.fixture
def make_llm(simulator: Simulator, short_pauses: None) -> Callable[..., MistralLLM]:
    def make(**attributes: Any) -> MistralLLM:
        given: dict[str, Any] = {"model": "mistral-small-latest", "endpoint": simulator.url} | attributes
        return MistralLLM(**given)

    return make
