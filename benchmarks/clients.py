"""One client, measured in a process of its own.

    python -m benchmarks.clients NAME --port P --requests N --concurrency C --loop uvloop|asyncio

prints one JSON object: CPU microseconds (user and system) per request, requests per second, peak memory. What is
counted begins when the client is built and warm, and ends with the last answer; building inputs is outside of it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

MODEL = "mistral-small-latest"
KEY = "benchmark"


class User(BaseModel):
    """The schema of the structured clients; the server's canned answer fits it."""

    name: str
    last_name: str
    id: int


@dataclass
class Job:
    """What a client is to do, and where it notes what that took."""

    port: int
    requests: int
    concurrency: int
    loop: str
    cpu_us: float = 0.0
    requests_per_s: float = 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def inputs(self) -> list[list[dict[str, str]]]:
        return [[{"role": "user", "content": f"Say hello to number {n}."}] for n in range(self.requests)]

    @contextmanager
    def measured(self, requests: int | None = None) -> Iterator[None]:
        before, started_at = resource.getrusage(resource.RUSAGE_SELF), time.perf_counter()
        yield
        seconds, after = time.perf_counter() - started_at, resource.getrusage(resource.RUSAGE_SELF)
        cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        count = requests or self.requests
        self.cpu_us, self.requests_per_s = cpu_s / count * 1e6, count / seconds


def _run(job: Job, main: Callable[[], Awaitable[None]]) -> None:
    if job.loop == "uvloop":
        import uvloop

        uvloop.run(main())  # type: ignore[arg-type]
    else:
        asyncio.run(main())  # type: ignore[arg-type]


async def _workers(job: Job, send: Callable[[list[dict[str, str]]], Awaitable[Any]]) -> None:
    """``concurrency`` workers over the inputs: the least that any client needs."""
    inputs = job.inputs
    for one in inputs[:3]:
        await send(one)
    each = iter(inputs)

    async def work() -> None:
        for one in each:
            await send(one)

    with job.measured():
        await asyncio.gather(*(work() for _ in range(job.concurrency)))


# --- bare loops -----------------------------------------------------------------------------------------------------


def pyreqwest_loop(job: Job) -> None:
    import orjson
    from pyreqwest.client import ClientBuilder

    async def main() -> None:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        url = job.url + "/v1/chat/completions"
        async with ClientBuilder().default_headers(headers).build() as client:

            async def send(messages: list[dict[str, str]]) -> str:
                body = orjson.dumps({"model": MODEL, "messages": messages})
                response = await client.post(url).body_bytes(body).build().send()
                return orjson.loads(memoryview(await response.bytes()))["choices"][0]["message"]["content"]

            await _workers(job, send)

    _run(job, main)


def aiohttp_loop(job: Job) -> None:
    import aiohttp
    import orjson

    async def main() -> None:
        headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
        url = job.url + "/v1/chat/completions"
        connector = aiohttp.TCPConnector(limit=job.concurrency)
        async with aiohttp.ClientSession(headers=headers, connector=connector) as session:

            async def send(messages: list[dict[str, str]]) -> str:
                body = orjson.dumps({"model": MODEL, "messages": messages})
                async with session.post(url, data=body) as response:
                    return orjson.loads(await response.read())["choices"][0]["message"]["content"]

            await _workers(job, send)

    _run(job, main)


# --- mistill --------------------------------------------------------------------------------------------------------


def _llm(job: Job, **settings: Any) -> Any:
    from mistill import MistralLLM

    if job.loop == "asyncio":
        sys.modules["uvloop"] = None  # type: ignore[assignment]  as if it were not installed
    return MistralLLM(
        model=MODEL, endpoint=job.url, api_key=KEY, max_concurrent_requests=job.concurrency, **settings
    )


def mistill_generate(job: Job, **settings: Any) -> None:
    llm = _llm(job, **settings)
    inputs = job.inputs
    llm.generate(inputs[: max(200, 2 * job.concurrency)])
    with job.measured():
        llm.generate(inputs)


def mistill_structured(job: Job) -> None:
    mistill_generate(job, structured_output={"schema": User})


