"""``python -m tests.crash [--vectors] [--rounds 10] [--rows 3000] [--kills 20] [--seed 0]``: the long form, printed.

``python -m tests.crash --shards [--rounds 10] [--rows 3000] [--kills 20] [--seed 0]``: of a run in shards, whose
workers and drivers are killed, and whoever has the governor.

``python -m tests.crash --walk [--rounds 10] [--rows 300] [--steps 60] [--seed 0]``: random walks over all that one may
do to a run.

``python -m tests.crash --batch [--points] [--rounds 4] [--rows 300] [--kills 8] [--seed 0] [--only WORDS]``: runs of
batch jobs, under each condition; ``--points``: killed at each point that they pass, in place of at random.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.batch_conditions import CONDITIONS, killed_at, killed_at_random, points_of
from tests.crash.batch_harness import Starter
from tests.crash.harness import COMPLETIONS, VECTORS, Kind, crash
from tests.crash.shard_harness import crash_shards
from tests.crash.walk import walk

_COLUMNS = {
    "seed": 6,
    "rows": 6,
    "kills": 6,
    "in flight": 10,
    "paid twice": 11,
    "lost": 5,
    "doubled": 8,
    "wrong": 6,
    "again": 6,
    "s": 7,
}
_SHARD_COLUMNS = {
    "seed": 6, "rows": 6, "workers killed": 16, "drivers": 9, "hosts": 7, "marked": 8, "paid twice": 12, "lost": 6,
    "doubled": 9, "wrong": 7, "again": 7, "s": 7,
}  # fmt: skip
_BATCH_COLUMNS = {
    "runs": 6, "starts": 8, "kills": 7, "jobs": 6, "broken": 8, "paid twice": 12, "marked": 8, "doubtful": 10, "s": 6
}  # fmt: skip


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    for name, default in (("rounds", 10), ("rows", None), ("kills", 20), ("steps", 60), ("seed", 0)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--walk", action="store_true", help="kills, edits, other options, retries, exports")
    options.add_argument("--shards", action="store_true", help="of a run in shards: its workers, its driver")
    options.add_argument("--batch", action="store_true", help="runs of batch jobs, under each condition")
    options.add_argument("--points", action="store_true", help="killed at each point that they pass")
    options.add_argument("--only", default="", help="conditions with these words in their names")
    options.add_argument("--vectors", action="store_true", help="of mistill embed, in place of mistill run")
    chosen = options.parse_args()
    seeds = range(chosen.seed, chosen.seed + chosen.rounds)
    if chosen.shards:
        return _shards(seeds, rows=chosen.rows or 3000, kills=chosen.kills)
    if chosen.walk:
        return _walk(seeds, rows=chosen.rows or 300, steps=chosen.steps)
    if chosen.batch:
        return _batch(
            seeds, rows=chosen.rows or 300, kills=chosen.kills, only=chosen.only, by_points=chosen.points
        )
    return _crash(
        VECTORS if chosen.vectors else COMPLETIONS, seeds, rows=chosen.rows or 3000, kills=chosen.kills
    )


def _crash(kind: Kind, seeds: range, *, rows: int, kills: int) -> int:
    print("".join(name.rjust(width) for name, width in _COLUMNS.items()))
    broken = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            result = crash(kind, Path(directory), rows=rows, kills=kills, seed=seed)
        values = (
            seed, result.rows, result.kills_before_the_end, result.in_flight, result.paid_twice, result.lost,
            result.twice, result.wrong, result.sent_by_a_further_start, f"{result.seconds:.1f}",
        )  # fmt: skip
        row = zip(values, _COLUMNS.values(), strict=True)
        print("".join(str(value).rjust(width) for value, width in row), *result.problems(), flush=True)
        broken += bool(result.problems())
    return 1 if broken else 0


def _shards(seeds: range, *, rows: int, kills: int) -> int:
    print("".join(name.rjust(width) for name, width in _SHARD_COLUMNS.items()))
    broken = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            result = crash_shards(Path(directory), rows=rows, kills=kills, seed=seed)
        values = (
            seed, result.rows, result.workers_killed, result.drivers_killed, result.hosts_killed,
            result.marked_maybe_billed, result.paid_twice, result.lost, result.twice, result.wrong,
            result.sent_by_a_further_start, f"{result.seconds:.1f}",
        )  # fmt: skip
        row = zip(values, _SHARD_COLUMNS.values(), strict=True)
        print("".join(str(value).rjust(width) for value, width in row), *result.problems(), flush=True)
        broken += bool(result.problems())
    return 1 if broken else 0


def _batch(seeds: range, *, rows: int, kills: int, only: str, by_points: bool) -> int:
    print("condition".ljust(45), "".join(name.rjust(width) for name, width in _BATCH_COLUMNS.items()))
    broken = 0
    for condition in CONDITIONS:
        if only not in condition.name:
            continue
        began_s = time.monotonic()
        with Starter() as starter:
            if by_points:
                points = list(points_of(starter, condition, rows=rows))
                results = [killed_at(starter, condition, point, rows=rows) for point in points]
            else:
                points = [("at random", seed) for seed in seeds]
                job_rows = 20 if rows <= 300 else 200
                results = [
                    killed_at_random(starter, condition, rows=rows, kills=kills, seed=seed, job_rows=job_rows)
                    for seed in seeds
                ]
        values = (
            len(results), sum(one.starts for one in results), sum(one.kills for one in results),
            sum(one.jobs for one in results), sum(bool(one.problems) for one in results),
            sum(one.paid_twice for one in results), sum(one.marked for one in results),
            sum(one.doubtful for one in results), f"{time.monotonic() - began_s:.0f}",
        )  # fmt: skip
        told = zip(values, _BATCH_COLUMNS.values(), strict=True)
        print(condition.name.ljust(45), "".join(str(value).rjust(width) for value, width in told), flush=True)
        for point, result in zip(points, results, strict=True):
            for problem in result.problems:
                print("   ", *point, ":", " ".join(problem.split()), flush=True)
        broken += any(one.problems for one in results)
    return 1 if broken else 0


def _walk(seeds: range, *, rows: int, steps: int) -> int:
    broken = 0
    for seed in seeds:
        with tempfile.TemporaryDirectory() as directory:
            began_s = time.monotonic()
            seen = walk(Path(directory), rows=rows, steps=steps, seed=seed)
        done = ", ".join(f"{count} {name}" for name, count in seen.steps.most_common())
        print(
            f"seed {seed}: {done}; {seen.killed_under_way} of {seen.signals} signals under way, "
            f"{seen.records} records, {seen.paid_twice} paid twice, {time.monotonic() - began_s:.0f} s",
            *seen.problems,
            flush=True,
        )
        broken += bool(seen.problems)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
