"""``python -m tests.crash [--vectors] [--rounds 10] [--rows 3000] [--kills 20] [--seed 0]``: the long form, printed."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.crash.harness import COMPLETIONS, VECTORS, crash

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
    for name, default in (("rounds", 10), ("rows", 3000), ("kills", 20), ("seed", 0)):
        options.add_argument(f"--{name}", type=int, default=default)
    options.add_argument("--vectors", action="store_true", help="of mistill embed, in place of mistill run")
    chosen = options.parse_args()
    kind = VECTORS if chosen.vectors else COMPLETIONS
    print("".join(name.rjust(width) for name, width in _COLUMNS.items()))
    broken = 0
    for seed in range(chosen.seed, chosen.seed + chosen.rounds):
        with tempfile.TemporaryDirectory() as directory:
            result = crash(kind, Path(directory), rows=chosen.rows, kills=chosen.kills, seed=seed)
        values = (
            seed, result.rows, result.kills_before_the_end, result.in_flight, result.paid_twice, result.lost,
            result.twice, result.wrong, result.sent_by_a_further_start, f"{result.seconds:.1f}",
        )  # fmt: skip
        row = zip(values, _COLUMNS.values(), strict=True)
        print("".join(str(value).rjust(width) for value, width in row), *result.problems(), flush=True)
        broken += bool(result.problems())
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
