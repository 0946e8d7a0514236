"""``local``: one running demo model for all tests of this room. They check structure, never content."""

from __future__ import annotations

import http.client
import importlib.util
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from mistill.local import LocalModel

needs_xllamacpp = pytest.mark.skipif(
    importlib.util.find_spec("xllamacpp") is None, reason="the local model needs pip install 'mistill[local]'"
)


@pytest.fixture(scope="session")
def local() -> Iterator[LocalModel]:
    if importlib.util.find_spec("xllamacpp") is None:
        pytest.skip("the local model needs pip install 'mistill[local]'")
    with LocalModel() as running:
        yield running


@pytest.fixture(scope="session")
def post(local: LocalModel) -> Callable[..., tuple[int, str]]:
    """Send a chat body as it is: ``post({...}, key=...) -> (status, text)``."""

    def send(body: dict[str, Any], *, key: str | None = local.api_key.get_secret_value()) -> tuple[int, str]:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        with closing(
            http.client.HTTPConnection(local.endpoint.removeprefix("http://"), timeout=120)
        ) as connection:
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    return send
