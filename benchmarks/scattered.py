"""``python -m benchmarks.scattered``: what refusals cost that no quota explains, over real sockets.

2,000 rows of 0.2 s and 300 of 2 s, 64 in flight, by `generate`, against a simulator in a process of its own that
refuses 0, 1, 4 or 10% of the requests (429, code 1300) and tells of no quota. Prints how long it took, what part of
that was in cool-downs, which hold everybody, and the advice that is given. Takes two minutes.
"""

from __future__ import annotations

import time

from pydantic import SecretStr

from mistill import MistralLLM
from mistill.delivery.diagnostics import advice
from mistill.delivery.governors import governor_for
from mistill.delivery.tuning import Tuning, use_tuning
from mistill.simulator import Settings, SimulatorProcess

_CASES = ((2_000, 0.2), (300, 2.0))
_SHARES = (0.0, 0.01, 0.04, 0.1)
_SLOTS = 64
_MODEL = "mistral-small-latest"


def line(rows: int, latency_s: float, share: float) -> str:
    """One call, as a line of the table."""
    settings = Settings(latency_s=latency_s, faults={"429": share} if share else {})
    with SimulatorProcess(settings) as simulator:
        governor = governor_for(simulator.url, "k", _MODEL)
        llm = MistralLLM(
            model=_MODEL, endpoint=simulator.url, api_key=SecretStr("k"), max_concurrent_requests=_SLOTS
        )
        began_s = time.perf_counter()
        llm.generate([f"row {number}" for number in range(rows)])
        took_s = time.perf_counter() - began_s
    now = governor.snapshot()
    paused = now.seconds.get("cool_down", 0.0) / took_s
    told = advice(now, max_concurrent_requests=_SLOTS) or ""
    return f"| {rows:,} × {latency_s:g} s | {share:.0%} | {took_s:.1f} s | {paused:.0%} | {now.refused} | {told} |"


def main() -> None:
    """Measures and prints."""
    print(
        "| rows | refused at random | time | in cool-downs | 429s | advice |",
        "|---|--:|--:|--:|--:|---|",
        sep="\n",
    )
    with use_tuning(Tuning(remember_for_s=0)):  # each case begins knowing nothing
        for rows, latency_s in _CASES:
            for share in _SHARES:
                print(line(rows, latency_s, share), flush=True)


if __name__ == "__main__":
    main()
