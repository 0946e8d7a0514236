"""Answers that no server should send, made up from a seed: an exchange ends in an answer or in our errors all the same.

    PYTHONPATH=. python tests/api/exchange_fuzz.py 100000

tries so many of them, with the seeds from 0 on; the suite tries a few hundred.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import sys
from collections import Counter
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tests.api.raw_server import RawServer, answer, chunk, response

from mistill.api.chat import CHAT
from mistill.api.client import MistralClient
from mistill.api.embeddings import EMBEDDINGS
from mistill.api.usage import MAX_COUNT, usage_of
from mistill.errors import InvalidOutput, MistillError

KEY = "sk-0123456789abcdefghij"

CALL = {"id": "a1b2c3d4e", "type": "function", "index": 0, "function": {"name": "f", "arguments": '{"a": 1}'}}
ERROR = {"object": "error", "message": f"m {KEY}", "type": "rate_limited", "param": None, "code": "1300"}
BODIES: tuple[Any, ...] = (
    answer(),
    answer(),
    answer({"role": "assistant", "content": [{"type": "text", "text": "a"}], "tool_calls": [CALL]}),
    answer(usage={"prompt_tokens": 1, "num_cached_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}}),
    {"data": [{"embedding": [0.1, 0.2], "index": 0}], "usage": {"prompt_tokens": 1}},
    ERROR,
    {"error": ERROR},
    {"detail": [{"type": "missing", "loc": ["body", 0, "x"], "msg": "m", "input": None}]},
    {"message": {"detail": [{"loc": ["body"], "msg": "m"}]}},
    chunk({"content": "a"}, "stop"),
    {
        "id": "a",
        "status": "RUNNING",
        "errors": [{"message": "m", "count": 1}],
        "metadata": {"a": "b"},
        "created_at": 1,
    },
    {"data": [{"id": "a", "status": "SUCCESS", "output_file": "b", "bytes": 5, "filename": "c"}], "total": 1},
    {"id": "a", "deleted": True},
)
BATCH_WAYS = ("job", "jobs", "files", "create", "delete", "download")
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 5.0, 5.5, 1e300, 2**53, 2**63, 2**64, 10**400, float("nan"), float("inf"), "", "5",
    "null", "[DONE]", "\ud800", "\x00", "x" * 70_000, KEY, [], {}, [[]], [None], {"": None}, {"detail": 5}, [KEY],
    "error",
)  # fmt: skip
STATUSES = (200, 201, 202, 204, 206, 301, 304, 400, 401, 402, 404, 408, 422, 429, 500, 503, 529, 999)
HEADERS = (
    b"retry-after", b"retry-after-ms", b"date", b"mistral-correlation-id", b"x-ratelimit-limit-req-minute",
    b"x-ratelimit-limit-tokens-minute", b"x-ratelimitbysize-limit-minute", b"content-encoding", b"transfer-encoding",
    b"content-type", b"content-length", b"location", b"x",
)  # fmt: skip
VALUES = (
    b"", b"0", b"-1", b"5", b"1.5", b"nan", b"1e400", b"9" * 400, b"\xff\xe9", b"\xb2", b"soon", b"\t", KEY.encode(),
    b"Fri, 31 Dec 9999 23:59:59 -2359", b"Mon, 01 Jan 0001 00:00:00 +2359", b"Fri, 99 Foo 2026 99:99:99 GMT",
    b"Fri, 31 Dec 99999999999999999999 23:59:59 GMT", b"gzip", b"br", b"zstd", b"chunked", b"identity",
)  # fmt: skip
DEEP = b"[" * 3000 + b"]" * 3000


def raw_answer(rng: random.Random) -> bytes:
    """The bytes of one HTTP answer."""
    body = _body(rng)
    if rng.random() < 0.3:
        body = _as_events(rng, body)
    headers = [
        rng.choice(HEADERS[:7] if rng.random() < 0.9 else HEADERS) + b": " + rng.choice(VALUES)
        for _ in range(rng.choice((0, 0, 1, 3)))
    ]
    if rng.random() < 0.05:
        body = gzip.compress(body)
        headers.append(b"content-encoding: gzip")
    raw = response(body, 200 if rng.random() < 0.5 else rng.choice(STATUSES), headers)
    if rng.random() < 0.05:
        raw = raw[: rng.randrange(len(raw) + 1)]
    return raw


def _body(rng: random.Random) -> bytes:
    body = deepcopy(rng.choice(BODIES))
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        body = _changed(rng, body)
    raw = json.dumps(body).encode()
    if rng.random() < 0.1:
        raw = raw.replace(b'"a"', DEEP, 1)
    if rng.random() < 0.2:
        at = rng.randrange(len(raw) + 1)
        put = rng.choice((b"", b"\xff", b"\xef\xbb\xbf", b"\x00", b"}", b'"'))
        raw = raw[:at] + put + raw[at + rng.choice((0, 1, 9)) :]
    return raw


def _changed(rng: random.Random, node: Any, likelihood: float = 0.05) -> Any:
    """A copy with one value replaced or left out, somewhere."""
    if rng.random() < likelihood or not isinstance(node, dict | list) or not node:
        return deepcopy(rng.choice((*ODD, *BODIES)))
    place: Any = rng.choice(list(node)) if isinstance(node, dict) else rng.randrange(len(node))
    if rng.random() < 0.1:
        del node[place]
    else:
        node[place] = _changed(rng, node[place], 0.3)
    return node


def _as_events(rng: random.Random, body: bytes) -> bytes:
    good = json.dumps(chunk({"content": "a"})).encode()
    end = rng.choice((b"data: [DONE]\n\n", b"data: [DONE]", b"", b"data: {", b"\xef\xbb\xbf"))
    newline = rng.choice((b"\n", b"\r\n", b"\r"))
    events = [rng.choice((good, body, b"")) for _ in range(rng.randrange(4))]
    return b"".join(b"data: " + event + newline * 2 for event in events) + end


async def outcomes(seeds: range) -> Counter[str]:
    """How the exchange and the stream of each seed's answer ended, by kind."""
    counts: Counter[str] = Counter()
    async with RawServer(b"") as server:
        client = MistralClient(server.url, KEY, timeout_s=5)
        for seed in seeds:
            server.answers = [raw_answer(random.Random(seed))]
            for way in ("chat", "embeddings", "stream", BATCH_WAYS[seed % len(BATCH_WAYS)]):
                try:
                    counts[await _outcome(client, way)] += 1
                except Exception as error:
                    error.add_note(f"seed {seed}, {way}: {server.answers[0][:2000]!r}")
                    raise
        await client.close()
    return counts


