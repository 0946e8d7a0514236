"""Looks at a ledger: rows drawn at random, the first failures of a kind, and what went on when."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.runs.conftest import MODEL

from mistill import MistralLLM, Run
from mistill.ledger import LedgerReader
from mistill.simulator import Fault, Simulator
from mistill.testing import without_waiting


def run_of(rows: int, out: Path, simulator: Simulator) -> None:
    with without_waiting():
        llm = MistralLLM(model=MODEL, endpoint=simulator.url, max_concurrent_requests=4)
        Run([{"text": f"text {n}"} for n in range(rows)], llm=llm, prompt="{{ text }}", out=out).start()


def test_rows_are_drawn_evenly_and_the_same_ones_each_time(tmp_path: Path, simulator: Simulator) -> None:
    run_of(1_000, tmp_path / "out.jsonl", simulator)
    with LedgerReader(tmp_path / "out.jsonl.ledger") as reader:
        drawn = reader.draw_positions(100, 1_000)
        assert drawn == sorted(set(drawn)) == reader.draw_positions(100, 1_000)
        assert 80 <= len(drawn) <= 120
        assert all(35 <= sum(low <= one < low + 500 for one in drawn) <= 65 for low in (0, 500))
        assert reader.draw_positions(1_000, 1_000) == list(range(1_000))
        assert [row.position for row in reader.rows_at([3, 999, 5_000, 7])] == [3, 999, 7]


def test_what_went_on_is_counted_where_it_was(tmp_path: Path, simulator: Simulator) -> None:
    simulator.script([Fault.status(429, {"message": "slow down", "code": "1300"})] * 3)
    simulator.script([Fault.status(503, "busy")] * 2)
    simulator.script([Fault.status(400, {"message": "no", "code": "1"})] * 2)
    run_of(20, tmp_path / "out.jsonl", simulator)
    with LedgerReader(tmp_path / "out.jsonl.ledger") as reader:
        start, counts = reader.starts()[0], reader.counts()
        assert start.ended_at is not None
        took = start.ended_at - start.started_at
        stretches = reader.stretches(start.started_at, took / 10, 10)
        failures = reader.first_failures(1)
    assert sum(one.sent for one in stretches) == counts.attempts == 25
    assert sum(one.answered for one in stretches) == 18
    assert sum(one.refused for one in stretches) == 3
    assert sum(one.failed for one in stretches) == 4
    assert sum(one.output_tokens for one in stretches) == counts.output_tokens
    assert list(failures) == ["bad_request"]
    assert len(failures["bad_request"]) == 1


@pytest.mark.parametrize("rows", [0, 1])
def test_of_nearly_nothing_nearly_nothing_is_found(tmp_path: Path, simulator: Simulator, rows: int) -> None:
    run_of(rows, tmp_path / "out.jsonl", simulator)
    with LedgerReader(tmp_path / "out.jsonl.ledger") as reader:
        assert reader.draw_positions(10, rows) == list(range(rows))
        assert reader.first_failures(3) == {}
        assert sum(one.answered for one in reader.stretches(0.0, 1e10, 1)) == rows
