"""``python -m benchmarks.gathering``: what it gives that a pool lets answers gather (`Tuning.linger_s`).

A bare loop of 64 workers, and `generate`, with pauses of different lengths, in turn within one process, so that a
machine whose speed drifts is unfair to none: CPU and time for each request, and the context switches of the process.
"""

from __future__ import annotations

import asyncio
import resource
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from benchmarks.__main__ import server
from benchmarks.clients import KEY, MODEL, Job
from mistill import MistralLLM
from mistill.delivery.tuning import Tuning, use_tuning
from mistill.llms.event_loop import background

ROUNDS = 12
REQUESTS = 4_000
AT_ONCE = 64
PAUSES_S = (0.0, 0.0001, 0.0002, 0.0004, 0.0008)


async def bare(port: int, pause_s: float) -> None:
    """The bare loop, which lies still for ``pause_s`` after each turn in which an answer came."""
    import orjson
    from pyreqwest.client import ClientBuilder

    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    loop = asyncio.get_running_loop()
    may_pause = pause_s > 0

    def pause() -> None:
        nonlocal may_pause
        time.sleep(pause_s)
        may_pause = True

    async with ClientBuilder().default_headers(headers).build() as client:
        each = iter(Job(port, REQUESTS, AT_ONCE, "uvloop").inputs)

        async def work() -> None:
            nonlocal may_pause
            for messages in each:
                body = orjson.dumps({"model": MODEL, "messages": messages})
                response = await client.post(url).body_bytes(body).build().send()
                if may_pause:
                    may_pause = False
                    loop.call_soon(pause)
                orjson.loads(memoryview(await response.bytes()))

        await asyncio.gather(*(work() for _ in range(AT_ONCE)))


def _generate(llm: MistralLLM, port: int, pause_s: float) -> None:
    from_workers = AT_ONCE if pause_s else AT_ONCE + 1
    with use_tuning(Tuning(linger_from_workers=from_workers, linger_s=pause_s)):
        llm.generate(Job(port, REQUESTS, AT_ONCE, "uvloop").inputs)


def _measured(work: Callable[[], Any]) -> tuple[float, float, float]:
    before, started_at = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
    work()
    seconds, after = time.perf_counter() - started_at, resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    switches = after.ru_nvcsw + after.ru_nivcsw - before.ru_nvcsw - before.ru_nivcsw
    return cpu_s / REQUESTS * 1e6, seconds / REQUESTS * 1e6, switches / REQUESTS


def main() -> None:
    """Measures and prints, medians over the rounds."""

    def blocking(work: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        return lambda: background.run(work())

    with server() as port:
        llm = MistralLLM(
            model=MODEL, endpoint=f"http://127.0.0.1:{port}", api_key=KEY, max_concurrent_requests=AT_ONCE
        )
        cases: dict[str, Callable[[], None]] = {}
        for pause_s in PAUSES_S:
            cases[f"bare loop, {pause_s * 1000:.1f} ms"] = blocking(lambda s=pause_s: bare(port, s))
            cases[f"generate, {pause_s * 1000:.1f} ms"] = lambda s=pause_s: _generate(llm, port, s)
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in cases}
        for _ in range(ROUNDS + 1):
            for name, work in cases.items():
                found[name].append(_measured(work))
    for name in sorted(found):
        cpu, wall, switches = (statistics.median(column) for column in zip(*found[name][1:], strict=True))
        print(f"{name:22} {cpu:6.0f} µs CPU  {wall:6.0f} µs a request  {switches:5.2f} context switches")


if __name__ == "__main__":
    main()
