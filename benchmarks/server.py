"""The server that all clients are measured against: the smallest that speaks enough HTTP, so that it is not the limit.

An ``asyncio.Protocol`` on uvloop that reads a request's length and writes one canned answer, with Mistral's headers,
from one buffer, on a core of its own. What is compared is the CPU time of the clients, which a server cannot add to.

    python -m benchmarks.server PORT [LATENCY_S]
"""

from __future__ import annotations

import asyncio
import sys
from typing import cast

ANSWER = (
    b'{"id":"cmpl-e5cc70bb28c444948073e77776eb30ef","object":"chat.completion","created":1702256327,'
    b'"model":"mistral-small-latest","choices":[{"index":0,"message":{"role":"assistant",'
    b'"content":"{\\"name\\": \\"Ada\\", \\"last_name\\": \\"Lovelace\\", \\"id\\": 7}","tool_calls":null},'
    b'"finish_reason":"stop"}],"usage":{"prompt_tokens":16,"completion_tokens":24,"total_tokens":40}}'
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    b"mistral-correlation-id: 0199a5a2-7a1c-7f1e-8d9a-5b3c8e0f1a2b\r\n"
    b"x-ratelimit-limit-req-minute: 100000000\r\nx-ratelimit-remaining-req-minute: 99999999\r\n"
    b"x-ratelimit-limit-tokens-minute: 10000000000\r\nx-ratelimit-remaining-tokens-minute: 9999999999\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
)


class Canned(asyncio.Protocol):
    """Answers every whole request, pipelined or not."""

    latency_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.WriteTransport", transport)  # uvloop's is no subclass of asyncio's
        self._held = b""

    def data_received(self, data: bytes) -> None:
        held = self._held + data
        while (end := held.find(b"\r\n\r\n")) >= 0:
            whole = end + 4 + _content_length(held[:end])
            if len(held) < whole:
                break
            held = held[whole:]
            if self.latency_s:
                asyncio.get_running_loop().call_later(self.latency_s, self._transport.write, RESPONSE)
            else:
                self._transport.write(RESPONSE)
        self._held = held


def _content_length(head: bytes) -> int:
    lower = head.lower()
    at = lower.find(b"content-length:")
    return int(lower[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0


async def serve(port: int, latency_s: float) -> None:
    """Serves until it is ended; prints its port when it listens."""
    Canned.latency_s = latency_s
    server = await asyncio.get_running_loop().create_server(Canned, "127.0.0.1", port, backlog=16_384)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve(int(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0))
