"""The official SDK's files, batch jobs and ``BatchClient``, unchanged, with the simulator for Mistral.

It is ``Any`` here: the unions that it types its answers with are wider than what these tests ask for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.simulator.batch_requests import CHAT, MODEL, PENDING, chat_line, jsonl

from mistill.simulator import Fault, Simulator

pytest.importorskip("mistralai", reason="the official SDK: pip install mistralai")

from mistralai.client import Mistral
from mistralai.client.errors import SDKError
from mistralai.client.models import (
    ChatCompletionRequest,
    ChatCompletionResponse,
    EmbeddingRequest,
    EmbeddingResponse,
    File,
)
from mistralai.extra.batch import BatchClient, BatchInput

LINES = [chat_line(str(number), f"row {number}") for number in range(20)]


@pytest.fixture
async def sdk(simulator: Simulator) -> AsyncIterator[Any]:
    async with Mistral(api_key="any", server_url=simulator.url) as client:
        yield client


def chat_body(content: str) -> ChatCompletionRequest:
    return ChatCompletionRequest(model=MODEL, messages=[{"role": "user", "content": content}])  # pyright: ignore[reportArgumentType]  dicts are taken


async def test_sdk_keeps_files(sdk: Any) -> None:
    sent = await sdk.files.upload_async(
        file=File(file_name="a.jsonl", content=jsonl(LINES)), purpose="batch", expiry=24
    )
    assert (sent.num_lines, sent.sample_type) == (20, "batch_request")
    assert [file.id for file in (await sdk.files.list_async(search="a.js", purpose="batch")).data] == [
        sent.id
    ]
    assert (await sdk.files.retrieve_async(file_id=sent.id)).filename == "a.jsonl"
    assert await (await sdk.files.download_async(file_id=sent.id)).aread() == jsonl(LINES)
    assert sent.id not in (await sdk.files.get_signed_url_async(file_id=sent.id, expiry=1)).url
    assert (await sdk.files.delete_async(file_id=sent.id)).deleted
    with pytest.raises(SDKError) as gone:
        await sdk.files.retrieve_async(file_id=sent.id)
    assert gone.value.status_code == 404


async def test_sdk_runs_and_lists_and_cancels_jobs(sdk: Any, simulator: Simulator) -> None:
    jobs = sdk.batch.jobs
    sent = await sdk.files.upload_async(file=File(file_name="a.jsonl", content=jsonl(LINES)), purpose="batch")
    simulator.change(batch_queue_s=60)
    made = await jobs.create_async(
        endpoint=CHAT, input_files=[sent.id], model=MODEL, metadata={"tag": "x"}, timeout_hours=2
    )
    assert (made.status, made.total_requests) == ("QUEUED", 20)
    await jobs.create_async(endpoint=CHAT, requests=LINES, model=MODEL, metadata={"tag": "y"})
    for found in (
        await jobs.list_async(metadata={"tag": "x"}),
        await jobs.list_async(order_by="created", page_size=1),
        await jobs.list_async(page=1, page_size=1, status=["QUEUED"]),
    ):
        assert [job.id for job in found.data] == [made.id]
    assert (await jobs.cancel_async(job_id=made.id)).status == "CANCELLATION_REQUESTED"
    while (job := await jobs.get_async(job_id=made.id)).status in PENDING:
        pass
    assert job.status == "CANCELLED"
    assert (await jobs.delete_async(job_id=made.id)).deleted


async def test_sdk_gets_results_inline(sdk: Any) -> None:
    made = await sdk.batch.jobs.create_async(endpoint=CHAT, requests=LINES, model=MODEL)
    while (job := await sdk.batch.jobs.get_async(job_id=made.id, inline=True)).status in PENDING:
        pass
    assert {line["custom_id"] for line in job.outputs} == {line["custom_id"] for line in LINES}


@pytest.mark.parametrize("inline_threshold", [1000, 1])
async def test_batch_client_runs_a_job_to_its_end(
    sdk: Any, simulator: Simulator, inline_threshold: int
) -> None:
    simulator.script([Fault.status(400)], when=lambda body: "row 7" in str(body))
    client: Any = BatchClient(sdk, endpoint=CHAT, response_body_type=ChatCompletionResponse)
    result = await client.run(
        {str(number): chat_body(f"row {number}") for number in range(20)},
        model=MODEL,
        poll_interval_seconds=0.01,
        inline_threshold=inline_threshold,
    )
    assert (result.status, result.succeeded, result.failed) == ("SUCCESS", 19, 1)
    assert result.by_id()["3"].choices[0].message.content == "Echo: row 3"
    assert [(error.custom_id, error.status_code) for error in result.errors()] == [("7", 400)]
    assert simulator.stats().batch.files == 0  # it cleans up


async def test_batch_client_in_steps(sdk: Any, simulator: Simulator) -> None:
    simulator.change(embedding_dimension=8, batch_queue_s=0.05)
    client: Any = BatchClient(sdk, endpoint="/v1/embeddings", response_body_type=EmbeddingResponse)
    texts = {"a": "one", "b": "two"}
    given = BatchInput.from_payload(
        {name: EmbeddingRequest(model="mistral-embed", inputs=text) for name, text in texts.items()}
    )
    handle = await client.create(await client.upload(given, expiry_hours=1), model="mistral-embed")
    handle = await client.wait(await client.get(handle.id), poll_interval_seconds=0.01)
    streamed = {name: answer.data[0].embedding async for name, answer in client.stream_results(handle)}
    output = await client.output(handle)
    assert {name: answer.data[0].embedding for name, answer in output.responses.items()} == streamed
    assert all(len(vector) == 8 for vector in streamed.values())
    await client.delete(handle.job.output_file)
    assert simulator.stats().batch.jobs == {"SUCCESS": 1}
