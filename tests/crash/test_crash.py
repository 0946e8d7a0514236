"""The promise of durable runs: kill -9 at any moment loses nothing, doubles nothing, and pays twice for little."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.crash.batch_conditions import (
    LIFE_OF_A_DOUBT,
    LIFE_OF_A_JOB,
    LOST,
    PLAIN,
    WHILE_LOST,
    killed_in_turn,
)
from tests.crash.batch_harness import Starter
from tests.crash.harness import COMPLETIONS, VECTORS, Kind, crash
from tests.crash.shard_harness import crash_shards
from tests.crash.walk import walk
from tests.libraries import library


@pytest.mark.parametrize(
    ("kind", "rows", "kills"),
    [pytest.param(COMPLETIONS, 2000, 8, id="completions"), pytest.param(VECTORS, 10_000, 4, id="vectors")],
)
def test_a_run_killed_again_and_again_is_as_good_as_one_that_was_not(
    kind: Kind, rows: int, kills: int, tmp_path: Path
) -> None:
    library("aiohttp")
    result = crash(kind, tmp_path, rows=rows, kills=kills, seed=20261122)
    assert not result.problems(), result
    assert (
        result.kills_before_the_end > kills // 2
    )  # where the machine is quick, a late one meets a run that has ended
    assert result.in_flight > 0  # else the kills proved nothing


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="whose child a process is, Linux says")
def test_a_run_in_shards_whose_workers_and_driver_are_killed_is_as_good_as_one_that_was_not(
    tmp_path: Path,
) -> None:
    library("aiohttp")
    result = crash_shards(tmp_path, rows=600, kills=4, seed=20261127, workers=2)
    assert not result.problems(), result
    assert result.workers_killed > 0
    assert result.drivers_killed > 0
    assert result.hosts_killed > 0


def test_whatever_is_done_to_a_run_its_rows_come_out_right(tmp_path: Path) -> None:
    library("aiohttp")
    seen = walk(tmp_path, rows=50, steps=8, seed=20261125)
    assert not seen.problems, seen.problems
    assert seen.killed_under_way > 0
    assert seen.records > 20


def test_a_run_of_batch_jobs_killed_at_each_of_its_points_is_as_good_as_one_that_was_not() -> None:
    library("aiohttp")
    with Starter() as starter:
        result = killed_in_turn(starter, PLAIN, LIFE_OF_A_JOB, rows=200)
        assert not result.problems, result
        assert result.kills == len(LIFE_OF_A_JOB)
        result = killed_in_turn(starter, LOST, LIFE_OF_A_DOUBT, rows=60, changes=WHILE_LOST)
        assert not result.problems, result
        assert result.kills == len(LIFE_OF_A_DOUBT)
