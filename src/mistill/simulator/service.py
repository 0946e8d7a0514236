"""The HTTP service: one request in, one answer or one fault out. Runs in one event loop."""

from __future__ import annotations

import asyncio
import math
import random
import secrets
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import web
from aiohttp.web_request import BaseRequest
from pydantic import SecretStr

from mistill.simulator import catalogue, payloads, refusals, requests
from mistill.simulator.admin_usage import USAGE, month_asked_for, usage_report
from mistill.simulator.answers import (
    PAGE,
    answer_chat,
    answer_embeddings,
    prompt_tokens_of,
    refusal_of,
    tier_of,
)
from mistill.simulator.batch_files import FileStore
from mistill.simulator.batch_jobs import Jobs
from mistill.simulator.bills import Bill
from mistill.simulator.faults import Answer, Body, Fault, FaultDice, Script, happens
from mistill.simulator.file_routes import FILES, SIGNED, FileRoutes, is_upload
from mistill.simulator.job_routes import JOBS, JobRoutes
from mistill.simulator.prompt_cache import PromptCache
from mistill.simulator.queries import Query
from mistill.simulator.rate_limiter import RateLimiter
from mistill.simulator.refusals import RefusedRequest
from mistill.simulator.reply import Reply
from mistill.simulator.settings import Settings
from mistill.simulator.traffic import LINES_PATH, NO_WHOLE_ANSWER, STATS_PATH, Received, Stats, Traffic
from mistill.simulator.visit import Visit


