"""The way to a server: what loading the transport leaves behind, certificates, proxies, and the end of the process."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from tests.api.raw_server import RawServer, answer, response

from mistill.api.chat import CHAT
from mistill.api.client import MistralClient
from mistill.api.endpoint import normalise_endpoint
from mistill.errors import ConnectFailed, InputError
from mistill.simulator import Simulator

KEY = "a-key-for-tests"
UNTRUSTED = Path(__file__).with_name("untrusted.pem")


@pytest.mark.parametrize("own", [None, "1"])
def test_the_environment_is_as_it_was(own: str | None) -> None:
    given = {} if own is None else {"MIMALLOC_ALLOW_THP": own}
    code = "import os, mistill.api.client; print(os.environ.get('MIMALLOC_ALLOW_THP'))"
    completed = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | given, capture_output=True, text=True, check=True
    )
    assert completed.stdout.strip() == str(own)


# --- certificates ---------------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[{"SSL_CERT_FILE": "/nowhere/ca.pem"}, {"SSL_CERT_FILE": ""}, {"SSL_CERT_DIR": "/nowhere"}]
)
def no_certificates(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in request.param.items():
        monkeypatch.setenv(name, value)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems keep their certificates elsewhere")
@pytest.mark.usefixtures("no_certificates")
@pytest.mark.parametrize("endpoint", ["https://api.mistral.ai", "https://127.0.0.1:1", "http://example.com"])
def test_a_machine_without_certificates_is_told_so(endpoint: str) -> None:
    with pytest.raises(InputError, match=r"No CA certificates.* SSL_CERT_FILE"):
        MistralClient(endpoint, KEY, timeout_s=1)


@pytest.mark.usefixtures("no_certificates")
async def test_a_server_on_this_machine_needs_none() -> None:
    async with RawServer(response(answer())) as server:
        client = MistralClient(server.url, KEY, timeout_s=5)
        assert (await client.exchange(CHAT, b"{}")).response.choices
        await client.close()


async def test_a_certificate_that_nobody_signed_is_named_as_the_cause() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(UNTRUSTED)
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        client = MistralClient(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}", KEY, timeout_s=5)
        with pytest.raises(ConnectFailed, match="does not trust its certificate: set SSL_CERT_FILE"):
            await client.exchange(CHAT, b"{}")
        await client.close()


# --- keys, endpoints and proxies ------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["a\nX: y", "a\x00", "a\r", "\ud800"])
def test_a_key_that_cannot_be_sent_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(InputError, match="api_key has characters") as caught:
        MistralClient("http://127.0.0.1:1", key, timeout_s=1)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "endpoint",
    ["https://user:pass@host", "https://user:pass@ho st", "ftp://user:pass@host", "//:pass@host:99999"],
)
def test_a_password_in_an_endpoint_is_refused_and_not_shown(endpoint: str) -> None:
    with pytest.raises(InputError) as caught:
        normalise_endpoint(endpoint)
    assert "pass" not in str(caught.value)


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.usefixtures("no_proxies")
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_no_proxy_comes_between_us_and_this_machine(
    monkeypatch: pytest.MonkeyPatch, variable: str, host: str
) -> None:
    async with RawServer(response(b"from a proxy", 502)) as proxy, RawServer(response(answer())) as server:
        monkeypatch.setenv(variable, proxy.url)
        client = MistralClient(server.url.replace("127.0.0.1", host), KEY, timeout_s=5)
        await client.exchange(CHAT, b"{}")
        await client.close()
    assert (proxy.requests, server.requests) == (0, 1)


@pytest.mark.usefixtures("no_proxies")
async def test_a_proxy_is_used_for_the_world_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    async with RawServer(response(answer())) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        client = MistralClient("http://example.invalid", KEY, timeout_s=5)
        await client.exchange(CHAT, b"{}")
        await client.close()
    assert proxy.requests == 1


# --- the end of the process -----------------------------------------------------------------------------------------

ENDS_AT_ONCE = """
import asyncio, sys
from mistill.api.client import MistralClient

async def main():
    client = MistralClient(sys.argv[1], "a-key", 10)
    for _ in range(20):
        await client.models()

asyncio.run(main())
"""


def test_a_process_may_end_right_after_its_last_answer(simulator: Simulator) -> None:
    for _ in range(8):  # of three that did so, one was aborted
        ended = subprocess.run(
            [sys.executable, "-c", ENDS_AT_ONCE, simulator.url], capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
