"""``python -m benchmarks.governor``: how near the governor comes to what the quota permits, over real sockets.

    python -m benchmarks.governor                 all cases, with real windows of 60 s: about ten minutes
    python -m benchmarks.governor --only outage   the cases whose name contains this
    python -m benchmarks.governor --processes 4   the same quotas, shared by so many processes: twenty-five minutes
    python -m benchmarks.governor --processes 4 --unshared      as before they shared a governor
    python -m benchmarks.governor --tune cool_down_s=1 --tune outage_rows=3     with other constants of delivery

Each case is a process of its own with a simulator in another. Ideal is the time in which the quota lets so many rows
through: a whole quota at once, then each row as soon as 60 s have passed since one before it, plus one answer's time.
Writes benchmarks/results/governor.json, if all cases were measured as they are. Ends with 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from mistill.delivery.tuning import Tuning, use_tuning

_RESULTS = Path(__file__).parent / "results" / "governor.json"
_LATENCY_S = 0.2
_TIMEOUT_S = 900


@dataclass(frozen=True)
class Case:
    """One measurement. ``quotas``: (from second, requests a minute); ``slack``: most of taken time over ideal."""

    name: str
    rows: int
    quotas: tuple[tuple[float, float], ...] = ((0.0, math.inf),)
    slack: float = 1.10
    most_refused: float = 0.02
    most_late_s: float | None = None
    slots: int = 64
    simulator: dict[str, Any] = field(default_factory=dict)

    @property
    def ideal_s(self) -> float:
        outage_s = self.simulator.get("outage_for_s", 0.0)
        latency_s = self.simulator.get("latency_s", _LATENCY_S)
        if self.quotas[0][1] == math.inf:
            return outage_s + self.rows * latency_s / self.slots
        return outage_s + quota_time_s(self.rows, self.quotas) + latency_s


def quota_time_s(rows: int, quotas: tuple[tuple[float, float], ...]) -> float:
    """When the last of ``rows`` is accepted, by greedy play against a sliding window of 60 s."""
    accepted: deque[float] = deque()
    now_s = 0.0
    for _ in range(rows):
        while True:
            while accepted and accepted[0] + 60 <= now_s:
                accepted.popleft()
            if len(accepted) < next(quota for from_s, quota in reversed(quotas) if from_s <= now_s):
                break
            changes = [from_s for from_s, _ in quotas if from_s > now_s]
            now_s = min([accepted[0] + 60, *changes])
        accepted.append(now_s)
    return now_s


def _quota_case(quota: int, *, is_reported: bool) -> Case:
    return Case(
        f"{quota} requests a minute, {'reported in headers' if is_reported else 'not reported'}",
        rows=3 * quota,
        quotas=((0.0, quota),),
        slack=1.10 if is_reported else 1.25,
        most_refused=0.02 if is_reported else 0.10,
        slots=64 if quota < 6_000 else 1_024,
        simulator={"requests_per_minute": quota, "quota_headers": "2026" if is_reported else "none"},
    )


_ANSWER_TOKENS = 100
_OUTAGE = {"latency_s": 1.0, "outage": "503", "outage_after_s": 15.0, "outage_for_s": 30.0}
_REFUSING = _OUTAGE | {"outage": "refuse"}

CASES = (
    *(_quota_case(quota, is_reported=True) for quota in (60, 600, 6_000)),
    *(_quota_case(quota, is_reported=False) for quota in (60, 600, 6_000)),
    Case(
        "a token quota that binds first",
        rows=0,  # set by `measure`, from what an answer takes
        simulator={
            "requests_per_minute": 6_000,
            "tokens_per_minute": 15_000,
            "answer_tokens": _ANSWER_TOKENS,
        },
    ),
    Case(
        "600 a minute, halved at 40 s, doubled at 110 s",
        rows=1_800,
        quotas=((0.0, 600), (40.0, 300), (110.0, 1_200)),
        slack=1.25,  # a raise is seen with the next answer, and until 120 s none is due
        simulator={"requests_per_minute": 600},
    ),
    Case("an outage of 30 s (503)", rows=2_000, slack=math.inf, most_late_s=10, simulator=_OUTAGE),
    Case("an outage of 30 s (refused)", rows=2_000, slack=math.inf, most_late_s=10, simulator=_REFUSING),
)


def measure(case: Case) -> dict[str, Any]:
    """Sends all rows of a case through one object, and compares."""
    from mistill.llms import MistralLLM
    from mistill.simulator import Settings, SimulatorProcess

    with SimulatorProcess(Settings(**{"latency_s": _LATENCY_S} | case.simulator)) as simulator:
        llm = MistralLLM(
            model="mistral-small-latest",
            endpoint=simulator.url,
            api_key="benchmark",
            max_concurrent_requests=case.slots,
        )
        rows, ideal_s = case.rows, case.ideal_s
        if "tokens_per_minute" in case.simulator:
            usage = llm.complete(["hello"])[0][0].usage
            fits = case.simulator["tokens_per_minute"] // (usage.input_tokens + usage.output_tokens)
            rows = int(2.9 * fits)  # nine tenths of the third window, since the look above used some
            ideal_s = 120.0 + _LATENCY_S
        for from_s, quota in case.quotas[1:]:
            timer = threading.Timer(from_s, simulator.change, kwargs={"requests_per_minute": quota})
            timer.daemon = True
            timer.start()
        started_s = time.monotonic()
        outcomes = llm.outcomes(["hello"] * rows)
        took_s = time.monotonic() - started_s
        counts = simulator.stats().counts_by_status
    refused = counts.get("429", 0) / rows
    lost = sum(outcome.error is not None for outcome in outcomes)
    is_kept = (
        lost == 0
        and refused <= case.most_refused
        and took_s <= case.slack * ideal_s
        and (case.most_late_s is None or took_s - ideal_s <= case.most_late_s)
    )
    return {
        "case": case.name,
        "rows": rows,
        "took_s": round(took_s, 2),
        "ideal_s": round(ideal_s, 2),
        "ratio": round(took_s / ideal_s, 3),
        "refused": round(refused, 4),
        "lost": lost,
        "is_kept": is_kept,
    }


def measure_budgets(budgets: int = 1_000) -> dict[str, Any]:
    """Random budgets, sizes, concurrency and answer times; the worst overrun in answers (1.0: one whole answer)."""
    from mistill.api.prices import Price
    from mistill.errors import Stopped
    from mistill.estimates.budget import Budget
    from mistill.llms import Usage

    rng = random.Random(20260801)
    price = Price(input=1.0, output=4.0, cached_input=0.1)

    async def spend() -> float:
        most_output = rng.randint(1, 2_000)
        max_tokens = rng.randint(1, 60_000)
        max_cost = rng.uniform(1e-6, 0.1)
        budget = Budget(max_tokens_total=max_tokens, max_cost=max_cost, price=price)
        largest, dearest = 0, 0.0

        async def work() -> None:
            nonlocal largest, dearest
            while True:
                size = rng.randint(1, 400)
                try:
                    reservation = await budget.reserve(size, most_output)
                except Stopped:
                    return
                for _ in range(rng.randint(0, 5)):
                    await asyncio.sleep(0)
                usage = Usage(rng.randint(1, size), rng.randint(0, most_output))
                budget.settle(reservation, usage)
                largest = max(largest, usage.input_tokens + usage.output_tokens)
                dearest = max(dearest, price.cost(usage))

        await asyncio.gather(*(work() for _ in range(rng.randint(1, 64))))
        over = [(budget.spent_tokens - max_tokens) / largest, (budget.spent_cost - max_cost) / dearest]
        return max(over)

    worst = max(asyncio.run(spend()) for _ in range(budgets))
    return {
        "case": f"{budgets:,} random budgets",
        "worst_overrun_answers": round(worst, 3),
        "is_kept": worst < 1,
    }


BUDGETS = "budgets"
MEASUREMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    BUDGETS: measure_budgets,
    **{case.name: (lambda case=case: measure(case)) for case in CASES},
}


def tuned(settings: list[str]) -> Tuning:
    """The constants of delivery with these in place of their defaults: ``name=value`` each."""
    try:
        return msgspec.convert(dict(setting.split("=", 1) for setting in settings), Tuning, strict=False)
    except (ValueError, msgspec.ValidationError) as error:
        raise SystemExit(f"--tune takes NAME=VALUE, the name of a field of Tuning: {error}") from error


def _in_its_own_process(name: str, tune: list[str]) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.governor", "--measure", name]
    command += [word for setting in tune for word in ("--tune", setting)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    if done.returncode:
        return {
            "case": name,
            "is_kept": False,
            "error": (done.stderr.strip().splitlines() or ["no message"])[-1],
        }
    return json.loads(done.stdout.strip().splitlines()[-1])


def _line(result: dict[str, Any]) -> str:
    verdict = "kept  " if result["is_kept"] else "MISSED"
    if "error" in result:
        return f"{verdict}  {result['case']:<48} {result['error']}"
    if "worst_overrun_answers" in result:
        return (
            f"{verdict}  {result['case']:<48} worst overrun {result['worst_overrun_answers']} of one answer"
        )
    return (
        f"{verdict}  {result['case']:<48} {result['took_s']:7.1f} s of {result['ideal_s']:7.1f} s ideal"
        f" = {result['ratio']:.3f}   refused {result['refused']:6.2%}   lost {result['lost']}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", default="", help="only cases whose name contains this")
    parser.add_argument("--at-once", type=int, default=2, help="cases measured at the same time")
    parser.add_argument(
        "--tune",
        metavar="NAME=VALUE",
        action="append",
        default=[],
        help="another value of a field of mistill.delivery.tuning.Tuning",
    )
    parser.add_argument("--processes", type=int, default=1, help="so many processes share the quota")
    parser.add_argument("--unshared", action="store_true", help="each of them with a governor of its own")
    parser.add_argument("--measure", choices=MEASUREMENTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    tuning = tuned(options.tune)
    if options.measure:
        with use_tuning(tuning):
            print(json.dumps(MEASUREMENTS[options.measure]()))
        return 0
    if options.processes > 1:
        from benchmarks import governor_processes

        return governor_processes.run(options.processes, only=options.only, is_shared=not options.unshared)
    names = [name for name in MEASUREMENTS if options.only in name]
    results: list[dict[str, Any]] = []
    with ThreadPoolExecutor(options.at_once) as pool:
        for result in pool.map(partial(_in_its_own_process, tune=options.tune), names):
            results.append(result)
            print(_line(result), flush=True)
    if not options.only and not options.tune:
        _RESULTS.parent.mkdir(exist_ok=True)
        _RESULTS.write_text(
            json.dumps({"date": time.strftime("%Y-%m-%d"), "results": results}, indent=2) + "\n"
        )
    return 0 if all(result["is_kept"] for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
