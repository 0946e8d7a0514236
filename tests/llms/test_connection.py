"""What becomes of connections, and where the key may go."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from pydantic import SecretStr
from tests.api.raw_server import answer

from mistill.errors import InputError
from mistill.llms import MistralEmbeddings, MistralLLM, connection

# --- unloading --------------------------------------------------------------------------------------------------------


class SlowServer(ThreadingHTTPServer):
    """Keeps connections open, and answers only when it is told to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.changed = threading.Condition()
        self.connections = self.closed = self.received = 0
        self.may_answer = threading.Event()

    def count(self, name: str) -> None:
        with self.changed:
            setattr(self, name, getattr(self, name) + 1)
            self.changed.notify_all()

    def wait(self, until: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(until, timeout=20)


class Connection(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.slow_server = cast("SlowServer", self.server)
        self.slow_server.count("connections")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.slow_server.count("received")
        self.slow_server.may_answer.wait(20)
        body = json.dumps(answer()).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def finish(self) -> None:
        super().finish()
        self.slow_server.count("closed")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base's name
        """Says nothing."""


@pytest.fixture
def server() -> Iterator[SlowServer]:
    with SlowServer() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.may_answer.set()
        server.shutdown()


@pytest.mark.parametrize("how", ["unload", "with", "another setting"])
def test_calls_under_way_end_on_the_old_client_and_new_ones_open_another(
    server: SlowServer, how: str
) -> None:
    llm = MistralLLM(model="m", endpoint=server.url, timeout=20, max_retries=0)
    with ThreadPoolExecutor(2) as threads:
        under_way = [threads.submit(llm.generate, ["a", "b"]) for _ in range(2)]
        server.wait(lambda: server.received == 4)
        if how == "unload":
            llm.unload()
        elif how == "with":
            with llm:
                pass
        else:
            llm.timeout = 19
        server.may_answer.set()
        assert llm.generate(["c"]) == [["ok"]]
        assert [call.result(timeout=20) for call in under_way] == [[["ok"], ["ok"]]] * 2
        assert server.received == 5  # and none was sent twice


def test_connections_close_with_the_last_call(server: SlowServer) -> None:
    llm = MistralLLM(model="m", endpoint=server.url)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(llm.generate, ["a", "b", "c"])
        server.wait(lambda: server.received == 3)
        llm.unload()
        assert server.closed == 0
        server.may_answer.set()
        call.result(timeout=20)
    server.wait(lambda: server.closed == 3)


def test_idle_connections_close_at_once(server: SlowServer) -> None:
    server.may_answer.set()
    llm = MistralLLM(model="m", endpoint=server.url)
    llm.generate(["a"] * 4)
    opened = server.connections
    llm.unload()
    server.wait(lambda: server.closed == opened)


# --- where the key may go ---------------------------------------------------------------------------------------------

LOCAL = [
    "http://127.0.0.1:9",
    "http://127.8.9.1:9",
    "http://localhost:9",
    "http://a.localhost:9",
    "http://[::1]:9",
]
ELSEWHERE = [
    *(
        "http://10.0.0.7:8000",
        "http://192.168.1.4:8000",
        "http://172.16.3.3",
        "http://169.254.1.1",
        "http://0.0.0.0:9",
    ),
    *("http://gpu-7:8000", "http://vllm.internal/v1", "http://localhost.example.com", "http://[fe80::1]:9"),
    *("http://api.mistral.ai", "http://127.0.0.1.nip.io", "http://2130706433.example"),
]


@pytest.mark.parametrize("endpoint", [*LOCAL, "https://gpu-7:8000"])
def test_the_key_goes_to_this_machine_and_over_https(endpoint: str) -> None:
    MistralLLM(model="m", endpoint=endpoint).load()
    MistralEmbeddings(endpoint=endpoint).load()


@pytest.mark.parametrize("endpoint", ELSEWHERE)
def test_elsewhere_the_key_goes_over_plain_http_only_if_that_is_allowed(endpoint: str) -> None:
    llm = MistralLLM(model="m", endpoint=endpoint)  # to say it is no harm
    uses: list[Callable[[], object]] = [
        llm.load,
        llm.models,
        lambda: llm.generate(["a"]),
        lambda: llm.outcomes(["a"]),
    ]
    uses += [MistralEmbeddings(endpoint=endpoint).load, lambda: next(iter(llm.stream("a")))]
    for use in uses:
        with pytest.raises(InputError, match=r"could read the key.*allow_http"):
            use()
    MistralLLM(model="m", endpoint=endpoint, allow_http=True).load()
    llm.set_runtime_parameters({"allow_http": True})
    llm.load()
    llm.allow_http = False
    with pytest.raises(InputError):
        llm.load()


FOREIGN = [
    "https://collector.example",
    "http://gpu-7:8000",
    "https://api.mistral.ai.example",
    "https://mistral.ai.example",
]
FOREIGN += [
    "http://api.mistral.ai",
    "https://127.0.0.1.example",
    "http://10.0.0.7:8000",
    "https://xapi.mistral.ai",
]


@pytest.mark.parametrize("endpoint", FOREIGN)
@pytest.mark.parametrize("kind", [MistralLLM, MistralEmbeddings])
def test_a_dump_does_not_say_where_the_key_goes(
    kind: type[MistralLLM | MistralEmbeddings], endpoint: str, tmp_path: Path
) -> None:
    llm = kind(model="m", endpoint=endpoint, allow_http=True)
    llm.save(tmp_path / "llm.json")
    assert "a-key-for-tests" not in (tmp_path / "llm.json").read_text()
    for load in (
        lambda: kind.from_dict(llm.dump()),
        lambda: connection.Connection.from_dict(llm.dump()),
        lambda: kind.from_file(tmp_path / "llm.json"),
    ):
        with pytest.raises(InputError, match=r"your key would be sent there.*trust=True"):
            load()
    assert kind.from_dict(llm.dump(), trust=True) == llm
    named = kind.from_file(
        tmp_path / "llm.json", endpoint="http://gpu-9"
    )  # by the user, who has not said http is safe
    assert (named.endpoint, named.allow_http) == ("http://gpu-9", False)


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://api.mistral.ai/v1",
        "https://codestral.mistral.ai",
        "https://api.eu.mistral.ai",
        "http://127.0.0.1:8080",
        "http://[::1]:80",
    ],
)
def test_mistrals_own_endpoint_and_this_machine_are_taken_from_a_dump(endpoint: str) -> None:
    llm = MistralLLM(model="m", endpoint=endpoint)
    assert MistralLLM.from_dict(llm.dump()) == llm


def test_a_price_that_changes_counts_from_the_next_call(server: SlowServer) -> None:
    server.may_answer.set()
    llm = MistralLLM(model="m", endpoint=server.url)
    costs: list[Any] = []
    tables: list[dict[str, Any] | None] = [
        None,
        *({"models": {"m": {"input": each, "output": 0}}} for each in (1, 2)),
    ]
    for table in tables:
        llm.prices = table
        costs.append(llm.complete(["a"])[0][0].cost)
    assert costs == [None, pytest.approx(5e-6), pytest.approx(1e-5)]


def test_what_is_longer_than_any_key_is_refused_as_it_is_loaded() -> None:
    with pytest.raises(InputError, match="the api_key has 10,000 characters, and no key has more than 4,096"):
        MistralLLM(model="m", endpoint="http://127.0.0.1:9", api_key=SecretStr("k" * 10_000)).load()
    MistralLLM(model="m", endpoint="http://127.0.0.1:9", api_key=SecretStr("k" * 4096)).load()
