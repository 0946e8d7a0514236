"""A dispatcher whose requests OpenTelemetry is told of. Loads it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from mistill.api.batch_lines import ResultLine
from mistill.api.chat import ChatChunk
from mistill.api.client import HTTPAnswer
from mistill.api.operation import R
from mistill.api.prices import Price
from mistill.api.usage import usage_of
from mistill.delivery.cache_key import CacheKey
from mistill.delivery.dispatcher import AttemptObserver, Delivered, Dispatcher, Request, StreamObserver
from mistill.delivery.observers import ObserversTogether
from mistill.delivery.worker_pool import WorkerPool
from mistill.telemetry.requests import Streamed, Telemetry


class ObservedDispatcher(Dispatcher[R]):
    """As `Dispatcher`: a span for each request, one below it for each attempt, and metrics.

    Args:
        telemetry: who is told. The others as for `Dispatcher`.
    """

    def __init__(self, *arguments: Any, telemetry: Telemetry, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.telemetry = telemetry

    async def send(
        self,
        request: Request,
        *,
        observer: AttemptObserver | None = None,
        pool: WorkerPool[Any] | None = None,
        cache_key: CacheKey | None = None,
    ) -> Delivered[R]:
        spans = self.telemetry.request(request)
        both = spans if observer is None else ObserversTogether(observer, spans)
        try:
            delivered = await super().send(request, observer=both, pool=pool, cache_key=cache_key)
        except BaseException as error:
            spans.fail(error)
            raise
        spans.succeed(delivered)
        return delivered

    def read_line(self, line: ResultLine, price: Price | None) -> HTTPAnswer[R]:
        answer = super().read_line(line, price)
        self.telemetry.count_tokens(answer.usage, answer.response.model, lane="batch")
        return answer

    async def stream(
        self, request: Request, *, observer: StreamObserver | None = None
    ) -> AsyncGenerator[ChatChunk]:
        assert observer is None, "nobody else observes streams"
        spans, came, has_begun = self.telemetry.request(request, streams=True), Streamed(), False
        try:
            async with aclosing(super().stream(request, observer=spans)) as chunks:
                async for chunk in chunks:
                    if not has_begun:
                        spans.see_first_chunk()
                        has_begun = True
                    self._note(came, chunk)
                    yield chunk
        except (GeneratorExit, asyncio.CancelledError):  # nobody wants the rest of it
            spans.end_stream(came)
            raise
        except BaseException as error:
            spans.note_streamed(came)
            spans.fail(error)
            raise
        spans.end_stream(came)

    def _note(self, came: Streamed, chunk: ChatChunk) -> None:
        came.model, came.id = chunk.model or came.model, chunk.id or came.id
        if chunk.usage is not None:
            came.usage = usage_of(chunk)
        if not chunk.choices:
            return
        choice = chunk.choices[0]
        came.finish_reason = choice.finish_reason or came.finish_reason
        if self.telemetry.wanted.content:
            came.message.add(choice.delta)