def mistill_agenerate(job: Job) -> None:
    llm = _llm(job)
    inputs = job.inputs

    async def main() -> None:
        await asyncio.gather(*(llm.agenerate(one) for one in inputs[: max(200, 2 * job.concurrency)]))
        with job.measured():
            await asyncio.gather(*(llm.agenerate(one) for one in inputs))

    _run(job, main)


def mistill_run(job: Job) -> None:
    from mistill import Run

    llm = _llm(job)
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        rows = Path(folder, "rows.jsonl")
        rows.write_text("".join(f'{{"n": {n}, "name": "number {n}"}}\n' for n in range(job.requests)))
        llm.generate(job.inputs[: max(200, 2 * job.concurrency)])
        run = Run(rows, out=Path(folder, "answers.jsonl"), llm=llm, prompt="Say hello to {{ name }}.")
        with job.measured():
            summary = run.start()
        assert summary.completions == job.requests, summary


# --- others ---------------------------------------------------------------------------------------------------------


def mistralai_sdk(job: Job) -> None:
    from mistralai.client import Mistral

    async def main() -> None:
        client = Mistral(api_key=KEY, server_url=job.url)

        async def send(messages: Any) -> Any:
            return (
                (await client.chat.complete_async(model=MODEL, messages=messages)).choices[0].message.content
            )

        await _workers(job, send)

    _run(job, main)


def instructor_sdk(job: Job) -> None:
    """instructor's own way to Mistral: its patch around the official SDK's call."""
    from instructor import Mode, Provider
    from instructor.v2.core.patch import patch_v2
    from mistralai.client import Mistral

    async def main() -> None:
        client = Mistral(api_key=KEY, server_url=job.url)
        create = patch_v2(client.chat.complete_async, Provider.MISTRAL, Mode.JSON_SCHEMA)

        async def send(messages: Any) -> Any:
            return await create(model=MODEL, messages=messages, response_model=User)

        await _workers(job, send)

    _run(job, main)


def langchain(job: Job) -> None:
    from langchain_mistralai import ChatMistralAI

    async def main() -> None:
        chat = ChatMistralAI(
            model_name=MODEL, api_key=KEY, endpoint=job.url + "/v1", max_concurrent_requests=job.concurrency
        )

        async def send(messages: Any) -> Any:
            return (await chat.ainvoke([(one["role"], one["content"]) for one in messages])).content

        await _workers(job, send)

    _run(job, main)


def openai_sdk(job: Job) -> None:
    from openai import AsyncOpenAI

    async def main() -> None:
        client = AsyncOpenAI(api_key=KEY, base_url=job.url + "/v1", max_retries=0)

        async def send(messages: Any) -> Any:
            answer = await client.chat.completions.create(model=MODEL, messages=messages)
            return answer.choices[0].message.content

        await _workers(job, send)

    _run(job, main)


CLIENTS: dict[str, Callable[[Job], None]] = {
    "pyreqwest, bare loop": pyreqwest_loop,
    "aiohttp, bare loop": aiohttp_loop,
    "mistill generate": mistill_generate,
    "mistill generate, structured": mistill_structured,
    "mistill agenerate, gather": mistill_agenerate,
    "mistill run, durable": mistill_run,
    "openai SDK": openai_sdk,
    "langchain-mistralai": langchain,
    "mistralai SDK": mistralai_sdk,
    "instructor over the SDK": instructor_sdk,
}


def main() -> None:
    """Measures the client that the command line names."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("client", choices=CLIENTS)
    arguments.add_argument("--port", type=int, required=True)
    arguments.add_argument("--requests", type=int, required=True)
    arguments.add_argument("--concurrency", type=int, required=True)
    arguments.add_argument("--loop", choices=("uvloop", "asyncio"), default="uvloop")
    given = arguments.parse_args()
    logging.disable()
    job = Job(given.port, given.requests, given.concurrency, given.loop)
    CLIENTS[given.client](job)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu_us": job.cpu_us, "requests_per_s": job.requests_per_s, "peak_mib": peak_mib}))


if __name__ == "__main__":
    main()
