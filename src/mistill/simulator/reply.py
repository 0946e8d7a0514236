"""How an answer leaves: whole, in pieces, cut, stalled or not at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from aiohttp import web
from aiohttp.web_request import BaseRequest

from mistill.simulator import payloads
from mistill.simulator.faults import Fault
from mistill.simulator.refusals import Headers, RefusedRequest
from mistill.simulator.traffic import NO_WHOLE_ANSWER, Received, Traffic

_JSON = "application/json"
_CHUNK_BYTES = 2**18


class Reply:
    """The answer to one request. The request counts as over before the last byte leaves."""

    def __init__(
        self, request: BaseRequest, traffic: Traffic, received: Received, correlation_id: str
    ) -> None:
        self._request = request
        self._traffic = traffic
        self._received = received
        self.correlation_id = correlation_id

    def whole(self, answer: Any, headers: Headers) -> web.Response:
        return self._response(200, payloads.encode(answer), _JSON, headers)

    def refuse(self, refusal: RefusedRequest) -> web.Response:
        if isinstance(refusal.payload, str):
            return self._response(refusal.status, refusal.payload.encode(), "text/plain", refusal.headers)
        return self._response(refusal.status, payloads.encode(refusal.payload), _JSON, refusal.headers)

    def html(self, page: str) -> web.Response:
        self._traffic.pages += 1
        return self._response(200, page.encode(), "text/html", {})

    def disconnect(self) -> web.Response:
        """Close without a byte; the response returned goes nowhere."""
        self._leave(NO_WHOLE_ANSWER)
        self._close()
        return web.Response()

    async def whole_or_broken(self, answer: Any, headers: Headers, fault: Fault | None) -> web.StreamResponse:
        if fault is None or fault.name not in ("truncate", "stall", "cut_stream"):
            return self.whole(answer, headers)
        body = payloads.encode(answer)
        response = web.StreamResponse(headers=self._headers(_JSON, headers))
        response.content_length = len(body)
        await response.prepare(self._request)
        await response.write(body[: len(body) // 2])
        return await self._break_off(response, fault)

    async def file(
        self, path: Path, size: int, cut: Literal["connection", "end"] | None
    ) -> web.StreamResponse:
        """The content of a file. ``cut``: half of it, and then no connection, or an end as if it were all."""
        response = web.StreamResponse(headers=self._headers("application/octet-stream", {}))
        if cut == "end":
            response.enable_chunked_encoding()
        else:
            response.content_length = size
        left = size if cut is None else size // 2
        with path.open("rb") as file:
            await response.prepare(self._request)
            while left and (chunk := file.read(min(left, _CHUNK_BYTES))):
                left -= len(chunk)
                if not left and cut is None:
                    self._leave(200)
                await response.write(chunk)
        if cut == "connection":
            self._leave(NO_WHOLE_ANSWER)
            self._close()
            return response
        self._leave(200 if cut is None else NO_WHOLE_ANSWER)
        await response.write_eof()
        return response

    async def stream(
        self,
        events: Iterator[payloads.Json],
        headers: Headers,
        fault: Fault | None,
        token_time_s: float,
        ended: Callable[[int | None], None],
    ) -> web.StreamResponse:
        """Server-sent events up to ``[DONE]``, ``token_time_s`` apart; faults of delivery strike half-way.

        Args:
            ended: called once, before the last byte leaves: with how many events were made until the client went away,
                or ``None``: all of them.
        """
        response = web.StreamResponse(headers=self._headers("text/event-stream; charset=utf-8", headers))
        response.enable_chunked_encoding()
        broken = fault if fault is not None and fault.name in ("truncate", "stall", "cut_stream") else None
        if broken is not None:
            ended(None)
            half = list(events)
            events = iter(half[: (len(half) + 1) // 2])
        sent, clock = 0, asyncio.get_running_loop().time
        try:
            await response.prepare(self._request)
            began_s = clock()
            for event in events:
                await response.write(payloads.sse(event))
                sent += 1
                if token_time_s:  # by the clock, so that all of it takes as long as in one piece
                    await asyncio.sleep(began_s + sent * token_time_s - clock())
        except (ConnectionResetError, asyncio.CancelledError):
            if broken is None:
                ended(sent)
            raise
        if broken is not None:
            return await self._break_off(response, broken)
        ended(None)
        self._leave(200)
        await response.write(payloads.DONE)
        await response.write_eof()
        return response

    async def _break_off(self, response: web.StreamResponse, fault: Fault) -> web.StreamResponse:
        if fault.name == "stall":
            await asyncio.Event().wait()  # until the client goes away or the server ends
        self._leave(NO_WHOLE_ANSWER)
        if fault.name == "cut_stream" and response.chunked:
            await response.write_eof()
        else:
            self._close()
        return response

    def _response(self, status: int, body: bytes, content_type: str, headers: Headers) -> web.Response:
        self._leave(status)
        return web.Response(status=status, body=body, headers=self._headers(content_type, headers))

    def _headers(self, content_type: str, headers: Headers) -> Headers:
        return {
            "Content-Type": content_type,
            "Server": "mistill-simulator",
            "mistral-correlation-id": self.correlation_id,
            **headers,
        }

    def _leave(self, status: int) -> None:
        self._traffic.leave(self._received, status)

    def _close(self) -> None:
        if self._request.transport is not None:
            self._request.transport.close()
