"""``python -m tests.sharing.stress --for 600``: processes that share a governor start, and are killed, at random.

After each event, within `WITHIN_S`: exactly one of them is the host, and all of them send. Whoever breaks that ends it
with 1.

    --most 16      as many at a time, at the most
    --seed N       the same events again
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import shutil
import sys
import tempfile
import time

from tests.sharing.peers import until
from tests.sharing.processes import Process, Processes

WITHIN_S = 20.0


class Stress:
    def __init__(self, processes: Processes, *, most: int, seed: int) -> None:
        self._processes = processes
        self._most = most
        self._random = random.Random(seed)
        self._alive: list[Process] = []
        self.longest_s = 0.0
        self.events = 0

    async def run(self, *, events: int | None = None, for_s: float = 0.0) -> None:
        end_s = time.monotonic() + for_s
        while self.events < events if events is not None else time.monotonic() < end_s:
            self._happen()
            self.events += 1
            began_s = time.monotonic()
            await self._settled()
            self.longest_s = max(self.longest_s, time.monotonic() - began_s)

    def _happen(self) -> None:
        if len(self._alive) < 2 or (len(self._alive) < self._most and self._random.random() < 0.55):
            missing = self._most - len(self._alive)
            begun = [self._processes.start() for _ in range(self._random.randint(1, min(3, missing)))]
            self._alive += [process.begun() for process in begun]
            return
        # As often the host as any other.
        hosts = [process for process in self._alive if process.state().decides_itself]
        process = self._random.choice([*hosts, self._random.choice(self._alive)])
        self._alive.remove(process)
        if self._random.random() < 0.3:
            process.end()
        else:
            process.kill()

    async def _settled(self) -> None:
        before = [process.state().sent for process in self._alive]

        def is_settled() -> bool:
            now = [process.state() for process in self._alive]
            hosts = sum(state.decides_itself for state in now)
            return hosts == 1 and all(state.sent > sent + 5 for state, sent in zip(now, before, strict=True))

        await until(is_settled, WITHIN_S)
        # And it stays so: two hosts would both go on.
        states = [process.state() for process in self._alive]
        assert sum(state.decides_itself for state in states) == 1, "there are two hosts"
        assert all(state.alone_s == 0 for state in states), "one found no host, and went on alone"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--for", dest="for_s", type=float, default=600.0, metavar="SECONDS")
    parser.add_argument("--most", type=int, default=16)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="ms", dir="/tmp")
    print(f"seed {options.seed}", flush=True)
    try:
        with Processes(os.environ | {"XDG_RUNTIME_DIR": folder}) as processes:
            stress = Stress(processes, most=options.most, seed=options.seed)
            try:
                asyncio.run(stress.run(for_s=options.for_s))
            except AssertionError as broken:
                print(f"broken after {stress.events} events: {broken}")
                return 1
            print(
                f"{stress.events} events, never two hosts, never none; settled after {stress.longest_s:.1f} s at most"
            )
            return 0
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    sys.exit(main())
