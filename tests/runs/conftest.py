"""What the tests of runs share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from mistill import MistralLLM, Run
from mistill.simulator import Simulator
from mistill.testing import without_waiting

MODEL = "mistral-small-latest"


class Place:
    """A directory with an input and an output, and a model to run between them."""

    def __init__(self, directory: Path, endpoint: str) -> None:
        self.input = directory / "in.jsonl"
        self.out = directory / "out.jsonl"
        self.ledger = directory / "out.jsonl.ledger"
        self.endpoint = endpoint

    def llm(self, **settings: Any) -> MistralLLM:
        return MistralLLM(model=MODEL, endpoint=self.endpoint, **settings)

    def write(self, texts: list[str], **columns: Any) -> None:
        self.write_rows([{"text": text} | columns for text in texts])

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        self.input.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))

    def run(self, source: Any = None, **settings: Any) -> Run:
        llm = settings.pop("llm", None) or self.llm(**settings.pop("llm_settings", {}))
        given = {"prompt": "{{ text }}", "out": self.out, "grace": 5.0} | settings
        return Run(self.input if source is None else source, llm=llm, **given)

    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.read_text().splitlines()]

    def answers(self) -> list[str | None]:
        return [record["generation"] for record in self.records()]


@pytest.fixture
def place(tmp_path: Path, simulator: Simulator) -> Iterator[Place]:
    with without_waiting():
        yield Place(tmp_path, simulator.url)


def echoes(texts: list[str]) -> list[str]:
    """What the simulator answers."""
    return [f"Echo: {text}" for text in texts]


def sent(simulator: Simulator) -> list[str]:
    """The last message of every chat request that came in."""
    return [request.body["messages"][-1]["content"] for request in simulator.requests]
