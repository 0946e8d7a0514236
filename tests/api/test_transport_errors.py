"""Attempts that have no answer: only a connection that was never made proves that nothing can have been billed."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyreqwest.exceptions import BodyDecodeError, ConnectError, ConnectTimeoutError, ReadTimeoutError
from tests.api.raw_server import RawServer, answer, response

from mistill.api.chat import CHAT
from mistill.api.client import MistralClient
from mistill.api.transport import error_of_transport, never_left
from mistill.errors import AttemptTimeout, ConnectFailed, Disconnected, TransportError

UNTRUSTED = Path(__file__).with_name("untrusted.pem")

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncGenerator[str]:
    """``HOST:PORT`` of a server that does ``serve`` with every connection."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with server:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def hang_up_on_a_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.close()


async def speak_no_tls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(response(answer()))
    writer.close()


async def failure(endpoint: str, timeout_s: float = 10) -> TransportError:
    """How an attempt ends there."""
    client = MistralClient(endpoint, "a-key", timeout_s)
    with pytest.raises(TransportError) as caught:
        await client.exchange(CHAT, b"{}")
    await client.close()
    return caught.value


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


# --- certainly not billed -------------------------------------------------------------------------------------------


async def test_a_refused_connection() -> None:
    async with listening(hang_up) as address:
        pass
    error = await failure(f"http://{address}")
    assert isinstance(error, ConnectFailed)
    assert not error.maybe_billed
    assert "refused" in error.message


async def test_a_host_that_nobody_knows() -> None:
    label = "x" * 64  # longer than a label may be: no resolver has to be asked
    error = await failure(f"http://{label}.invalid")
    assert isinstance(error, ConnectFailed)
    assert not error.maybe_billed
    assert "dns error" in error.message


@pytest.mark.parametrize("serve", [hang_up, speak_no_tls])
async def test_a_refused_handshake(serve: Serve) -> None:
    async with listening(serve) as address:
        error = await failure(f"https://{address}")
    assert isinstance(error, ConnectFailed)
    assert not error.maybe_billed


async def test_a_handshake_that_we_refuse() -> None:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(UNTRUSTED)
    async with listening(hang_up, tls) as address:
        error = await failure(f"https://{address}")
    assert isinstance(error, ConnectFailed)
    assert not error.maybe_billed
    assert error.hint is not None
    assert "SSL_CERT_FILE" in error.hint


# --- maybe billed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", "/client error (Connect)", "/(Connect)"])
async def test_a_server_that_hangs_up_on_a_request(path: str) -> None:
    async with listening(hang_up_on_a_request) as address:
        error = await failure(f"http://{address}{path}")
    assert isinstance(error, Disconnected)
    assert error.maybe_billed


async def test_an_answer_that_is_cut_off() -> None:
    async with RawServer(response(answer())[:-1]) as server:
        error = await failure(server.url)
    assert isinstance(error, Disconnected)
    assert error.maybe_billed
    assert "cut off" in error.message


async def test_no_answer_in_time() -> None:
    async with RawServer(b"", hold=True) as server:
        error = await failure(server.url, timeout_s=0.2)
    assert isinstance(error, AttemptTimeout)
    assert error.maybe_billed


ITS_URL = "error sending request for url (https://h/client error (Connect))"


@given(
    kind=st.sampled_from([ConnectError, BodyDecodeError, ConnectTimeoutError, ReadTimeoutError]),
    causes=st.none() | st.lists(st.text() | st.just(ITS_URL)),
)
def test_whatever_is_not_understood_may_have_been_billed(kind: Any, causes: list[str] | None) -> None:
    details = None if causes is None else [{"message": cause} for cause in causes]
    error = kind("a message", {"causes": details})
    assert not never_left(error)
    assert error_of_transport(error, "https://h", 1).maybe_billed
