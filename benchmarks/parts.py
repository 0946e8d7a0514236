"""``python -m benchmarks.parts``: where a request's time goes, part by part, each measured alone and without a network.

What is left between the sum of these and the whole (``python -m benchmarks``) is the transport's and the event loop's.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from benchmarks.clients import User
from benchmarks.server import ANSWER
from mistill import MistralLLM
from mistill.api.chat import ChatResponse, decode_response
from mistill.api.client import HTTPAnswer
from mistill.api.limits import parse_limits
from mistill.api.usage import Usage
from mistill.datasets.sources import open_source
from mistill.delivery.dispatcher import Delivered, Request
from mistill.delivery.governor import ConcurrencyLimit, Governor
from mistill.ledger import InputRow, Ledger
from mistill.prompts.prompt_template import PromptTemplate

ROUNDS = 30_000
_MESSAGES = [{"role": "user", "content": "Say hello to number 12345."}]
_HEADERS = {
    "x-ratelimit-limit-req-minute": "6000",
    "x-ratelimit-remaining-req-minute": "5999",
    "x-ratelimit-limit-tokens-minute": "600000",
    "x-ratelimit-remaining-tokens-minute": "599000",
}


async def answered(_: Request) -> Delivered[ChatResponse]:
    """A sender whose every request is answered at once."""
    usage, cost = Usage(16, 24), 0.001
    return Delivered(HTTPAnswer(decode_response(ANSWER), ANSWER, None, "id", 0.1, usage, cost), 1)


def _timed(name: str, work: Callable[[], object]) -> None:
    best = min(_once(work) for _ in range(3))
    print(f"{best * 1e6:7.2f} µs  {name}")


def _once(work: Callable[[], object]) -> float:
    started_at = time.perf_counter()
    for _ in range(ROUNDS // 3):
        work()
    return (time.perf_counter() - started_at) / (ROUNDS // 3)


async def _timed_async(name: str, work: Callable[[], Awaitable[object]]) -> None:
    started_at = time.perf_counter()
    for _ in range(ROUNDS):
        await work()
    print(f"{(time.perf_counter() - started_at) / ROUNDS * 1e6:7.2f} µs  {name}")


async def _ledger(folder: str) -> None:
    """CPU of the process for each row: inserted, attempted, answered, completed; 64 at once, fully durable."""
    rows = 20_000
    with Ledger.open(Path(folder, "ledger"), {}) as ledger:
        matcher = await ledger.match_input()
        each = iter(range(rows))
        states = {}
        for start in range(0, rows, 500):
            await matcher.known([n.to_bytes(16, "big") for n in range(start, start + 500)])
            window = [
                InputRow(n, n.to_bytes(16, "big"), n.to_bytes(16, "little"), b'{"n": 1, "name": "number 1"}')
                for n in range(start, start + 500)
            ]
            for state in await matcher.claim(window):
                states[state.position] = state.row

        async def work() -> None:
            for n in each:
                (attempt,) = await ledger.begin_attempts([states[n]])
                ledger.answer(attempt, ANSWER, Usage(16, 24), 0.001)
                await ledger.complete(
                    states[n], [attempt.id], finish_reason="stop", tokens=Usage(16, 24), cost=0.001
                )

        before, started_at = time.process_time(), time.perf_counter()
        await asyncio.gather(*(work() for _ in range(64)))
        await ledger.flush()
        cpu, wall = time.process_time() - before, time.perf_counter() - started_at
    print(
        f"{cpu / rows * 1e6:7.2f} µs  ledger: attempt, answer and outcome on disk (CPU; {rows / wall:,.0f} rows/s)"
    )


async def _parts() -> None:
    llm = MistralLLM(model="mistral-small-latest", api_key="benchmark")
    plain, typed = llm.generation(), llm.generation(structured_output={"schema": User})
    messages = plain.check(_MESSAGES).messages
    _timed("check the messages of one input, and encode them", lambda: plain.check(_MESSAGES))
    _timed("put them into the request", lambda: plain._template.encode(messages))  # noqa: SLF001  the part itself
    governor, concurrency = Governor(), ConcurrencyLimit(64)
    governor.try_admit(concurrency, 40)  # another request is always in flight

    def admit() -> None:
        permit = governor.try_admit(concurrency, 40)
        assert permit is not None
        governor.settle(permit, tokens=40)

    _timed("governor: admit and settle", admit)
    _timed("read the rate-limit headers (at most 100 times a second)", lambda: parse_limits(_HEADERS.get))
    _timed("decode the answer", lambda: decode_response(ANSWER))
    await _timed_async(
        "a row without governor and transport, plain", lambda: plain.answer(messages, answered)
    )
    await _timed_async(
        "a row without governor and transport, structured", lambda: typed.answer(messages, answered)
    )


def _rows(folder: str) -> None:
    path = Path(folder, "rows.jsonl")
    path.write_text("".join(f'{{"n": {n}, "name": "number {n}"}}\n' for n in range(ROUNDS)))
    started_at = time.perf_counter()
    rows = list(open_source(path))
    print(f"{(time.perf_counter() - started_at) / ROUNDS * 1e6:7.2f} µs  read a row of JSONL")
    prompt = PromptTemplate(prompt="Say hello to {{ name }}.")
    started_at = time.perf_counter()
    for row in rows:
        prompt.render(row)
    print(f"{(time.perf_counter() - started_at) / ROUNDS * 1e6:7.2f} µs  render its prompt")


def main() -> None:
    """Measures all parts."""
    import uvloop

    uvloop.run(_parts())
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        _rows(folder)
        uvloop.run(_ledger(folder))


if __name__ == "__main__":
    main()
