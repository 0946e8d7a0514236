"""Runs to look at, and who looks: over HTTP as the page does, or in a browser."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from tests.libraries import library

from mistill import MistralLLM, Run, Viewer, view
from mistill.simulator import Simulator
from mistill.testing import without_waiting

MODEL = "mistral-small-latest"
ODD = "<script>document.title='owned'</script><img src=x onerror=alert(1)> \x1b[31mred \u202eturned NUL\x00 & \"so\""


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """Asks a viewer as its page does, with the cookie that it got; or as somebody else does."""

    def __init__(self, url: str) -> None:
        self.base = url.partition("/?")[0]
        self.jar = CookieJar()
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar))
        self.opened = self.get(url.removeprefix(self.base))

    def get(self, path: str, **headers: str) -> Answer:
        return self._open(urllib.request.Request(self.base + path, headers=named(headers)))

    def post(self, path: str, value: Any, **headers: str) -> Answer:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        given = {"Content-Type": "application/json"} | named(headers)
        return self._open(urllib.request.Request(self.base + path, body, given))

    def ask(self, what: str, **given: Any) -> Any:
        """What a question of the page is answered; the problem, where there is one."""
        return self.get(f"/api/{what}?{urlencode(given)}").json

    def _open(self, request: urllib.request.Request) -> Answer:
        try:
            with self._opener.open(request) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, dict(error.headers), error.read())


def named(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


Look = Callable[..., Client]
View = Callable[..., Viewer]


@pytest.fixture
def views() -> Iterator[View]:
    """Starts viewers, that all end with the test."""
    library("aiohttp")
    with ExitStack() as started:
        yield lambda *where, **settings: started.enter_context(view(*where, **settings))


@pytest.fixture
def look(views: View) -> Look:
    return lambda *where, **settings: Client(views(*where, **settings).url)


class Runs:
    """A folder with runs."""

    def __init__(self, folder: Path, simulator: Simulator) -> None:
        self.folder = folder
        self.simulator = simulator

    def run(self, name: str, rows: list[Any], **settings: Any) -> Run:
        llm_settings = settings.pop("llm_settings", {})
        llm = MistralLLM(model=MODEL, endpoint=self.simulator.url, **llm_settings)
        records = [row if isinstance(row, dict) else {"text": row} for row in rows]
        given: Any = {"prompt": "Say {{ text }}"} | settings
        run = Run(records, llm=llm, out=name if "://" in name else self.folder / name, **given)
        run.start()
        return run

    def retry(self, name: str, where: str, **settings: Any) -> None:
        Run.retry(self.folder / name, where, llm={"endpoint": self.simulator.url}, **settings).start()


@pytest.fixture
def runs(tmp_path: Path, simulator: Simulator) -> Iterator[Runs]:
    with without_waiting():
        yield Runs(tmp_path, simulator)
