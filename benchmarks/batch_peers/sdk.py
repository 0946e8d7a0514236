"""The official SDK's ``BatchClient``, run in the SDK's own environment by ``benchmarks.batch_faults``.

``run``: `BatchClient.run`, one blocking call, as its docstring offers it "for the single-process case". ``parts``: its
primitives for a lifecycle that outlives a process, as the module's docstring has it: upload, create, the id of the job
kept in a file ("create-now-retrieve-later"), ``get`` in a later process, ``stream_results``. Both keep the answers in a
file, and ask at the next start for those rows alone that have none ("drive partial retries yourself"). The client has
the retries of the README, with those of connection errors.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from mistralai.client import Mistral
from mistralai.client.models import ChatCompletionResponse
from mistralai.client.utils import BackoffStrategy, RetryConfig
from mistralai.extra.batch import BatchClient, BatchError, BatchInput, BatchRequestError, BatchResponseError

POLL_S = 0.2


class Asked:
    """What the benchmark asks for: see ``benchmarks.batch_faults``."""

    def __init__(self, text: str) -> None:
        asked = json.loads(text)
        self.model: str = asked["model"]
        self.url: str = asked["url"]
        self.out_path = Path(asked["out"])
        self.answers_path = Path(asked["folder"], "answers.json")
        self.job_path = Path(asked["folder"], "job.json")
        self.rows: dict[str, str] = {
            str(row["id"]): row["text"] for row in json.loads(Path(asked["rows"]).read_text())
        }
        self.answers: dict[str, str] = _read(self.answers_path, {})
        self.counted: dict[str, int] = _read(self.job_path.with_name("counted.json"), {})

    def lines(self) -> Any:
        """The requests of all rows that have no answer yet."""
        return BatchInput.from_jsonl_str(
            "\n".join(
                json.dumps({"custom_id": row, "body": {"messages": [{"role": "user", "content": text}]}})
                for row, text in self.rows.items()
                if row not in self.answers
            )
        )

    def keep(self, job: Any, answers: dict[str, Any]) -> None:
        """On disk: the answers, and how many the server says that it has made for this job."""
        self.answers |= {row: str(answer.choices[0].message.content) for row, answer in answers.items()}
        self.counted[str(job.id)] = job.succeeded_requests
        self.answers_path.write_text(json.dumps(self.answers))
        self.job_path.with_name("counted.json").write_text(json.dumps(self.counted))


def _read(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text()) if path.exists() else otherwise


async def by_run(client: BatchClient[Any, Any], asked: Asked) -> str:
    """One call for everything."""
    left = [row for row in asked.rows if row not in asked.answers]
    if not left:
        return "complete"
    result = await client.run(asked.lines(), model=asked.model, poll_interval_seconds=POLL_S)
    asked.keep(result.job, result.by_id())
    result.ordered(left)  # raises for all that failed, and all that are missing
    return "complete"


async def by_parts(client: BatchClient[Any, Any], asked: Asked) -> str:
    """Its parts, and the job's id in a file."""
    kept = _read(asked.job_path, None)
    if kept is None:
        if not any(row not in asked.answers for row in asked.rows):
            return "complete"
        handle = await client.create(await client.upload(asked.lines()), model=asked.model)
        asked.job_path.write_text(json.dumps(handle.id))
    else:
        handle = await client.get(kept)
    handle = await client.wait(handle, poll_interval_seconds=POLL_S)
    answers: dict[str, Any] = {}
    failed: dict[str, Any] = {}
    try:
        async for row, item in client.stream_results(handle):
            is_failure = isinstance(item, BatchRequestError | BatchResponseError)
            (failed if is_failure else answers)[row or ""] = item
    finally:
        asked.keep(handle.job, answers)
    asked.job_path.unlink()
    for file in (*(handle.job.input_files or ()), handle.job.output_file, handle.job.error_file):
        if file:
            await client.delete(file)
    missing = {row: failed.get(row) for row in asked.rows if row not in asked.answers}
    if missing:
        raise BatchError(missing)
    return "complete"


async def main(how: str, given: str) -> None:
    """One start."""
    asked = Asked(given)
    retries = RetryConfig("backoff", BackoffStrategy(200, 2_000, 1.5, 10_000), retry_connection_errors=True)
    mistral = Mistral(api_key="benchmark", server_url=asked.url, retry_config=retries)
    if json.loads(given)["dies"]:
        _die_once_created(type(mistral.batch.jobs))
    client: Any = BatchClient(
        mistral, endpoint="/v1/chat/completions", response_body_type=ChatCompletionResponse
    )
    out: dict[str, Any] = {"said": "", "error": None}
    try:
        out["said"] = await (by_run if how == "run" else by_parts)(client, asked)
    except Exception as error:
        out["error"] = f"{type(error).__name__}: {error}"
    out["answers"] = list(asked.answers.items())
    asked.out_path.write_text(json.dumps(out))


def _die_once_created(jobs: Any) -> None:
    """The process is killed as soon as its client has the answer to a job's creation."""
    create = jobs.create_async

    async def created(*arguments: Any, **named: Any) -> Any:
        await create(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    jobs.create_async = created


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