class Service:
    """State of the simulated server. ``settings`` may be replaced at any time, from any thread."""

    def __init__(self, settings: Settings) -> None:
        self.traffic = Traffic(settings.requests_kept)
        self.script = Script()
        self.outage_is_on = False
        self._rng = random.Random(settings.seed)  # noqa: S311  faults must be repeatable, not secret
        self._billing_rng = random.Random(f"{settings.seed} bills")  # noqa: S311  the same
        self._rate_limiter = RateLimiter(time.monotonic)
        self.settings = settings
        self._prompts = PromptCache(settings.seed)
        self._files = FileStore()
        self._jobs = Jobs(
            self._files, self.traffic, self._prompts, lambda: self.settings, self._what_comes_next
        )
        self._file_routes = FileRoutes(self._files, self._rng)
        self._job_routes = JobRoutes(self._jobs, self._rng)
        self.adopt(settings)

    def adopt(self, settings: Settings) -> None:
        """Work by these settings from the next request on."""
        if settings.seed != self.settings.seed:
            self._rng.seed(settings.seed)
        self.traffic.keep(settings.requests_kept)
        self._dice = FaultDice(settings.faults, self._rng)
        self._keys = _plain(settings.api_keys)
        self._admin_keys = _plain(settings.admin_keys)
        self.settings = settings

    async def handle(self, request: BaseRequest) -> web.StreamResponse:
        if request.method == "GET" and (shown := self._shown(request.path)) is not None:
            return web.Response(body=payloads.encode(shown), content_type="application/json")
        raw = b"" if is_upload(request) else await request.content.read()
        received = Received(
            request.method, request.path, request.query_string, _without_key(request), raw, time.time()
        )
        correlation_id = _uuid()
        self.traffic.enter(received)
        reply = Reply(request, self.traffic, received, correlation_id)
        try:
            return await self._answer(request, received, raw, reply)
        except RefusedRequest as refusal:
            return reply.refuse(refusal)
        except ConnectionResetError:
            return reply.disconnect()  # the client went away in the middle of its answer
        finally:
            self.traffic.leave(received, NO_WHOLE_ANSWER)

    def stats(self) -> Stats:
        """All counts. From any thread."""
        return self.traffic.stats(len(self._files), self._jobs.by_state())

    def billed_ids(self) -> Counter[str]:
        """How often the line of each ``custom_id`` was billed. From any thread."""
        return self._jobs.billed_ids()

    async def close(self) -> None:
        """End all jobs, and remove all files."""
        await self._jobs.close()
        self._files.close()

    def _shown(self, path: str) -> Any:
        """What is at a path of the simulator's own."""
        if path == STATS_PATH:
            return self.stats()
        return self.billed_ids() if path == LINES_PATH else None

    async def _answer(
        self, request: BaseRequest, received: Received, raw: bytes, reply: Reply
    ) -> web.StreamResponse:
        settings = self.settings
        if self.outage_is_on:
            if settings.outage == "503":
                raise refusals.upstream_unreachable()
            return reply.disconnect()
        if request.path.startswith(SIGNED):
            return await self._file_routes.signed(request.path, reply, settings)
        path = request.path.rstrip("/")
        if path == USAGE:
            _require(request, "GET")
            return reply.whole(self._usage(request, reply.correlation_id), {})
        key = self._key_of(request, reply.correlation_id)
        if path == "/v1/chat/completions":
            _require(request, "POST")
            return await self._chat(raw, key, received, reply)
        if path == "/v1/embeddings":
            _require(request, "POST")
            return await self._embeddings(raw, key, received, reply)
        if path.startswith((FILES, JOBS)) and not settings.batch_absent:
            if happens(self._rng, settings.batch_busy):
                raise refusals.server_error(503)
            routes = self._file_routes if path.startswith(FILES) else self._job_routes
            return await routes.answer(Visit(request, path, raw, key, received, reply, settings))
        _require(request, "GET", otherwise=refusals.not_found(request.path))
        found = catalogue.find(path, settings)
        if found is None:
            raise refusals.not_found(request.path)
        return reply.whole(found, {})

    async def _chat(self, raw: bytes, key: int, received: Received, reply: Reply) -> web.StreamResponse:
        settings = self.settings
        scripted, fault = self._what_comes_next(lambda: received.body or {})
        early = await self._before_answer(
            fault, reply, lambda: self._bill_of_chat(raw, key, scripted, settings)
        )
        if early is not None:
            return early
        request = requests.decode_chat(raw, settings)
        prompt_tokens = prompt_tokens_of(request, settings)
        self._admit(key, request.model, settings)
        tier = tier_of(request, settings)
        prompt = self._prompts.find(request, key, prompt_tokens, settings)
        answer = answer_chat(
            request, settings, prompt_tokens, scripted, fault, cached_tokens=prompt.tokens, tier=tier
        )
        await self._work(0 if request.stream else answer.bill.output_tokens, answer.bill)
        self._prompts.keep(prompt, settings)
        if request.stream:

            def ended(events_made: int | None) -> None:
                bill = answer.bill if events_made is None else answer.bill_of(events_made)
                self._rate_limiter.settle(key, request.model, settings, bill.tokens)
                self.traffic.bill(bill)

            headers = self._rate_limiter.headers(key, request.model, settings, answer.bill.tokens)
            events = payloads.stream_events(answer.answer_id, answer.bill.model, answer.drafts, answer.usage)
            return await reply.stream(events, headers, fault, settings.token_time_s, ended)
        headers = self._rate_limiter.settle(key, request.model, settings, answer.bill.tokens)
        self.traffic.bill(answer.bill)
        return await reply.whole_or_broken(answer.whole(), headers, fault)

    async def _embeddings(self, raw: bytes, key: int, received: Received, reply: Reply) -> web.StreamResponse:
        settings = self.settings
        _, fault = self._what_comes_next(lambda: received.body or {})
        early = await self._before_answer(
            fault, reply, lambda: answer_embeddings(requests.decode_embedding(raw, settings), settings)[1]
        )
        if early is not None:
            return early
        request = requests.decode_embedding(raw, settings)
        answer, bill = answer_embeddings(request, settings)
        self._admit(key, request.model, settings)
        await self._work(0, bill)
        headers = self._rate_limiter.settle(key, request.model, settings, bill.tokens)
        self.traffic.bill(bill)
        return await reply.whole_or_broken(answer, headers, fault)

    def _what_comes_next(self, body: Callable[[], Body]) -> tuple[Answer | None, Fault | None]:
        """From the script if it has something for this request or line, else from the dice."""
        scripted = self.script.take(body)
        if isinstance(scripted, Fault):
            return None, scripted
        return scripted, None if scripted else self._dice.throw()

    async def _before_answer(
        self, fault: Fault | None, reply: Reply, bill: Callable[[], Bill]
    ) -> web.StreamResponse | None:
        """Faults that leave no answer, and the delay. They use up no quota.

        Args:
            bill: of the answer that there would be; it raises `RefusedRequest` where there would be none.
        """
        if fault is None:
            return None
        if fault.name == "delay":
            await asyncio.sleep(fault.delay_s)
        if not (fault.is_refusal or fault.name in ("disconnect", "html")):
            return None
        await self._wait(0)
        if not fault.is_refusal:
            with suppress(RefusedRequest):
                self._bill_undelivered(bill())
        if fault.name == "disconnect":
            return reply.disconnect()
        if fault.name == "html":
            return reply.html(PAGE)
        raise refusal_of(fault)

    def _bill_of_chat(self, raw: bytes, key: int, scripted: Answer | None, settings: Settings) -> Bill:
        """Of an answer that nobody gets.

        Raises:
            RefusedRequest: there would be none.
        """
        request = requests.decode_chat(raw, settings)
        tokens = prompt_tokens_of(request, settings)
        cached = self._prompts.find(request, key, tokens, settings).tokens
        return answer_chat(
            request, settings, tokens, scripted, None, cached_tokens=cached, tier=tier_of(request, settings)
        ).bill

    async def _work(self, tokens: int, bill: Bill) -> None:
        """The time that an answer takes. A client that goes away meanwhile does not take the bill with it."""
        try:
            await self._wait(tokens)
        except asyncio.CancelledError:
            self._bill_undelivered(bill)
            raise

    def _bill_undelivered(self, bill: Bill) -> None:
        if happens(self._billing_rng, self.settings.bills_undelivered):
            self.traffic.bill(bill)

    def _usage(self, request: BaseRequest, correlation_id: str) -> payloads.Json:
        key = request.headers.get("x-api-key", "").strip()
        if not key or (self._admin_keys is not None and key not in self._admin_keys):
            raise refusals.unauthorized(self.settings, correlation_id)
        month = month_asked_for(Query(request.query, self.settings))
        workspace = request.query.get("workspace_id")
        return usage_report(*self.traffic.bills_by_day(), month, workspace, self.settings)

    def _admit(self, key: int, model: str, settings: Settings) -> None:
        self._rate_limiter.admit(key, model, settings)
        if settings.max_in_flight is not None and self.traffic.in_flight > settings.max_in_flight:
            raise refusals.capacity_exceeded(self._rate_limiter.headers(key, model, settings, 0))

    def _key_of(self, request: BaseRequest, correlation_id: str) -> int:
        """A number that stands for the key, so that the key itself is held nowhere."""
        scheme, _, key = request.headers.get("Authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key or (self._keys is not None and key not in self._keys):
            raise refusals.unauthorized(self.settings, correlation_id)
        return hash(key)

    async def _wait(self, tokens: int) -> None:
        settings = self.settings
        latency_s = settings.latency_s
        if latency_s and settings.latency_distribution == "uniform":
            latency_s *= 1 + settings.latency_spread * self._rng.uniform(-1, 1)
        elif latency_s and settings.latency_distribution == "lognormal":
            latency_s *= math.exp(settings.latency_spread * self._rng.gauss(0, 1))
        latency_s += tokens * settings.token_time_s
        if latency_s > 0:
            await asyncio.sleep(latency_s)


def _require(request: BaseRequest, method: str, otherwise: RefusedRequest | None = None) -> None:
    if request.method != method:
        raise otherwise or refusals.method_not_allowed(method)


def _without_key(request: BaseRequest) -> dict[str, str]:
    headers = {name.lower(): value for name, value in request.headers.items()}
    for name in ("authorization", "x-api-key"):
        if name in headers:
            headers[name] = "present"
    return headers


def _plain(keys: frozenset[SecretStr] | None) -> frozenset[str] | None:
    return None if keys is None else frozenset(key.get_secret_value() for key in keys)


def _uuid() -> str:
    digits = secrets.token_hex(16)
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
