"""A server that answers with the bytes it is given, right or wrong; the simulator speaks HTTP properly, and cannot."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Self


def response(
    body: bytes | Any,
    status: int = 200,
    headers: Iterable[bytes] = (),
    content_type: str = "application/json",
) -> bytes:
    """A whole HTTP answer. A body that is not bytes is sent as JSON."""
    data: bytes = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [
        b"HTTP/1.1 %d X" % status,
        b"content-type: " + content_type.encode(),
        b"content-length: %d" % len(data),
        b"connection: close",
    ]
    return b"\r\n".join((*head, *headers)) + b"\r\n\r\n" + data


def answer(message: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    """The body of a good chat completion; ``more`` are fields of its top, or replace them."""
    choice = {
        "index": 0,
        "message": message or {"role": "assistant", "content": "ok"},
        "finish_reason": "stop",
    }
    usage = {"prompt_tokens": 5, "completion_tokens": 3, "total_tokens": 8}
    return {"id": "a", "model": "m", "choices": [choice], "usage": usage} | more


def chunk(delta: Any, finish_reason: Any = None, **more: Any) -> dict[str, Any]:
    """The body of an event of a stream."""
    choices = [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return {"id": "a", "model": "m", "choices": choices} | more


def events(*chunks: Any, end: str = "data: [DONE]\n\n") -> bytes:
    """The HTTP answer of a stream of these events: texts as they are, all others as JSON."""
    texts = (each if isinstance(each, str) else json.dumps(each) for each in chunks)
    text = "".join(f"data: {each}\n\n" for each in texts)
    return response((text + end).encode(), content_type="text/event-stream")


class RawServer:
    """Gives every request the next of ``answers``, and the last for ever.

    Args:
        hold: keep the connection open after an answer, as a server that stalls.

    Attributes:
        requests: how many came.
    """

    def __init__(self, *answers: bytes, hold: bool = False) -> None:
        self.answers: Sequence[bytes] = answers
        self._hold = hold
        self.requests = 0

    async def __aenter__(self) -> Self:
        self._closing = asyncio.Event()
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.close()
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
            await reader.readexactly(int(length[1]) if length else 0)
            self.requests += 1
            writer.write(self.answers[min(self.requests, len(self.answers)) - 1])
            await writer.drain()
            if self._hold:
                await self._closing.wait()
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()
