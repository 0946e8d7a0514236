"""One tool over the rows, in its own environment, as `benchmarks.live_faults` runs it: ``ask.py TOOL JSON``.

Each is used as the start of its own documentation has it, with 64 requests at once, and what goes on after a kill where
it has that. The official SDK and litellm are given their own retries, which are off unless they are asked for; litellm
needs tenacity for them. An answer is a line of the output as soon as the tool gives it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

AT_ONCE = 64
KEY = "benchmark"


class Job:
    """What is asked: rows are (id, text) in order; ``folder`` is what the tool keeps from one start to the next."""

    def __init__(self, given: str) -> None:
        asked = json.loads(given)
        self.url: str = asked["url"]
        self.model: str = asked["model"]
        self.rows: list[tuple[str, str]] = [(str(row), text) for row, text in asked["rows"]]
        self.folder = Path(asked["folder"])
        self._out = Path(asked["out"])

    def give(self, row: str, answer: str | None) -> None:
        with self._out.open("a", encoding="utf-8") as file:
            file.write(json.dumps([row, answer]) + "\n")

    def gather(self, ask: Callable[[str], Awaitable[str | None]]) -> None:
        """Where a tool has calls alone: so many tasks at once, as everybody writes it."""
        slots = asyncio.Semaphore(AT_ONCE)

        async def one(row: str, text: str) -> None:
            async with slots:
                try:
                    answer = await ask(text)
                except Exception as error:
                    print(f"row {row}: {type(error).__name__}: {error}"[:300], file=sys.stderr)
                else:
                    self.give(row, answer)

        async def main() -> None:
            await asyncio.gather(*(one(*row) for row in self.rows))

        asyncio.run(main())


def messages(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def mistill(job: Job) -> None:
    from mistill import MistralLLM, Run

    llm = MistralLLM(model=job.model, endpoint=job.url, api_key=KEY, max_concurrent_requests=AT_ONCE)
    rows = [{"id": row, "text": text} for row, text in job.rows]
    run = Run(rows, llm=llm, prompt="{{ text }}", out=job.folder / "answers.jsonl", progress=False)
    run.start()
    for record in run.results():
        job.give(record["id"], record["generation"])


def official_sdk(job: Job) -> None:
    from mistralai.client import Mistral
    from mistralai.client.utils import BackoffStrategy, RetryConfig

    # The figures are those that its own generated calls have where retries are on.
    retries = RetryConfig("backoff", BackoffStrategy(500, 60_000, 1.5, 3_600_000), True)
    client = Mistral(api_key=KEY, server_url=job.url, retry_config=retries)

    async def ask(text: str) -> str | None:
        answer: Any = await client.chat.complete_async(model=job.model, messages=messages(text))
        return answer.choices[0].message.content

    job.gather(ask)


def litellm(job: Job) -> None:
    import litellm as library

    async def ask(text: str) -> str | None:
        answer: Any = await library.acompletion(
            model=f"mistral/{job.model}",
            api_base=f"{job.url}/v1",
            api_key=KEY,
            messages=messages(text),
            num_retries=5,
        )
        return answer.choices[0].message.content

    job.gather(ask)


def flexllm(job: Job) -> None:
    from flexllm import LLMClient

    async def main() -> None:
        client = LLMClient(base_url=f"{job.url}/v1", model=job.model, api_key=KEY, concurrency_limit=AT_ONCE)
        asked = [messages(text) for _, text in job.rows]
        kept = str(job.folder / "results.jsonl")
        answers: Any = await client.complete_batch(asked, output_jsonl=kept, show_progress=False)
        for (row, _), answer in zip(job.rows, answers, strict=True):
            if answer.content is not None:
                job.give(row, answer.content)

    asyncio.run(main())


def async_batch_llm(job: Job) -> None:
    from async_batch_llm import ArtifactIdentity, JsonlArtifactStore, ResumePolicy, llm, process_stream

    async def main() -> None:
        strategy = llm(f"openai-compatible:{job.model}", base_url=f"{job.url}/v1", api_key=KEY)
        identity = ArtifactIdentity(provider="mistral", model=job.model)
        store = JsonlArtifactStore(job.folder / "results.jsonl", identity=identity)
        results: Any = process_stream(
            strategy,
            job.rows,
            concurrency=AT_ONCE,
            artifact_store=store,
            resume=ResumePolicy.REUSE_SUCCESSES,
        )
        async for result in results:
            if result.success:
                job.give(result.item_id, result.output)

    asyncio.run(main())


TOOLS: dict[str, Callable[[Job], None]] = {
    each.__name__: each for each in (mistill, official_sdk, litellm, flexllm, async_batch_llm)
}

if __name__ == "__main__":
    TOOLS[sys.argv[1]](Job(sys.argv[2]))
