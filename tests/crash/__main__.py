"""``python -m tests.crash [--vectors] [--rounds 10] [--rows 3000] [--kills 20] [--seed 0]``: the long form, printed.

``python -m tests.crash --walk [--rounds 10] [--rows 300] [--steps 60] [--seed 0]``: random walks over all that one may
do to a run.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.crash.harness import COMPLETIONS, VECTORS, Kind, crash
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


def main() -> int:
    options = argparse.ArgumentParser(prog="python -m tests.crash", description=__doc__)
    for name, default in (("rounds", 10), ("rows", None), ("kills", 20), ("steps", 60), ("seed", 0)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--walk", action="store_true", help="kills, edits, other options, retries, exports")
    options.add_argument("--vectors", action="store_true", help="of mistill embed, in place of mistill run")
    chosen = options.parse_args()
    seeds = range(chosen.seed, chosen.seed + chosen.rounds)
    if chosen.walk:
        return _walk(seeds, rows=chosen.rows or 300, steps=chosen.steps)
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
