"""The promise of durable runs: kill -9 at any moment loses nothing, doubles nothing, and pays twice for little."""

from __future__ import annotations

from pathlib import Path

from tests.crash.harness import crash


def test_a_run_killed_again_and_again_is_as_good_as_one_that_was_not(tmp_path: Path) -> None:
    result = crash(tmp_path, rows=3000, kills=8, seed=20261122)
    assert not result.problems(), result
    assert result.kills_before_the_end >= 8
    assert result.in_flight > 0  # else the kills proved nothing
