"""Files and batch jobs over a real socket, with nothing of ours in between."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tests.simulator.conftest import Got, ask_simulator

from mistill.simulator import Simulator

FILES = "/v1/files"
JOBS = "/v1/batch/jobs"
CHAT = "/v1/chat/completions"
MODEL = "mistral-small-latest"
PENDING = ("QUEUED", "RUNNING", "CANCELLATION_REQUESTED")
_BOUNDARY = "a-boundary"


def chat_line(custom_id: Any, content: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "body": {"messages": [{"role": "user", "content": content}], **fields}}


def jsonl(lines: Iterable[Any]) -> bytes:
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def upload(
    simulator: Simulator, content: bytes | Iterable[Any], name: str = "input.jsonl", **fields: Any
) -> Got:
    data = content if isinstance(content, bytes) else jsonl(content)
    head = 'Content-Disposition: form-data; name="{}"'
    parts = [
        f"{head.format(field)}\r\n\r\n{value}".encode()
        for field, value in ({"purpose": "batch"} | fields).items()
    ]
    parts.append(f'{head.format("file")}; filename="{name}"\r\n\r\n'.encode() + data)
    raw = b"".join(f"--{_BOUNDARY}\r\n".encode() + part + b"\r\n" for part in parts)
    return ask_simulator(
        simulator,
        path=FILES,
        raw=raw + f"--{_BOUNDARY}--\r\n".encode(),
        content_type=f"multipart/form-data; boundary={_BOUNDARY}",
    )


def get(simulator: Simulator, path: str) -> Got:
    return ask_simulator(simulator, path=path, method="GET")


def create(simulator: Simulator, lines: Iterable[Any] | None = None, **fields: Any) -> Got:
    """A job of these lines, which are uploaded, or of the ``fields`` alone."""
    body: dict[str, Any] = {"endpoint": CHAT, "model": MODEL}
    if lines is not None:
        body["input_files"] = [upload(simulator, lines).json["id"]]
    return ask_simulator(simulator, path=JOBS, body=body | fields)


def job_of(simulator: Simulator, job_id: str) -> Any:
    return get(simulator, f"{JOBS}/{job_id}").json


def ended(simulator: Simulator, job_id: str) -> Any:
    """The job, when it has ended."""
    simulator.wait_until(lambda: job_of(simulator, job_id)["status"] not in PENDING)
    return job_of(simulator, job_id)


def content_of(simulator: Simulator, file_id: str | None) -> list[bytes]:
    """The lines of a file; none where there is no file."""
    if file_id is None:
        return []
    got = get(simulator, f"{FILES}/{file_id}/content")
    assert got.status == 200
    return got.text.encode().splitlines()


def results(simulator: Simulator, job: Any) -> list[Any]:
    """The lines of both files of results."""
    raw = content_of(simulator, job["output_file"]) + content_of(simulator, job["error_file"])
    return [json.loads(line) for line in raw]