async def _outcome(client: MistralClient, way: str) -> str:
    try:
        await _attempt(client, way)
    except MistillError as error:
        ended = error
    else:
        return "answered"
    assert KEY not in f"{ended} {ended.__dict__}"
    assert ended.message
    return ended.kind


async def _attempt(client: MistralClient, way: str) -> None:
    if way == "stream":
        async with client.stream(b"{}") as stream:
            _ = [each async for each in stream]
    elif way in BATCH_WAYS:
        await _attempt_of_batch(client, way)
    elif way == "embeddings":
        _check_usage((await client.exchange(EMBEDDINGS, b"{}")).response)
    else:
        chat = (await client.exchange(CHAT, b"{}")).response
        _check_usage(chat)
        for choice in chat.choices:
            for call in choice.message.tool_calls or ():
                _check_arguments(call)


async def _attempt_of_batch(client: MistralClient, way: str) -> None:
    match way:
        case "job":
            assert (await client.job("a")).id
        case "jobs":
            assert all([job.status async for job in client.jobs()])
        case "files":
            assert all([file.id async for file in client.files(search="a")])
        case "create":
            assert (await client.create_job("/v1/ocr", ["a"])).id
        case "delete":
            await client.delete_file("a")
        case _:
            with TemporaryDirectory() as folder:
                assert await client.download_file("a", Path(folder, "results")) >= 0


def _check_usage(given: Any) -> None:
    usage = usage_of(given)
    assert 0 <= usage.cached_tokens <= usage.input_tokens <= MAX_COUNT
    assert 0 <= usage.output_tokens <= MAX_COUNT


def _check_arguments(call: Any) -> None:
    try:
        assert isinstance(call.arguments, dict)
    except InvalidOutput:
        return


if __name__ == "__main__":
    print(asyncio.run(outcomes(range(int(sys.argv[1])))))
