"""``ask``: one HTTP request to a simulator, over a real socket, with nothing of ours in between."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.libraries import library

from mistill.simulator import Simulator

API_KEY = "a-key-for-tests"


@dataclass
class Got:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def content(self) -> Any:
        return self.json["choices"][0]["message"]["content"]

    @property
    def events(self) -> list[Any]:
        """The JSON of each ``data:`` line but ``[DONE]``."""
        lines = [line.removeprefix("data: ") for line in self.text.split("\n") if line]
        return [json.loads(line) for line in lines if line != "[DONE]"]


Ask = Callable[..., Got]


def ask_simulator(
    simulator: Simulator,
    content: Any = "Hello",
    *,
    path: str = "/v1/chat/completions",
    method: str = "POST",
    key: str | None = API_KEY,
    raw: bytes | None = None,
    body: dict[str, Any] | None = None,
    timeout_s: float = 10,
    content_type: str = "application/json",
    **fields: Any,
) -> Got:
    if body is None:
        body = {"model": "mistral-small-latest", "messages": [{"role": "user", "content": content}], **fields}
    host = simulator.url.removeprefix("http://")
    connection = http.client.HTTPConnection(host, timeout=timeout_s)
    headers = {"Content-Type": content_type}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    sent = None if method == "GET" else raw if raw is not None else json.dumps(body).encode()
    try:
        connection.request(method, path, sent, headers)
        answer = connection.getresponse()
        return Got(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read().decode())
    finally:
        connection.close()


@pytest.fixture
def ask() -> Ask:
    library("aiohttp")
    return ask_simulator
